"""A table as a description of its columns, and tables as text: of Markdown, or for a terminal."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

Columns = Mapping[str, Callable[[Any], str]]  # a cell is "" where the row has nothing to show


class Table(NamedTuple):
    """What a page or a terminal draws."""

    heads: list[str]
    rows: list[list[str]]


class Cell(NamedTuple):
    """What a page shows in one place of a table."""

    text: str
    under: str = ""  # smaller, below it: an interval
    tone: str = ""  # a class of the page's style: "up", "down", "right", "wrong"
    dot: str = ""  # a colour before it: that of a system in the pictures


class Sheet(NamedTuple):
    """A table of a page: columns of words, then of numbers."""

    heads: list[str]
    rows: list[list[Cell]]
    words: int = 1


def sheet(columns: Mapping[str, Callable[[Any], Cell]], rows: Sequence[Any], words: int = 1) -> Sheet:
    """The columns that some row fills, those of words in any case; a dash where another row does not."""
    made = [[cell(row) for cell in columns.values()] for row in rows]
    kept = [i for i in range(len(columns)) if i < words or any(row[i].text not in ("", "–") for row in made)]
    heads = list(columns)
    return Sheet([heads[i] for i in kept], [[row[i] for i in kept] for row in made], words)


def filled(columns: Columns, rows: Sequence[Any], nothing: str = "–") -> Table:
    """The columns that some row fills; `nothing` stands where another row does not."""
    shown = {head: cell for head, cell in columns.items() if any(map(cell, rows))}
    return Table(list(shown), [[cell(row) or nothing for cell in shown.values()] for row in rows])


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Heads and rows as Markdown; a cell's bars and line breaks do not end it."""
    lines = ["| " + " | ".join(map(_cell, cells)) + " |\n" for cells in (heads, *rows)]
    return "".join([lines[0], "|---" * len(heads) + "|\n", *lines[1:]])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def grid(texts: dict[str, int | None], numbers: Iterable[str], rows: Iterable[Iterable[str]]) -> Grid:
    """Columns of texts, of at most so many characters each, then columns of numbers; nothing is markup."""
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, width in texts.items():
        drawn.add_column(Text(head), no_wrap=True, max_width=width)
    for head in numbers:
        drawn.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def plain(*parts: str | Grid, width: int = 100) -> str:
    """The parts below one another, without colours and blank lines; texts are not broken into lines."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip()) + "\n"
