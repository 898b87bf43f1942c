"""Reference log-probabilities: scored once, so that training needs no reference model beside it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.shards import resumable_map
from pretrainrl_jax.trees.tree import AnswerTree


def score_references(
    context: Context,
    trees: Sequence[AnswerTree],
    shards: Path,
    provenance: Any,
    label: str,
    score: Callable[[Sequence[AnswerTree], Callable[[int], None]], list[Any]],
) -> list[Any]:
    """Of each tree what `score` gives of its branches; an interrupted run goes on from its parts."""
    with context.screen.track(f"{label}/reference", len(trees), "trees") as bar:
        return resumable_map(
            shards,
            provenance,
            trees,
            [tree.inputs for tree in trees],
            context.config.checkpoint.shard_questions,
            lambda part: score(part, bar.advance),
            lambda tree, scores: scores,
            bar,
            screen=context.screen,
        )


def with_references(trees: Sequence[AnswerTree], scores: Sequence[Sequence[float]]) -> list[AnswerTree]:
    """The trees with a reference log-probability at each branch."""
    return [
        replace(t, branches=tuple(replace(b, reference_logp=x) for b, x in zip(t.branches, row, strict=True)))
        for t, row in zip(trees, scores, strict=True)
    ]
