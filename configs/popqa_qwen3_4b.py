"""PretrainRL on PopQA with Qwen3-4B-Base (arXiv 2602.01875). Every setting but the model as in
popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/popqa_qwen3_4b.py

It reads the Hugging Face folder `Qwen3-4B-Base` and the facts in `popQA.tsv`;
--model.path and --facts.path name others.

Hardware: 8 GPUs of 80 GB (the paper: 8 x H800) or 8 TPU chips; 2 are enough with --mesh.fsdp=2.
Expected hours: half of the 8B model's, under 0.5. Not measured.

The paper's numbers, ACC / HR@50 / MRR@50 / Prob@50 in %:

    base                      13.05 / 31.60 / 15.17 / 12.38
    DPO only                   9.67 / 18.06 / 11.02 / 33.88
    NTP only                  29.97 / 60.36 / 32.94 / 20.92
    Iterative RPO             32.50 / 49.30 / 25.12 / 20.77
    PretrainRL                37.69 / 66.39 / 40.51 / 31.42

General ability, base to PretrainRL: MMLU 52.39 to 52.01, GSM8K 83.62 to 80.97, BBH 71.80 to 66.07.
"""

import runpy
from dataclasses import replace
from pathlib import Path

large = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(large, model=replace(large.model, path="Qwen3-4B-Base"))
