"""The lower bounds of the theory beside the measured error, from "theory" in an evaluation."""

from collections.abc import Callable, Mapping

from pretrainrl_jax.report.columns import Cell, Told, at, count, in_percent, sheet
from pretrainrl_jax.report.formats import Json, signed
from pretrainrl_jax.report.knowledge.tables import rows_at

SHOWN = 10  # categories


def _percent(value: float) -> str:
    return signed(100 * value, 1).removeprefix("+")


def _doubled(value: float) -> Cell:
    return Cell(in_percent(2 * value), f"2 × {in_percent(value)}")


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
    "= 2 × misclassified": at(_doubled, "err_iiv"),
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


def section(theories: Mapping[str, Json], heads: Mapping[str, Cell], after: str) -> Json | None:
    """The tables of the bounds, and what they assume.

    Args:
        theories: "theory" by system.
        heads: the beginnings of the systems' rows.
        after: the system whose categories are shown.
    """
    theories = {name: told for name, told in theories.items() if told}
    if not theories:
        return None
    shown = theories.get(after) or next(iter(theories.values()))
    categories = [(str(each.get("category")), each) for each in (shown.get("categories") or ())[:SHOWN]]
    return {
        "iiv": sheet(IIV, rows_at(theories, heads, "iiv"), "system"),
        "singleton": sheet(SINGLETON, rows_at(theories, heads, "singleton"), "system"),
        "categories": sheet(IIV, categories, "category"),
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
