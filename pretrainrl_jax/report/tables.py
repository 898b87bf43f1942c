"""Accuracy on trained facts, in their trained wording, by popularity, category and columns of a file."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.report.columns import Cell, Sheet, Told, changed, count, sheet
from pretrainrl_jax.report.formats import Json, brief, chance, percent, span
from pretrainrl_jax.report.outcomes import Key, common, difference, popularity, right, trained
from pretrainrl_jax.report.systems import Systems

VALUES = 25  # categories, or values of a column, that are shown: those with the most questions


Divisions = dict[str, list[tuple[str, set[Key]]]]  # by name: the parts of each, which have names, too


def divisions(evaluations: Mapping[str, Json]) -> Divisions:
    """The trained facts by popularity, category and columns of a file.

    Popularity has as many bins as evaluation made; what has one value alone is no division.
    """
    # Of what several were asked, the first one's outcome.
    every = {
        key: question for own in reversed([*evaluations.values()]) for key, question in trained(own).items()
    }
    bins = max((len(own.get("by_popularity") or []) for own in evaluations.values()), default=0)
    made: Divisions = {
        "popularity": popularities(every, bins),
        "category": parts(every, lambda question: question.get("category")),
    }
    for column in dict.fromkeys(name for q in every.values() for name in q.get("columns") or {}):
        made[column] = parts(every, lambda q, name=column: (q.get("columns") or {}).get(name))
    return {head: rows for head, rows in made.items() if rows}


def divided(evaluations: Mapping[str, Json], known: Systems) -> list[tuple[str, Sheet]]:
    """Every system's accuracy in the parts of each division, which has a name."""
    asked = {system: trained(evaluation) for system, evaluation in evaluations.items()}
    columns: dict[str, Told] = {"questions": lambda keys: count(len(keys))}
    for system, own in asked.items():
        base = asked.get("base", {}) if system != "base" else {}
        columns[known.label(system)] = partial(_accuracy, own, base)
    return [(head, sheet(columns, rows, head)) for head, rows in divisions(evaluations).items()]


def _accuracy(own: Mapping[Key, Json], base: Mapping[Key, Json], keys: set[Key]) -> Cell | str:
    """With its interval, coloured where the change against base, question by question, is clear."""
    inside = {key: own[key] for key in keys if key in own}
    if not inside:
        return ""
    hits = sum(map(right, inside.values()))
    apart = difference(common({key: base[key] for key in keys if key in base}, inside))
    tone = changed(apart).tone if apart else ""
    return Cell(percent(hits / len(inside), ""), span(wilson(hits, len(inside))), tone)


def popularities(questions: dict[Key, Json], bins: int) -> list[tuple[str, set[Key]]]:
    """So many parts of about equal size by (popularity, id), least popular first, as evaluation makes them.

    Each is named after its lowest and its highest popularity.
    """
    ranked = sorted(questions.items(), key=lambda item: (popularity(item[1]), item[0]))
    divided: list[tuple[str, set[Key]]] = []
    for places in np.array_split(np.arange(len(ranked)), bins) if bins else []:
        if len(places):
            keys, inside = zip(*(ranked[place] for place in places), strict=True)
            name = f"{brief(popularity(inside[0]))} to {brief(popularity(inside[-1]))}"
            divided.append((name, set(keys)))
    return divided


def parts(questions: dict[Key, Json], value: Callable[[Json], Any]) -> list[tuple[str, set[Key]]]:
    """The questions of the `VALUES` most frequent values, the most frequent first, then all others together.

    Nothing where all questions have one value: that is no division.
    """
    members: dict[str, set[Key]] = {}
    for key, question in questions.items():
        members.setdefault(str(value(question) or ""), set()).add(key)
    if len(members) < 2:
        return []
    ranked = sorted(members, key=lambda name: (-len(members[name]), name))
    shown = [(name or "(none)", members[name]) for name in ranked[:VALUES]]
    if rest := ranked[VALUES:]:
        shown.append((f"{len(rest)} others", set().union(*(members[name] for name in rest))))
    return shown


def examples(rows: list[Json], before: str, after: str) -> Sheet:
    """Questions with the answers of two systems, which have names; as `outcomes.example`."""

    def said(when: str) -> Told:
        def cell(row: Json) -> Cell:
            hit = row[f"right_{when}"]
            return Cell(f"{row[when] or 'nothing'} {'✓' if hit else '✗'}", tone="right" if hit else "wrong")

        return cell

    columns: dict[str, Told] = {
        f"{before} said": said("before"),
        f"{after} said": said("after"),
        "fact is": lambda row: row["group"],
        "probability of the truth": lambda row: f"{chance(row['p_before'])} → {chance(row['p_after'])}",
    }
    asked = [(str(row["question"] or ""), str(row["answer"] or ""), row) for row in rows]
    return sheet(columns, asked, "question", "truth")
