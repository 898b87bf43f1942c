"""How the pictures of the report are drawn: the look of each system, and a figure as a `data:` address.

Matplotlib is imported inside the functions, since the command line must start without it, and used through
its objects, so that no global figure state is left behind in a notebook.
"""

import base64
import io
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pretrainrl_jax.report.columns import Cell
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
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


def painted(figure: "Figure", how: Any) -> bytes:
    """A finished figure as `PNG` or `SVG`."""
    out = io.BytesIO()
    figure.savefig(out, **how)
    return out.getvalue()


def data_address(image: bytes) -> str:
    """An image as an address."""
    mime = "image/png" if image.startswith(b"\x89PNG") else "image/svg+xml"
    return f"data:{mime};base64,{base64.b64encode(image).decode('ascii')}"


class Line(NamedTuple):
    """Points with a name, maybe with bounds of their intervals."""

    label: str
    look: Look
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


MARKED = 8  # markers along a curve


def plot(
    lines: Sequence[Line],
    size: tuple[float, float],
    x: str,
    y: str,
    title: str = "",
    columns: int = 3,
    smooth: bool = False,
    **axis: Any,
) -> str | None:
    """A picture of lines, with bars where they have bounds, and a legend below; None without lines.

    With `smooth` each is a running mean over a faint line of what was measured; `axis`: its axes.
    """
    if not lines:
        return None
    with canvas(*size) as figure:
        axes = figure.subplots()
        for index, (label, look, at, values, low, high) in enumerate(lines):
            how: dict[str, Any] = {**look._asdict(), "label": label, "markersize": 6, "linewidth": 1.6}
            if low is not None:
                bars = np.maximum([values - low, high - values], 0)
                axes.errorbar(at, values, bars, **how, elinewidth=1.1, zorder=3)
                continue
            if smooth:
                axes.plot(at, values, color=look.color, linewidth=0.7, alpha=0.22)
            # Markers of different lines at different places, where they lie on each other.
            every = max(1, len(at) // MARKED)
            marks = index * every // len(lines), every
            axes.plot(at, running_mean(values) if smooth else values, **how, markevery=marks)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xlabel=x, ylabel=y, **axis)
        how = {"fontsize": 10, "handlelength": 3.4, "columnspacing": 1.2}
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, **how)
        return data_address(painted(figure, SVG))


def running_mean(values: np.ndarray) -> np.ndarray:
    """A centred mean over about a twentieth of the points; at the ends over what there is."""
    ones = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def looks(systems: list[str], known: Systems) -> dict[str, Look]:
    """The look of each system: by its place in the configuration, so that it keeps it across charts."""
    others = [name for name in systems if name != "base" and name not in known.objectives]
    styles = {"base": BASE}
    for place, name in enumerate([*known.objectives, *others]):
        # Where the colours are used up they come again with other markers and lines.
        shifts = (shift * (place // len(LOOKS)) for shift in range(3))
        styles[name] = Look(*(LOOKS[(place + s) % len(LOOKS)][i] for i, s in enumerate(shifts)))
    return {name: styles[name] for name in systems}


def heads(systems: list[str], known: Systems) -> dict[str, Cell]:
    """How the row of each system begins on a page: with its name, and its colour in the pictures."""
    return {name: Cell(known.label(name), dot=look.color) for name, look in looks(systems, known).items()}
