"""What a judge is asked, and what it answers."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from pretrainrl_jax.errors import InputError

SHOWN = 60  # last characters of a prefix that a message shows
Kind = Literal["original", "rewrite", "rollout"]


class Case(NamedTuple):
    """Different texts that may continue a prefix. None equals another; any may be empty."""

    prefix: str
    candidates: tuple[str, ...]
    reference: str  # the document's own continuation
    ended: tuple[bool, ...] = ()  # of each candidate, whether the text ends there by its own end; empty: none


Scores = list[list[float]]  # of each case, of each candidate: finite; higher is better
Part = Callable[[Sequence[Case]], Scores]
"""A judge of one thing, of some cases at once (a model is asked in batches)."""


class Verdicts(NamedTuple):
    """What all parts say of some cases."""

    scores: Scores  # the parts' sum by their weights
    parts: dict[str, Scores]  # of each part by its name, unweighted


Judge = Callable[[Sequence[Case]], Verdicts]


class RewriteCase(NamedTuple):
    """A suffix to be rewritten."""

    prefix: str
    suffix: str


Rewriter = Callable[[Sequence[RewriteCase]], list[str]]
"""Gives for each suffix the text that is to stand in its place, the suffix itself where nothing is wrong."""


class JudgeError(InputError):
    """A part of a judge gave what is no score: one line with the part and the case."""


def shown(prefix: str) -> str:
    """The end of a prefix, for a message of one line."""
    return repr(prefix if len(prefix) <= SHOWN else f"…{prefix[-SHOWN:]}")
