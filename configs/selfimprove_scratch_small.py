"""Self-Improving Pretraining in the small world, from scratch: RF-NLL with one rollout, original and rewrite.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_scratch_small.py

The documents of selfimprove_small.py; the exact rewriter corrects a suffix's false statements. Beside it
next-token training on whole documents and on the original suffix alone, the same number of updates each. Two
CPU cores: two to three minutes.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import MethodConfig, PretrainConfig

small = runpy.run_path(str(Path(__file__).with_name("selfimprove_small.py")))["config"]
METHODS = {
    "rf_nll": MethodConfig(
        "RF-NLL, 1 rollout",
        update="rf_nll",
        candidates=("original", "rewrite", "rollout"),
        rollouts=1,
        start="scratch",
        learning_rate=3e-3,
    ),
    "next_token": MethodConfig(
        "next token", update="next_token", candidates=("document",), start="scratch", learning_rate=3e-3
    ),
    "suffix": MethodConfig(
        "next token (suffix)",
        update="next_token",
        candidates=("original",),
        start="scratch",
        learning_rate=3e-3,
    ),
}
config = replace(
    small,
    pretrain=PretrainConfig(epochs=0.0),
    methods=METHODS,
    selfimprove=replace(small.selfimprove, systems=tuple(METHODS), steps=60),
)
