"""Accuracy on trained facts, in their trained wording, by popularity and by category."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.knowledge.intervals import Difference, wilson
from pretrainrl_jax.report.columns import Cell, Sheet, Told, changed, count, sheet
from pretrainrl_jax.report.formats import Json, brief, percent, span
from pretrainrl_jax.report.outcomes import Key, common, difference, popularity, right, trained
from pretrainrl_jax.report.systems import Systems

CATEGORIES = 25  # categories shown, those with the most questions


class Measured(NamedTuple):
    """One system on the questions of a row."""

    rate: float | None  # None where it was asked none of them
    interval: tuple[float, float] | None
    change: Difference | None  # against base; None for base itself and without it


class Row(NamedTuple):
    """Some questions, and each system's accuracy on them."""

    name: Any  # a category's name, or the lowest and highest popularity
    questions: int
    cells: dict[str, Measured]


def part(name: Any) -> str:
    """The name of a part of the questions: a value, or the lowest and highest popularity."""
    return f"{brief(name[0])} to {brief(name[1])}" if isinstance(name, tuple) else str(name)


def by_popularity(evaluations: list[Json]) -> list[Row]:
    """A row for each popularity bin, least popular first; none where evaluation made no bins.

    The bins are those of the evaluation: equal parts of the trained facts by (popularity, id).
    """
    asked, every = _asked(evaluations)
    return [_row(name, keys, asked) for name, keys in popularities(every, bins(evaluations))]


def bins(evaluations: list[Json]) -> int:
    """The number of popularity bins that evaluation made."""
    return max((len(e.get("by_popularity") or []) for e in evaluations), default=0)


def popularities(questions: dict[Key, Json], bins: int) -> list[tuple[tuple[float, float], set[Key]]]:
    """So many parts of about equal size, least popular first, with their lowest and highest popularity."""
    ranked = sorted(questions.items(), key=lambda item: (popularity(item[1]), item[0]))
    divided = []
    for places in np.array_split(np.arange(len(ranked)), bins) if bins else []:
        if len(places):
            keys, inside = zip(*(ranked[place] for place in places), strict=True)
            divided.append(((popularity(inside[0]), popularity(inside[-1])), set(keys)))
    return divided


def by_category(evaluations: list[Json]) -> list[Row]:
    """A row for each of the largest categories, then one for all others; none where there is one category."""
    asked, every = _asked(evaluations)
    return [_row(name, keys, asked) for name, keys in categories(every)]


def categories(questions: dict[Key, Json]) -> list[tuple[str, set[Key]]]:
    """The `CATEGORIES` largest categories with their questions, largest first, then all others together.

    Nothing where all questions are of one category: that is no division.
    """
    return parts(questions, lambda question: question.get("category"), ("category", "categories"))


def parts(
    questions: dict[Key, Json], value: Callable[[Json], Any], nouns: tuple[str, str] = ("value", "values")
) -> list[tuple[str, set[Key]]]:
    """The same by any value of a question, which has a noun, singular and plural."""
    members: dict[str, set[Key]] = {}
    for key, question in questions.items():
        members.setdefault(str(value(question) or ""), set()).add(key)
    if len(members) < 2:
        return []
    ranked = sorted(members, key=lambda name: (-len(members[name]), name))
    shown = [(name or f"(no {nouns[0]})", members[name]) for name in ranked[:CATEGORIES]]
    if rest := ranked[CATEGORIES:]:
        others = {key for name in rest for key in members[name]}
        shown.append((f"{len(rest)} other {nouns[len(rest) > 1]}", others))
    return shown


def sheets(head: str, rows: list[Row], systems: Iterable[str], known: Systems) -> tuple[Sheet, Sheet]:
    """Every system's accuracy on each row's questions, and its change against base, with their intervals."""

    def rate(system: str) -> Told:
        return lambda row: Cell(percent(row.cells[system].rate, ""), span(row.cells[system].interval))

    def change(system: str) -> Told:
        return lambda row: changed(apart, stacked=True) if (apart := row.cells[system].change) else ""

    begun = [(part(row.name), row) for row in rows]
    questions: dict[str, Told] = {"questions": lambda row: count(row.questions)}
    rates, changes = (
        questions | {known.label(system): told(system) for system in systems} for told in (rate, change)
    )
    return sheet(rates, begun, head), sheet(changes, begun, head)


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
        cells[system] = Measured(
            rate=hits / len(questions) if questions else None,
            interval=wilson(hits, len(questions)),
            change=difference(common(base, questions)) if base and system != "base" else None,
        )
    return Row(name, len(keys), cells)
