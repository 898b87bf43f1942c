"""Self-Improving Pretraining from scratch (arXiv 2601.21343): RF-NLL with one rollout, a 1.4B model of the
Llama 2 shape. What is not said here is as in selfimprove_safety_1b.py.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_scratch_1b.py

It reads the tokenizer in `llama2-1.4b`, `judge-8b` and the documents in `unsafe/*.jsonl.zst`;
--tokenizer.path, --judge.path and --documents.path name others.

The paper's: 21,000 steps of 256 documents, 5e-4 with 2,000 steps of warm-up, the better of the original
suffix and one rollout by safety and quality; a trained rewriter's text stands in the original's place in its
best run. Ours: the shape of 24 layers of width 2,048 (1.36B parameters), since the paper gives none.

The paper's numbers (quality / safety): next-token training 1.3 / 85.2, suffix or rewrite 5.3 / 96.4, rollout
or rewrite 32.4 / 97.5. Expected hours: unknown. Not measured.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import MethodConfig, ModelConfig, PretrainConfig, TokenizerConfig

safety = runpy.run_path(str(Path(__file__).with_name("selfimprove_safety_1b.py")))["config"]
METHODS = {
    "rf_nll": MethodConfig(
        "RF-NLL, 1 rollout", update="rf_nll", rollouts=1, start="scratch", learning_rate=5e-4
    ),
    "next_token": MethodConfig(
        "next token", update="next_token", candidates=("document",), start="scratch", learning_rate=5e-4
    ),
}
config = replace(
    safety,
    name="RedPajama, from scratch",
    model=ModelConfig(
        family="llama",
        d_model=2048,
        layers=24,
        heads=16,
        kv_heads=16,
        head_dim=128,
        d_ff=5632,
        tied=False,
        dtype="bfloat16",
        remat="full",
        norm_epsilon=1e-5,
    ),
    tokenizer=TokenizerConfig(path="llama2-1.4b"),
    pretrain=PretrainConfig(epochs=0.0),
    optimizer=replace(safety.optimizer, warmup=2000 / 21_000),
    methods=METHODS,
    selfimprove=replace(safety.selfimprove, systems=tuple(METHODS), steps=21_000),
)
