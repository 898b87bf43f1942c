r"""A real language model on real facts: SmolLM2-135M learns some 500 facts of EntityQuestions.

    python -m pretrainrl_jax.main --config configs/entityquestions_smollm2.py --sweep.train.order=0,1,2

It reads the Hugging Face folder `SmolLM2-135M`, `entityquestions`, the folder of the official release, and
the text of `forgetting.txt`; --model.path, --facts.path and --evaluate.text name others. Negatives come from
the pools of six relations, as the paper's authors drew them, and facts are trained twice, the paper's
repetition. What is not said here is as in popqa_smollm2.py, rates included.

How well the pool of some of a relation's questions agrees with that of all (the paper, of 1,000 against all:
cosine 0.88, Spearman 0.85), on some 330 of each relation:

    python -m pretrainrl_jax.main pretrain --config configs/entityquestions_smollm2.py \
        --workdir runs/eq_pools --facts.limit=3000 --mine.agreement_questions=100
    python -m pretrainrl_jax.main mine --workdir runs/eq_pools
"""

import runpy
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import FactsConfig

popqa = runpy.run_path(str(Path(__file__).with_name("popqa_smollm2.py")))["config"]
config = replace(
    popqa,
    name="EntityQuestions (SmolLM2-135M)",
    facts=FactsConfig(
        path="entityquestions",
        categories=("P17", "P106", "P407", "P413", "P495", "P136"),
        limit=760,
        holdout_every=3,
    ),
    mine=replace(popqa.mine, sources=("pool",), agreement_questions=40),
    objectives=popqa.objectives | {"rpo": replace(popqa.objectives["rpo"], remine_every=26)},  # once a pass
    train=replace(popqa.train, passes=2.0),
)
