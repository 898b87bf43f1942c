"""Lines and tables as plain text, for a terminal or a file."""

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def grid(texts: dict[str, int | None], numbers: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Columns of texts, of at most so many characters each, then columns of numbers; nothing is markup."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, width in texts.items():
        drawn.add_column(Text(head), no_wrap=True, max_width=width)
    for head in numbers:
        drawn.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def plain(*parts: str | Table, width: int = 100) -> str:
    """The parts below one another, without colours and blank lines; texts are not broken into lines."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip()) + "\n"
