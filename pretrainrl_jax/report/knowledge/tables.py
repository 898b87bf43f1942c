"""The tables of what each system knows and how well it can tell, from "knowledge" in summary.json.

Those of one row a system are data: columns, by `columns.sheet`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pretrainrl_jax.knowledge.intervals import Difference
from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report.columns import (
    Cell,
    Sheet,
    Told,
    area,
    at,
    changed,
    count,
    figure,
    gain,
    in_percent,
    likelihood,
    nats,
    p_value,
    plain,
    rate,
    score,
    sheet,
)
from pretrainrl_jax.report.formats import Json, chance, percent, span
from pretrainrl_jax.report.knowledge.figures import OUTCOMES, confident, flips, probabilities, states
from pretrainrl_jax.report.outcomes import GROUPS, Key, common, truth
from pretrainrl_jax.report.summary import noun
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import part

Heads = Mapping[str, Cell]  # the beginnings of the systems' rows
Row = tuple[Cell, Json]  # a system, and what is told of it

VERDICTS = {
    "yes": Cell("yes", tone="right"),
    "unclear": Cell("within chance"),
    "no": Cell("no", tone="wrong"),
}


def way(told: Json) -> float | None:
    """How far an area lies from that of a random order (0) to that of the best (1); None where they agree."""
    room, area = told["random"] - told["ideal"], told["aurc"]["value"]
    return None if room <= 0 or area is None else (told["random"] - area) / room


def _shares(of: Json) -> str:
    return " / ".join(percent(of[each], "") for each in OUTCOMES)


PROBABLE = {
    "knows, %": at(rate, "states", "knows"),
    "misled, %": at(rate, "states", "misled"),
    "probability of the truth": at(likelihood, "p_truth"),
    "of the strongest falsehood": at(likelihood, "p_falsehood"),
    "margin, nats": at(nats, "margin"),
    "truth above falsehood, %": at(rate, "above"),
    "truth first, %": at(rate, "first"),
    "among the beams, %": at(rate, "among"),
    "median rank there": at(partial(figure, places=1), "rank"),
}
ORDERED: dict[str, Told] = {
    "right, %": at(rate, "accuracy"),
    "area": at(area, "aurc"),
    "best order": at(figure, "ideal"),
    "random order": at(figure, "random"),
    "of the way from random to best, %": lambda told: in_percent(way(told)),
}
CALIBRATED = {
    "right, %": at(rate, "confidence", "accuracy"),
    "mean confidence, %": at(in_percent, "confidence", "mean"),
    "after T, %": at(in_percent, "calibrated", "mean"),
    "ECE": at(figure, "confidence", "ece"),
    "ECE after T": at(figure, "calibrated", "ece"),
    "Brier": at(area, "confidence", "brier"),
    "Brier after T": at(area, "calibrated", "brier"),
    "log loss": at(figure, "confidence", "log_loss"),
    "log loss after T": at(figure, "calibrated", "log_loss"),
}
TEMPERATURES = {
    "T": at(figure, "value"),
    "fitted on": at(count, "fitted_on"),
    "log loss before": at(figure, "log_loss", 0),
    "after": at(figure, "log_loss", -1),
}
TARGETS = {
    "target t": at("{:g}".format, "threshold"),
    "penalty": at("{:.3g}".format, "penalty"),
    "answered, %": at(in_percent, "answered"),
    "right of these, %": at(rate, "accuracy"),
    "wrong of all, %": at(in_percent, "wrong"),
    "abstained, %": at(in_percent, "abstained"),
    "score": at(score, "score"),
    "right as often as t": at(VERDICTS.__getitem__, "kept"),
}
AGREEING = {"answered, %": at(rate, "answered"), "right of these, %": at(rate, "accuracy")}
AGREEMENT = {
    "right, %": at(rate, "accuracy"),
    "area": at(area, "aurc"),
    "ECE": at(figure, "ece"),
    "Brier": at(area, "brier"),
}
RUBRICS = {
    "penalty": at("{:g}".format, "penalty"),
    "not stated: right / wrong / abstained, %": at(_shares, "closed_shares"),
    "stated: right / wrong / abstained, %": at(_shares, "open_shares"),
    "score, not stated": at(score, "closed"),
    "score, stated": at(score, "open"),
    "difference": at(gain, "gap"),
    "p": at(partial(p_value, least=0.002), "p"),
}
CHOICES = {
    "right among the allowed, %": at(rate, "accuracy"),
    "right greedily, %": at(rate, "greedy"),
    "questions": at(count, "accuracy", "questions"),
}
FLIPPED = {
    "facts": at(count, "questions"),
    "gained": at(count, "gained"),
    "lost": at(count, "lost"),
    "p (McNemar)": at(p_value, "p"),
}
UNTRAINED = {
    "questions": at(count, "questions"),
    "trained answer before": at(likelihood, "canonical", 0),
    "after": at(likelihood, "canonical", 1),
    "other true answers before": at(likelihood, "others", 0),
    "others after": at(likelihood, "others", 1),
    "others halved while it rose, %": at(rate, "suppressed"),
}
SUREST: dict[str, Told] = {
    "confidence": at(chance, "confidence"),
    "probability of the truth": lambda row: chance(truth(row["question"])),
}
REPEATED = {
    "to questions": at(count, "said"),
    "right for": at(count, "true"),
    "mean confidence": at(chance, "confidence"),
}


TERMINAL = {
    "right\n%": at(rate, "confidence", "accuracy"),
    "knows\n%": at(rate, "states", "knows"),
    "misled\n%": at(rate, "states", "misled"),
    "AURC": at(area, "confidence", "aurc"),
    "ECE\nafter T": at(figure, "calibrated", "ece"),
    "Brier": at(area, "confidence", "brier"),
}


def terminal(summary: Json, known: Systems) -> str:
    """How each system's probability tells right from wrong, for a terminal of 100 columns; "" if unknown."""
    told = {name: s.get("knowledge", {}).get("trained", {}) for name, s in summary["systems"].items()}
    rows = [(known.label(name), own) for name, own in told.items() if "confidence" in own]
    if not rows:
        return ""
    targets = [(i, t["threshold"]) for i, t in enumerate(rows[-1][1]["targets"]) if t["threshold"]]
    scores = {f"score\nt={threshold:g}": at(nats, "targets", i, "score") for i, threshold in targets[:3]}
    title = f"Does it know the difference? Most probable answers to {noun(summary)}"
    return plain(title, sheet(TERMINAL | scores, rows, "system"), words=[18])


def rows_at(systems: Mapping[str, Json], heads: Heads, *path: str) -> list[Row]:
    """A row of each system that has something at a path of its knowledge; of a list, a row of each item."""
    rows: list[Row] = []
    for name, told in systems.items():
        found: Any = told
        for key in path:
            found = (found or {}).get(key)
        rows += [(heads[name], each) for each in (found if isinstance(found, list) else [found]) if each]
    return rows


def by_system(columns: Mapping[str, Told], systems: Mapping[str, Json], heads: Heads, *path: str) -> Sheet:
    """A table of those rows."""
    return sheet(columns, rows_at(systems, heads, *path), "system")


def agreeing(systems: Mapping[str, Json], heads: Heads) -> Sheet:
    """Two samples that agree, beside the model's own probability answering as many questions."""
    rows = _ways(systems, heads, {"two_agree": "two samples agree", "probability": "its own probability"})
    scores = rows[0][-1]["scores"] if rows else ()
    columns = {
        f"score, penalty\u00a0{each['penalty']:.3g}": at(score, "scores", i) for i, each in enumerate(scores)
    }
    return sheet(AGREEING | columns, rows, "system", "answers where")


def agreement(systems: Mapping[str, Json], heads: Heads) -> Sheet:
    """The agreement of all samples as a confidence, beside the model's own probability."""
    ways = {"agreement": "agreement of {samples} samples", "confidence": "its own probability"}
    return sheet(AGREEMENT, _ways(systems, heads, ways), "system", "confidence is")


def surest(wrong: Iterable[Json]) -> Sheet:
    """The wrong answers that a system is surest of, as `falsehoods.surest` lists them."""
    rows = []
    for row in wrong:
        asked, said = row["question"], Cell(row["said"], tone="wrong")
        rows.append((str(asked.get("question") or ""), said, str(asked.get("answer") or ""), row))
    return sheet(SUREST, rows, "question", "it says", "truth")


def _ways(systems: Mapping[str, Json], heads: Heads, ways: Mapping[str, str]) -> list[tuple[Cell, str, Json]]:
    return [
        (name, words.format(**told), told[way])
        for name, told in rows_at(systems, heads, "consistency")
        for way, words in ways.items()
    ]


def divided(
    head: str,
    parts: Iterable[tuple[Any, set[Key]]],
    asked: Mapping[str, Mapping[Key, Json]],
    label: Callable[[str], str],
) -> Sheet:
    """What is probable in parts of the questions, by a value of theirs, for one system or two; and what
    became right or wrong from the first to the second."""
    rows = []
    for name, keys in parts:
        figures = {}
        inside = {s: {key: own[key] for key in own if key in keys} for s, own in asked.items()}
        for system, questions in inside.items():
            sure = confident(every := list(questions.values()))
            figures[system] = probabilities(every) | {"states": states(sure) if sure else {}}
        flipped = flips(common(*inside.values())) if len(inside) == 2 else {}
        rows.append((part(name), {"facts": len(keys), "of": figures} | flipped))
    measured = (
        ("knows, %", rate, ("states", "knows")),
        ("misled, %", rate, ("states", "misled")),
        ("truth", likelihood, ("p_truth",)),
        ("margin, nats", nats, ("margin",)),
    )
    columns = {"facts": at(count, "facts")}
    for name, told, path in measured:
        for system in asked:
            title = f"{name}: {label(system)}" if len(asked) > 1 else name
            columns[title] = at(told, "of", system, *path)
    return sheet(columns | {name: told for name, told in FLIPPED.items() if name != "facts"}, rows, head)


def not_fitted(systems: Mapping[str, Json], label: Callable[[str], str]) -> list[str]:
    """Why a temperature was not fitted, of each system that has none."""
    reasons = {n: (t.get("temperature") or {}).get("reason") for n, t in systems.items()}
    return [f"{label(name)}: {reason}" for name, reason in reasons.items() if reason]


def moved(states_before: Mapping[str, Mapping[str, int]]) -> Sheet:
    """States before, a row each, by states after; what a state kept stands in bold."""
    total = sum(sum(row.values()) for row in states_before.values())

    def cell(one: str, other: str) -> Cell:
        facts = states_before[one][other]
        return Cell(f"{facts:,}", percent(facts / total), "best" if one == other else "")

    rows = [
        [Cell(one), *(cell(one, other) for other in STATES), Cell(count(sum(states_before[one].values())))]
        for one in STATES
    ]
    sums = [sum(states_before[one][other] for one in STATES) for other in STATES]
    rows.append([Cell(text) for text in ("all after", *map(count, sums), count(total))])
    return Sheet(["before", *(f"after: {state}" for state in STATES), "all before"], rows)


def _difference(told: Json) -> Cell:
    return changed(Difference(**{name: told[name] for name in Difference._fields}), stacked=True)


def reached(groups: Mapping[str, Json], before: str, after: str) -> Sheet:
    """Accuracy before and after in every group of questions."""
    columns: dict[str, Told] = {
        "number": at(count, "questions"),
        f"{before}, %": lambda told: Cell(in_percent(told["before"]), span(told["before_interval"])),
        f"{after}, %": lambda told: Cell(in_percent(told["after"]), span(told["after_interval"])),
        "change, points": _difference,
    }
    return sheet(columns, [(GROUPS[group], told) for group, told in groups.items()], "questions")
