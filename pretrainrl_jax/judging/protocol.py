"""What a judge is asked, and what it answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pretrainrl_jax.errors import InputError

Kind = Literal["original", "rewrite", "rollout"]


class Case(NamedTuple):
    """Different texts that may continue a prefix. None equals another; any may be empty."""

    prefix: str
    candidates: tuple[str, ...]
    reference: str  # the document's own continuation
    ended: tuple[bool, ...] = ()  # of each candidate, whether the text ends there by its own end; empty: none


Scores = Sequence[Sequence[float | None]]
"""Of each case, of each candidate: finite, higher is better; None: there is none, and it is left out."""
Counts = Mapping[str, float]  # what happened on the way, as sums


class Scored(NamedTuple):
    """Scores, and what happened to each case."""

    scores: Scores
    counts: Sequence[Counts]


Part = Callable[[Sequence[Case]], Scores | Scored]
"""A judge of one thing, of some cases at once (a model is asked in batches)."""


class Verdicts(NamedTuple):
    """What all parts say of some cases."""

    scores: Scores  # the parts' sum by their weights; None where a part has none
    parts: dict[str, Scores]  # of each part by its name, unweighted
    counts: Sequence[Counts]  # of each case, as "quality.comparisons"


Judge = Callable[[Sequence[Case]], Verdicts]


class RewriteCase(NamedTuple):
    """A suffix to be rewritten."""

    prefix: str
    suffix: str


Rewriter = Callable[[Sequence[RewriteCase]], Sequence[str | None]]
"""Gives for each suffix the text that is to stand in its place, the suffix itself where nothing is wrong.

None: there is no rewrite to use, and the document does without.
"""


class JudgeError(InputError):
    """A part of a judge gave what is no score: one line with the part and the case."""


def total(counts: Iterable[Counts]) -> dict[str, float]:
    """The sums of counts, by name."""
    summed: dict[str, float] = {}
    for own in counts:
        for name, count in own.items():
            summed[name] = summed.get(name, 0) + count
    return summed
