"""How the pictures of the report are drawn: the look of each system, and a figure as a `data:` address.

Matplotlib is imported inside the functions, since the command line must start without it, and used through
its objects, so that no global figure state is left behind in a notebook.
"""

import base64
import io
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pretrainrl_jax.atomic import write_bytes
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Look(NamedTuple):
    """How a system is drawn, by matplotlib's names: in colour, and twice more for prints without it."""

    color: str
    marker: str
    linestyle: Any


BASE = Look("#777777", "X", ":")
# Okabe and Ito's palette, told apart by colour-blind readers, and four that can still be told from those.
LOOKS = (
    Look("#E69F00", "v", (0, (3, 1.5))),
    Look("#56B4E9", "s", (0, (6, 2))),
    Look("#0072B2", "D", "-."),
    Look("#009E73", "^", (0, (1, 1))),
    Look("#CC79A7", "P", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
    Look("#D55E00", "o", "-"),
    Look("#000000", "h", (0, (8, 2, 2, 2))),
    Look("#8C6BB1", "<", (0, (2, 2))),
    Look("#A6761D", ">", (0, (9, 3))),
    Look("#4D4D4D", "p", (0, (4, 1, 1, 1))),
)

INK = "#222222"
SETTINGS: Any = {
    "font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "axes.edgecolor": "#888888",
    "axes.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "xtick.color": "#444444",
    "ytick.color": "#444444", "text.color": INK, "legend.frameon": False,
    # Text as outlines, and ids from a fixed salt: the picture is the same everywhere and every time.
    "svg.fonttype": "path", "svg.hashsalt": "report",
}  # fmt: skip

PNG: Any = {"format": "png", "dpi": 150, "bbox_inches": "tight"}
# "tight" makes room for a legend that is wider than its figure.
SVG: Any = {"format": "svg", "metadata": {"Date": None}, "bbox_inches": "tight"}


@contextmanager
def canvas(width: float, height: float) -> Generator["Figure"]:
    """A figure of so many inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")


def data_address(figure: "Figure", how: Any = SVG) -> str:
    """A finished figure as the address of an image."""
    out = io.BytesIO()
    figure.savefig(out, **how)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[how["format"]]
    return f"data:{mime};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def save(figure: "Figure", path: Path) -> None:
    """Write a finished figure as a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, **PNG)
    write_bytes(path, out.getvalue())


def chart(
    size: tuple[float, float],
    x: str,
    y: str,
    draw: Callable[["Axes"], None],
    title: str = "",
    columns: int = 3,
) -> str:
    """A picture of what `draw` puts between two labelled axes, with a legend in columns below."""
    with canvas(*size) as figure:
        axes = figure.subplots()
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title, loc="left", fontweight="bold")
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            how: Any = {"fontsize": 10, "handlelength": 3.4, "columnspacing": 1.2}
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, **how)
        return data_address(figure)


def looks(systems: list[str], known: Systems) -> dict[str, Look]:
    """The look of each system: by its place in the configuration, so that it keeps it across charts."""
    others = [name for name in systems if name != "base" and name not in known.objectives]
    styles = {"base": BASE}
    for place, name in enumerate([*known.objectives, *others]):
        # Where the colours are used up they come again with other markers and lines.
        shifts = (shift * (place // len(LOOKS)) for shift in range(3))
        styles[name] = Look(*(LOOKS[(place + s) % len(LOOKS)][i] for i, s in enumerate(shifts)))
    return {name: styles[name] for name in systems}


def error_bars(rate: Any, low: Any, high: Any) -> np.ndarray:
    """Lengths of the bars below and above rates, [2, number of rates]."""
    return np.maximum([rate - low, high - rate], 0)
