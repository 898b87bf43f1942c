"""95 % intervals of means over pairs, where pairs of one prompt go together."""

from collections.abc import Sequence

import numpy as np

DRAWS, CHUNK = 2000, 100


def bootstrap(
    clusters: Sequence[str], weights: Sequence[float], values: Sequence[float]
) -> tuple[float, float] | None:
    """Bounds of the weighted mean of `values`, drawing clusters with replacement: the percentile bootstrap.

    The same numbers give the same bounds. None with fewer than two clusters.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    if count < 2:
        return None
    weight = np.bincount(place, np.asarray(weights, np.float64), count)
    total = np.bincount(place, np.asarray(weights, np.float64) * np.asarray(values, np.float64), count)
    random = np.random.default_rng(0)
    means = []
    for _ in range(0, DRAWS, CHUNK):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=CHUNK)
        means.append((drawn @ total) / (drawn @ weight))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
