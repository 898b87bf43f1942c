"""Lines and tables as plain text, for a terminal or a file."""

import io

from rich.console import Console
from rich.table import Table


def plain(*parts: str | Table, width: int = 100) -> str:
    """The parts below one another, without colours and blank lines; texts are not broken into lines."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False)
    for part in parts:
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip()) + "\n"
