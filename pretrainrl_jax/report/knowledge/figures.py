"""The numbers of what a system knows and how well its probability tells: its "knowledge" in summary.json.

An estimate is a JSON object: `value`, `interval` (95 %, [low, high], or null) and `questions`, those that it
is of. Intervals of shares are Wilson's; of means, medians and areas a bootstrap over questions. What a file
of an older version does not tell is left out; what cannot be computed, such as a mean of nothing, is null.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.config import EvaluateConfig
from pretrainrl_jax.knowledge import confidence as measures
from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.knowledge.state import STATES, margin, state_of
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.outcomes import grouped, right, truth

SETS = ("trained", "held_out")
"""The groups of questions that are told one by one."""


def knowledge(evaluation: Json, asked: Json) -> Json:
    """What `summary.json` tells of a system's knowledge, by `SETS`; empty where no question is listed.

    Args:
        evaluation: of the system.
        asked: the settings under which it was evaluated.
    """
    groups = grouped(evaluation)
    told: Json = {name: of_questions(list(groups[name].values()), asked) for name in SETS if groups.get(name)}
    if "temperature" in evaluation:
        told["temperature"] = evaluation["temperature"]
    return told


def of_questions(questions: Sequence[Json], asked: Json) -> Json:
    """Everything that is told of one set of questions."""
    told: Json = {"questions": len(questions), **probabilities(questions)}
    if sure := confident(questions):
        told |= {
            "states": states(sure),
            "confidence": calibration(sure),
            "targets": targets(*columns(sure), asked),
        }
        if scaled := [q for q in sure if number(q.get("calibrated")) is not None]:
            told["calibrated"] = calibration(scaled, "calibrated")
            told["calibrated_targets"] = targets(*columns(scaled, "calibrated"), asked)
    if chosen := [q for q in questions if "choice_right" in q]:
        told["choice"] = {
            "accuracy": share([bool(q["choice_right"]) for q in chosen]),
            "greedy": share([right(q) for q in chosen]),
        }
    return told


def probabilities(questions: Sequence[Json]) -> Json:
    """The truth's probability and rank, the strongest falsehood's probability, and how far they are apart."""
    ranks = [int(rank) for q in questions if (rank := number(q.get("rank"))) is not None]
    pairs = [(truth(q), number(q.get("p_falsehood"))) for q in questions]
    both = [(true, false or 0.0) for true, false in pairs if true is not None]
    margins = [margin({"p_aliases": true, "p_falsehood": false}) for true, false in pairs]
    return {
        "p_truth": estimate(np.mean, [true for true, _ in both]),
        "first": share([rank == 1 for rank in ranks], len(questions)),
        "among": share([True] * len(ranks), len(questions)),
        "rank": float(np.median(ranks)) if ranks else None,
        "p_falsehood": estimate(np.mean, [false for _, false in both]),
        "margin": estimate(np.median, [nats for nats in margins if nats is not None]),
        "above": share([true > false for true, false in both]),
    }


def confident(questions: Sequence[Json]) -> list[Json]:
    """The questions with a confidence, which older versions did not measure."""
    return [q for q in questions if "best_right" in q and number(q.get("confidence")) is not None]


def columns(questions: Sequence[Json], name: str = "confidence") -> tuple[np.ndarray, np.ndarray]:
    """The confidence in each answer, kept in [0, 1], and whether the answer is right."""
    sure = np.array([number(q[name]) for q in questions], float)
    return np.clip(sure, 0, 1), np.array([bool(q["best_right"]) for q in questions], bool)


def states(questions: Sequence[Json]) -> Json:
    """The share of every state of knowledge, all of `STATES`."""
    counts = Counter(map(state_of, questions))
    return {state: share([True] * counts[state], len(questions)) for state in STATES}


def calibration(questions: Sequence[Json], name: str = "confidence") -> Json:
    """How well a confidence tells right from wrong, and how near it is to the share that is right.

    The area under the risk-coverage curve stands beside those of the best order of the same answers and of a
    random one. ECE has no interval: drawing questions again widens its gaps, so a bootstrap lies above it.
    """
    sure, hits = columns(questions, name)
    return {
        "accuracy": share(hits),
        "mean": float(np.mean(sure)),
        "aurc": area(sure, hits),
        "ideal": measures.ideal_area(hits),
        "random": float(np.mean(~hits)),
        "ece": measures.ece(sure, hits),
        "brier": estimate(np.mean, (sure - hits) ** 2),
        "log_loss": measures.log_loss(sure, hits),
    }


def area(sure: np.ndarray, hits: np.ndarray) -> Json:
    """The area under the risk-coverage curve."""
    bounds = measures.bootstrap(measures.areas(sure, hits), np.arange(len(hits)))
    value = number(measures.area_under_risk_coverage(sure, hits))
    return {"value": value, "interval": bounds, "questions": len(sure)}


def thresholds(asked: Json) -> list[tuple[float, float]]:
    """Each confidence target with the penalty of a mistake, as configured; older versions name none."""
    targets = list(asked.get("thresholds") or EvaluateConfig().thresholds)
    penalties = list(asked.get("penalties") or map(measures.penalty_of, targets))
    return list(zip(targets, penalties, strict=True))


def targets(sure: np.ndarray, hits: np.ndarray, asked: Json) -> list[Json]:
    """What answering above each threshold is worth, and whether the answers are as good as they claim."""
    told = []
    for threshold, penalty in thresholds(asked):
        scored = measures.at_threshold(sure, hits, threshold, penalty)
        points = np.where(sure > threshold, np.where(hits, 1.0, -penalty), 0.0)
        answered = hits[sure > threshold]
        told.append(
            scored._asdict()
            | {"score": estimate(np.mean, points), "accuracy": share(answered) if len(answered) else None}
            | {"kept": verdict(answered, threshold)}
        )
    return told


def verdict(answered: np.ndarray, threshold: float) -> str | None:
    """Whether answers given above a threshold are right as often as that: "yes", "no", or "unclear".

    Unclear is what lies below it by no more than chance (Wilson); None where nothing is answered or asked.
    """
    interval = wilson(int(answered.sum()), len(answered))
    if interval is None or not threshold:
        return None
    if answered.mean() >= threshold:
        return "yes"
    return "unclear" if interval[1] >= threshold else "no"


def share(holds: Any, count: int | None = None) -> Json:
    """The share of questions for which something holds, of so many or as many as are listed."""
    hits, count = int(np.sum(np.asarray(holds, bool))), len(holds) if count is None else count
    return {"value": hits / count if count else None, "interval": wilson(hits, count), "questions": count}


def estimate(statistic: Callable[..., Any], values: Any) -> Json:
    """A mean or median with its bootstrap interval."""
    column = np.asarray(values, float)
    value = float(statistic(column)) if len(column) else None
    return {"value": value, "interval": measures.bootstrap(statistic, column), "questions": len(column)}
