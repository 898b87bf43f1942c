"""The lower bounds of the theory beside the measured error, from "theory" in an evaluation."""

from collections.abc import Callable, Mapping

from pretrainrl_jax.report.columns import Cell, Told, at, count, in_percent, listed, rows_at, sheet
from pretrainrl_jax.report.formats import Json, brief, percent, signed

SHOWN = 10  # categories


def _percent(value: float) -> str:
    return signed(100 * value, 1).removeprefix("+")


def _said(told: Json) -> Cell | str:
    """What a bound says, in words."""
    if told.get("told_more"):
        return "no theorem here: it learned from other texts, too"
    if told.get("vacuous"):
        return "nothing: it is not above 0"
    if told.get("holds") is False:
        return Cell("it is above the error: these numbers contradict each other", tone="wrong")
    return "at least so much error, as measured"


IIV: dict[str, Told] = {
    "questions": at(count, "questions"),
    "error, %": at(_percent, "error"),
    "bound, %": at(_percent, "bound"),
    "= 2 × misclassified": at(lambda half: Cell(in_percent(2 * half), f"2 × {in_percent(half)}"), "err_iiv"),
    "− valid / errors": at(_percent, "size_term"),
    "− δ": at(_percent, "delta"),
    "it says": _said,
}
SINGLETON: dict[str, Told] = {
    "error, %": at(_percent, "error"),
    "bound, %": at(_percent, "bound"),
    "= singleton rate": at(_percent, "singleton_rate"),
    "− 2 / errors": at(_percent, "size_term"),
    "− (35 + 6 ln N) / √N": at(_percent, "sample_term"),
    "− δ": at(_percent, "delta"),
    "it says": _said,
}

DETAILS: dict[str, Told] = {
    "threshold": at("{:.3g}".format, "threshold"),
    "true answers missed": at(_percent, "gold_missed"),
    "errors taken": at(_percent, "errors_taken"),
    "misclassified": at(_percent, "err_iiv"),
    "above it: model": at(_percent, "p_hat_above"),
    "above it: data": at(_percent, "p_above"),
    "error on known answers": at(_percent, "error_known"),
    "mass on unknown ones": at(_percent, "outside"),
    "bound on the known": at(_percent, "bound_known"),
}


def _missing_mass(mass: Json) -> str:
    low, high = map(percent, mass["interval"])
    true = "" if mass["true"] is None else f"; known here: {percent(mass['true'])}"
    return f"{percent(mass['good_turing'])} ({low} to {high}){true}"


STATEMENTS: dict[str, Told] = {  # what one pass over the training text counted
    "texts looked through": at(count, "texts"),
    "their characters": at(brief, "characters"),
    "questions of the fact set": at(count, "prompts"),
    "stated at least once": at(count, "stated"),
    "statements, N": at(count, "statements"),
    "false ones among them": at(count, "false"),
    "stated exactly once": at(count, "singletons"),
    "stated exactly twice": at(count, "doubletons"),
    "singleton rate": at(percent, "singleton_rate"),
    "missing mass, Good-Turing": at(_missing_mass, "missing_mass"),
}


def section(theories: Mapping[str, Json], heads: Mapping[str, Cell], after: str) -> Json | None:
    """The tables of the bounds, what was counted in the training text, and what it all assumes.

    Args:
        theories: "theory" by system.
        heads: the beginnings of the systems' rows.
        after: the system whose categories are shown.
    """
    theories = {name: told for name, told in theories.items() if told}
    if not theories:
        return None
    shown = theories.get(after) or next(iter(theories.values()))
    statements = next((told["statements"] for told in theories.values() if told.get("statements")), None)
    categories = [(str(each.get("category")), each) for each in (shown.get("categories") or ())[:SHOWN]]
    return {
        "iiv": sheet(IIV, rows_at(theories, heads, "iiv"), "system"),
        "details": sheet(DETAILS, rows_at(theories, heads, "iiv"), "system"),
        "singleton": sheet(SINGLETON, rows_at(theories, heads, "singleton"), "system"),
        "categories": sheet(IIV, categories, "category"),
        "counts": listed(STATEMENTS, statements) if statements else [],
        "left_out": max(int(told.get("without_errors") or 0) for told in theories.values()),
        "notes": notes(theories, lambda name: heads[name].text),
    }


def notes(theories: Mapping[str, Json], label: Callable[[str], str]) -> list[str]:
    """What the bounds assume, each sentence once; before it the systems it is about, where not all."""
    about: dict[str, list[str]] = {}
    for name, told in theories.items():
        for note in told.get("notes") or ():
            about.setdefault(str(note), []).append(label(name))
    return [
        note if len(names) == len(theories) else f"{', '.join(names)}: {note}"
        for note, names in about.items()
    ]
