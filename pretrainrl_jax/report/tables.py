"""Accuracy on trained facts, in their trained wording, by popularity and by category."""

from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.knowledge.intervals import Difference, wilson
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.outcomes import Key, common, difference, popularity, right, trained

CATEGORIES = 25  # categories shown, those with the most questions


class Cell(NamedTuple):
    """One system on the questions of a row."""

    rate: float | None  # None where it was asked none of them
    interval: tuple[float, float] | None
    change: Difference | None  # against base; None for base itself and without it


class Row(NamedTuple):
    """Some questions, and each system's accuracy on them."""

    name: Any  # a category's name, or the lowest and highest popularity
    questions: int
    cells: dict[str, Cell]


def by_popularity(evaluations: list[Json]) -> list[Row]:
    """A row for each popularity bin, least popular first; none where evaluation made no bins.

    The bins are those of the evaluation: equal parts of the trained facts by (popularity, id).
    """
    bins = max((len(e.get("by_popularity") or []) for e in evaluations), default=0)
    asked, every = _asked(evaluations)
    ranked = sorted(every.items(), key=lambda item: (popularity(item[1]), item[0]))
    rows = []
    for part in np.array_split(np.arange(len(ranked)), bins) if bins else []:
        if len(part):
            keys, questions = zip(*(ranked[place] for place in part), strict=True)
            rows.append(_row((popularity(questions[0]), popularity(questions[-1])), set(keys), asked))
    return rows


def by_category(evaluations: list[Json]) -> list[Row]:
    """A row for each of the largest categories, then one for all others; none where there is one category."""
    asked, every = _asked(evaluations)
    return [_row(name, keys, asked) for name, keys in categories(every)]


def categories(questions: dict[Key, Json]) -> list[tuple[str, set[Key]]]:
    """The `CATEGORIES` largest categories with their questions, largest first, then all others together.

    Nothing where all questions are of one category: that is no division.
    """
    members: dict[str, set[Key]] = {}
    for key, question in questions.items():
        members.setdefault(str(question.get("category") or ""), set()).add(key)
    if len(members) < 2:
        return []
    ranked = sorted(members, key=lambda name: (-len(members[name]), name))
    parts = [(name or "(no category)", members[name]) for name in ranked[:CATEGORIES]]
    rest = ranked[CATEGORIES:]
    if rest:
        noun = "category" if len(rest) == 1 else "categories"
        parts.append((f"{len(rest)} other {noun}", {key for name in rest for key in members[name]}))
    return parts


def _asked(evaluations: list[Json]) -> tuple[dict[str, dict[Key, Json]], dict[Key, Json]]:
    """Questions by system, and of all; of what several were asked, the first one's outcome."""
    asked = {evaluation["system"]: trained(evaluation) for evaluation in evaluations}
    return asked, dict(item for questions in reversed(asked.values()) for item in questions.items())


def _row(name: Any, keys: set[Key], every: dict[str, dict[Key, Json]]) -> Row:
    asked = {system: {key: own[key] for key in keys if key in own} for system, own in every.items()}
    base = asked.get("base")
    cells = {}
    for system, questions in asked.items():
        hits = sum(map(right, questions.values()))
        cells[system] = Cell(
            rate=hits / len(questions) if questions else None,
            interval=wilson(hits, len(questions)),
            change=difference(common(base, questions)) if base and system != "base" else None,
        )
    return Row(name, len(keys), cells)
