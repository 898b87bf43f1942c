"""Everything that the page shows of knowledge."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import Cell, Sheet, Told, sheet
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.knowledge import charts, falsehoods, tables, theory
from pretrainrl_jax.report.outcomes import Key, grouped
from pretrainrl_jax.report.summary import noun
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import bins, categories, parts, popularities


class Asked(NamedTuple):
    """What the parts of the section are made from."""

    told: dict[str, Json]  # "knowledge" by system
    facts: dict[str, dict[Key, Json]]  # the trained facts of each system, in their trained wording
    known: Systems
    shown: list[str]  # the systems whose questions are looked at: base, and the method
    heads: dict[str, Cell]  # the beginnings of the systems' rows
    titles: dict[str, str]  # of the sets of questions
    bins: int  # of popularity

    def by_system(self, columns: Mapping[str, Told], *path: str) -> Sheet:
        """A table of what stands at a path of each system's knowledge."""
        return tables.by_system(columns, self.told, self.heads, *path)

    def by_set(self, columns: Mapping[str, Told], *path: str) -> list[tuple[str, Sheet]]:
        """One of each set of questions for which there is any; the set is the `{}` of the path."""
        both = [
            (title, self.by_system(columns, *(which if key == "{}" else key for key in path)))
            for which, title in self.titles.items()
        ]
        return [(title, made) for title, made in both if len(made.heads) > made.words]


def section(summary: Json, evaluations: Mapping[str, Json], known: Systems, shown: list[str]) -> Json | None:
    """What the page shows; None where no system lists questions.

    The questions of the systems `shown` (base, and the method) are looked at.
    """
    told = {n: s["knowledge"] for n, s in summary["systems"].items() if s.get("knowledge", {}).get("trained")}
    if not told:
        return None
    shown = [name for name in shown if name in told]
    trained = any(name != "base" for name in summary["systems"])
    asked = Asked(
        told,
        {name: grouped(evaluations[name])["trained"] for name in told},
        known,
        shown,
        drawing.heads(list(evaluations), known),
        {"trained": noun(summary), "held_out": "held-out facts"},
        bins(list(evaluations.values())),
    )
    theories = {name: own["theory"] for name, own in told.items() if "theory" in own}
    return {
        "titles": asked.titles,
        "knows": _knows(asked),
        "believes": _believes(asked, {name: evaluations[name] for name in shown}),
        "tells": _tells(asked) if any("confidence" in own["trained"] for own in told.values()) else None,
        "changed": _changed(asked) if trained and "base" in told else None,
        "theory": theory.section(theories, asked.heads, shown[-1]),
        "states": {state: STATES[state] for state in charts.STATES},
    }


def _knows(asked: Asked) -> Json:
    every = {name: asked.facts[name] for name in asked.shown}
    union = dict(item for questions in reversed(every.values()) for item in questions.items())
    divisions: dict[str, list[Any]] = {
        "popularity": popularities(union, asked.bins),
        "category": categories(union),
    }
    for column in dict.fromkeys(name for q in union.values() for name in q.get("columns") or {}):
        if own := parts(union, lambda q, name=column: (q.get("columns") or {}).get(name)):
            divisions[column] = own
    label = asked.known.label
    return {
        "states": [
            (title, picture)
            for which, title in asked.titles.items()
            if (picture := charts.states(asked.told, which, asked.known, title))
        ],
        "probable": asked.by_set(tables.PROBABLE, "{}"),
        "by": [(head, tables.divided(head, own, every, label)) for head, own in divisions.items() if own],
    }


def _believes(asked: Asked, evaluations: Mapping[str, Json]) -> Json:
    surest = {asked.known.label(name): falsehoods.surest(own) for name, own in evaluations.items()}
    repeated = {asked.known.label(name): asked.told[name]["repeated"] for name in asked.shown}
    return {
        "surest": [(label, tables.surest(wrong)) for label, wrong in surest.items() if wrong],
        "repeated": [
            (label, sheet(tables.REPEATED, [(row["answer"], row) for row in rows], "it says"))
            for label, rows in repeated.items()
            if rows
        ],
    }


def _tells(asked: Asked) -> Json:
    told, heads = asked.told, asked.heads
    questions = {name: list(facts.values()) for name, facts in asked.facts.items()}
    pictures = {
        f"Reliability of {heads[name].text}": charts.reliability(questions[name], heads[name])
        for name in asked.shown
    }
    pictures["Mistakes by how much is answered, one line a system"] = charts.risk(questions, asked.known)
    fitted = {n: own for n, own in told.items() if "value" in (own.get("temperature") or {})}
    return {
        "pictures": [(alt, picture) for alt, picture in pictures.items() if picture],
        "ordered": asked.by_set(tables.ORDERED, "{}", "confidence"),
        "calibrated": asked.by_set(tables.CALIBRATED, "{}"),
        "temperatures": tables.by_system(tables.TEMPERATURES, fitted, heads, "temperature"),
        "not_fitted": tables.not_fitted(told, asked.known.label),
        "targets": asked.by_system(tables.TARGETS, "trained", "targets"),
        "scaled_targets": asked.by_system(tables.TARGETS, "trained", "calibrated_targets"),
        "agreeing": tables.agreeing(told, heads),
        "agreement": tables.agreement(told, heads),
        "rubrics": asked.by_system(tables.RUBRICS, "rubric"),
        "choices": asked.by_system(tables.CHOICES, "trained", "choice"),
    }


def _changed(asked: Asked) -> Json | None:
    """None where no system shares a question with base."""
    told = [name for name, own in asked.told.items() if own.get("changes", {}).get("flips")]
    if not told:
        return None
    method = asked.shown[-1] if asked.shown[-1] in told else told[0]
    own, label = asked.told[method]["changes"], asked.known.label
    return {
        "method": label(method),
        "moved": tables.moved(own["states"]) if "states" in own else None,
        "flipped": asked.by_set(tables.FLIPPED, "changes", "flips", "{}"),
        "groups": tables.reached(own["groups"], label("base"), label(method)),
        "untrained": asked.by_system(tables.UNTRAINED, "changes", "suppressed"),
    }
