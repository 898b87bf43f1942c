"""The tables of what each system knows and how well it can tell, from "knowledge" in summary.json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report.columns import Cell, Sheet, sheet
from pretrainrl_jax.report.formats import Json, brief, number, percent
from pretrainrl_jax.report.knowledge.cells import (
    NOTHING,
    count,
    difference,
    likelihood,
    nats,
    number_of,
    p_value,
    plain,
    points,
    rate,
    toned,
)
from pretrainrl_jax.report.knowledge.figures import confident, probabilities, states
from pretrainrl_jax.report.outcomes import GROUPS, Key

Head = Callable[[str], Cell]  # a system's name as the beginning of its row
Row = tuple[str, Json]  # a system, and what is told of it

VERDICTS = {
    "yes": Cell("yes", tone="right"),
    "unclear": Cell("within chance"),
    "no": Cell("no", tone="wrong"),
}


def probable(systems: Mapping[str, Json], which: str, head: Head) -> Sheet:
    """How probable truth and falsehood are to each system, on one set of questions."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "knows, %": lambda row: rate(row[1].get("states", {}).get("knows")),
        "misled, %": lambda row: rate(row[1].get("states", {}).get("misled")),
        "probability of the truth": lambda row: likelihood(row[1]["p_truth"]),
        "of the strongest falsehood": lambda row: likelihood(row[1]["p_falsehood"]),
        "margin, nats": lambda row: nats(row[1]["margin"]),
        "truth above falsehood, %": lambda row: rate(row[1]["above"]),
        "truth first, %": lambda row: rate(row[1]["first"]),
        "among the beams, %": lambda row: rate(row[1]["among"]),
        "median rank there": lambda row: number_of(row[1]["rank"], 1),
    }
    return sheet(columns, [(name, told[which]) for name, told in systems.items() if which in told])


def part(name: Any) -> Cell:
    """The name of a part of the questions: a value, or the lowest and highest popularity."""
    return Cell(f"{brief(name[0])} to {brief(name[1])}" if isinstance(name, tuple) else str(name))


def divided(
    head: str,
    parts: Iterable[tuple[Any, set[Key]]],
    asked: Mapping[str, Mapping[Key, Json]],
    label: Callable[[str], str],
) -> Sheet:
    """The same of parts of the questions, by a value of theirs, for one system or two side by side."""
    rows = []
    for name, keys in parts:
        figures = {}
        for system, questions in asked.items():
            inside = [questions[key] for key in questions if key in keys]
            sure = confident(inside)
            figures[system] = probabilities(inside) | {"states": states(sure) if sure else {}}
        rows.append((part(name), len(keys), figures))

    def told(system: str, cell: Callable[[Json | None], Cell], *path: str) -> Callable[[Any], Cell]:
        def of_row(row: Any) -> Cell:
            figure = row[2][system]
            for key in path:
                figure = figure.get(key) or {}
            return cell(figure or None)

        return of_row

    columns: dict[str, Callable[[Any], Cell]] = {
        head: lambda row: row[0],
        "facts": lambda row: count(row[1]),
    }
    measured = (
        ("knows, %", rate, ("states", "knows")),
        ("misled, %", rate, ("states", "misled")),
        ("truth", likelihood, ("p_truth",)),
        ("margin, nats", nats, ("margin",)),
    )
    for name, cell, path in measured:
        for system in asked:
            columns[f"{name}: {label(system)}" if len(asked) > 1 else name] = told(system, cell, *path)
    return sheet(columns, rows)


def ordered(systems: Mapping[str, Json], which: str, head: Head) -> Sheet:
    """The area under the risk-coverage curve, and where it lies between a random order and the best one."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "right, %": lambda row: rate(row[1]["accuracy"]),
        "area": lambda row: plain(row[1]["aurc"]),
        "best order": lambda row: number_of(row[1]["ideal"]),
        "random order": lambda row: number_of(row[1]["random"]),
        "of the way from random to best, %": lambda row: Cell(percent(way(row[1]), "")),
    }
    return sheet(columns, _of(systems, which, "confidence"))


def way(told: Json) -> float | None:
    """How far an area lies from that of a random order (0) to that of the best (1); None where they agree."""
    room = told["random"] - told["ideal"]
    return (
        None
        if room <= 0 or told["aurc"]["value"] is None
        else (told["random"] - told["aurc"]["value"]) / room
    )


def calibrated(systems: Mapping[str, Json], which: str, head: Head) -> Sheet:
    """How near confidence is to the share that is right, before and after the temperature."""

    def after(key: str, cell: Callable[[Any], Cell]) -> Callable[[Row], Cell]:
        return lambda row: cell(row[1]["after"][key]) if row[1]["after"] else NOTHING

    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "right, %": lambda row: rate(row[1]["accuracy"]),
        "mean confidence, %": lambda row: Cell(percent(row[1]["mean"], "")),
        "after T, %": after("mean", lambda value: Cell(percent(value, ""))),
        "ECE": lambda row: number_of(row[1]["ece"]),
        "ECE after T": after("ece", number_of),
        "Brier": lambda row: plain(row[1]["brier"]),
        "Brier after T": after("brier", plain),
        "log loss": lambda row: number_of(row[1]["log_loss"]),
        "log loss after T": after("log_loss", number_of),
    }
    rows = [
        (name, told[which]["confidence"] | {"after": told[which].get("calibrated")})
        for name, told in systems.items()
        if "confidence" in told.get(which, {})
    ]
    return sheet(columns, rows)


def temperatures(systems: Mapping[str, Json], head: Head) -> Sheet:
    """The temperature of every system, and what it was fitted on or why it was not."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "T": lambda row: number_of(number(row[1].get("value")), 3),
        "fitted on": lambda row: count(number(row[1].get("fitted_on"))),
        "log loss before": lambda row: number_of(number((row[1].get("log_loss") or [None])[0])),
        "after": lambda row: number_of(number((row[1].get("log_loss") or [None])[-1])),
    }
    fitted = [(n, t["temperature"]) for n, t in systems.items() if "value" in (t.get("temperature") or {})]
    return sheet(columns, fitted)


def not_fitted(systems: Mapping[str, Json], label: Callable[[str], str]) -> list[str]:
    """Why a temperature was not fitted, of each system that has none."""
    reasons = {n: (t.get("temperature") or {}).get("reason") for n, t in systems.items()}
    return [f"{label(name)}: {reason}" for name, reason in reasons.items() if reason]


def targets(systems: Mapping[str, Json], which: str, head: Head, kind: str = "targets") -> Sheet:
    """What answering above each confidence target is worth."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "target t": lambda row: Cell(f"{row[1]['threshold']:g}"),
        "penalty": lambda row: Cell(f"{row[1]['penalty']:.3g}"),
        "answered, %": lambda row: Cell(percent(row[1]["answered"], "")),
        "right of these, %": lambda row: rate(row[1]["accuracy"]),
        "wrong of all, %": lambda row: Cell(percent(row[1]["wrong"], "")),
        "abstained, %": lambda row: Cell(percent(row[1]["abstained"], "")),
        "score": lambda row: points(row[1]["score"]),
        "right as often as t": lambda row: VERDICTS.get(row[1]["kept"], NOTHING),
    }
    rows = [(name, each) for name, told in systems.items() for each in told.get(which, {}).get(kind) or ()]
    return sheet(columns, rows)


def agreeing(systems: Mapping[str, Json], head: Head) -> Sheet:
    """Two samples that agree, beside the model's own probability answering as many questions."""
    ways = {"two_agree": "two samples agree", "probability": "its own probability"}
    rows = [
        (name, words, told["consistency"][way])
        for name, told in systems.items()
        if told.get("consistency")
        for way, words in ways.items()
    ]
    columns: dict[str, Callable[[Any], Cell]] = {
        "system": lambda row: head(row[0]),
        "answers where": lambda row: Cell(row[1]),
        "answered, %": lambda row: rate(row[2]["answered"]),
        "right of these, %": lambda row: rate(row[2]["accuracy"]),
    }
    for place, each in enumerate(rows[0][2]["scores"] if rows else ()):
        columns[f"score, penalty\u00a0{each['penalty']:.3g}"] = lambda row, at=place: points(
            row[2]["scores"][at]
        )
    return sheet(columns, rows, words=2)


def agreement(systems: Mapping[str, Json], head: Head) -> Sheet:
    """The agreement of all samples as a confidence, beside the model's own probability."""
    ways = {"agreement": "agreement of {samples} samples", "confidence": "its own probability"}
    rows = [
        (name, words.format(**told["consistency"]), told["consistency"][way])
        for name, told in systems.items()
        if told.get("consistency")
        for way, words in ways.items()
    ]
    columns: dict[str, Callable[[Any], Cell]] = {
        "system": lambda row: head(row[0]),
        "confidence is": lambda row: Cell(row[1]),
        "right, %": lambda row: rate(row[2]["accuracy"]),
        "area": lambda row: plain(row[2]["aurc"]),
        "ECE": lambda row: number_of(row[2]["ece"]),
        "Brier": lambda row: plain(row[2]["brier"]),
    }
    return sheet(columns, rows, words=2)


def rubrics(systems: Mapping[str, Json], head: Head) -> Sheet:
    """Open against closed: what a model does with a penalty that its prompt states."""

    def shares(side: str) -> Callable[[Row], Cell]:
        return lambda row: Cell(
            " / ".join(percent(row[1][side][each], "") for each in ("right", "wrong", "abstained"))
        )

    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "penalty": lambda row: Cell(f"{row[1]['penalty']:g}"),
        "not stated: right / wrong / abstained, %": shares("closed_shares"),
        "stated: right / wrong / abstained, %": shares("open_shares"),
        "score, not stated": lambda row: points(row[1]["closed"]),
        "score, stated": lambda row: points(row[1]["open"]),
        "difference": lambda row: toned(points(row[1]["gap"]), row[1]["gap"]),
        "p": lambda row: p_value(row[1]["p"], 0.002),
    }
    rows = [(name, each) for name, told in systems.items() for each in told.get("rubric") or ()]
    return sheet(columns, rows)


def choices(systems: Mapping[str, Json], which: str, head: Head) -> Sheet:
    """The most probable answer among the allowed ones, beside the greedy one."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "right among the allowed, %": lambda row: rate(row[1]["accuracy"]),
        "right greedily, %": lambda row: rate(row[1]["greedy"]),
        "questions": lambda row: count(row[1]["accuracy"]["questions"]),
    }
    return sheet(columns, _of(systems, which, "choice"))


def moved(states_before: Mapping[str, Mapping[str, int]]) -> Sheet:
    """States before, a row each, by states after; what a state kept stands in bold."""
    total = sum(sum(row.values()) for row in states_before.values())

    def cell(one: str, other: str) -> Cell:
        facts = states_before[one][other]
        return Cell(f"{facts:,}", percent(facts / total), "best" if one == other else "")

    rows = [[Cell(one), *(cell(one, other) for other in STATES)] for one in STATES]
    for row, one in zip(rows, STATES, strict=True):
        row.append(count(sum(states_before[one].values())))
    sums = [sum(states_before[one][other] for one in STATES) for other in STATES]
    rows.append([Cell("all after"), *map(count, sums), count(total)])
    return Sheet(["before", *(f"after: {state}" for state in STATES), "all before"], rows)


def flipped(rows: Iterable[tuple[Cell, Json]], *heads: str) -> Sheet:
    """Greedy answers that became right or wrong, by whatever begins a row."""
    columns: dict[str, Callable[[Any], Cell]] = {
        heads[0]: lambda row: row[0],
        "facts": lambda row: count(row[1]["questions"]),
        "gained": lambda row: count(row[1]["gained"]),
        "lost": lambda row: count(row[1]["lost"]),
        "p (McNemar)": lambda row: p_value(row[1]["p"]),
    }
    return sheet(columns, list(rows))


def honest(groups: Mapping[str, Json], before: str, after: str) -> Sheet:
    """Accuracy before and after in every group of questions."""

    def change(row: tuple[str, Json]) -> Cell:
        low, high = 100 * row[1]["low"], 100 * row[1]["high"]
        estimate = {"value": 100 * (row[1]["after"] - row[1]["before"]), "interval": [low, high]}
        return toned(difference(estimate), estimate)

    columns: dict[str, Callable[[tuple[str, Json]], Cell]] = {
        "questions": lambda row: Cell(GROUPS[row[0]]),
        "number": lambda row: count(row[1]["questions"]),
        f"{before}, %": lambda row: rate({"value": row[1]["before"], "interval": row[1]["before_interval"]}),
        f"{after}, %": lambda row: rate({"value": row[1]["after"], "interval": row[1]["after_interval"]}),
        "change, points": change,
    }
    return sheet(columns, list(groups.items()))


def untrained(systems: Mapping[str, Json], head: Head) -> Sheet:
    """True answers that were never trained, of questions that have several."""
    columns: dict[str, Callable[[Row], Cell]] = {
        "system": lambda row: head(row[0]),
        "questions": lambda row: count(row[1]["questions"]),
        "trained answer before": lambda row: likelihood(row[1]["canonical"][0]),
        "after": lambda row: likelihood(row[1]["canonical"][1]),
        "other true answers before": lambda row: likelihood(row[1]["others"][0]),
        "others after": lambda row: likelihood(row[1]["others"][1]),
        "others halved while it rose, %": lambda row: rate(row[1]["suppressed"]),
    }
    rows = [
        (n, t["changes"]["suppressed"]) for n, t in systems.items() if "suppressed" in t.get("changes", {})
    ]
    return sheet(columns, rows)


def _of(systems: Mapping[str, Json], which: str, key: str) -> Sequence[Row]:
    return [(name, told[which][key]) for name, told in systems.items() if key in told.get(which, {})]
