"""A small world, from nothing to a report in two minutes on two CPU cores.

    python -m pretrainrl_jax.main

The same model and objectives as in configs/small_world.py, with a fifth of the facts, and less of what takes
long: text, beams, samples, the anchor's tokens. That one has every default, takes four times as long, and is
what the tables of docs/results.md are of.
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    AnchorConfig,
    Config,
    CorpusConfig,
    EvaluateConfig,
    MineConfig,
    PretrainConfig,
    WorldConfig,
)

config = Config(
    world=WorldConfig(facts=500, relations=5, answers=40),
    corpus=CorpusConfig(statements=7000, filler=1200),
    pretrain=PretrainConfig(rows=4),
    mine=MineConfig(beams=8, batch=64),
    anchor=AnchorConfig(tokens=3000, batch=64),
    objectives=OBJECTIVES | {"rpo": replace(OBJECTIVES["rpo"], remine_every=20)},  # twice
    evaluate=EvaluateConfig(beams=8, samples=0, batch=64),
)
