"""The numbers of what a system knows and how well its probability tells: its "knowledge" in summary.json.

An estimate is a JSON object: `value`, `interval` (95 %, [low, high], or null) and `questions`, those that it
is of. Intervals of shares are Wilson's; of means, medians and areas a bootstrap over questions. What a file
of an older version does not tell is left out; what cannot be computed, such as a mean of nothing, is null.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.config import EvaluateConfig
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.knowledge import confidence as measures
from pretrainrl_jax.knowledge.abstention import Verdict, agreement, score, two_agree
from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.report import outcomes
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.outcomes import Pairs, difference, grouped, right, truth

SETS = ("trained", "held_out")
"""The groups of questions that are told one by one."""

STATES = {
    "knows": "its most probable answer is right, and at least as probable as not",
    "unsure": "its most probable answer is right, and less probable than that",
    "misled": "its most probable answer is wrong, and at least as probable as not",
    "in reach": "its most probable answer is wrong, and a true one is among its beams",
    "unknown": "none of these: no true answer is among its beams",
}
SURE = 0.5  # the confidence from which an answer is believed: more probable than everything else together

OUTCOMES = ("right", "wrong", "abstained")
HALF = 0.5
FALSEHOODS = 8  # shown of a system


def summarise(evaluations: Mapping[str, Json], asked: Json) -> dict[str, Json]:
    """The "knowledge" of every system in summary.json, from its evaluation under the settings `asked`.

    A system that lists no question has none.
    """
    penalties = [penalty for _, penalty in thresholds(asked)]
    told: dict[str, Json] = {}
    for name, evaluation in evaluations.items():
        sets = {which: list(grouped(evaluation)[which].values()) for which in SETS}
        own: Json = {which: of_questions(inside, asked) for which, inside in sets.items() if inside}
        if "temperature" in evaluation:
            own["temperature"] = evaluation["temperature"]
        if own:
            own["repeated"] = repeated(evaluation)
            measured = {
                "consistency": consistency(sets["trained"], penalties),
                "rubric": rubric(evaluation),
                "theory": evaluation.get("theory"),
            }
            own |= {key: value for key, value in measured.items() if value}
            if "base" in evaluations and name != "base":
                own["changes"] = changes(evaluations["base"], evaluation)
            told[name] = own
    return told


def of_questions(questions: Sequence[Json], asked: Json) -> Json:
    """Everything that is told of one set of questions."""
    told: Json = {"questions": len(questions), **probabilities(questions)}
    if sure := confident(questions):
        told |= {
            "states": states(sure),
            "confidence": calibration(*columns(sure)),
            "targets": targets(*columns(sure), asked),
        }
        if scaled := [q for q in sure if number(q.get("calibrated")) is not None]:
            told["calibrated"] = calibration(*columns(scaled, "calibrated"))
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


def state_of(question: Json) -> str:
    """One of `STATES`, of a question of an evaluation (it has `confidence`)."""
    sure = question["confidence"] >= SURE
    if question["best_right"]:
        return "knows" if sure else "unsure"
    if sure:
        return "misled"
    return "in reach" if question["rank"] else "unknown"


def margin(question: Json) -> float | None:
    """How much more probable what is true is than the strongest falsehood: log of their ratio, nats.

    None where no falsehood was found among the beams, or one of the two has no probability at all.
    """
    truth, falsehood = question.get("p_aliases"), question.get("p_falsehood")
    return math.log(truth / falsehood) if truth and falsehood else None


def calibration(sure: np.ndarray, hits: np.ndarray) -> Json:
    """How well a confidence tells right from wrong, and how near it is to the share that is right.

    The area under the risk-coverage curve stands beside those of the best order of the same answers and of a
    random one. ECE has no interval: drawing questions again widens its gaps, so a bootstrap lies above it.
    """
    return {
        "accuracy": share(hits),
        "mean": float(np.mean(sure)),
        "aurc": estimate(measures.areas(sure, hits), np.arange(len(hits))),
        "ideal": measures.area_under_risk_coverage(hits.astype(float), hits),
        "random": float(np.mean(~hits)),
        "ece": measures.ece(sure, hits),
        "brier": estimate(np.mean, (sure - hits) ** 2),
        "log_loss": measures.log_loss(sure, hits),
    }


def thresholds(asked: Json) -> list[tuple[float, float]]:
    """Each confidence target with the penalty of a mistake, as configured; older versions name none."""
    targets = list(asked.get("thresholds") or EvaluateConfig().thresholds)
    penalties = list(asked.get("penalties") or map(measures.penalty_of, targets))
    return list(zip(targets, penalties, strict=True))


def targets(sure: np.ndarray, hits: np.ndarray, asked: Json) -> list[Json]:
    """What answering above each threshold is worth, and whether the answers are as good as they claim.

    At a threshold of 0 whatever has any probability is answered. A right answer earns 1, a wrong one costs
    the penalty; all but the score and the accuracy are shares of all questions.
    """
    told = []
    for threshold, penalty in thresholds(asked):
        answers = sure > threshold
        answered, hit, wrong = (float(which.mean()) for which in (answers, answers & hits, answers & ~hits))
        told.append(
            {
                "threshold": threshold,
                "penalty": penalty,
                "answered": answered,
                "right": hit,
                "wrong": wrong,
                "abstained": 1 - answered,
                "score": score_of(answers, hits, penalty),
                "accuracy": share(hits[answers]) if answers.any() else None,
                "kept": verdict(hits[answers], threshold),
            }
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
    """A mean, median or other statistic of numbers with its bootstrap interval."""
    column = np.asarray(values)
    value = float(statistic(column)) if len(column) else None
    return {"value": value, "interval": measures.bootstrap(statistic, column), "questions": len(column)}


# What a system believes falsely


def answers(evaluation: Json) -> list[tuple[Json, str]]:
    """Each fact once, trained or held out in its trained wording, with the answer that is given.

    One without text ends at once. None of an older version, which knew no best answer.
    """
    groups = grouped(evaluation)
    asked = [*groups["trained"].values(), *groups["held_out"].values()]
    return [(q, q["best"]) for q in asked if "best_right" in q and q["best"] is not None]


def repeated(evaluation: Json) -> list[Json]:
    """The answers most often given wrongly, spellings as one: how often said, how often true, how surely."""
    given: defaultdict[str, list[tuple[Json, str]]] = defaultdict(list)
    for question, said in answers(evaluation):
        given[normalise(said)].append((question, said))
    told: list[Json] = []
    for every in given.values():
        ((spelling, _),) = Counter(said for _, said in every).most_common(1)
        true = sum(bool(question["best_right"]) for question, _ in every)
        sure = float(np.mean([question["confidence"] for question, _ in every]))
        if len(every) - true > 1:
            shown = {"answer": shown_as(spelling), "said": len(every), "true": true, "confidence": sure}
            told.append(shown)
    return sorted(told, key=lambda each: (each["true"] - each["said"], each["answer"]))[:FALSEHOODS]


def shown_as(said: str) -> str:
    """An answer as a reader sees it."""
    return said if said.strip() else "(no text)"


# Other ways to abstain: by the agreement of samples, and by what a prompt says a mistake costs


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
        "agreement": calibration(frequent, frequent_right),
        "confidence": calibration(sure, right),
    }


def _answered(answers: np.ndarray, right: np.ndarray, penalties: Sequence[float]) -> Json:
    accuracy = share(right[answers]) if answers.any() else None
    scores = [{"penalty": cost} | score_of(answers, right, cost) for cost in penalties]
    return {"answered": share(answers), "accuracy": accuracy, "scores": scores}


def score_of(answers: np.ndarray, right: np.ndarray, penalty: float) -> Json:
    """The mean of 1 for what is answered rightly, less the penalty for what is answered wrongly."""
    return estimate(np.mean, np.where(answers, np.where(right, 1.0, -penalty), 0.0))


def rubric(evaluation: Json) -> list[Json]:
    """Of each stated penalty: outcomes and score where it is stated and where it is not; [] if not asked.

    `gap` is the open score less the closed one of the same questions, `p` the two-sided bootstrap p that it
    is zero.
    """
    asked = evaluation.get("rubric") or {}
    closed: list[Verdict] = list(asked.get("closed") or ())
    rows: list[Json] = []
    for penalty, opened in (asked.get("open") or {}).items():
        cost = number(float(penalty))
        if cost is None or len(opened) != len(closed) or not closed:
            continue
        row: Json = {"penalty": cost, "questions": len(closed)}
        worth = {}
        for name, side in (("open", opened), ("closed", closed)):
            worth[name] = np.array([score([each], cost) for each in side], float)
            row |= {
                name: estimate(np.mean, worth[name]),
                f"{name}_shares": {each: side.count(each) / len(side) for each in OUTCOMES},
            }
        gap = worth["open"] - worth["closed"]
        rows.append(row | {"gap": estimate(np.mean, gap), "p": zero(gap)})
    return sorted(rows, key=lambda row: row["penalty"])


def zero(values: np.ndarray) -> float:
    """The two-sided bootstrap p that a mean is zero: how often drawing questions again turns its sign.

    At least 1 / draws, as no number of draws shows that it never does. 1 for fewer than two.
    """
    if len(values) < 2:
        return 1.0
    means = measures.resampled(np.mean, values)
    return float(min(1.0, max(1 / len(means), 2 * min((means <= 0).mean(), (means >= 0).mean()))))


# What training changed: a system beside the base model, question by question


def changes(before: Json, after: Json) -> Json:
    """A system's part of summary.json on what its training changed, from its evaluation and the base's."""
    pairs = outcomes.shared(before, after)
    told: Json = {"flips": {name: flips(pairs[name]) for name in SETS if pairs[name]}, "groups": {}}
    for group, asked in pairs.items():
        if apart := difference(asked):
            told["groups"][group] = apart._asdict()
            for when, side in zip(("before", "after"), zip(*asked, strict=True), strict=True):
                told["groups"][group][f"{when}_interval"] = wilson(sum(map(right, side)), len(asked))
    if went := moved(pairs["trained"]):
        told["states"] = went
    if others := suppressed(pairs["trained"]):
        told["suppressed"] = others
    return told


def flips(pairs: Pairs) -> Json:
    """Greedy answers that became right and wrong, and McNemar's exact p that both are equally likely."""
    gained, lost = map(len, outcomes.flips(pairs))
    return {"questions": len(pairs), "gained": gained, "lost": lost, "p": measures.mcnemar(gained, lost)}


def moved(pairs: Pairs) -> Json | None:
    """How many facts went from each state of knowledge (outer key) to each (inner); None if not measured."""
    went = Counter((state_of(a), state_of(b)) for a, b in pairs if len(confident([a, b])) == 2)
    if not went:
        return None
    return {one: {other: went[one, other] for other in STATES} for one in STATES}


def suppressed(pairs: Pairs) -> Json | None:
    """What became of true answers that were never trained, of questions that have several; None without any.

    `canonical` is the probability of the answer that was trained, `others` that of all other true ones,
    before and after. `suppressed` are the questions whose others fell to half or less while the canonical
    answer rose, of those whose others had any probability.
    """
    both = [(a, b) for a, b in pairs if (number(a.get("truths")) or 0) >= 2]
    values = [[*_split(a), *_split(b)] for a, b in both]
    known = np.array([row for row in values if None not in row], float).reshape(-1, 4)
    if not len(known):
        return None
    canonical, others, canonical_after, others_after = known.T
    some = others > 0
    fell = (others_after <= HALF * others) & (canonical_after > canonical)
    return {
        "questions": len(known),
        "canonical": [estimate(np.mean, canonical), estimate(np.mean, canonical_after)],
        "others": [estimate(np.mean, others), estimate(np.mean, others_after)],
        "suppressed": share(fell[some]),
    }


def _split(question: Json) -> Sequence[float | None]:
    canonical, everything = number(question.get("p_truth")), number(question.get("p_aliases"))
    if canonical is None or everything is None:
        return None, None
    return canonical, max(0.0, everything - canonical)
