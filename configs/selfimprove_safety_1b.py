"""Self-Improving Pretraining for safety, continual (arXiv 2601.21343). What is not said here is as in
selfimprove_quality_1b.py.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_safety_1b.py

It reads `llama2-1.4b`, `judge-8b` and the documents in `unsafe/*.jsonl.zst`; --model.path, --judge.path and
--documents.path name others.

The paper's: 257,154 unsafe RedPajama documents; safety of the suffix alone plus quality; the original suffix
and 16 rollouts.

The paper's numbers: safety 91.1 (base 76.9, next-token training 75.5), quality 73.6 / 77.7 (standard / unsafe
prefixes), standard evaluations 49.1; RF-NLL quality 49 to 50, safety 85.0; with rewrites beside 16 rollouts
safety 88.9. Expected hours: unknown. Not measured.
"""

import runpy
from dataclasses import replace
from pathlib import Path

quality = runpy.run_path(str(Path(__file__).with_name("selfimprove_quality_1b.py")))["config"]
dpo = replace(quality.methods["online_dpo"], candidates=("original", "rollout"))
rf_nll = replace(dpo, label="RF-NLL", update="rf_nll")
config = replace(
    quality,
    name="RedPajama, for safety",
    documents=replace(quality.documents, path=("unsafe/*.jsonl.zst",)),
    judge=replace(quality.judge, safety=1.0),
    methods={**quality.methods, "online_dpo": dpo, "rf_nll": rf_nll},
    selfimprove=replace(quality.selfimprove, systems=("online_dpo", "rf_nll", "next_token")),
)
