"""What a sweep's systems learn against what they forget: a table with intervals, and a picture."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from pretrainrl_jax.cells import shown
from pretrainrl_jax.config import AnchorTermConfig, ObjectiveConfig
from pretrainrl_jax.report.columns import filled, markdown
from pretrainrl_jax.report.drawing import canvas, looks, save
from pretrainrl_jax.report.formats import Json, decimals
from pretrainrl_jax.report.summary import PLACES, figure
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ALL = "all"  # in place of seeds, where a system does not depend on them


@dataclass(frozen=True)
class Row:
    """A system at one combination of the swept values that it depends on."""

    system: str
    values: dict[str, float]
    seeds: dict[str, Json]  # by seed the system's part of summary.json, and its `forgetting`; or of `ALL`
    repeated: str = "seed"  # what is another one of the same: a seed, or an order of the same facts

    def at(self, seed: str) -> Json | None:
        """What was measured with a seed."""
        return self.seeds.get(seed, self.seeds.get(ALL))

    def measured(self, name: str) -> list[float]:
        """A figure, of each seed that has it."""
        return [value for system in self.seeds.values() if (value := figure(system, name)) is not None]


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    half: float | None  # of the 95 % interval, Student's; None of one seed


FIGURES = {
    "ACC": "acc", "paraphrase": "paraphrase", "unseen": "unseen", "forgetting": "forgetting",
    "held-out head": "held_out_head", "head kept": "head_kept",
    "neighbours": "neighbour_answer", "distant": "distant", "device s": "device_seconds",
}  # fmt: skip
"""The columns, and what `summary.figure` calls them."""


def estimate(row: Row, name: str) -> Estimate | None:
    """A figure's mean and interval, in % if it is a rate; None where it was not measured."""
    values = [(1 if name in PLACES else 100) * value for value in row.measured(name)]
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None)
    return Estimate(statistics.mean(values), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def on_front(rows: Sequence[Row]) -> list[bool]:
    """Of each row whether no other is at least as accurate and forgets no more, and better in one of both."""
    points = [(estimate(row, "acc"), estimate(row, "forgetting")) for row in rows]
    means = [(acc.mean, -rise.mean) if acc and rise else None for acc, rise in points]

    def beaten(one: tuple[float, float]) -> bool:
        others = [other for other in means if other and other != one]
        return any(other[0] >= one[0] and other[1] >= one[1] for other in others)

    return [one is not None and not beaten(one) for one in means]


def front_table(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Every trained row with the 95 % intervals of its means; bold what no other row beats in both.

    Empty where forgetting was not measured.
    """
    trained = [row for row in rows if row.system != "base"]
    best = on_front(trained)
    if not any(best):
        return ""
    heads, cells = filled({head: _column(name) for head, name in FIGURES.items()}, trained)
    labels = [
        f"**{known.label(r.system)}**" if b else known.label(r.system)
        for r, b in zip(trained, best, strict=True)
    ]
    firsts = [
        [label, *(shown(row.values[axis]) if axis in row.values else "" for axis in axes)]
        for label, row in zip(labels, trained, strict=True)
    ]
    seeds = max(len(row.seeds) for row in trained)
    title = "learned, %, and forgotten, nats a token" + (
        f"; 95 % intervals of {seeds} {trained[0].repeated}s" if seeds > 1 else ""
    )
    return markdown([title, *axes, *heads], [[*a, *b] for a, b in zip(firsts, cells, strict=True)])


def _column(name: str) -> Callable[[Row], str]:
    places = PLACES.get(name, 1)

    def cell(row: Row) -> str:
        found = estimate(row, name)
        if found is None:
            return ""
        half = "" if found.half is None or name == "device_seconds" else f" ± {found.half:.{places}f}"
        return decimals(found.mean, places) + half

    return cell


def save_front(path: Path, rows: Sequence[Row], known: Systems) -> bool:
    """Draw accuracy against forgetting into a PNG file; False, and no file, where there is nothing to draw.

    A system's rows are one line, in the order of the swept values, full where it is anchored; bars are 95 %
    intervals over seeds.
    """
    trained = [row for row in rows if row.system != "base" and estimate(row, "forgetting")]
    base = next((row for row in rows if row.system == "base"), None)
    if not trained:
        return False
    with canvas(8.6, 5.6) as figure:
        axes = figure.subplots()
        draw(axes, trained, known)
        if base and (acc := estimate(base, "acc")):
            axes.axhline(acc.mean, color="#777777", linestyle=":", linewidth=1.2, label="base model")
        axes.axvline(0, color="#BBBBBB", linewidth=1, zorder=0)
        axes.set(
            xlabel="forgetting: rise of the loss on held-out text, nats a token",
            ylabel="ACC on trained facts, %",
        )
        figure.legend(loc="outside right upper", fontsize=9.5, handlelength=3.2)
        save(figure, path)
    return True


def draw(axes: "Axes", rows: Sequence[Row], known: Systems) -> None:
    """A line for each system, in the order of the swept values; its anchored twin has its colour."""
    systems = list(dict.fromkeys(row.system for row in rows))
    styles = looks(list(dict.fromkeys(_without_anchor(name, systems, known) for name in systems)), known)
    for system in systems:
        own = sorted((row for row in rows if row.system == system), key=lambda row: _order(row.values))
        both = [[estimate(row, name) for name in ("forgetting", "acc")] for row in own]
        points = np.array([[(e.mean, e.half or 0.0) for e in pair if e] for pair in both if all(pair)])
        (x, x_half), (y, y_half) = points.transpose(1, 2, 0)
        look, anchored = styles[_without_anchor(system, systems, known)], known.of(system).anchored
        style: Any = {"color": look.color, "marker": look.marker, "alpha": 0.9, "linewidth": 1.4}
        style |= {
            "linestyle": "-" if anchored else "--",
            "markerfacecolor": look.color if anchored else "white",
        }
        axes.errorbar(x, y, y_half, x_half, **style, elinewidth=0.8, label=known.label(system))


def _order(values: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    """Sorts rows by their values: numbers by size, then texts."""
    return [
        (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value))
        for value in values.values()
    ]


def _without_anchor(system: str, systems: Sequence[str], known: Systems) -> str:
    """The system that learns the same without an anchor, whose colour it has; itself where there is none."""

    def learns(name: str) -> ObjectiveConfig:
        return replace(
            known.of(name),
            label="",
            words="",
            above=(),
            recommended=False,
            anchor=AnchorTermConfig(),
            learning_rate=0,
        )

    return next(name for name in systems if learns(name) == learns(system))
