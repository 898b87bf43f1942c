"""The same facts as TRL's pairs and as our trees, and its trainer on them."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.policy_twins import Both

from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.packing import Capacity, pack, plan
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

BETA = 0.3
DPO, NTP = {"dpo": {"weight": 1.0, "beta": BETA}}, {"ntp": {"answer": 1.0}}
BOTH = DPO | NTP
FACTS = {  # question: the gold answer, then negatives
    "What is the capital of Arno?": ("Florence", "Rome", "Reggio nell'Emilia", "Pisa"),
    "Who?": ("I", "The other one", "you", "Nobody at all"),
    "What is the colour of the sea in winter?": ("grey and green", "blue", "red", "a"),
}
SIZE = Capacity(128, 128, 384, 32, 16)  # of a row: one compilation for all


def pairs_of(facts: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    return [
        {"prompt": question, "chosen": f" {gold}", "rejected": f" {negative}"}
        for question, (gold, *negatives) in facts.items()
        for negative in negatives
    ]


def trainer_of(both: Both, facts: dict[str, tuple[str, ...]], folder: Path, **others: Any) -> Any:
    """Their trainer on these pairs; without a reference where adapters are asked for."""
    import datasets
    from trl import DPOConfig, DPOTrainer  # it takes seconds: not where tests are only collected

    settings = DPOConfig(
        output_dir=str(folder),
        loss_type=["sigmoid", "sft"],
        beta=BETA,
        per_device_train_batch_size=16,
        gradient_checkpointing=False,  # by default it is on
        bf16=False,  # this too
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    datasets.disable_progress_bars()
    trainer = DPOTrainer(
        model=copy.deepcopy(both.policy),  # a trainer changes its models' forward
        ref_model=None if others else copy.deepcopy(both.reference),
        args=settings,
        train_dataset=datasets.Dataset.from_list(pairs_of(facts)),
        processing_class=copy.deepcopy(both.tokenizer.backend),
        **others,
    )
    trainer.aux_loss_enabled = False  # of experts: theirs counts a question once for each answer to it
    return trainer


def trees_of(both: Both, facts: dict[str, tuple[str, ...]]) -> list[AnswerTree]:
    """The facts as trees, with reference log-probabilities as mining makes them."""
    encoded = encode_branches(both.tokenizer, Template("bare"), list(facts), list(facts.values()))
    trees = [
        AnswerTree(
            str(number),
            prefix,
            tuple(Branch(t, "rejected" if i else "chosen") for i, t in enumerate(branches)),
        )
        for number, (prefix, branches) in enumerate(zip(encoded.prefixes, encoded.branches, strict=True))
    ]
    scores = score_trees(both.model, both.reference_params, trees, row_length=SIZE.time, rows=2)
    return [
        replace(
            tree,
            branches=tuple(replace(b, reference_logp=s) for b, s in zip(tree.branches, logps, strict=True)),
        )
        for tree, logps in zip(trees, scores, strict=True)
    ]


def rows_of(trees: list[AnswerTree]) -> PackedBatch:
    rows = plan([tree.inputs for tree in trees], SIZE.time)
    return pack([[trees[i] for i in row] for row in [*rows, []][:2]], SIZE, question=False)
