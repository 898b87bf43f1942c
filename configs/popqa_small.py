r"""PopQA from scratch on two CPU cores: real questions, a model small enough to watch.

    python -m pretrainrl_jax.main --config configs/popqa_small.py

It reads `popQA.tsv`, the official file (14,267 questions); --facts.path names another. A 1.7M-parameter model
is pretrained on sentences that state the facts as often as the square root of their page views, so that it
knows the head and guesses the tail; then it is mined, trained and evaluated as in the paper. PopQA x 3 passes
is the paper's repetition. docs/results.md has the table of three seeds on 4,451 of the
questions.

The learning rates are those that did best on held-out wordings, of the same grid for every objective:

    python -m pretrainrl_jax.main --config configs/popqa_small.py --workdir runs/popqa_rates \
        --sweep.seed=100 --sweep.learning_rate=3e-4,1e-3,3e-3 --evaluate.beams=1
"""

from dataclasses import replace

from pretrainrl_jax.config import (
    OBJECTIVES,
    Config,
    CorpusConfig,
    EvaluateConfig,
    FactsConfig,
    MineConfig,
    ModelConfig,
    PretrainConfig,
    TokenizerConfig,
    TrainConfig,
)

config = Config(
    name="PopQA (from scratch)",
    facts=FactsConfig(path="popQA.tsv"),
    corpus=CorpusConfig(statements=40000, filler=4000, popularity_power=0.5),
    tokenizer=TokenizerConfig(vocabulary=4096),
    model=ModelConfig(d_model=160, layers=3, heads=5, kv_heads=5, head_dim=32, d_ff=480),
    pretrain=PretrainConfig(rows=4),
    mine=MineConfig(max_new_tokens=10),
    objectives=OBJECTIVES
    | {
        "dpo": replace(OBJECTIVES["dpo"], learning_rate=3e-4),
        "ntp": replace(OBJECTIVES["ntp"], learning_rate=3e-4),
        "rpo": replace(OBJECTIVES["rpo"], remine_every=120),
        "pretrainrl": replace(OBJECTIVES["pretrainrl"], learning_rate=3e-4),
    },
    train=TrainConfig(questions=32, row_length=256),
    evaluate=EvaluateConfig(max_new_tokens=10),
)
