"""The pictures of the report: each a `data:` address to put in an image tag, None where there is no data.

Matplotlib is imported inside the functions, since the command line must start without it, and used through
its objects, so that no global figure state is left behind in a notebook.
"""

import base64
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pretrainrl_jax.report.formats import Json, brief, number, percent
from pretrainrl_jax.report.outcomes import popularity, trained
from pretrainrl_jax.report.summary import forgetting
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import Row

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
SVG: Any = {"format": "svg", "metadata": {"Date": None}}


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _address(figure: "Figure", how: Any = SVG) -> str:
    out = io.BytesIO()
    figure.savefig(out, **how)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[how["format"]]
    return f"data:{mime};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def looks(systems: list[str], known: Systems) -> dict[str, Look]:
    """The look of each system: by its place in the configuration, so that it keeps it across charts."""
    others = [name for name in systems if name != "base" and name not in known.objectives]
    places = [*known.objectives, *others]
    return {name: BASE if name == "base" else _look(places.index(name)) for name in systems}


def _look(place: int) -> Look:
    """One for each place: where the colours are used up they come again with other markers and lines."""
    again, count = place // len(LOOKS), len(LOOKS)
    return Look(*(LOOKS[(place + shift * again) % count][shift] for shift in range(3)))


# The idea: truth against falsehood


def share_above(questions: list[Json]) -> float:
    """Share of questions where the truth is more probable than the model's strongest falsehood."""
    above = sum((number(q.get("p_truth")) or 0.0) > (number(q.get("p_falsehood")) or 0.0) for q in questions)
    return above / len(questions)


class Scale(NamedTuple):
    """What the panels share, so that they can be compared."""

    floors: dict[str, float]  # the smallest probability drawn, by key
    norm: Any  # of the colours; None where popularity is constant
    unit: str
    order: np.ndarray  # random, so that no popularity is drawn over another


def idea(known: Systems, before: Json, after: Json | None = None) -> list[str]:
    """Probability of the truth against the strongest falsehood of each trained question, before and after.

    A picture a system, to stand side by side or, on a narrow screen, one below the other.
    """
    panels = _idea_panels(known, before, after)
    if not panels:
        return []
    addresses, scale = [], _scale(panels)
    for title, questions in panels.items():
        with _figure(5.2, 5.4) as figure:
            axes = figure.subplots()
            points = _draw_idea(axes, title, questions, scale)
            axes.set_ylabel("probability of the truth")
            _colour_bar(figure, points, [axes], scale, location="bottom", pad=0.01)
            # Thousands of points: an image of fixed size, not a path for each of them.
            addresses.append(_address(figure, PNG))
    return addresses


def save_idea(path: Path, known: Systems, before: Json, after: Json | None = None) -> bool:
    """Write that as one PNG file; False, and no file, where no trained question was evaluated."""
    panels = _idea_panels(known, before, after)
    if not panels:
        return False
    with _figure(len(panels) * 4.4 + 1.4, 4.8) as figure:
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        scale = _scale(panels)
        drawn = [_draw_idea(a, *panel, scale) for a, panel in zip(grid, panels.items(), strict=True)]
        grid[0].set_ylabel("probability of the truth")
        _colour_bar(figure, drawn[0], list(grid), scale, shrink=0.8, pad=0.02)
        figure.savefig(path, **PNG)
    return True


def _idea_panels(known: Systems, before: Json, after: Json | None) -> dict[str, list[Json]]:
    """The questions of each of the idea's one or two clouds of points, by its title."""
    found = [(e["system"], trained(e)) for e in (before, after) if e is not None]
    # The same questions in both panels, or the shares could not be compared.
    keys = [key for key in found[0][1] if all(key in questions for _, questions in found)]
    names = ["base model" if name == "base" else known.label(name) for name, _ in found]
    titles = [f"Before: {names[0]}", f"After: {names[1]}"] if len(names) == 2 else names
    return {t: [of[key] for key in keys] for t, (_, of) in zip(titles, found, strict=True) if keys}


def idea_floor(questions: list[Json], key: str) -> float:
    """The smallest probability drawn, a power of ten that leaves about 1 % of the points below it."""
    values = [number(q.get(key)) for q in questions]
    positive = [v for v in values if v is not None and v > 0]
    low = math.log10(float(np.percentile(positive, 1))) if positive else -4.0
    return 10.0 ** max(-9, min(-4, math.floor(low)))


def _scale(panels: dict[str, list[Json]]) -> Scale:
    first, *_ = panels.values()
    everything = [question for questions in panels.values() for question in questions]
    norm, unit = _popularity_norm([popularity(q) for q in first])
    order = np.random.default_rng(0).permutation(len(first))
    # Truths can be far less probable than falsehoods: the axes have scales of their own, and the line of
    # equal probability is drawn.
    return Scale({key: idea_floor(everything, key) for key in ("p_falsehood", "p_truth")}, norm, unit, order)


def _draw_idea(axes: "Axes", title: str, questions: list[Json], scale: Scale) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    floors, order = scale.floors, scale.order
    x_limits, y_limits = ((floors[key] / 1.6, 2.0) for key in ("p_falsehood", "p_truth"))
    line = (min(*x_limits, *y_limits), 2.0)
    # Viridis without its yellow end, which would be lost on white.
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))
    x, y = (np.array([max(number(q.get(key)) or 0.0, floors[key]) for q in questions]) for key in floors)
    axes.fill_between(line, line, [line[1]] * 2, color="#EAF3EC", linewidth=0, zorder=0)
    axes.plot(line, line, color="#555555", linewidth=1.2, zorder=1)
    known = np.array([popularity(q) for q in questions])
    points = axes.scatter(
        x[order],
        y[order],
        c="#0072B2" if scale.norm is None else known[order],
        norm=scale.norm,
        cmap=None if scale.norm is None else colours,
        s=float(np.clip(24000 / len(order), 6, 30)),
        alpha=0.75,
        linewidths=0,
        zorder=2,
    )
    axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
    axes.set_title(f"{title}\n", fontweight="bold", loc="left", pad=8)
    text = f"truth above falsehood: {percent(share_above(questions))} of {len(questions):,}"
    axes.text(0, 1.015, text, transform=axes.transAxes, va="bottom")
    axes.set_xlabel("probability of the strongest falsehood")
    return points


def _colour_bar(figure: "Figure", points: Any, axes: list["Axes"], scale: Scale, **place: Any) -> None:
    if scale.norm is not None:
        figure.colorbar(points, ax=axes, label=f"popularity of the fact{scale.unit}", **place)


def _popularity_norm(known: list[float]) -> tuple[Any, str]:
    """A scale for colours, logarithmic where popularity spans a decade; None where it is constant."""
    from matplotlib.colors import LogNorm, Normalize

    positive = [p for p in known if p > 0]
    if not positive or min(known) == max(known):
        return None, ""
    low, high = float(min(positive)), float(max(positive))
    if high / low >= 10:
        return LogNorm(low, high, clip=True), " (log scale)"
    return Normalize(min(known), high), ""


# Training


class Curve(NamedTuple):
    """One of the pictures of training."""

    key: str
    title: str
    unit: str
    factor: float = 1.0


CURVES = (
    Curve("loss", "loss", "nats a question"),
    Curve("reward_margin", "reward margin", "nats, times β"),
    Curve("logp_gold", "log-probability of the truth", "nats"),
    Curve("logp_negative", "log-probability of the falsehoods", "nats"),
)
SAMPLED = (
    Curve("sample_acc", "accuracy on the sample", "%", 100.0),
    Curve("sample_text_nll", "loss on text", "nats a token"),
)
MARKED = 8  # markers along a curve


def curves(metrics: list[Json], known: Systems, wanted: tuple[Curve, ...] = CURVES) -> list[tuple[str, str]]:
    """Loss, reward margin and log-probabilities over the updates of every trained system.

    With SAMPLED, what was evaluated while training, on a sample. Of each picture its title and address; those
    of which nothing is recorded are left out.
    """
    stages = [m["stage"] for m in metrics if str(m.get("stage", "")).startswith("train/")]
    systems = sorted({stage.removeprefix("train/") for stage in stages}, key=known.place)
    drawn = []
    for curve in wanted:
        series = {system: _series(metrics, f"train/{system}", curve.key) for system in systems}
        series = {system: of for system, of in series.items() if len(of[0])}
        if series:
            drawn.append((curve.title, _draw_curve(curve, series, known)))
    return drawn


def _draw_curve(curve: Curve, series: dict[str, tuple[np.ndarray, np.ndarray]], known: Systems) -> str:
    of = looks(list(series), known)
    with _figure(5.4, 4.4) as figure:
        axes = figure.subplots()
        for index, (system, (steps, values)) in enumerate(series.items()):
            look, shown, every = of[system], curve.factor * values, 1
            if curve not in SAMPLED:
                axes.plot(steps, shown, color=look.color, linewidth=0.7, alpha=0.22)
                shown, every = _smooth(shown), max(1, len(steps) // MARKED)
            axes.plot(
                steps,
                shown,
                **look._asdict(),
                markersize=5,
                # Markers of different systems at different places, where curves lie on each other.
                markevery=(index * every // len(series), every),
                linewidth=1.7,
                label=known.label(system),
            )
        axes.set_title(curve.title, loc="left", fontweight="bold")
        axes.set_ylabel(curve.unit)
        axes.set_xlabel("updates")
        _legend_below(figure, axes)
        return _address(figure)


def _series(metrics: list[Json], stage: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one curve, thinned to what a screen can show."""
    # By step: a resumed run writes the steps after its checkpoint a second time, and the later one counts.
    found: dict[float, float] = {}
    for line in metrics:
        step, value = number(line.get("step")), number(line.get(key))
        if line.get("stage") == stage and step is not None and value is not None:
            found[step] = value
    # A system that sees no negatives writes exactly 0 for them: nothing was measured, so nothing is drawn.
    if key in ("reward_margin", "logp_negative") and not any(found.values()):
        return np.array([]), np.array([])
    steps = sorted(found)
    every = max(1, len(steps) // 600)
    kept = [*steps[:-1:every], steps[-1]] if steps else []
    return np.array(kept), np.array([found[s] for s in kept])


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over about a twentieth of the curve; at the ends over what there is."""
    half = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _legend_below(figure: "Figure", axes: "Axes") -> None:
    below = {"loc": "outside lower center", "ncols": 3, "fontsize": 10, "handlelength": 3.4}
    figure.legend(*axes.get_legend_handles_labels(), **below, columnspacing=1.2)


# Mining


def diversity(counts: dict[int, int]) -> str | None:
    """Questions by the number of distinct answers among their beams, one bar a number."""
    if not counts:
        return None
    with _figure(6.4, 2.6) as figure:
        from matplotlib.ticker import MaxNLocator, StrMethodFormatter

        axes = figure.subplots()
        axes.bar(list(counts), list(counts.values()), width=0.8, color="#0072B2")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlim(min(counts) - 0.6, max(counts) + 0.6)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("distinct answers among the finished beams")
        axes.set_ylabel("questions")
        return _address(figure)


# Accuracy


def accuracy(rows: list[Row], systems: list[str], known: Systems) -> str | None:
    """Accuracy on trained facts in each popularity bin, by system, with its 95 % interval."""
    if not rows:
        return None
    of = looks(systems, known)
    with _figure(5.4, 4.6) as figure:
        axes = figure.subplots()
        for index, name in enumerate(systems):
            cells = [(i, row.cells[name]) for i, row in enumerate(rows)]
            drawn = [(i, c.rate, *c.interval) for i, c in cells if c.rate is not None and c.interval]
            if not drawn:
                continue
            at, *rates = np.transpose(drawn)
            rate, low, high = (100 * of_cells for of_cells in rates)
            axes.errorbar(
                at + 0.07 * (index - (len(systems) - 1) / 2),  # beside each other, or intervals would hide
                rate,
                yerr=np.maximum([rate - low, high - rate], 0),
                **of[name]._asdict(),
                markersize=6.5,
                linewidth=1.5,
                elinewidth=1.1,
                label=known.label(name),
                zorder=3,
            )
        ticks = [f"{brief(row.name[0])}\nto {brief(row.name[1])}" for row in rows]
        axes.set_xticks(range(len(rows)), ticks, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("popularity of the fact, least popular first")
        axes.set_ylabel("accuracy, %")
        _legend_below(figure, axes)
        return _address(figure)


def tradeoff(summary: Json, known: Systems) -> str | None:
    """Accuracy on trained facts against forgetting, one labelled point a system."""
    rises = forgetting(summary)
    systems = {n: s["acc"] for n, s in summary["systems"].items() if s["acc"] is not None}
    points = {n: (rises.get(n, 0.0), 100 * acc) for n, acc in systems.items() if n == "base" or n in rises}
    if len(points) < 2:
        return None
    of = looks(list(summary["systems"]), known)
    with _figure(5.4, 4.0) as figure:
        axes = figure.subplots()
        for name, (x, y) in points.items():
            low, high = summary["systems"][name]["acc_interval"] or (y / 100, y / 100)
            error = np.maximum([[y - 100 * low], [100 * high - y]], 0)
            color, marker, _ = of[name]
            axes.errorbar([x], [y], error, color=color, linestyle="none", elinewidth=1.1, zorder=2)
            axes.scatter([x], [y], color=color, marker=marker, s=80, zorder=3, clip_on=False)
        axes.margins(0.12, 0.15)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("forgetting: rise of the loss on text, nats a token")
        axes.set_ylabel("accuracy on trained facts, %")
        _label_points(figure, axes, [(known.label(n), *xy) for n, xy in points.items()])
        return _address(figure)


OFFSETS = [(11, 0), (-11, 0), (0, 11), (0, -11), (10, 10), (10, -10), (-10, 10), (-10, -10)]
Box = tuple[float, float, float, float]


def _label_points(figure: "Figure", axes: "Axes", points: list[tuple[str, float, float]]) -> None:
    """Put each name beside its point, at the nearest place where it covers no point and no other name."""
    figure.draw_without_rendering()  # settles the axes, so that places on the page are known
    pixels = figure.dpi / 72
    centres = [axes.transData.transform((x, y)) / pixels for _, x, y in points]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    frame = axes.get_window_extent()
    inside = (frame.x0 / pixels, frame.y0 / pixels, frame.x1 / pixels, frame.y1 / pixels)
    for (text, x, y), centre in zip(points, centres, strict=True):
        note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", annotation_clip=False)
        size = note.get_window_extent()
        dx, dy, box = _place(centre, (size.width / pixels, size.height / pixels), taken, inside)
        taken.append(box)
        note.remove()
        far = max(abs(dx), abs(dy)) > 20
        axes.annotate(
            text,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            ha=("center", "left", "right")[int(np.sign(dx))],
            va=("center", "bottom", "top")[int(np.sign(dy))],
            arrowprops={"arrowstyle": "-", "color": "#999999", "shrinkB": 6} if far else None,
        )


def _place(
    centre: np.ndarray, size: tuple[float, float], taken: list[Box], inside: Box
) -> tuple[float, float, Box]:
    """Offset, and box in points, of the first free place around a point; the last one tried if none is."""
    dx, dy, box = 0.0, 0.0, (0.0, 0.0, 0.0, 0.0)
    for reach in (1.0, 2.0, 3.0, 4.5, 6.5):
        for dx, dy in ((reach * x, reach * y) for x, y in OFFSETS):
            left = centre[0] + dx - size[0] * (1 - np.sign(dx)) / 2
            low = centre[1] + dy - size[1] * (1 - np.sign(dy)) / 2
            box = (left, low, left + size[0], low + size[1])
            within = inside[0] <= left and inside[1] <= low and box[2] <= inside[2] and box[3] <= inside[3]
            if within and not any(_overlap(box, other) for other in taken):
                return dx, dy, box
    return dx, dy, box


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
