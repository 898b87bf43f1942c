"""From beams to negatives: which of a model's answers are falsehoods worth pushing down."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pretrainrl_jax.facts.matching import Truths, normalise, why_dropped
from pretrainrl_jax.facts.record import Fact

REASONS = ("unfinished", "empty", "duplicate", "known_true", "overlaps", "below_threshold", "beyond_count")


@dataclass(frozen=True)
class Answer:
    """One beam as text: cut at its first line break, stripped."""

    text: str
    tokens: tuple[int, ...]
    logp: float  # summed log-probability, terminator included where finished
    finished: bool = True


def choose_negatives(
    answers: Sequence[Answer],
    fact: Fact,
    known: Truths,
    *,
    count: int,
    min_probability: float,
    drop_overlapping: bool,
    dropped: Counter[str],
) -> list[Answer]:
    """The most probable falsehoods among a question's beams (PretrainRL, arXiv 2602.01875, negatives).

    Beams are deduplicated by normalised text before ranking; unfinished ones are never negatives; every
    known truth of the subject and relation is left out.

    Args:
        answers: the beams, best first.
        fact: the question they answer.
        known: every known truth (`matching.known_truths`).
        count: negatives kept.
        min_probability: a candidate less probable is dropped.
        drop_overlapping: drop candidates that contain a truth, or are contained in one.
        dropped: how many candidates each rule of `REASONS` took; added to.

    Returns:
        At most `count` answers, most probable first.
    """
    kept: list[Answer] = []
    seen: set[str] = set()
    for answer in answers:
        if not answer.finished:
            reason = "unfinished"
        elif normalise(answer.text) in seen:
            reason = "duplicate"
        else:
            seen.add(normalise(answer.text))
            reason = why_dropped(answer.text, fact, known, drop_overlapping)
            if not reason and math.exp(answer.logp) < min_probability:
                reason = "below_threshold"
            elif not reason and len(kept) == count:
                reason = "beyond_count"
        if reason:
            dropped[reason] += 1
        else:
            kept.append(answer)
    return kept
