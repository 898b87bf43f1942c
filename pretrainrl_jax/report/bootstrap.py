"""95 % intervals of ratios by the percentile bootstrap; the same numbers give the same bounds."""

from collections.abc import Sequence

import numpy as np

from pretrainrl_jax.knowledge.intervals import wilson

DRAWS, CHUNK = 2000, 100


def bootstrap(
    clusters: Sequence[str], weights: Sequence[float], values: Sequence[float]
) -> tuple[float, float] | None:
    """Bounds of the weighted mean of `values`, drawing clusters with replacement.

    None with fewer than two clusters.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    weight = np.bincount(place, np.asarray(weights, np.float64), count)
    total = np.bincount(place, np.asarray(weights, np.float64) * np.asarray(values, np.float64), count)
    return ratio_interval(total, weight)


def mean_interval(
    clusters: Sequence[str], rights: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[float, float] | None:
    """Bounds of the mean of values between 0 and 1, drawing clusters with replacement.

    Where the means of all clusters are equal a bootstrap would be sure of it: then Wilson's of as many.
    """
    by_cluster: dict[str, list[float]] = {}
    for cluster, right in zip(clusters, rights, strict=True):
        by_cluster.setdefault(cluster, []).append(right)
    means = {sum(own) / len(own) for own in by_cluster.values()}
    if len(means) == 1:
        return wilson(round(means.pop() * len(by_cluster)), len(by_cluster))
    return bootstrap(clusters, weights or [1.0] * len(clusters), rights)


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
