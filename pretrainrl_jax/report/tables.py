"""Accuracy on parts of the trained facts, in their trained wording, and what training made worse."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.report import outcomes
from pretrainrl_jax.report.columns import (
    Cell,
    Sheet,
    Told,
    changed,
    compared,
    count,
    figure,
    in_percent,
    sheet,
)
from pretrainrl_jax.report.formats import Json, brief, chance, number
from pretrainrl_jax.report.outcomes import Key, common, difference, popularity, right, trained, truth
from pretrainrl_jax.report.systems import Systems

SHOWN = 10  # questions whose truth lost most probability
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
    interval = "–".join(map(in_percent, wilson(hits, len(inside)) or ()))
    return Cell(in_percent(hits / len(inside)), interval, tone)


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

    def said(when: str, row: Json) -> Cell:
        hit = row[f"right_{when}"]
        return Cell(f"{row[when] or 'nothing'} {'✓' if hit else '✗'}", tone="right" if hit else "wrong")

    columns: dict[str, Told] = {
        f"{before} said": partial(said, "before"),
        f"{after} said": partial(said, "after"),
        "fact is": lambda row: row["group"],
        "probability of the truth": lambda row: f"{chance(row['p_before'])} → {chance(row['p_after'])}",
    }
    asked = [(str(row["question"] or ""), str(row["answer"] or ""), row) for row in rows]
    return sheet(columns, asked, "question", "truth")


class Worse(NamedTuple):
    """Every measure on which a system is below the base model beyond chance."""

    found: list[tuple[str, str]]  # how much of what was measured fell
    falls: Sheet  # sets of questions whose interval of the change lies below zero
    lost: Sheet  # the `SHOWN` questions whose truth lost most probability


def worse(before: Json, after: Json, divisions: Divisions, names: list[str]) -> Worse:
    """What a system does worse than the base model: groups, parts of the trained facts, text, single truths.

    From the evaluations of both, all parts of trained facts, and what the two are called.
    """
    shared, old, new = outcomes.shared(before, after), trained(before), trained(after)
    unseen = {key for key, asked in old.items() if asked.get("group") == "unseen"}
    # A list: parts of popularity have one name where many facts have one popularity.
    sets: list[tuple[str, set[Key]]] = [("trained facts unseen in pretraining", unseen)]
    sets += [(f"{head} {part}", keys) for head, rows in divisions.items() for part, keys in rows]
    pairs = [(name, shared[group]) for group, name in outcomes.GROUPS.items()]
    pairs += [(name, common({key: old[key] for key in old if key in keys}, new)) for name, keys in sets]
    changes = [(name, apart) for name, two in pairs if (apart := difference(two))]
    falls = [(name, apart) for name, apart in changes if apart.worse]
    known = [(two, *map(truth, two)) for two in shared["trained"] + shared["held_out"]]
    moved = [(q - p, two) for two, p, q in known if p is not None and q is not None]
    lost = sorted((item for item in moved if item[0] < 0), key=lambda item: item[0])
    losses = [number(side.get("text_nll")) for side in (before, after)]
    found: list[tuple[str, str]] = []
    if changes:
        of = f"{len(changes)} sets of questions (groups, popularity, categories)"
        found.append(("accuracy lower beyond its 95 % interval", f"on {len(falls)} of {of}"))
    if None not in losses:
        found.append(("loss on held-out text, nats a token", " → ".join(map(figure, losses))))
    if moved:
        of = f"{len(moved):,} questions, trained and held out"
        found.append(("truth less probable", f"in {len(lost):,} of {of}"))
    heads = [f"{name}, %" for name in names]
    return Worse(
        found,
        sheet(compared("questions", *heads, apart="change, points"), falls, "accuracy on"),
        examples([outcomes.example(*two) for _, two in lost[:SHOWN]], *names),
    )
