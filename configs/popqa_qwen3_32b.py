"""PretrainRL on PopQA with Qwen3-32B, on a TPU slice or several hosts of GPUs. The paper goes up to 14B; all
settings but model and mesh as in popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/popqa_qwen3_32b.py

It reads the Hugging Face folder `Qwen3-32B` (no base model of that size was published) and the facts in
`popQA.tsv`; --model.path and --facts.path name others.

Hardware: 256 TPU chips (v5p:8x8x4), of which 32 share each parameter, 12 GB a chip of parameters and
moments; the paper (8 x H800) has no model of this size. Expected hours: `plan` estimates them
(docs/plan.md). Not measured.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import MeshConfig

small = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(small, model=replace(small.model, path="Qwen3-32B"), mesh=MeshConfig(fsdp=32))
