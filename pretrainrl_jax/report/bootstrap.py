"""95 % intervals of ratios by the percentile bootstrap; the same numbers give the same bounds."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np

from pretrainrl_jax.knowledge.intervals import wilson

DRAWS, CHUNK = 2000, 100
ALIKE = 1e-9  # what differs by no more is rounding


def bootstrap(
    clusters: Sequence[str], weights: Sequence[float], values: Sequence[float]
) -> tuple[float, float] | None:
    """Bounds of the weighted mean of `values`, drawing clusters with replacement.

    None with fewer than two clusters.
    """
    return ratio_interval(*_sums(clusters, weights, values))


def _sums(
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
    totals, counts = _sums(clusters, weights or [1.0] * len(clusters), rights)
    means = totals / counts
    if np.ptp(means) > ALIKE:
        return ratio_interval(totals, counts)
    right = float(means.mean()) * len(means)
    below, above = (wilson(whole, len(means)) for whole in (floor(right + ALIKE), ceil(right - ALIKE)))
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
    ratios, units, random = [], len(totals), np.random.default_rng(0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of units without a count says nothing
        for _ in range(0, DRAWS, CHUNK):
            drawn = random.multinomial(units, np.full(units, 1 / units), size=CHUNK)  # how often each is
            ratio = (drawn @ totals) / (drawn @ counts)
            ratios.append(ratio - (drawn @ less[0]) / (drawn @ less[1]) if less else ratio)
    low, high = np.nanpercentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)
