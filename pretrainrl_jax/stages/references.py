"""Reference log-probabilities: scored once, so that training needs no reference model beside it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.shards import resumable_map
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tree import AnswerTree


def score_references(
    context: Context,
    reference: Loaded,
    trees: Sequence[AnswerTree],
    shards: Path,
    provenance: Any,
    label: str,
) -> list[AnswerTree]:
    """Each branch with its log-probability under the reference model: training needs no such model."""
    with context.screen.track(f"{label}/reference", len(trees), "trees") as bar:
        scores = resumable_map(
            shards,
            provenance,
            trees,
            [tree.inputs for tree in trees],
            context.config.checkpoint.shard_questions,
            lambda part: context.score(reference, part, context.config.train.row_length, bar.advance),
            lambda tree, scores: scores,
            bar,
            screen=context.screen,
        )
    return with_references(trees, scores)


def with_references(trees: Sequence[AnswerTree], scores: Sequence[Sequence[float]]) -> list[AnswerTree]:
    """The trees with a reference log-probability at each branch."""
    return [
        replace(t, branches=tuple(replace(b, reference_logp=x) for b, x in zip(t.branches, row, strict=True)))
        for t, row in zip(trees, scores, strict=True)
    ]
