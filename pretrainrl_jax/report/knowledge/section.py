"""Everything that the page shows of knowledge, and its part of summary.json."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import Cell, Sheet, Told, sheet
from pretrainrl_jax.report.formats import Json, chance
from pretrainrl_jax.report.knowledge import (
    abstaining,
    changes,
    charts,
    falsehoods,
    figures,
    tables,
    theory,
    words,
)
from pretrainrl_jax.report.outcomes import Key, common, grouped, truth
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import bins, categories, part, parts, popularities

TITLES = {"trained": "trained facts", "held_out": "held-out facts"}


def summarise(evaluations: Mapping[str, Json], asked: Json) -> dict[str, Json]:
    """The "knowledge" of every system in summary.json, from its evaluation under the settings `asked`.

    A system that lists no question has none.
    """
    penalties = [penalty for _, penalty in figures.thresholds(asked)]
    told = {}
    for name, evaluation in evaluations.items():
        if own := figures.knowledge(evaluation, asked):
            facts = list(grouped(evaluation)["trained"].values())
            own["repeated"] = falsehoods.repeated(falsehoods.asked(evaluation))
            measured = {
                "consistency": abstaining.consistency(facts, penalties),
                "rubric": abstaining.rubric(evaluation),
                "theory": evaluation.get("theory"),
            }
            own |= {key: value for key, value in measured.items() if value}
            if "base" in evaluations and name != "base":
                own["changes"] = changes.changes(evaluations["base"], evaluation)
            told[name] = own
    return told


class Asked(NamedTuple):
    """What the parts of the section are made from."""

    told: dict[str, Json]  # "knowledge" by system
    evaluations: Mapping[str, Json]
    known: Systems
    shown: list[str]  # the systems whose questions are looked at: base, and the method
    colours: dict[str, str]

    def head(self, system: str) -> Cell:
        """The beginning of a system's row."""
        return Cell(self.known.label(system), dot=self.colours[system])

    def facts(self, system: str) -> dict[Key, Json]:
        """The trained facts of a system, in their trained wording."""
        return grouped(self.evaluations[system])["trained"]

    def divisions(self, questions: dict[Key, Json]) -> dict[str, list[tuple[Any, set[Key]]]]:
        """Questions by popularity and by category, where that divides them."""
        count = bins(list(self.evaluations.values()))
        both = {"popularity": popularities(questions, count), "category": categories(questions)}
        return {head: list(members) for head, members in both.items() if members}


def section(summary: Json, evaluations: Mapping[str, Json], known: Systems, shown: list[str]) -> Json | None:
    """What the page shows; None where no system lists questions.

    The questions of the systems `shown` (base, and the method) are looked at.
    """
    told = {n: s["knowledge"] for n, s in summary["systems"].items() if s.get("knowledge", {}).get("trained")}
    if not told:
        return None
    looks = drawing.looks(list(evaluations), known)
    shown = [name for name in shown if name in told]
    asked = Asked(told, evaluations, known, shown, {name: look.color for name, look in looks.items()})
    trained = any(name != "base" for name in summary["systems"])
    titles = TITLES if trained else {**TITLES, "trained": "facts"}
    return {
        "titles": titles,
        "reading": words.reading(summary, known),
        "knows": _knows(asked, titles),
        "believes": _believes(asked),
        "tells": _tells(asked, titles),
        "changed": _changed(asked) if trained and "base" in told else None,
        "theory": theory.section(
            {name: own["theory"] for name, own in told.items() if "theory" in own}, asked.head, shown[-1]
        ),
        "states": {state: STATES[state] for state in charts.STATES},
    }


def _knows(asked: Asked, titles: Mapping[str, str]) -> Json:
    told, known = asked.told, asked.known
    pictures = [(title, charts.states(told, which, known, title)) for which, title in titles.items()]
    every = {name: asked.facts(name) for name in asked.shown}
    union = dict(item for questions in reversed(every.values()) for item in questions.items())
    divisions = asked.divisions(union)
    for column in dict.fromkeys(name for q in union.values() for name in q.get("columns") or {}):
        if members := parts(union, _column(column)):
            divisions[column] = list(members)
    return {
        "states": [(title, picture) for title, picture in pictures if picture],
        "probable": [
            (title, made)
            for which, title in titles.items()
            if (made := tables.by_system(tables.PROBABLE, told, asked.head, which)).rows
        ],
        "by": [(head, tables.divided(head, own, every, known.label)) for head, own in divisions.items()],
    }


def _column(name: str) -> Callable[[Json], Any]:
    return lambda question: (question.get("columns") or {}).get(name)


def _believes(asked: Asked) -> Json:
    surest = {name: falsehoods.surest(asked.evaluations[name]) for name in asked.shown}
    repeated = {name: asked.told[name]["repeated"] for name in asked.shown}
    label = asked.known.label
    return {
        "surest": [(label(name), _surest(rows)) for name, rows in surest.items() if rows],
        "repeated": [
            (label(name), sheet(tables.REPEATED, [(row["answer"], row) for row in rows], "it says"))
            for name, rows in repeated.items()
            if rows
        ],
    }


def _surest(wrong: list[Json]) -> Sheet:
    columns: dict[str, Told] = {
        "confidence": lambda row: chance(row["confidence"]),
        "probability of the truth": lambda row: chance(truth(row["question"])),
    }
    rows = [
        (
            Cell(str(row["question"].get("question") or "")),
            Cell(row["said"], tone="wrong"),
            Cell(str(row["question"].get("answer") or "")),
            row,
        )
        for row in wrong
    ]
    return sheet(columns, rows, "question", "it says", "truth")


def _tells(asked: Asked, titles: Mapping[str, str]) -> Json | None:
    """None where no confidence was measured. A pair of tables is of the systems shown, and of the others."""
    told, known, head, by_system = asked.told, asked.known, asked.head, tables.by_system
    if not any("confidence" in own["trained"] for own in told.values()):
        return None
    questions = {name: list(asked.facts(name).values()) for name in told}
    pictures = {}
    for name in asked.shown:
        label = known.label(name)
        pictures[f"Reliability of {label}"] = charts.reliability(questions[name], label, asked.colours[name])
    pictures["Mistakes by how much is answered, one line a system"] = charts.risk(questions, known)
    both = [{n: told[n] for n in asked.shown}, {n: told[n] for n in told if n not in asked.shown}]
    measured = {
        name: {which: own[which] for which in titles if "confidence" in own.get(which, {})}
        for name, own in told.items()
    }
    sets = {which: title for which, title in titles.items() if any(which in m for m in measured.values())}
    fitted = {n: own for n, own in told.items() if "value" in (own.get("temperature") or {})}
    return {
        "pictures": [(alt, picture) for alt, picture in pictures.items() if picture],
        "ordered": [
            (title, by_system(tables.ORDERED, told, head, which, "confidence"))
            for which, title in sets.items()
        ],
        "calibrated": [
            (title, by_system(tables.CALIBRATED, measured, head, which)) for which, title in sets.items()
        ],
        "temperatures": by_system(tables.TEMPERATURES, fitted, head, "temperature"),
        "not_fitted": tables.not_fitted(told, known.label),
        "targets": [by_system(tables.TARGETS, own, head, "trained", "targets") for own in both],
        "scaled_targets": by_system(tables.TARGETS, told, head, "trained", "calibrated_targets"),
        "agreeing": [tables.agreeing(own, head) for own in both],
        "agreement": [tables.agreement(own, head) for own in both],
        "rubrics": [by_system(tables.RUBRICS, own, head, "rubric") for own in both],
        "choices": by_system(tables.CHOICES, told, head, "trained", "choice"),
    }


def _changed(asked: Asked) -> Json | None:
    """None where no system shares a question with base."""
    told = {name: own for name, own in asked.told.items() if own.get("changes", {}).get("flips")}
    if not told:
        return None
    method = asked.shown[-1] if asked.shown[-1] in told else next(iter(told))
    own, label = told[method]["changes"], asked.known.label
    old, new = asked.facts("base"), asked.facts(method)
    by = []
    for head, members in asked.divisions(old).items():
        pairs = [(part(name), common({key: old[key] for key in keys}, new)) for name, keys in members]
        rows = [(name, changes.flips(both)) for name, both in pairs]
        by.append((head, sheet(tables.FLIPPED, rows, head)))
    flipped = {
        title: tables.by_system(tables.FLIPPED, told, asked.head, "changes", "flips", which)
        for which, title in TITLES.items()
    }
    return {
        "method": label(method),
        "moved": tables.moved(own["states"]) if "states" in own else None,
        "flipped": [(title, made) for title, made in flipped.items() if made.rows],
        "by": by,
        "groups": tables.reached(own["groups"], label("base"), label(method)),
        "untrained": tables.by_system(tables.UNTRAINED, told, asked.head, "changes", "suppressed"),
    }
