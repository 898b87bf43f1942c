"""95 % intervals of a rate, of the difference of two rates of the same questions, and of ratios.

Those of ratios are a percentile bootstrap; the same numbers give the same bounds.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

Z = 1.959963984540054  # of a normal distribution's middle 95 %
DRAWS, CHUNK = 2000, 100
KEPT = 1000  # units whose draws are kept: 16 MB
ALIKE = 1e-9  # what differs by no more is rounding


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


def sums(
    clusters: Sequence[str], weights: Sequence[float], values: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each cluster the weighted sum of its values, and its weight."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    weight, value = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    return np.bincount(place, weight * value), np.bincount(place, weight)


def mean_interval(
    clusters: Sequence[str], rights: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, float] | None:
    """Bounds of the mean of values between 0 and 1, drawing clusters with replacement.

    Where the means of all clusters are equal a bootstrap would be sure of it: then Wilson's of as many, from
    that of the next whole number below to that of the next above. None without a value.
    """
    if not clusters:
        return None
    totals, counts = sums(clusters, weights or [1.0] * len(clusters), rights)
    means = totals / counts
    if np.ptp(means) > ALIKE:
        return ratio_interval(totals, counts)
    right = float(means.mean()) * len(means)
    least, most = math.floor(right + ALIKE), math.ceil(right - ALIKE)
    below, above = wilson(least, len(means)), wilson(most, len(means))
    return (below[0], above[1]) if below and above else None


def ratio_interval(
    totals: np.ndarray, counts: np.ndarray, less: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[float, float] | None:
    """Bounds of sum(totals) / sum(counts) over units such as prefixes, drawn with replacement.

    With `less`, another system's totals and counts of the same units, those of the difference of the two.
    None with fewer than two units, or where a sum of counts is zero.
    """
    if len(totals) < 2 or not counts.sum() or (less and not less[1].sum()):
        return None
    ratios, units = [], len(totals)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of units without a count says nothing
        for drawn in _kept_draws(units) if units <= KEPT else _draws(units):
            ratio = (drawn @ totals) / (drawn @ counts)
            ratios.append(ratio - (drawn @ less[0]) / (drawn @ less[1]) if less else ratio)
    low, high = np.nanpercentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def _draws(units: int) -> Iterator[np.ndarray]:
    """How often each of so many units is drawn, [draws of a chunk, units], chunk by chunk."""
    random = np.random.default_rng(0)
    for _ in range(0, DRAWS, CHUNK):
        yield random.multinomial(units, np.full(units, 1 / units), size=CHUNK)


@lru_cache(maxsize=4)
def _kept_draws(units: int) -> list[np.ndarray]:
    return [*_draws(units)]  # to draw takes most of the time, and a table asks again and again
