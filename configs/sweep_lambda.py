"""How much next-token prediction beside DPO? PretrainRL on small PopQA with lambda in {0.01, 0.1, 1.0}.

    python -m pretrainrl_jax.main run --config configs/sweep_lambda.py

The paper's loss is L_DPO + lambda * L_NTP and names no lambda. The three cells share one base model and
its mined falsehoods; the sweep ends in one table. Other values: --sweep.ntp_weight=0.3,3; other settings:
--sweep.beta, --sweep.learning_rate, --sweep.negatives, --sweep.beams, --sweep.seed; every combination is run.

It reads `popQA.tsv` as popqa_small.py does. docs/results.md has the table of a run.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import SweepConfig

popqa = runpy.run_path(str(Path(__file__).with_name("popqa_small.py")))["config"]
config = replace(
    popqa,
    train=replace(popqa.train, systems=("pretrainrl",)),
    sweep=SweepConfig(ntp_weight=(0.01, 0.1, 1.0)),
)
