"""Self-Improving Pretraining for factuality, continual (arXiv 2601.21343). Every setting but the judge's as
in selfimprove_quality_1b.py.

    python -m pretrainrl_jax.main selfimprove --config configs/selfimprove_factuality_1b.py

It reads `llama2-1.4b`, `judge-8b` and `hf:cerebras/SlimPajama-627B`; --model.path, --judge.path and
--documents.path name others.

The paper's: factuality against the original suffix (none, possible or definite hallucination: 1, 0.5, 0) plus
quality, 16 rollouts: 16 verdicts a document more than for quality alone.

The paper's numbers: factuality 57.6 (base 42.3, next-token training 44.0), quality 84.0, standard evaluations
50.5; with 2 / 4 / 8 rollouts 46.2 / 48.8 / 56.9. Expected hours: unknown. Not measured.
"""

import runpy
from dataclasses import replace
from pathlib import Path

quality = runpy.run_path(str(Path(__file__).with_name("selfimprove_quality_1b.py")))["config"]
config = replace(quality, name="SlimPajama, for factuality", judge=replace(quality.judge, factuality=1.0))
