"""Scores from comparisons: each candidate is compared with each other one, in both orders."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import NamedTuple

from pretrainrl_jax.judging.protocol import Case, JudgeError, Part, Scores, shown

ALONE = 0.5  # the score of a candidate that has no other to be compared with


class Comparison(NamedTuple):
    """Two different texts that may continue a prefix, in the order in which they are shown."""

    prefix: str
    first: str
    second: str


Win = Callable[[Sequence[Comparison]], Sequence[float]]
"""The probability of each comparison that its first text is the better one."""


def pairwise(name: str, win: Win) -> Part:
    """The part, so named, that scores a candidate by the mean of what it wins in all its comparisons.

    Of K candidates every ordered pair is judged once: K(K − 1) verdicts, 2(K − 1) about each, where it wins
    p as the first text and 1 − p as the second. So a judge that prefers the place and not the text finds
    all equal. The part raises JudgeError for a wrong number of verdicts and for what is no probability.
    """

    def judge(cases: Sequence[Case]) -> Scores:
        pairs = [list(permutations(range(len(case.candidates)), 2)) for case in cases]
        asked = [
            Comparison(case.prefix, case.candidates[i], case.candidates[j])
            for case, own in zip(cases, pairs, strict=True)
            for i, j in own
        ]
        verdicts = win(asked)
        if len(verdicts) != len(asked):
            raise JudgeError(f"the judge's part {name} gave {len(verdicts)} verdicts on {len(asked)} pairs")
        for comparison, p in zip(asked, verdicts, strict=True):
            if not 0 <= p <= 1:
                raise JudgeError(
                    f"the judge's part {name} gave {p!r}, which is no probability, to a pair after "
                    f"{shown(comparison.prefix)}: mend the judge"
                )
        remaining = iter(verdicts)
        return [
            _means(len(case.candidates), [(i, j, next(remaining)) for i, j in own])
            for case, own in zip(cases, pairs, strict=True)
        ]

    return judge


def _means(candidates: int, verdicts: Sequence[tuple[int, int, float]]) -> list[float]:
    won: list[list[float]] = [[] for _ in range(candidates)]
    for i, j, p in verdicts:
        won[i].append(p)
        won[j].append(1 - p)
    # Exactly rounded, so that candidates with the same verdicts are equal in whatever order these came.
    return [math.fsum(own) / len(own) if own else ALONE for own in won]
