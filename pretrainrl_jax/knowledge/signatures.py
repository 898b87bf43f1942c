"""Signatures of failure: what a run looks like that goes wrong in a known way, told from its numbers.

Of a system each is one function of what was measured of it and of the base model on the same questions. It
gives evidence; or "" where it does not apply, where noise may explain what is seen, or where the numbers are
not at hand, as in files of older versions.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
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
    bound: float  # of forgetting, nats a token
    lines: Sequence[Json] = ()  # of metrics.jsonl, of this system's training; () while it is not far enough


def of_training(seen: Seen) -> list[Signature]:
    """The signatures that a system shows beside the base model."""
    found = ((name, find(seen), remedy) for name, (find, remedy) in OF_TRAINING.items())
    return [Signature(name, seen.system, evidence, remedy) for name, evidence, remedy in found if evidence]


def probability_without_accuracy(seen: Seen) -> str:
    """Hits grow surer while accuracy does not: the model answers what it knew, and less else.

    PretrainRL (arXiv 2602.01875) reports it of DPO alone. A hit is a question with a right beam; its
    probability is that of the truth in all spellings.
    """
    trained = seen.asked.get("trained", ())
    answers = _accuracy(trained)
    hits = _columns(trained, lambda q: bool(q.get("rank")), bool)
    # Older versions tell the canonical answer's probability alone.
    p = _columns(trained, lambda q: q.get("p_aliases", q.get("p_truth")), float)
    if not answers or min(hit.sum() for hit in hits) < FEWEST or np.isnan(p).any():
        return ""

    def surer(hit: Any, p_before: Any, now: Any, p_after: Any) -> float:
        return p_after[now].mean() - p_before[hit].mean() if hit.any() and now.any() else np.nan

    columns = hits[0], p[0], hits[1], p[1]
    rise, interval = surer(*columns), bootstrap(surer, *columns)
    if not interval or interval[0] <= 0 or rise < SURER or answers.rate > 0 or answers.high >= NO_RISE:
        return ""
    return (
        f"over the questions with a right beam, the truth's probability went from {p[0][hits[0]].mean():.1%} "
        f"to {p[1][hits[1]].mean():.1%} ({_points(rise, interval)}), accuracy on trained facts from "
        f"{_change(answers)}"
    )


def saturation(seen: Seen) -> str:
    """The loss fell and hardly anything was gained: what it fell by is not what makes an answer right."""
    answers = _accuracy(seen.asked.get("trained", ()))
    by_step = {line["step"]: line["loss"] for line in seen.lines if line.get("loss") is not None}
    losses = [by_step[step] for step in sorted(by_step)]
    third = len(losses) // 3
    if not answers or third < LINES:
        return ""
    early, late = np.array(losses[:third]), np.array(losses[-third:])
    fell = late.mean() < (1 - FALL) * early.mean()
    clear = stats.mannwhitneyu(early, late, alternative="greater").pvalue < 0.025
    wrong = 1 - answers.before
    if not (fell and clear) or wrong < TO_GAIN or answers.high >= GAIN * wrong:
        return ""
    return (
        f"the loss fell from {early.mean():.3g} to {late.mean():.3g} (its first and last third), "
        f"accuracy on trained facts went from {_change(answers)}"
    )


def swallowed_category(seen: Seen) -> str:
    """One wrong answer is given to most of a category, to more than the base model gives its commonest."""
    categories: defaultdict[str, list[tuple[Json, Json]]] = defaultdict(list)
    for pair in seen.asked.get("trained", ()):
        categories[str(pair[1].get("category") or "")].append(pair)
    swallowed: list[tuple[Difference, str, str]] = []
    for category, pairs in categories.items():
        (_, before), (answer, after) = map(_commonest_wrong, zip(*pairs, strict=True))
        spread, share = paired(zip(before, after, strict=True)), wilson(sum(after), len(after))
        if len(pairs) >= FEWEST and spread and spread.low > 0 and share and share[0] > SWALLOWED:
            swallowed.append((spread, category, answer))
    if not swallowed:
        return ""
    spread, category, answer = max(swallowed, key=lambda one: one[0].after)
    others = f"; so are {len(swallowed)} of {len(categories)} categories" if len(swallowed) > 1 else ""
    return (
        f"the commonest wrong answer{f' in {category}' if category else ''}, now {answer or 'nothing'!r}, "
        f"is given to a share of the questions that went from {_change(spread)}{others}"
    )


def forgetting(seen: Seen) -> str:
    """The loss on held-out text rose by more than `evaluate.forgetting`.

    The texts are the same ones before and after, so no interval stands between them: the bound does.
    """
    before, after = seen.text_nll
    if before is None or after is None or not after - before > seen.bound:
        return ""
    return (
        f"the loss on held-out text rose from {before:.2f} to {after:.2f} nats a token, by "
        f"{after - before:.2f}; the bound is {seen.bound:g}"
    )


def overconfidence(seen: Seen) -> str:
    """The expected calibration error rose, and the model is surer than it is right."""
    told = (_overconfident(pairs, group) for group, pairs in seen.asked.items() if pairs)
    return "; ".join(filter(None, told))


def _overconfident(pairs: Pairs, group: str) -> str:
    sure = [column.clip(0, 1) for column in _columns(pairs, lambda q: q.get("confidence"), float)]
    right = _columns(pairs, lambda q: bool(q.get("best_right")), bool)
    if np.isnan(sure).any():
        return ""

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


OF_TRAINING = {
    "probability without accuracy": (
        probability_without_accuracy,
        "Falsehoods are lowered and truths not raised: give next-token training more weight "
        "(objectives.NAME.ntp.answer), lower objectives.NAME.dpo.weight, or raise objectives.NAME.dpo.beta",
    ),
    "saturation": (
        saturation,
        "Let the loss be of the answers (objectives.NAME.ntp.question=0), with more passes "
        "(train.passes) or another objectives.NAME.learning_rate; DPO alone saturates as falsehoods vanish",
    ),
    "swallowed category": (
        swallowed_category,
        "Lower objectives.NAME.learning_rate or train.passes, and look whether one answer is true of most "
        "facts of the category",
    ),
    "forgetting": (
        forgetting,
        "Anchor it on the base model's own text (objectives.NAME.anchor.weight=0.25), lower "
        "objectives.NAME.learning_rate or train.passes, or choose the best step by text "
        "(evaluate.every_steps, evaluate.choose=text_nll)",
    ),
    "overconfidence": (
        overconfidence,
        "Train fewer train.passes at a lower objectives.NAME.learning_rate; where the order of confidences "
        "is still right, a temperature mends it without training",
    ),
}
OF_MINING = {
    "implausible negatives": "Mine the questions' own beams (mine.sources=beam), drop the improbable "
    "(mine.min_probability), ask and train in the model's own way (mine.template, train.template), or leave "
    "out the facts that it knows",
    "duplicate negatives": "Search wider (mine.beams), add other sources (mine.sources=beam,pool), and look "
    "whether the answer comes from the prompt: its examples (facts.examples), its template (mine.template)",
    "fragments": "Let answers end where the model ends them: another mine.template, a longer "
    "mine.max_new_tokens; keep mine.drop_overlapping on",
    "hidden truths": "Give the aliases (facts.columns.answers), keep mine.drop_overlapping on, and tell "
    "namesakes apart in the question",
}


def of_mining(statistics: Json) -> list[Signature]:
    """The signatures that mined negatives show, of `mined/statistics.json`."""
    quality, taken = statistics.get("quality"), statistics.get("dropped", {}).get("beam", {})
    if not quality:
        return []
    questions = quality["questions"]
    beams = statistics.get("by_source", {}).get("beam", 0)
    beams += sum(n for name, n in taken.items() if name != "unfinished")
    low = sum(count for power, count in quality["odds"].items() if int(power) < ODDS)
    named: dict[str, list[str]] = {name: [] for name in OF_MINING}

    def tell(name: str, count: int, of: int, share: float, before: str, behind: str) -> None:
        """The evidence, where the whole interval of the rate lies above the share."""
        interval = wilson(count, of)
        if interval and interval[0] > share:
            named[name].append(f"{before}{count:,} of {of:,} {behind}")

    def tell_faulty(name: str, fault: str, share: float, behind: str) -> None:
        shown = "".join(f", as {text!r} of {asked!r}" for asked, text in quality[fault]["examples"][:1])
        tell(name, quality[fault]["questions"], questions, share, "in ", f"questions {behind}{shown}")

    odds = "the model gives all negatives together less than a hundredth of the truth's probability "
    odds += "(a truth under 1 % counts as 1 %)"
    tell("implausible negatives", low, questions, IMPLAUSIBLE, "in ", f"questions {odds}")
    again = taken.get("duplicate", 0)
    tell("duplicate negatives", again, beams, UNUSABLE, "", "finished beams are the same answer again")
    for category, one in quality["most_believed"].items():
        before = f"{one['text']!r} is the most probable negative in "
        behind = f"questions{f' of {category}' if category else ''}"
        tell("duplicate negatives", one["questions"], one["of"], SAME, before, behind)
    parts = "at least half of the negatives begin another answer or are one or two characters"
    tell_faulty("fragments", "fragments", FRAGMENTS, parts)
    overlapping = "finished beams are a part of a true answer, or hold one"
    tell("fragments", taken.get("overlaps", 0), beams, UNUSABLE, "", overlapping)
    true = "a negative contains a true answer, is part of one, is one in another spelling, or is true of a "
    tell_faulty("hidden truths", "hidden_truths", TRUE, f"{true}namesake")
    return [Signature(name, "base", "; ".join(said), OF_MINING[name]) for name, said in named.items() if said]


def _columns(pairs: Pairs, told: Callable[[Json], Any], dtype: type) -> list[np.ndarray]:
    """What is told of each question, before and after, [questions] each; what nothing is known of is NaN."""
    return [np.array([told(pair[side]) for pair in pairs], dtype) for side in (0, 1)]


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
