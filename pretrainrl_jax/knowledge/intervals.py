"""95 % intervals of a rate, and of the difference of two rates of the same questions."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from scipy import stats

Z = 1.959963984540054  # of a normal distribution's middle 95 %


def wilson(right: int, count: int) -> tuple[float, float] | None:
    """Wilson's interval of the rate `right / count`, in [0, 1]; None without questions."""
    if not count:
        return None
    interval = stats.binomtest(right, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


class Difference(NamedTuple):
    """The accuracy of two systems on the same questions; low and high bound the second's less the first's."""

    questions: int
    before: float
    after: float
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The difference itself, in [-1, 1]."""
        return self.after - self.before

    @property
    def worse(self) -> bool:
        """The whole interval lies below zero."""
        return self.high < 0

    @property
    def clear(self) -> bool:
        """The interval does not hold zero."""
        return self.worse or self.low > 0


def paired(answers: Iterable[tuple[bool, bool]]) -> Difference | None:
    """Compare two systems by (first right, second right) of each question.

    The questions are the same, so only those that flipped say anything. The interval is Wald's after half a
    question is added to each of the four outcomes (Agresti and Min, Statistics in Medicine 24, 2005), so that
    a few questions without a flip do not seem certain. None without questions.
    """
    outcomes = Counter(answers)
    questions, kept = outcomes.total(), outcomes[True, True]
    gained, lost = outcomes[False, True], outcomes[True, False]
    if not questions:
        return None
    middle = (gained - lost) / (questions + 2)
    half = Z * math.sqrt(((gained + lost + 1) / (questions + 2) - middle**2) / (questions + 2))
    bounds = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference(questions, (kept + lost) / questions, (kept + gained) / questions, *bounds)
