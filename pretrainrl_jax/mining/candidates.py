"""Which answers are falsehoods worth unlearning: the filters between what a model says and a negative."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import Truths, normalise, why_dropped
from pretrainrl_jax.facts.record import Fact

REASONS = {
    "unfinished": "no end within the length limit",
    "empty": "nothing is left of it without punctuation",
    "duplicate": "the same answer again, in another spelling or from another source",
    "known_true": "true in answer to the question",
    "overlaps": "contains a true answer, or is contained in one",
    "below_threshold": "less probable than mine.min_probability",
    "beyond_count": "there were more than mine.negatives better ones",
    "too_long": "with it the question would not fit in a row",
}


@dataclass(frozen=True)
class Candidate:
    """A falsehood and where it comes from."""

    text: str
    source: str  # one of `mine.sources`
    logp: float = math.nan  # as a beam search of the question ended it, its one terminator; NaN otherwise


@dataclass(frozen=True)
class Rules:
    """What may be a negative of whom."""

    known: Truths  # every known truth (`matching.known_truths`)
    drop_overlapping: bool  # drop candidates that contain a truth, or are contained in one
    min_probability: float = 0.0  # a beam less probable is dropped
    count: int = 5  # beams kept


def from_beams(
    answers: Sequence[Answer], source: str, fact: Fact, rules: Rules, dropped: Counter[str]
) -> list[Candidate]:
    """The most probable falsehoods among a question's beams (PretrainRL, arXiv 2602.01875, negatives).

    They are free ones, or among known answers. Beams, given best first, are deduplicated by normalised text;
    unfinished ones are never negatives; every known truth in answer to the question is left out. At most
    `rules.count` stay, most probable first. `dropped` is added to, by the reasons of `REASONS`.
    """
    kept: list[Candidate] = []
    seen: set[str] = set()
    for answer in answers:
        if not answer.finished:
            reason = "unfinished"
        elif normalise(answer.text) in seen:
            reason = "duplicate"
        else:
            seen.add(normalise(answer.text))
            reason = why_dropped(answer.text, fact, rules.known, rules.drop_overlapping)
            if not reason and math.exp(answer.logp) < rules.min_probability:
                reason = "below_threshold"
            elif not reason and len(kept) == rules.count:
                reason = "beyond_count"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(Candidate(answer.text, source, answer.score))
    return kept


def from_values(
    values: Iterable[str], source: str, fact: Fact, rules: Rules, dropped: Counter[str]
) -> list[Candidate]:
    """The values that are false of the fact, in order: a category's pool or its popular answers, filtered.

    `dropped` is added to, by the reasons of `REASONS`.
    """
    kept = []
    for value in values:
        if reason := why_dropped(value, fact, rules.known, rules.drop_overlapping):
            dropped[reason] += 1
        else:
            kept.append(Candidate(value, source))
    return kept


def without_repeats(
    by_source: Sequence[Sequence[Candidate]], dropped: Mapping[str, Counter[str]]
) -> list[Candidate]:
    """All sources' candidates of one question, each answer once: the first source that names it keeps it."""
    kept: dict[str, Candidate] = {}
    for candidate in (c for of_source in by_source for c in of_source):
        if kept.setdefault(normalise(candidate.text), candidate) is not candidate:
            dropped[candidate.source]["duplicate"] += 1
    return list(kept.values())


def popular_values(facts: Iterable[Fact], share: float) -> dict[str, list[str]]:
    """Of each category the best-known `share` of its true answers, best known first, at least one.

    The ablation baseline of PretrainRL (arXiv 2602.01875). An answer is as known as the source says it is
    (the largest of its `answer_popularity`), or, where the source says nothing of any answer of the category,
    as often as it is the answer.
    """
    known: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    often: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts:
        popularity = known[fact.category]
        popularity[fact.answer] = max(popularity[fact.answer], fact.answer_popularity)
        often[fact.category][fact.answer] += 1
    values = {}
    for category, by_answer in known.items():
        fame: Mapping[str, float] = by_answer if any(by_answer.values()) else often[category]
        ranked = sorted(fame, key=lambda answer: (-fame[answer], answer))
        values[category] = ranked[: math.ceil(share * len(ranked))]
    return values


def some_of(values: Sequence[str], number: int, fact: Fact, seed: int) -> list[str]:
    """At most `number` of the values, drawn by (seed, question): a question's popularity candidates."""
    return random.Random(f"{seed}/popularity/{fact.id}").sample(values, min(number, len(values)))
