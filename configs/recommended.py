"""The recipe that we recommend: a model that is there learns facts, and forgets little.

    python -m pretrainrl_jax.main --config configs/recommended.py --model.path=MODEL --facts.path=FACTS.csv

Next-token prediction on the answers alone, each fact six times, beside the anchor: KL to the model as it was,
on text that it wrote itself, one row of 128 tokens for ten questions. Nothing is mined, since nothing is
compared. How sure we are, and what a smaller or larger weight gives: docs/forgetting.md. The rate is one for
135M parameters; larger models want less. `configs/popqa_qwen3_8b.py` and others are the paper's recipe.
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    AnchorConfig,
    AnchorTermConfig,
    Config,
    FactsConfig,
    MineConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
)

config = Config(
    facts=FactsConfig(path="facts.csv"),
    model=ModelConfig(path="SmolLM2-135M"),
    pretrain=PretrainConfig(epochs=0.0),
    mine=MineConfig(sources=()),
    anchor=AnchorConfig(tokens=11000, questions=10.0),
    objectives=OBJECTIVES
    | {"anchored": replace(OBJECTIVES["anchored"], learning_rate=3e-4, anchor=AnchorTermConfig(0.25))},
    train=TrainConfig(systems=("anchored",), questions=20, passes=6.0),
)
