"""PretrainRL on EntityQuestions with Qwen3-4B-Base (arXiv 2602.01875). Every setting but the model as in
entityquestions_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/entityquestions_qwen3_4b.py

It reads the Hugging Face folder `Qwen3-4B-Base` and the facts in `entityquestions`;
--model.path and --facts.path name others.

Hardware: 8 GPUs of 80 GB (the paper: 8 x H800) or 8 TPU chips. Expected hours: half of the 8B
model's, under 1. Not measured.

The paper's pattern to look for: PretrainRL above iterative RPO and NTP only, those above the base
model, DPO only below it in accuracy and high in Prob.
"""

import runpy
from dataclasses import replace
from pathlib import Path

large = runpy.run_path(str(Path(__file__).with_name("entityquestions_qwen3_8b.py")))["config"]
config = replace(large, model=replace(large.model, path="Qwen3-4B-Base"))
