"""Other ways to abstain: by the agreement of samples, and by what a prompt says a mistake costs."""

from collections.abc import Sequence

import numpy as np

from pretrainrl_jax.knowledge import confidence as measures
from pretrainrl_jax.knowledge.abstention import agreement, score, two_agree
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.knowledge.figures import area, columns, confident, estimate, share

OUTCOMES = ("right", "wrong", "abstained")


def consistency(questions: Sequence[Json], penalties: Sequence[float]) -> Json | None:
    """Two samples that agree are answered, beside the model's own probability; None without samples.

    `probability` is what the most confident questions are worth where as many are answered as two samples
    agree on (of equally confident ones all, so that it may be a few more). `agreement` takes the share of all
    samples that give the most frequent answer as the confidence, and stands beside the probability's measures
    on the same questions.
    """
    drawn = [q for q in confident(questions) if len(q.get("samples") or ()) >= 2]
    if not drawn:
        return None
    pairs = [two_agree(q["samples"], q["samples_right"]) for q in drawn]
    agree, hits = (np.array(column, bool) for column in zip(*pairs, strict=True))
    sure, right = columns(drawn)
    ranked = np.sort(sure)[::-1]
    above = sure >= ranked[agree.sum() - 1] if agree.any() else np.zeros(len(sure), bool)
    shares, rights = zip(*(agreement(q["samples"], q["samples_right"]) for q in drawn), strict=True)
    frequent, frequent_right = np.array(shares, float), np.array(rights, bool)
    return {
        "questions": len(drawn),
        "samples": min(len(q["samples"]) for q in drawn),
        "two_agree": _answered(agree, hits, penalties),
        "probability": _answered(above, right, penalties),
        "agreement": _measures(frequent, frequent_right),
        "confidence": _measures(sure, right),
    }


def _answered(answers: np.ndarray, right: np.ndarray, penalties: Sequence[float]) -> Json:
    return {
        "answered": share(answers),
        "accuracy": share(right[answers]) if answers.any() else None,
        "scores": [
            {"penalty": cost, **estimate(np.mean, np.where(answers, np.where(right, 1.0, -cost), 0.0))}
            for cost in penalties
        ],
    }


def _measures(sure: np.ndarray, right: np.ndarray) -> Json:
    return {
        "accuracy": share(right),
        "aurc": area(sure, right),
        "ece": measures.ece(sure, right),
        "brier": estimate(np.mean, (sure - right) ** 2),
    }


def rubric(evaluation: Json) -> list[Json]:
    """Of each stated penalty: outcomes and score where it is stated and where it is not; [] if not asked.

    `gap` is the open score less the closed one of the same questions, `p` the two-sided bootstrap p that it
    is zero.
    """
    asked = evaluation.get("rubric") or {}
    closed, rows = list(asked.get("closed") or ()), []
    for penalty, opened in (asked.get("open") or {}).items():
        cost = number(float(penalty))
        if cost is None or len(opened) != len(closed) or not closed:
            continue
        row: Json = {"penalty": cost, "questions": len(closed)}
        worth = {}
        for name, side in (("open", opened), ("closed", closed)):
            worth[name] = np.array([score([each], cost) for each in side], float)
            row |= {name: estimate(np.mean, worth[name]), f"{name}_shares": outcomes(side)}
        gap = worth["open"] - worth["closed"]
        rows.append(row | {"gap": estimate(np.mean, gap), "p": zero(gap)})
    return sorted(rows, key=lambda row: row["penalty"])


def outcomes(verdicts: Sequence[str]) -> Json:
    """The share of each of "right", "wrong" and "abstained"."""
    return {each: verdicts.count(each) / len(verdicts) for each in OUTCOMES}


def zero(values: np.ndarray) -> float:
    """The two-sided bootstrap p that a mean is zero: how often drawing questions again turns its sign.

    At least 1 / draws, as no number of draws shows that it never does. 1 for fewer than two.
    """
    if len(values) < 2:
        return 1.0
    means = measures.resampled(np.mean, values)
    return float(min(1.0, max(1 / len(means), 2 * min((means <= 0).mean(), (means >= 0).mean()))))
