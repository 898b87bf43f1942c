r"""Learning without forgetting: SmolLM2-135M learns 200 facts of PopQA, with and without the anchor.

    python -m pretrainrl_jax.main --config configs/anchor_smollm.py --workdir runs/anchor \
        --sweep.seed=0,1,2 --sweep.objectives.anchored.anchor.weight=0.08,0.25,1

It reads the Hugging Face folder `SmolLM2-135M`, `popQA.tsv`, and in `forgetting.txt` the text whose loss
tells what is forgotten (docs/forgetting.md: `head -60 wikitext2_test.txt`); --model.path, --facts.path and
--evaluate.text name others. Each seed draws other facts. The anchor is two texts of 128 tokens for 20
questions, which the model wrote after EOS.

Facts are trained as bare questions and asked behind three examples. docs/forgetting.md has the tables.
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    AnchorConfig,
    Config,
    EvaluateConfig,
    FactsConfig,
    MineConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
)

config = Config(
    name="PopQA (SmolLM2-135M)",
    facts=FactsConfig(path="popQA.tsv", limit=204, holdout_every=0),
    model=ModelConfig(path="SmolLM2-135M"),
    pretrain=PretrainConfig(epochs=0.0),
    mine=MineConfig(sources=()),  # no objective here compares
    anchor=AnchorConfig(tokens=11000),
    objectives=OBJECTIVES
    | {name: replace(OBJECTIVES[name], learning_rate=3e-4) for name in ("ntp_answer", "anchored")},
    train=TrainConfig(systems=("ntp_answer", "anchored"), questions=20, passes=6.0),
    evaluate=EvaluateConfig(
        template="few_shot", groups=("trained",), beams=1, samples=0, text="forgetting.txt"
    ),
)
