"""A table as a description of its columns: the head of each, and what it shows of a row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Columns = Mapping[str, Callable[[Any], str]]  # a cell is "" where the row has nothing to show


class Table(NamedTuple):
    """What a page or a terminal draws."""

    heads: list[str]
    rows: list[list[str]]


def filled(columns: Columns, rows: Sequence[Any], nothing: str = "–") -> Table:
    """The columns that some row fills; `nothing` stands where another row does not."""
    shown = {head: cell for head, cell in columns.items() if any(map(cell, rows))}
    return Table(list(shown), [[cell(row) or nothing for cell in shown.values()] for row in rows])


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as Markdown."""
    lines = ["| " + " | ".join(cells) + " |\n" for cells in (heads, *rows)]
    return "".join([lines[0], "|---" * len(heads) + "|\n", *lines[1:]])
