"""The grammar of tables: columns that say what they show of a row, for a page, Markdown or a terminal."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from pretrainrl_jax.knowledge.intervals import Difference
from pretrainrl_jax.report.formats import Json, chance, decimals, number, percent, signed


class Cell(NamedTuple):
    """What a page shows in one place of a table."""

    text: str
    under: str = ""  # smaller, below it: an interval
    tone: str = ""  # a class of the page's style: "up", "down", "right", "wrong"
    dot: str = ""  # a colour before it: that of a system in the pictures
    more: str = ""  # what is opened on demand


Told = Callable[[Any], Cell | str]  # how something is shown; "" where there is nothing to show


class Sheet(NamedTuple):
    """A table: columns of words, then of numbers; heads may have line breaks, for a terminal."""

    heads: list[str]
    rows: list[list[Cell]]
    words: int = 1

    def texts(self) -> list[list[str]]:
        """The cells without anything below or before them."""
        return [[cell.text for cell in row] for row in self.rows]

    def opened(self) -> "Sheet":
        """The same with the intervals that stand below numbers in columns of their own."""
        heads: list[str] = []
        columns: list[list[Cell]] = []
        for place, head in enumerate(self.heads):
            column = [row[place] for row in self.rows]
            heads.append(head)
            columns.append(column)
            if any(cell.under for cell in column):
                heads.append("95 %")
                columns.append([Cell(cell.under) for cell in column])
        return Sheet(heads, [list(row) for row in zip(*columns, strict=True)], self.words)


def sheet(
    columns: Mapping[str, Told], rows: Iterable[Sequence[Any]], *words: str, nothing: str = "–"
) -> Sheet:
    """A table of rows that begin with words; columns that no row fills are left out.

    Args:
        columns: by head, how the last item of a row is shown.
        rows: texts or cells of words, then what the columns show.
        words: the heads of the words.
        nothing: stands in a column where another row fills it.
    """
    made = [[*row[:-1], *(told(row[-1]) for told in columns.values())] for row in rows]
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in made]
    heads, count = [*words, *columns], len(words)
    kept = [i for i in range(len(heads)) if i < count or any(row[i].text not in ("", "–") for row in cells)]
    shown = [[row[i] if i < count or row[i].text else Cell(nothing) for i in kept] for row in cells]
    return Sheet([heads[i] for i in kept], shown, count)


def rows_at(systems: Mapping[str, Json], heads: Mapping[str, Cell], *path: str) -> list[tuple[Cell, Any]]:
    """A row of each system that has something at a path, begun by its head; of a list, a row of each item."""
    rows: list[tuple[Cell, Any]] = []
    for name, told in systems.items():
        found: Any = told
        for key in path:
            found = (found or {}).get(key)
        rows += [(heads[name], each) for each in (found if isinstance(found, list) else [found]) if each]
    return rows


def texts(rows: Iterable[Sequence[str]], *heads: str) -> Sheet:
    """A table of words alone."""
    return Sheet([*heads], [[*map(Cell, row)] for row in rows], words=len(heads))


def listed(columns: Mapping[str, Told], row: Any) -> list[tuple[str, str]]:
    """What columns show of one row, each with its head; those that show nothing are left out."""
    made = sheet(columns, [("", row)], "")
    return [(head, cell.text) for head, cell in zip(made.heads, made.rows[0], strict=True)][1:]


def at(told: Told, *path: str | int) -> Told:
    """A column of what stands at a path inside a row, as it is told; nothing where nothing stands there."""

    def column(row: Any) -> Cell | str:
        for key in path:
            if row is None:
                return ""
            row = row[key] if isinstance(key, int) else row.get(key)
        return "" if row is None else told(row)

    return column


# Estimates, with their intervals below them


def estimated(told: Callable[[float], str], between: str = "–", toned: bool = False, of: str = "") -> Told:
    """How an estimate is shown; toned, it is coloured where its interval does not hold zero.

    It is as `knowledge.figures` describes it, or what a row has `of` a name, as NAME and NAME_interval.
    """
    value, interval = (of, f"{of}_interval") if of else ("value", "interval")

    def cell(row: Json) -> Cell | str:
        if row.get(value) is None:
            return ""
        low, high = row.get(interval) or (0.0, 0.0)
        tone = "down" if high < 0 else "up" if low > 0 else ""
        bounds = between.join(map(told, row.get(interval) or ()))
        return Cell(told(row[value]), bounds, tone if toned else "")

    return cell


in_percent = partial(percent, unit="")  # a bare rate
rate = estimated(in_percent)
likelihood = estimated(chance)  # a probability, which may be small
nats = estimated(signed, " to ")  # a difference of log-probabilities
area = estimated(partial(decimals, places=3))  # a number of no unit that is not negative
score = estimated(partial(signed, places=3), " to ")
gain = estimated(partial(signed, places=3), " to ", toned=True)  # of scores


def figure(value: object, places: int = 3) -> str:
    """A bare number."""
    return decimals(number(value), places)


def count(value: object) -> str:
    """A number of questions."""
    return figure(value, 0)


def p_value(value: float, least: float = 0.0001) -> str:
    """A p-value, not told more finely than it can be known."""
    return f"<{least:g}" if value < least else decimals(value, 4 if value < 0.01 else 3)


def changed(apart: Difference | Json, stacked: bool = False) -> Cell:
    """A difference of rates in points, with its interval, coloured where that does not hold zero.

    It may be as summary.json has it, beside other things.
    """
    if isinstance(apart, dict):
        apart = Difference(*(apart[name] for name in Difference._fields))
    tone = "down" if apart.worse else "up" if apart.clear else ""
    rise, low, high = (signed(100 * rate, 1) for rate in (apart.rate, apart.low, apart.high))
    return Cell(rise, f"{low} to {high}", tone) if stacked else Cell(f"{rise} [{low} to {high}]", tone=tone)


def compared(questions: str, before: str, after: str, apart: str) -> dict[str, Told]:
    """The columns of a `Difference`, under these heads."""
    return {
        questions: lambda row: count(row.questions),
        before: lambda row: in_percent(row.before),
        after: lambda row: in_percent(row.after),
        apart: changed,
    }


# As text


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Heads and rows as Markdown; a cell's bars and line breaks do not end it."""
    cells = [[" ".join(text.split()).replace("|", "\\|") for text in row] for row in (heads, *rows)]
    head, *lines = [f"| {' | '.join(row)} |\n" for row in cells]
    return "".join([head, "|---" * len(heads) + "|\n", *lines])


def grid(texts: Mapping[str, int | None], numbers: Iterable[str], rows: Iterable[Iterable[str]]) -> Grid:
    """Columns of texts, of at most so many characters each, then columns of numbers; nothing is markup."""
    drawn = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, width in texts.items():
        drawn.add_column(Text(head), no_wrap=True, max_width=width)
    for head in numbers:
        drawn.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def plain(*parts: str | Grid | Sheet, width: int = 100, words: Sequence[int] = (20, 27)) -> str:
    """The parts below one another, without colours and blank lines; texts are not broken into lines.

    In sheets the columns of words have at most so many characters.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        if isinstance(part, Sheet):
            texts = dict(zip(part.heads[: part.words], words, strict=False))
            part = grid(texts, part.heads[part.words :], part.texts())
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip()) + "\n"
