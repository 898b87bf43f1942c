"""How well a confidence tells right answers from wrong ones, and what answering by it is worth.

Confidence targets are those of Why Language Models Hallucinate (arXiv 2509.04664): "answer only if you are
more than t confident", a right answer earns 1, abstaining 0, and a mistake costs t / (1 - t), so that at a
confidence of exactly t answering and abstaining are worth the same.

Everywhere `confidence` is [questions], probabilities of the answers that would be given, and `right` is
[questions], whether these are right.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from pretrainrl_jax.knowledge.intervals import wilson

Array = np.ndarray
BINS = 15  # of equal width, as calibration is usually reported
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1 where their logarithm is taken


class Bin(NamedTuple):
    """Questions of like confidence."""

    low: float
    high: float
    questions: int
    confidence: float  # mean
    accuracy: float
    interval: tuple[float, float] | None  # 95 % of the accuracy (Wilson)


def penalty_of(threshold: float) -> float:
    """What a mistake costs so that answering pays above this confidence; raises ValueError outside [0, 1)."""
    if not 0 <= threshold < 1:
        raise ValueError(f"a confidence threshold lies in [0, 1): {threshold}")
    return threshold / (1 - threshold)


def risk_coverage(confidence: Array, right: Array) -> tuple[Array, Array]:
    """Share answered and share of mistakes among it, from the most confident answer to all of them.

    Equally confident questions are answered together, so that their order is worth nothing: each point is a
    threshold that can be chosen.
    """
    confidence, right = _columns(confidence, right)
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, int)
    answered = last + 1
    return answered / max(1, len(ranked)), np.cumsum(~right[order])[last] / answered


def area_under_risk_coverage(confidence: Array, right: Array) -> float:
    """The mean risk over all coverages: that of answering the k most confident, k from 1 to all.

    Where several are equally confident, the mean over their orders. 0 is best; a constant confidence has the
    rate of mistakes. NaN without questions.
    """
    return float(areas(confidence, right)(np.arange(len(right))))


def areas(confidence: Array, right: Array) -> Callable[..., Array]:
    """The area under the risk-coverage curve as a function of places, [..., drawn], some of them repeated.

    Made for `bootstrap` of the places: a thousand draws in a few array operations. Between n and m answered,
    equally confident, of whose answers w are wrong, the risk at k of them is expected to be
    (W + w (k - n) / (m - n)) / k, where W were wrong before: summed over k it needs harmonic numbers alone.
    NaN of no questions.
    """
    confidence, right = _columns(confidence, right)
    levels, level = np.unique(-confidence, return_inverse=True)
    wrong = ~right

    def of_places(places: Array, axis: int = -1) -> Array:
        drawn = np.moveaxis(np.asarray(places), axis, -1)
        if not drawn.size:
            return np.full(drawn.shape[:-1], np.nan)
        rows = drawn.reshape(-1, drawn.shape[-1])  # [draws, drawn]
        cell = level[rows] + len(levels) * np.arange(len(rows))[:, None]

        def counted(weights: Array | None = None) -> Array:  # [draws, levels]
            found = np.bincount(cell.ravel(), weights, len(rows) * len(levels))
            return found.reshape(len(rows), len(levels))

        tied, mistakes = counted().astype(int), counted(wrong[rows].ravel().astype(float))
        answered, before = tied.cumsum(1), mistakes.cumsum(1) - mistakes
        pace = mistakes / np.maximum(tied, 1)
        harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, rows.shape[1] + 1)))
        each = harmonic[answered] - harmonic[answered - tied]
        sums = mistakes + (before - pace * (answered - tied)) * each
        return (sums.sum(1) / rows.shape[1]).reshape(drawn.shape[:-1])

    return of_places


def reliability(confidence: Array, right: Array, bins: int = BINS) -> list[Bin]:
    """Bins of equal width that hold questions; a confidence on an edge belongs to the bin below it."""
    confidence, right = _columns(confidence, right)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    made = []
    for at in range(bins):
        inside = place == at
        if count := int(inside.sum()):
            hits = int(right[inside].sum())
            mean, interval = float(confidence[inside].mean()), wilson(hits, count)
            made.append(Bin(at / bins, (at + 1) / bins, count, mean, hits / count, interval))
    return made


def ece(confidence: Array, right: Array, bins: int = BINS) -> float:
    """Expected calibration error: |accuracy - mean confidence| of `reliability`'s bins, by their size."""
    confidence, right = _columns(confidence, right)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    apart = np.bincount(place, right, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(apart).sum() / len(right)) if len(right) else float("nan")


def brier(confidence: Array, right: Array) -> float:
    """Mean squared difference of confidence and outcome; NaN without questions."""
    confidence, right = _columns(confidence, right)
    return float(np.mean((confidence - right) ** 2)) if len(right) else float("nan")


def log_loss(confidence: Array, right: Array) -> float:
    """Mean negative log-probability (nats) that the confidence gave to what was the case; NaN without any.

    Confidences of 0 and 1 count as `SMALLEST` away from them.
    """
    confidence, right = _columns(confidence, right)
    sure = np.clip(confidence, SMALLEST, 1 - SMALLEST)
    return float(-np.mean(np.where(right, np.log(sure), np.log1p(-sure)))) if len(right) else float("nan")


def resampled(statistic: Callable[..., Any], *columns: Array, draws: int = 1000) -> Array:
    """A statistic of questions drawn with replacement, [draws]: one number; or of an axis, which is faster.

    `columns` are [questions] each, two at least; a question keeps its values together, so that systems are
    paired.
    """
    arrays = [np.asarray(column) for column in columns]

    def of_places(places: Array) -> Any:
        return statistic(*(column[places] for column in arrays))

    data, of_data = arrays[0], statistic
    if len(arrays) > 1:  # places are drawn, as SciPy would make one type of all columns
        data, of_data = np.arange(len(arrays[0])), of_places
    options: Any = {"random_state": np.random.default_rng(0)}  # `rng` from SciPy 1.15 on
    options |= {"n_resamples": draws, "batch": max(1, 1_000_000 // len(columns[0]))}
    with np.errstate(invalid="ignore"):  # a draw of which the statistic is NaN says nothing
        found = stats.bootstrap([data], of_data, method="percentile", **options)
    return np.asarray(found.bootstrap_distribution, float)


def bootstrap(
    statistic: Callable[..., Any], *columns: Array, draws: int = 1000
) -> tuple[float, float] | None:
    """95 % percentile bounds of `resampled`; None with fewer than two questions, or where all are NaN."""
    if len(columns[0]) < 2:
        return None
    values = resampled(statistic, *columns, draws=draws)
    if np.isnan(values).all():
        return None
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that a question is as likely to be gained as lost, of those that changed."""
    changed = gained + lost
    return float(stats.binomtest(gained, changed).pvalue) if changed else 1.0


def _columns(confidence: Array, right: Array) -> tuple[Array, Array]:
    """As arrays. Raises ValueError for confidences that are no probabilities, or lengths that differ."""
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    if confidence.shape != right.shape or confidence.ndim != 1:
        raise ValueError(f"{confidence.shape} confidences for {right.shape} answers")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a confidence lies in [0, 1]")
    return confidence, right
