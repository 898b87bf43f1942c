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
    Corpus,
    Evaluate,
    Facts,
    Mine,
    Model,
    Pretrain,
    Tokenizer,
    Train,
)

config = Config(
    name="PopQA (from scratch)",
    facts=Facts(path="popQA.tsv"),
    corpus=Corpus(statements=40000, filler=4000, popularity_power=0.5),
    tokenizer=Tokenizer(vocabulary=4096),
    model=Model(width=160, layers=3, heads=5, kv_heads=5, head_width=32, mlp_width=480),
    pretrain=Pretrain(rows=4),
    mine=Mine(max_new_tokens=10),
    objectives=OBJECTIVES
    | {
        "dpo": replace(OBJECTIVES["dpo"], learning_rate=3e-4),
        "ntp": replace(OBJECTIVES["ntp"], learning_rate=3e-4),
        "rpo": replace(OBJECTIVES["rpo"], refresh_every=120),
        "pretrainrl": replace(OBJECTIVES["pretrainrl"], learning_rate=3e-4),
    },
    train=Train(questions=32, row_length=256),
    evaluate=Evaluate(max_new_tokens=10),
)
