"""Signatures of failure that mined negatives show (`mined/statistics.json`): as those of `signatures`."""

import re
from collections.abc import Mapping
from typing import Any

from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.knowledge.signatures import Json, Signature

# The share of the questions with negatives that must surely, by Wilson's interval, be at fault.
IMPLAUSIBLE = 0.5  # most of what is pushed down holds no probability
FRAGMENTS = 0.2  # not less, as some answers do begin others: New York, New York City
SAME = (
    0.9  # of a category: in healthy worlds one answer is the strongest falsehood of three questions in four
)
TRUE = 0.02  # each of them lowers what is true
ODDS = -2  # powers of ten: a question's negatives together hold under a hundredth of the truth's probability
UNUSABLE = 0.5  # of finished beams, duplicates or overlapping a truth: most of the search gives nothing


def of_mining(statistics: Json) -> list[Signature]:
    """The signatures that mined negatives show (`mined/statistics.json`)."""
    told = (
        implausible_negatives(statistics),
        duplicate_negatives(statistics),
        fragments(statistics),
        hidden_truths(statistics),
    )
    return [signature for signature in told if signature]


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
