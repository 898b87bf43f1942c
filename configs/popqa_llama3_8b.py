"""PretrainRL on PopQA with Llama 3 8B (arXiv 2602.01875). Every setting but the model as in
popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/popqa_llama3_8b.py

It reads the Hugging Face folder `Meta-Llama-3-8B` and the facts in `popQA.tsv`;
--model.path and --facts.path name others.

Hardware: 8 GPUs of 80 GB (the paper: 8 x H800) or 8 TPU chips of 95 GB. Expected hours: as
Qwen3-8B's, under 1. Not measured.

The paper trains the base (not the instruct) model Llama3-8B and finds the same order as for Qwen3:
PretrainRL above iterative RPO and NTP only, those above the base model, DPO only below it. To
compare with: the table of popqa_qwen3_8b.py.
"""

import runpy
from dataclasses import replace
from pathlib import Path

qwen = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(qwen, model=replace(qwen.model, path="Meta-Llama-3-8B"))
