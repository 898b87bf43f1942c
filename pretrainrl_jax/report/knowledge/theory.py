"""The lower bounds of the theory beside the measured error, from "theory" in an evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

from pretrainrl_jax.report.columns import Cell, sheet
from pretrainrl_jax.report.formats import Json, brief, number, percent, signed
from pretrainrl_jax.report.knowledge.cells import NOTHING, count

Row = tuple[Cell, Json]
SHOWN = 10  # categories


def _share(key: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = number(row[1].get(key))
        return NOTHING if value is None else Cell(signed(100 * value, 1).removeprefix("+"))

    return cell


def _said(row: Row) -> Cell:
    """What a bound says, in words."""
    told = row[1]
    if told.get("told_more"):
        return Cell("no theorem here: it learned from other texts, too")
    if told.get("vacuous"):
        return Cell("nothing: it is not above 0")
    if told.get("holds") is False:
        return Cell("it is above the error: these numbers contradict each other", tone="wrong")
    return Cell("at least so much error, as measured")


IIV: dict[str, Callable[[Any], Cell]] = {
    "questions": lambda row: count(number(row[1].get("questions"))),
    "error, %": _share("error"),
    "bound, %": _share("bound"),
    "= 2 × misclassified": lambda row: _doubled(row[1]),
    "− valid / errors": _share("size_term"),
    "− δ": _share("delta"),
    "it says": _said,
}
SINGLETON: dict[str, Callable[[Any], Cell]] = {
    "error, %": _share("error"),
    "bound, %": _share("bound"),
    "= singleton rate": _share("singleton_rate"),
    "− 2 / errors": _share("size_term"),
    "− (35 + 6 ln N) / √N": _share("sample_term"),
    "− δ": _share("delta"),
    "it says": _said,
}
DETAILS: dict[str, Callable[[Any], Cell]] = {
    "threshold": lambda row: _plain(row[1], "threshold"),
    "true answers missed": _share("gold_missed"),
    "errors taken": _share("errors_taken"),
    "misclassified": _share("err_iiv"),
    "at most": _share("err_iiv_most"),
    "above it: model": _share("p_hat_above"),
    "above it: data": _share("p_above"),
    "error on known answers": _share("error_known"),
    "mass on unknown ones": _share("outside"),
    "bound on the known": _share("bound_known"),
}


def _doubled(told: Json) -> Cell:
    value = number(told.get("err_iiv"))
    return NOTHING if value is None else Cell(percent(2 * value, ""), f"2 × {percent(value, '')}")


def _plain(told: Json, key: str) -> Cell:
    value = number(told.get(key))
    return NOTHING if value is None else Cell(f"{value:.3g}")


def section(theories: Mapping[str, Json], head: Callable[[str], Cell], after: str) -> Json | None:
    """The tables of the bounds, what was counted in the training text, and what it all assumes.

    Args:
        theories: "theory" by system, of those that have one.
        head: a system's name as the beginning of a row.
        after: the system whose categories are shown.
    """
    theories = {name: told for name, told in theories.items() if told}
    if not theories:
        return None
    iiv = [(head(name), told["iiv"]) for name, told in theories.items() if told.get("iiv")]
    singleton = [(head(name), told["singleton"]) for name, told in theories.items() if told.get("singleton")]
    shown = theories.get(after) or next(iter(theories.values()))
    categories = [(Cell(str(each.get("category"))), each) for each in (shown.get("categories") or ())[:SHOWN]]
    system = {"system": lambda row: row[0]}
    return {
        "iiv": sheet(system | IIV, iiv),
        "details": sheet(system | DETAILS, iiv),
        "singleton": sheet(system | SINGLETON, singleton),
        "categories": sheet({"category": lambda row: row[0]} | IIV, categories),
        "counts": counts(next((t["statements"] for t in theories.values() if t.get("statements")), None)),
        "left_out": max(int(number(told.get("without_errors")) or 0) for told in theories.values()),
        "notes": notes(theories, lambda name: head(name).text),
    }


def notes(theories: Mapping[str, Json], label: Callable[[str], str]) -> list[str]:
    """What the bounds assume, each sentence once; before it the systems it is about, where not all."""
    about: dict[str, list[str]] = {}
    sentences = []
    for name, told in theories.items():
        for note in told.get("notes") or ():
            about.setdefault(str(note), []).append(label(name))
    for note, names in about.items():
        systems = "" if len(names) == len(theories) else f"{', '.join(names)}: "
        sentences.append(f"{systems}{note}")
    return sentences


def counts(statements: Json | None) -> list[tuple[str, str]]:
    """What one pass over the training text counted: name and number, with the missing mass."""
    if not statements:
        return []

    def told(key: str) -> str:
        value = number(statements.get(key))
        return "not known" if value is None else f"{value:,.0f}"

    named = {
        "questions of the fact set": "prompts",
        "stated at least once": "stated",
        "statements, N": "statements",
        "false ones among them": "false",
        "stated exactly once": "singletons",
        "stated exactly twice": "doubletons",
    }
    lines = [(name, told(key)) for name, key in named.items()]
    if (rate := number(statements.get("singleton_rate"))) is not None:
        lines.append(("singleton rate", f"{percent(rate)} of the {told('statements')} statements"))
    mass = statements.get("missing_mass") or {}
    if (estimated := number(mass.get("good_turing"))) is not None:
        low, high = mass.get("interval") or (None, None)
        bounds = "" if low is None else f" ({percent(low)} to {percent(high)})"
        true = number(mass.get("true"))
        truth = "" if true is None else f"; known here: {percent(true)}"
        lines.append(("missing mass, Good-Turing", f"{percent(estimated)}{bounds}{truth}"))
    texts, characters = (number(statements.get(key)) for key in ("texts", "characters"))
    if texts is not None:
        size = "" if characters is None else f", {brief(characters)} characters"
        lines.insert(0, ("text looked through", f"{texts:,.0f} texts{size}"))
    return lines
