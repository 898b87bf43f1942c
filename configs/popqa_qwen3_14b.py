"""PretrainRL on PopQA with Qwen3-14B-Base (arXiv 2602.01875). Every setting but the model as in
popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/popqa_qwen3_14b.py

It reads the Hugging Face folder `Qwen3-14B-Base` and the facts in `popQA.tsv`;
--model.path and --facts.path name others.

Hardware: 8 GPUs of 80 GB (the paper: 8 x H800) or 8 TPU chips of 95 GB: 22 GB a device of
parameters and moments.
Slices of TPUs: v5p:4x4x4 as it is, v6e:8x8 with --mesh.fsdp=16 (docs/plan.md).
Expected hours: twice the 8B model's, under 2. Not measured.

The paper's numbers, ACC / HR@50 / MRR@50 / Prob@50 in %:

    base                      19.41 / 41.57 / 21.90 / 20.10
    PretrainRL                63.44 / 84.28 / 65.58 / 48.08
"""

import runpy
from dataclasses import replace
from pathlib import Path

small = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(small, model=replace(small.model, path="Qwen3-14B-Base"))
