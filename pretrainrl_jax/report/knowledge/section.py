"""Everything that the page shows of knowledge, and its part of summary.json."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pretrainrl_jax.knowledge.state import STATES, SURE
from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import Cell, Sheet, sheet
from pretrainrl_jax.report.formats import Json, chance, number
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
from pretrainrl_jax.report.knowledge.cells import count
from pretrainrl_jax.report.outcomes import Key, common, grouped, truth
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import bins, categories, parts, popularities

TITLES = {"trained": "trained facts", "held_out": "held-out facts"}


def summarise(evaluations: Mapping[str, Json], asked: Json) -> dict[str, Json]:
    """The "knowledge" of every system in summary.json; a system that lists no question has none.

    Args:
        evaluations: by system.
        asked: the settings under which they were made.
    """
    penalties = [penalty for _, penalty in figures.thresholds(asked)]
    told = {}
    for name, evaluation in evaluations.items():
        if own := figures.knowledge(evaluation, asked):
            facts = list(grouped(evaluation)["trained"].values())
            own["repeated"] = falsehoods.repeated(falsehoods.asked(evaluation))
            own |= {
                key: value
                for key, value in {
                    "consistency": abstaining.consistency(facts, penalties),
                    "rubric": abstaining.rubric(evaluation),
                    "theory": evaluation.get("theory"),
                }.items()
                if value
            }
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

    def of_shown(self) -> dict[str, Json]:
        """The knowledge of those looked at."""
        return {name: self.told[name] for name in self.shown if name in self.told}

    def facts(self, system: str) -> dict[Key, Json]:
        """The trained facts of a system, in their trained wording."""
        return grouped(self.evaluations[system])["trained"]


def section(summary: Json, evaluations: Mapping[str, Json], known: Systems, shown: list[str]) -> Json | None:
    """What the page shows; None where no system lists questions.

    Args:
        summary: with the "knowledge" of every system.
        evaluations: by system.
        known: their names.
        shown: the systems whose questions are looked at: base, and the method.
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
        "sure": SURE,
    }


def _knows(asked: Asked, titles: Mapping[str, str]) -> Json:
    told, known = asked.told, asked.known
    pictures = [(title, charts.states(told, which, known, title)) for which, title in titles.items()]
    every: dict[str, dict[Key, Json]] = {name: asked.facts(name) for name in asked.shown}
    union = dict(item for questions in reversed(every.values()) for item in questions.items())
    evaluations = list(asked.evaluations.values())
    divisions: list[tuple[str, list[tuple[Any, set[Key]]]]] = [
        ("popularity", list(popularities(union, bins(evaluations)))),
        ("category", list(categories(union))),
    ]
    for column in dict.fromkeys(name for q in union.values() for name in q.get("columns") or {}):
        divisions.append((column, list(parts(union, _column(column)))))
    return {
        "states": [(title, picture) for title, picture in pictures if picture],
        "probable": [
            (title, tables.probable(told, which, asked.head))
            for which, title in titles.items()
            if any(which in own for own in told.values())
        ],
        "by": [
            (head, tables.divided(head, members, every, known.label))
            for head, members in divisions
            if members
        ],
    }


def _column(name: str) -> Callable[[Json], Any]:
    return lambda question: (question.get("columns") or {}).get(name)


def _believes(asked: Asked) -> Json:
    return {
        "surest": [
            (asked.known.label(name), _surest(asked.evaluations[name]))
            for name in asked.shown
            if falsehoods.surest(asked.evaluations[name], 1)
        ],
        "repeated": [
            (asked.known.label(name), _repeated(own["repeated"]))
            for name, own in asked.of_shown().items()
            if own["repeated"]
        ],
    }


def _surest(evaluation: Json) -> Sheet:
    columns: dict[str, Callable[[Json], Cell]] = {
        "question": lambda row: Cell(str(row["question"].get("question") or "")),
        "it says": lambda row: Cell(row["said"], tone="wrong"),
        "truth": lambda row: Cell(str(row["question"].get("answer") or "")),
        "confidence": lambda row: Cell(chance(row["confidence"])),
        "probability of the truth": lambda row: Cell(chance(truth(row["question"]))),
    }
    return sheet(columns, falsehoods.surest(evaluation), words=3)


def _repeated(rows: list[Json]) -> Sheet:
    columns: dict[str, Callable[[Json], Cell]] = {
        "it says": lambda row: Cell(row["answer"]),
        "to questions": lambda row: count(row["said"]),
        "right for": lambda row: count(row["true"]),
        "mean confidence": lambda row: Cell(chance(number(row["confidence"]))),
    }
    return sheet(columns, rows)


def _tells(asked: Asked, titles: Mapping[str, str]) -> Json | None:
    """None where no confidence was measured."""
    told, known, head = asked.told, asked.known, asked.head
    if not any("confidence" in own["trained"] for own in told.values()):
        return None
    questions = {name: list(asked.facts(name).values()) for name in told}
    pictures = []
    for name in asked.shown:
        label = known.label(name)
        picture = charts.reliability(questions[name], label, asked.colours[name])
        pictures.append((f"Reliability of {label}", picture))
    pictures.append(("Mistakes by how much is answered, one line a system", charts.risk(questions, known)))
    shown = asked.of_shown()
    others = {name: own for name, own in told.items() if name not in asked.shown}
    measured = {which for own in told.values() for which in titles if "confidence" in own.get(which, {})}
    sets = [(which, title) for which, title in titles.items() if which in measured]
    return {
        "pictures": [(alt, picture) for alt, picture in pictures if picture],
        "ordered": [(title, tables.ordered(told, which, head)) for which, title in sets],
        "calibrated": [(title, tables.calibrated(told, which, head)) for which, title in sets],
        "temperatures": tables.temperatures(told, head),
        "not_fitted": tables.not_fitted(told, known.label),
        "targets": tables.targets(shown, "trained", head),
        "other_targets": tables.targets(others, "trained", head),
        "scaled_targets": tables.targets(told, "trained", head, "calibrated_targets"),
        "agreeing": tables.agreeing(shown, head),
        "agreement": tables.agreement(shown, head),
        "rubrics": tables.rubrics(shown, head),
        "other_agreeing": tables.agreeing(others, head),
        "other_agreement": tables.agreement(others, head),
        "other_rubrics": tables.rubrics(others, head),
        "choices": tables.choices(told, "trained", head),
    }


def _changed(asked: Asked) -> Json | None:
    """None where no system shares a question with base."""
    told = {name: own for name, own in asked.told.items() if own.get("changes", {}).get("flips")}
    if not told:
        return None
    method = asked.shown[-1] if asked.shown[-1] in told else next(iter(told))
    own, label = told[method]["changes"], asked.known.label
    old, new = asked.facts("base"), asked.facts(method)
    divisions: dict[str, list[tuple[Any, set[Key]]]] = {
        "popularity": list(popularities(old, bins(list(asked.evaluations.values())))),
        "category": list(categories(old)),
    }
    by = []
    for head, members in divisions.items():
        pairs = [(name, common({key: old[key] for key in keys}, new)) for name, keys in members]
        rows = [(tables.part(name), changes.flips(both)) for name, both in pairs]
        by += [(head, tables.flipped(rows, head))] if rows else []
    flips = {name: changed["changes"]["flips"] for name, changed in told.items()}
    return {
        "method": label(method),
        "moved": tables.moved(own["states"]) if "states" in own else None,
        "flipped": [
            (title, tables.flipped(rows, "system"))
            for which, title in TITLES.items()
            if (rows := [(asked.head(name), each[which]) for name, each in flips.items() if which in each])
        ],
        "by": by,
        "groups": tables.honest(own["groups"], label("base"), label(method)),
        "untrained": tables.untrained(told, asked.head),
    }
