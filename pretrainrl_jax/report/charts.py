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
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrainrl_jax.report.summary import Json, forgetting, label, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers; markers say the same a second time.
STYLES = {
    "base": ("#777777", "X"),
    "dpo": ("#E69F00", "v"),
    "ntp": ("#56B4E9", "s"),
    "ntp_answer": ("#0072B2", "D"),
    "ntp_weighted": ("#009E73", "^"),
    "rpo": ("#CC79A7", "P"),
    "pretrainrl": ("#D55E00", "o"),
}
SPARE_STYLES = (("#8C6BB1", "h"), ("#A6761D", "<"), ("#000000", ">"), ("#7F7F00", "p"))

INK = "#222222"
SETTINGS: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "text.color": INK,
    "legend.frameon": False,
    # Text as outlines, and ids from a fixed salt: the picture is the same everywhere and every time.
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
}

PNG: Any = {"format": "png", "dpi": 150, "bbox_inches": "tight"}


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _address(figure: "Figure", kind: str) -> str:
    out = io.BytesIO()
    if kind == "svg":
        figure.savefig(out, format="svg", metadata={"Date": None})
    else:
        figure.savefig(out, **PNG)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{mime};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def styles(systems: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each system: fixed for the known ones, so that they keep them across charts."""
    spare = [name for name in systems if name not in STYLES]
    return {name: STYLES.get(name) or SPARE_STYLES[spare.index(name) % len(SPARE_STYLES)] for name in systems}


# The idea: truth against falsehood


def trained_questions(evaluation: Json) -> dict[str, Json]:
    """The trained facts in their trained wording, by id; those unseen in pretraining are among them."""
    questions = evaluation.get("questions") or []
    return {q["id"]: q for q in questions if q.get("group") in ("trained", "unseen")}


def share_above(questions: list[Json]) -> float:
    """Share of questions where the truth is more probable than the model's strongest falsehood."""
    above = sum((number(q.get("p_truth")) or 0.0) > (number(q.get("p_falsehood")) or 0.0) for q in questions)
    return above / len(questions)


def idea(before: Json, after: Json | None = None) -> str | None:
    """Probability of the truth against the strongest falsehood of each trained question, before and after."""
    panels = _idea_panels(before, after)
    if not panels:
        return None
    with _idea_figure(panels) as figure:
        # Thousands of points: an image of fixed size, not a path for each of them.
        return _address(figure, "png")


def save_idea(path: Path, before: Json, after: Json | None = None) -> bool:
    """Write that picture as a PNG file; False, and no file, where no trained question was evaluated."""
    panels = _idea_panels(before, after)
    if not panels:
        return False
    with _idea_figure(panels) as figure:
        figure.savefig(path, **PNG)
    return True


def _idea_panels(before: Json, after: Json | None) -> list[tuple[str, list[Json]]]:
    found = [(e["system"], trained_questions(e)) for e in (before, after) if e is not None]
    # The same questions in both panels, or the shares could not be compared.
    ids = [i for i in found[0][1] if all(i in questions for _, questions in found)]
    names = ["base model" if name == "base" else label(name) for name, _ in found]
    titles = [f"Before: {names[0]}", f"After: {names[1]}"] if len(names) == 2 else names
    return [(t, [qs[i] for i in ids]) for t, (_, qs) in zip(titles, found, strict=True)] if ids else []


def idea_floor(questions: list[Json], key: str) -> float:
    """The smallest probability drawn, a power of ten that leaves about 1 % of the points below it."""
    values = [number(q.get(key)) for q in questions]
    positive = [v for v in values if v is not None and v > 0]
    low = math.log10(float(np.percentile(positive, 1))) if positive else -4.0
    return 10.0 ** max(-9, min(-4, math.floor(low)))


@contextmanager
def _idea_figure(panels: list[tuple[str, list[Json]]]) -> Iterator["Figure"]:
    everything = [question for _, questions in panels for question in questions]
    floors = {key: idea_floor(everything, key) for key in ("p_falsehood", "p_truth")}
    # Truths can be far less probable than falsehoods: the axes have scales of their own, and the line of
    # equal probability is drawn.
    with _figure(len(panels) * 4.4 + 1.4, 4.8) as figure:
        _draw_idea(figure, panels, floors)
        yield figure


def _draw_idea(figure: "Figure", panels: list[tuple[str, list[Json]]], floors: dict[str, float]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    x_limits, y_limits = ((floors[key] / 1.6, 2.0) for key in ("p_falsehood", "p_truth"))
    line = (min(*x_limits, *y_limits), 2.0)
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    popularity = [number(q.get("popularity")) or 0.0 for q in panels[0][1]]
    norm, unit = _popularity_norm(popularity)
    order = np.random.default_rng(0).permutation(len(popularity))  # no popularity drawn over another
    # Viridis without its yellow end, which would be lost on white.
    colours = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, 256)))
    points = None
    for axes, (title, questions) in zip(grid, panels, strict=True):
        x, y = (np.array([max(number(q.get(key)) or 0.0, floors[key]) for q in questions]) for key in floors)
        axes.fill_between(line, line, [line[1]] * 2, color="#EAF3EC", linewidth=0, zorder=0)
        axes.plot(line, line, color="#555555", linewidth=1.2, zorder=1)
        points = axes.scatter(
            x[order],
            y[order],
            c="#0072B2" if norm is None else np.array(popularity)[order],
            norm=norm,
            cmap=None if norm is None else colours,
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
    grid[0].set_ylabel("probability of the truth")
    if points is not None and norm is not None:
        figure.colorbar(points, ax=list(grid), label=f"popularity of the fact{unit}", shrink=0.8, pad=0.02)


def _popularity_norm(popularity: list[float]) -> tuple[Any, str]:
    """A scale for colours, logarithmic where popularity spans a decade; None where it is constant."""
    from matplotlib.colors import LogNorm, Normalize

    positive = [p for p in popularity if p > 0]
    if not positive or min(popularity) == max(popularity):
        return None, ""
    low, high = float(min(positive)), float(max(positive))
    if high / low >= 10:
        return LogNorm(low, high, clip=True), " (log scale)"
    return Normalize(min(popularity), high), ""


# Training


CURVES = (
    ("loss", "loss", "nats a question"),
    ("reward_margin", "reward margin", "nats, times β"),
    ("logp_gold", "log-probability of the truth", "nats"),
    ("logp_negative", "log-probability of the falsehoods", "nats"),
)


def curves(metrics: list[Json]) -> str | None:
    """Loss, reward margin and log-probabilities over the updates of every trained system."""
    stages = [m["stage"] for m in metrics if str(m.get("stage", "")).startswith("train/")]
    systems = [stage.removeprefix("train/") for stage in dict.fromkeys(stages)]
    if not systems:
        return None
    looks = styles(systems)
    with _figure(11, 6.6) as figure:
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (key, title, unit) in zip(grid.flat, CURVES, strict=True):
            drawn = False
            for system in systems:
                steps, values = _series(metrics, f"train/{system}", key)
                if len(steps):
                    axes.plot(steps, values, color=looks[system][0], linewidth=0.7, alpha=0.25)
                    axes.plot(
                        steps, _smooth(values), color=looks[system][0], linewidth=1.9, label=label(system)
                    )
                    drawn = True
            axes.set_title(title, loc="left", fontweight="bold")
            axes.set_ylabel(unit)
            if not drawn:
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color="#777777")
        for axes in grid[1]:
            axes.set_xlabel("updates")
        _legend_below(figure, list(grid.flat))
        return _address(figure, "svg")


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


def _legend_below(figure: "Figure", axes: list["Axes"]) -> None:
    handles = {
        name: handle for a in axes for handle, name in zip(*a.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(6, len(handles))
        )


# Mining


def diversity(counts: dict[int, int]) -> str | None:
    """Questions by the number of distinct answers among their beams, one bar a number."""
    if not counts:
        return None
    with _figure(7, 2.6) as figure:
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
        return _address(figure, "svg")


# Accuracy


def popularity(summary: Json) -> str | None:
    """Accuracy on trained facts in each popularity bin, by system."""
    systems = {name: s["by_popularity"] for name, s in summary["systems"].items() if s["by_popularity"]}
    if not systems:
        return None
    looks = styles(list(summary["systems"]))
    bins = max(systems.values(), key=len)
    with _figure(11, 4.6) as figure:
        axes = figure.subplots()
        for name, measured in systems.items():
            rates = [np.nan if b.get("acc") is None else 100 * b["acc"] for b in measured]
            colour, marker = looks[name]
            axes.plot(
                range(len(rates)),
                rates,
                color=colour,
                marker=marker,
                markersize=7,
                label=label(name),
                clip_on=False,
                zorder=3,
            )
        ticks = [
            f"{_brief(b.get('low'))} to {_brief(b.get('high'))}\n{b.get('count', 0):,} facts" for b in bins
        ]
        axes.set_xticks(range(len(bins)), ticks)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("popularity of the fact, least popular first")
        axes.set_ylabel("accuracy, %")
        _legend_below(figure, [axes])
        return _address(figure, "svg")


def _brief(value: float | None) -> str:
    if value is None:
        return "…"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


def tradeoff(summary: Json) -> str | None:
    """Accuracy on trained facts against forgetting, one labelled point a system."""
    rises = forgetting(summary)
    systems = {n: s["acc"] for n, s in summary["systems"].items() if s["acc"] is not None}
    points = {n: (rises.get(n, 0.0), 100 * acc) for n, acc in systems.items() if n == "base" or n in rises}
    if len(points) < 2:
        return None
    looks = styles(list(summary["systems"]))
    with _figure(11, 4.8) as figure:
        axes = figure.subplots()
        for name, (x, y) in points.items():
            colour, marker = looks[name]
            axes.scatter([x], [y], color=colour, marker=marker, s=90, zorder=3, clip_on=False)
        axes.margins(0.12, 0.15)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("forgetting: rise of the loss on held-out text over base, nats a token")
        axes.set_ylabel("accuracy on trained facts, %")
        _label_points(figure, axes, [(label(n), *xy) for n, xy in points.items()])
        return _address(figure, "svg")


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
            ha=_side(dx, "right", "center", "left"),
            va=_side(dy, "top", "center", "bottom"),
            arrowprops={"arrowstyle": "-", "color": "#999999", "shrinkB": 6} if far else None,
        )


def _side(offset: float, below: str, zero: str, above: str) -> str:
    return above if offset > 0 else below if offset < 0 else zero


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
            within = (
                inside[0] <= box[0] and box[2] <= inside[2] and inside[1] <= box[1] and box[3] <= inside[3]
            )
            if within and not any(_overlap(box, other) for other in taken):
                return dx, dy, box
    return dx, dy, box


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
