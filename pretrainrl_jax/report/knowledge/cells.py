"""Estimates as the cells of a table: the number, and its interval below it."""

from collections.abc import Callable

from pretrainrl_jax.report.columns import Cell
from pretrainrl_jax.report.formats import Json, chance, decimals, percent, signed, span

NOTHING = Cell("–")


def rate(estimate: Json | None) -> Cell:
    """A share in %."""
    if estimate is None or estimate["value"] is None:
        return NOTHING
    return Cell(percent(estimate["value"], ""), span(estimate["interval"]))


def likelihood(estimate: Json | None) -> Cell:
    """A mean probability, which may be small."""
    return _cell(estimate, chance, "–")


def nats(estimate: Json | None) -> Cell:
    """A difference of log-probabilities."""
    return _cell(estimate, lambda value: signed(value, 2), " to ")


def plain(estimate: Json | None) -> Cell:
    """A number of no unit that is not negative."""
    return _cell(estimate, lambda value: decimals(value, 3), "–")


def points(estimate: Json | None) -> Cell:
    """A score, which may be negative."""
    return _cell(estimate, lambda value: signed(value, 3), " to ")


def difference(estimate: Json | None) -> Cell:
    """A difference of shares, in points."""
    return _cell(estimate, lambda value: signed(value, 1), " to ")


def _cell(estimate: Json | None, told: Callable[[float], str], between: str) -> Cell:
    if estimate is None or estimate["value"] is None:
        return NOTHING
    return Cell(told(estimate["value"]), between.join(map(told, estimate["interval"] or ())))


def toned(cell: Cell, estimate: Json) -> Cell:
    """A difference, coloured where its interval does not hold zero."""
    low, high = estimate["interval"] or (0.0, 0.0)
    return cell._replace(tone="down" if high < 0 else "up" if low > 0 else "")


def number_of(value: float | None, places: int = 3) -> Cell:
    """A bare number."""
    return Cell(decimals(value, places))


def count(value: float | None) -> Cell:
    """A number of questions."""
    return Cell(decimals(value, 0))


def p_value(value: float, least: float = 0.0001) -> Cell:
    """A p-value, not told more finely than it can be known."""
    return Cell(f"<{least:g}" if value < least else decimals(value, 4 if value < 0.01 else 3))
