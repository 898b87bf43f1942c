"""Signatures of failure: what a run looks like that goes wrong in a known way, told from its numbers.

Each is one function of what was measured of the base model and of a system on the same questions. It gives
evidence and a remedy; or None where it does not apply, where noise may explain what is seen, or where the
numbers are not at hand, as in files of older versions.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.knowledge.confidence import bootstrap, ece
from pretrainrl_jax.knowledge.intervals import Difference, paired, wilson

Json = Mapping[str, Any]
Pairs = Sequence[tuple[Json, Json]]  # a question's outcome with the base model, and with a system

SURER = 0.02  # a smaller rise of the probability of hits is not worth telling, however clear
# Accuracy's interval is to shut out a rise by this: fewer questions than that takes say nothing.
NO_RISE = 0.05
FALL = 0.2  # of a loss: its mean over the last third of training is lower by this share than over the first
LINES = 4  # of metrics.jsonl in a third: with fewer no difference between two thirds is beyond chance
GAIN = 0.1  # hardly any gain: its interval lies below this share of what the base model got wrong
TO_GAIN = 0.1  # there is nothing much to gain where the base model got less than this wrong
SWALLOWED = 0.5  # one wrong answer has most of a category's questions, by Wilson's interval
FEWEST = 10  # questions of such a category, and hits that a probability is the mean of: fewer are chance
ECE_RISE = 0.05  # a smaller one is not told: sorting questions into bins alone moves ECE by some points

# The share of the questions with negatives that must surely, by Wilson's interval, be at fault.
IMPLAUSIBLE = 0.5  # most of what is pushed down holds no probability
FRAGMENTS = 0.2  # not less, as some answers do begin others: New York, New York City
# Of a category: in healthy worlds one answer is the strongest falsehood of three questions in four.
SAME = 0.9
TRUE = 0.02  # each of them lowers what is true
ODDS = -2  # powers of ten: a question's negatives together hold under a hundredth of the truth's probability
UNUSABLE = 0.5  # of finished beams, duplicates or overlapping a truth: most of the search gives nothing


class Signature(NamedTuple):
    """One way in which a run fails."""

    name: str
    system: str  # that shows it; "base" of what was mined of the base model
    evidence: str  # numbers, in words
    remedy: str  # what to try, by the names of settings

    @property
    def line(self) -> str:
        """All but the system, for a terminal."""
        return f"{self.name}: {self.evidence}. {self.remedy}"


class Seen(NamedTuple):
    """What was measured of a system, and of the base model before it."""

    system: str
    asked: Mapping[str, Pairs]  # by group: "trained", and "held_out" where such questions were asked
    text_nll: tuple[float | None, float | None]  # of the same texts before and after, nats a token
    lines: Sequence[Json] = ()  # of metrics.jsonl, of this system's training; () while it is not far enough


def of_training(seen: Seen, bound: float) -> list[Signature]:
    """The signatures that a system shows beside the base model; `bound`: of forgetting, nats a token."""
    told = (
        probability_without_accuracy(seen),
        saturation(seen),
        swallowed_category(seen),
        forgetting(seen, bound),
        overconfidence(seen),
    )
    return [signature for signature in told if signature]


def probability_without_accuracy(seen: Seen) -> Signature | None:
    """Hits grow surer while accuracy does not: the model answers what it knew, and less else.

    PretrainRL (arXiv 2602.01875) reports it of DPO alone. A hit is a question with a right beam; its
    probability is that of the truth in all spellings.
    """
    trained = seen.asked.get("trained", ())
    answers = _accuracy(trained)
    hits = [np.array([bool(side.get("rank")) for side in column]) for column in _sides(trained)]
    # Older versions tell the canonical answer's probability alone.
    p = [
        np.array([_number(q, "p_aliases" if "p_aliases" in q else "p_truth") for q in column], float)
        for column in _sides(trained)
    ]
    if not answers or min(hit.sum() for hit in hits) < FEWEST or np.isnan(p).any():
        return None

    def surer(hit: Any, p_before: Any, now: Any, p_after: Any) -> float:
        return p_after[now].mean() - p_before[hit].mean() if hit.any() and now.any() else np.nan

    columns = hits[0], p[0], hits[1], p[1]
    rise, interval = surer(*columns), bootstrap(surer, *columns)
    if not interval or interval[0] <= 0 or rise < SURER or answers.rate > 0 or answers.high >= NO_RISE:
        return None
    return Signature(
        "probability without accuracy",
        seen.system,
        f"over the questions with a right beam, the truth's probability went from {p[0][hits[0]].mean():.1%} "
        f"to {p[1][hits[1]].mean():.1%} ({_points(rise, interval)}), accuracy on trained facts from "
        f"{_change(answers)}",
        "Falsehoods are lowered and truths not raised: give next-token training more weight "
        "(objectives.NAME.ntp.answer), lower objectives.NAME.dpo.weight, or raise objectives.NAME.dpo.beta",
    )


def saturation(seen: Seen) -> Signature | None:
    """The loss fell and hardly anything was gained: what it fell by is not what makes an answer right."""
    answers = _accuracy(seen.asked.get("trained", ()))
    by_step = {
        line["step"]: line for line in seen.lines if "step" in line and _number(line, "loss") is not None
    }
    losses = [float(by_step[step]["loss"]) for step in sorted(by_step)]
    third = len(losses) // 3
    if not answers or third < LINES:
        return None
    early, late = np.array(losses[:third]), np.array(losses[-third:])
    fell = late.mean() < (1 - FALL) * early.mean()
    clear = stats.mannwhitneyu(early, late, alternative="greater").pvalue < 0.025
    wrong = 1 - answers.before
    if not (fell and clear) or wrong < TO_GAIN or answers.high >= GAIN * wrong:
        return None
    return Signature(
        "saturation",
        seen.system,
        f"the loss fell from {early.mean():.3g} to {late.mean():.3g} (its first and last third), "
        f"accuracy on trained facts went from {_change(answers)}",
        "Let the loss be of the answers (objectives.NAME.ntp.question=0), with more passes "
        "(train.passes) or another objectives.NAME.learning_rate; DPO alone saturates as falsehoods vanish",
    )


def swallowed_category(seen: Seen) -> Signature | None:
    """One wrong answer is given to most of a category, to more than the base model gives its commonest."""
    categories: defaultdict[str, list[tuple[Json, Json]]] = defaultdict(list)
    for pair in seen.asked.get("trained", ()):
        categories[str(pair[1].get("category") or "")].append(pair)
    swallowed: list[tuple[Difference, str, str]] = []
    for category, pairs in categories.items():
        (_, before), (answer, after) = map(_commonest_wrong, _sides(pairs))
        spread, share = paired(zip(before, after, strict=True)), wilson(sum(after), len(after))
        if len(pairs) >= FEWEST and spread and spread.low > 0 and share and share[0] > SWALLOWED:
            swallowed.append((spread, category, answer))
    if not swallowed:
        return None
    spread, category, answer = max(swallowed, key=lambda one: one[0].after)
    others = f"; so are {len(swallowed)} of {len(categories)} categories" if len(swallowed) > 1 else ""
    return Signature(
        "swallowed category",
        seen.system,
        f"the commonest wrong answer{f' in {category}' if category else ''}, now {answer or 'nothing'!r}, "
        f"is given to a share of the questions that went from {_change(spread)}{others}",
        "Lower objectives.NAME.learning_rate or train.passes, and look whether one answer is true of most "
        "facts of the category",
    )


def forgetting(seen: Seen, bound: float) -> Signature | None:
    """The loss on held-out text rose by more than `evaluate.forgetting`.

    The texts are the same ones before and after, so no interval stands between them: the bound does.
    """
    before, after = seen.text_nll
    if before is None or after is None or not after - before > bound:
        return None
    return Signature(
        "forgetting",
        seen.system,
        f"the loss on held-out text rose from {before:.2f} to {after:.2f} nats a token, by "
        f"{after - before:.2f}; the bound is {bound:g}",
        "Anchor it on the base model's own text (objectives.NAME.anchor.weight=0.25), lower "
        "objectives.NAME.learning_rate or train.passes, or choose the best step by text "
        "(evaluate.every_steps, evaluate.choose=text_nll)",
    )


def overconfidence(seen: Seen) -> Signature | None:
    """The expected calibration error rose, and the model is surer than it is right."""
    told = [words for group, pairs in seen.asked.items() if (words := _overconfident(pairs, group))]
    if not told:
        return None
    return Signature(
        "overconfidence",
        seen.system,
        "; ".join(told),
        "Train fewer train.passes at a lower objectives.NAME.learning_rate; where the order of confidences "
        "is still right, a temperature mends it without training",
    )


def _overconfident(pairs: Pairs, group: str) -> str:
    sides = _sides(pairs)
    if not pairs or any(_number(side, "confidence") is None for column in sides for side in column):
        return ""
    sure = [np.clip([float(side["confidence"]) for side in column], 0, 1) for column in sides]
    right = [np.array([bool(side.get("best_right")) for side in column]) for column in sides]

    def rise(sure_before: Any, right_before: Any, sure_after: Any, right_after: Any) -> float:
        return ece(sure_after, right_after) - ece(sure_before, right_before)

    columns = sure[0], right[0], sure[1], right[1]
    by, interval = rise(*columns), bootstrap(rise, *columns)
    if not interval or interval[0] <= 0 or by < ECE_RISE or sure[1].mean() <= right[1].mean():
        return ""
    return (
        f"{group.replace('_', ' ')} facts: ECE went from {ece(*columns[:2]):.1%} to {ece(*columns[2:]):.1%} "
        f"({_points(by, interval)}), mean confidence is {sure[1].mean():.1%}, right {right[1].mean():.1%}"
    )


def _sides(pairs: Pairs) -> tuple[list[Json], list[Json]]:
    return [before for before, _ in pairs], [after for _, after in pairs]


def _commonest_wrong(asked: Sequence[Json]) -> tuple[str, list[bool]]:
    """The commonest of the wrong answers, normalised, and where it is given; "" may be one."""
    said = [None if q.get("correct") else normalise(str(q.get("prediction") or "")) for q in asked]
    counted = Counter(text for text in said if text is not None).most_common(1)
    return counted[0][0] if counted else "", [text is not None and text == counted[0][0] for text in said]


def _accuracy(pairs: Pairs) -> Difference | None:
    return paired((bool(before.get("correct")), bool(after.get("correct"))) for before, after in pairs)


def _points(rise: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * rise:+.1f} points, 95 % {100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")


def _change(difference: Difference) -> str:
    shown = _points(difference.rate, (difference.low, difference.high))
    return f"{difference.before:.1%} to {difference.after:.1%} ({shown})"


def _number(values: Json, name: str) -> float | None:
    value = values.get(name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return value if usable else None


def of_mining(statistics: Json) -> list[Signature]:
    """The signatures that mined negatives show (`mined/statistics.json`)."""
    checks = (implausible_negatives, duplicate_negatives, fragments, hidden_truths)
    return [told for check in checks if (told := check(statistics))]


def implausible_negatives(statistics: Json) -> Signature | None:
    """Most questions' negatives hold next to no probability: there is nothing to take from them."""
    odds = _counts(_held(statistics, "quality", "odds"))
    questions = sum(odds.values())
    low = sum(count for power, count in odds.items() if re.fullmatch("-?[0-9]+", power) and int(power) < ODDS)
    if not _surely(low, questions, IMPLAUSIBLE):
        return None
    return Signature(
        "implausible negatives",
        "base",
        f"in {low:,} of {questions:,} questions the model gives all negatives together less than a hundredth "
        "of the truth's probability (a truth under 1 % counts as 1 %)",
        "Mine the questions' own beams (mine.sources=beam), drop the improbable (mine.min_probability), ask "
        "and train in the model's own way (mine.template, train.template), or leave out the facts that it "
        "knows",
    )


def duplicate_negatives(statistics: Json) -> Signature | None:
    """The search finds the same answers again, or one answer is the strongest falsehood of a category."""
    said = []
    again, beams = _taken(statistics, "duplicate")
    if _surely(again, beams, UNUSABLE):
        said.append(f"{again:,} of {beams:,} finished beams are the same answer again")
    for category, entry in _held(statistics, "quality", "most_believed").items():
        counts = _counts(entry)
        if _surely(counts.get("questions", 0), counts.get("of", 0), SAME):
            said.append(
                f"{_held(entry).get('text')!r} is the most probable negative in {counts['questions']:,} of "
                f"{counts['of']:,} questions{f' of {category}' if category else ''}"
            )
    if not said:
        return None
    return Signature(
        "duplicate negatives",
        "base",
        "; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else ""),
        "Search wider (mine.beams), add other sources (mine.sources=beam,pool), and look whether the answer "
        "comes from the prompt: its examples (facts.examples), its template (mine.template)",
    )


def fragments(statistics: Json) -> Signature | None:
    """Negatives are pieces of answers."""
    count, questions, example = _faulty(statistics, "fragments")
    overlapping, beams = _taken(statistics, "overlaps")
    said = []
    if _surely(count, questions, FRAGMENTS):
        said.append(
            f"in {count:,} of {questions:,} questions at least half of the negatives begin another answer "
            f"or are one or two characters{example}"
        )
    if _surely(overlapping, beams, UNUSABLE):
        said.append(f"{overlapping:,} of {beams:,} finished beams are a part of a true answer, or hold one")
    if not said:
        return None
    return Signature(
        "fragments",
        "base",
        "; ".join(said),
        "Let answers end where the model ends them: another mine.template, a longer mine.max_new_tokens; "
        "keep mine.drop_overlapping on",
    )


def hidden_truths(statistics: Json) -> Signature | None:
    """Negatives are true by the looser rule, in another spelling, or of a namesake."""
    count, questions, example = _faulty(statistics, "hidden_truths")
    if not _surely(count, questions, TRUE):
        return None
    return Signature(
        "hidden truths",
        "base",
        f"in {count:,} of {questions:,} questions a negative contains a true answer, is part of one, is one "
        f"in another spelling, or is true of a namesake{example}",
        "Give the aliases (facts.columns.answers), keep mine.drop_overlapping on, and tell namesakes apart "
        "in the question",
    )


def _surely(count: int, questions: int, share: float) -> bool:
    """The whole interval of a rate lies above a share."""
    interval = wilson(count, questions) if count <= questions else None
    return interval is not None and interval[0] > share


def _faulty(statistics: Json, fault: str) -> tuple[int, int, str]:
    """The questions whose negatives have a fault, of how many, and the first of them in words."""
    held = _held(statistics, "quality", fault)
    count, questions = (_counts(of).get("questions", 0) for of in (held, _held(statistics, "quality")))
    examples = held.get("examples")
    shown = examples[0] if isinstance(examples, list) and examples else None
    words = f", as {shown[1]!r} of {shown[0]!r}" if isinstance(shown, list) and len(shown) == 2 else ""
    return count, questions, words


def _taken(statistics: Json, reason: str) -> tuple[int, int]:
    """How many of the questions' finished beams a filter took, and of how many."""
    dropped = _counts(_held(statistics, "dropped", "beam"))
    kept = _counts(_held(statistics, "by_source")).get("beam", 0)
    return dropped.get(reason, 0), kept + sum(n for name, n in dropped.items() if name != "unfinished")


def _held(values: Any, *names: str) -> Json:
    """The object that a file holds under these names; an empty one where it does not."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def _counts(values: Any) -> dict[str, int]:
    """The whole numbers of an object."""
    return {name: n for name, n in _held(values).items() if type(n) is int and n >= 0}
