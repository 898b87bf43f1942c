r"""EntityQuestions from scratch on two CPU cores: real questions of six relations.

    python -m pretrainrl_jax.main --config configs/entityquestions_small.py

It reads `entityquestions`, the folder of the official release (with its `train`, `dev` and `test` folders);
--facts.path names another. The six relations have from 51 to 607 answers each, so that a model this small has
something to guess among. The source states no popularity: every fact is stated equally often on
average, about four times, one in fifty never. Negatives come from the category pools, as the
paper's authors drew them; EntityQuestions x 2 passes is the paper's repetition. docs/results.md has the
table of three seeds.

The learning rates are those that did best on held-out wordings, of the same grid for every objective:

    python -m pretrainrl_jax.main --config configs/entityquestions_small.py --workdir runs/eq_rates \
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
    name="EntityQuestions (from scratch)",
    facts=FactsConfig(
        path="entityquestions", categories=("P17", "P106", "P407", "P413", "P495", "P136"), limit=3000
    ),
    corpus=CorpusConfig(statements=12000, filler=3000),
    tokenizer=TokenizerConfig(vocabulary=4096),
    model=ModelConfig(d_model=160, layers=3, heads=5, kv_heads=5, head_dim=32, d_ff=480),
    pretrain=PretrainConfig(rows=4, epochs=2),
    mine=MineConfig(sources=("pool",), max_new_tokens=10, agreement_questions=200),
    objectives=OBJECTIVES
    | {
        "dpo": replace(OBJECTIVES["dpo"], learning_rate=3e-4),
        "ntp": replace(OBJECTIVES["ntp"], learning_rate=3e-4),
        "ntp_weighted": replace(OBJECTIVES["ntp_weighted"], learning_rate=3e-4),
        "rpo": replace(OBJECTIVES["rpo"], remine_every=55),
    },
    train=TrainConfig(passes=2, questions=32, row_length=256),
    evaluate=EvaluateConfig(max_new_tokens=10),
)
