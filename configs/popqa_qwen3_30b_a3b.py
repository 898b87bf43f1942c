"""PretrainRL on PopQA with Qwen3-30B-A3B, a mixture of 128 experts of which each token has 8, on a TPU slice.
The paper has no mixtures; all settings but model and mesh as in popqa_qwen3_8b.py.

    python -m pretrainrl_jax.main --config configs/popqa_qwen3_30b_a3b.py

It reads the Hugging Face folder `Qwen3-30B-A3B` and the facts in `popQA.tsv`; --model.path and --facts.path
name others.

Hardware: 64 TPU chips (v5p:4x4x4 or v6e:8x8), 18 GiB a chip; 8 share the experts, and 8 a part of every
parameter. The paper (8 x H800) has no such model. Expected hours: `plan` estimates them (docs/plan.md). Not
measured.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import MeshConfig

small = runpy.run_path(str(Path(__file__).with_name("popqa_qwen3_8b.py")))["config"]
config = replace(small, model=replace(small.model, path="Qwen3-30B-A3B"), mesh=MeshConfig(fsdp=8, expert=8))
