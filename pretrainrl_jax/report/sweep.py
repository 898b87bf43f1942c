"""What a sweep's systems learn against what they forget: tables in Markdown, and a picture.

Means over seeds with their spread, the best values, paired differences, and which rows no other one beats.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from pretrainrl_jax.atomic import write_bytes
from pretrainrl_jax.cells import shown
from pretrainrl_jax.config import AnchorTermConfig, ObjectiveConfig
from pretrainrl_jax.report.columns import Told, markdown, sheet
from pretrainrl_jax.report.drawing import PNG, canvas, looks, painted
from pretrainrl_jax.report.formats import Json, decimals, percent, signed
from pretrainrl_jax.report.summary import PLACES, figure
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Spread = Callable[[Sequence[float]], float]
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


FIGURES = {
    "ACC": "acc", "HR": "hr", "MRR": "mrr", "Prob": "prob", "unseen": "unseen", "paraphrase": "paraphrase",
    "held out": "held_out", "held-out head": "held_out_head", "head kept": "head_kept",
    "text NLL": "text_nll", "device s": "device_seconds",
}  # fmt: skip
FRONT = {
    "ACC": "acc", "paraphrase": "paraphrase", "unseen": "unseen", "forgetting": "forgetting",
    "held-out head": "held_out_head", "head kept": "head_kept",
    "neighbours": "neighbour_answer", "distant": "distant", "device s": "device_seconds",
}  # fmt: skip
"""The columns of the two tables of figures, and what `summary.figure` calls them."""


def table(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Every row with all columns, %; means over seeds, and standard deviations where there are several."""
    seeds = max(len(row.seeds) for row in rows)
    title = "%" if seeds == 1 else f"%, mean ± standard deviation of {seeds} {rows[0].repeated}s"
    columns = {head: _mean_of(name, statistics.stdev) for head, name in FIGURES.items()}
    return _table(title, columns, rows, axes, [known.label(row.system) for row in rows])


def _table(
    title: str, columns: Mapping[str, Told], rows: Sequence[Row], axes: Sequence[str], names: Sequence[str]
) -> str:
    begun = [[name, *_values(row, axes), row] for name, row in zip(names, rows, strict=True)]
    made = sheet(columns, begun, title, *axes)
    return markdown(made.heads, made.texts())


def _values(row: Row, axes: Sequence[str]) -> list[str]:
    return [shown(row.values[axis]) if axis in row.values else "" for axis in axes]


def _mean_of(name: str, spread: Spread | None) -> Told:
    """A column of a figure's means, with their spread where there are several seeds."""
    places = PLACES.get(name, 1)

    def cell(row: Row) -> str:
        if (found := estimate(row, name, spread)) is None:
            return ""
        return decimals(found.mean, places) + ("" if found.half is None else f" ± {found.half:.{places}f}")

    return cell


def chosen(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """The values to take for each system: by the accuracy on wordings that training never used.

    Of the rows within one standard error of the best one, it is the row that forgot the least text: what is
    within noise is not worth forgetting for. Where the facts have one wording, the trained one decides.
    """
    lines = []
    for system in dict.fromkeys(row.system for row in rows if row.values):
        candidates = [row for row in rows if row.system == system]
        reworded = [_reworded(row) for row in candidates]
        by = "held-out wordings" if all(reworded) else "trained wordings"
        rates = [rate or (_mean(row, "acc"), 0) for row, rate in zip(candidates, reworded, strict=True)]
        best, count = max(rates)
        error = (best * (1 - best) / count) ** 0.5 if count else 0.0
        near = [(row, rate) for row, (rate, _) in zip(candidates, rates, strict=True) if rate >= best - error]
        row, rate = min(near, key=lambda pair: _mean(pair[0], "text_nll"))
        values = ", ".join(f"{axis} {shown(row.values[axis])}" for axis in axes if axis in row.values)
        lines.append(
            f"- {known.label(system)}: {values}, chosen on {by} ({percent(rate)}, the best {percent(best)})\n"
        )
    return "".join(lines)


def _reworded(row: Row) -> tuple[float, int] | None:
    """Accuracy on held-out wordings over all seeds, and how many they were; None where one had none."""
    groups = [system["groups"].get("paraphrase") for system in row.seeds.values()]
    if not all(groups):
        return None
    return statistics.mean(g["acc"] for g in groups), sum(g["count"] for g in groups)


def _mean(row: Row, name: str) -> float:
    return statistics.mean(row.measured(name) or [0.0])


def differences(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Accuracy of the method, or else of the best system, less every other system's, seed by seed, with the
    95 % interval of the mean.

    The seeds are paired: both systems start from the same base model and see the same facts. The interval is
    Student's, over so few seeds a wide one. Empty where there is one seed.
    """
    trained = [row for row in rows if row.system != "base"]
    best = max(trained, key=lambda row: _mean(row, "acc"), default=None)
    method = known.method(row.system for row in trained) or (best and best.system)
    lines = []
    for row, other in itertools.product(rows, [row for row in rows if row.system == method]):
        shared = row.values.keys() & other.values.keys()
        both = [(row.at(seed), told) for seed, told in other.seeds.items()]
        apart = [100 * (told["acc"] - own["acc"]) for own, told in both if own]
        unlike = any(row.values[axis] != other.values[axis] for axis in shared)
        if row.system == method or unlike or len(apart) < 2:
            continue
        mean, half = statistics.mean(apart), _half(apart)
        interval = f"{signed(mean - half, 1)} to {signed(mean + half, 1)}"
        each = ", ".join(signed(points, 1) for points in apart)
        name = f"{known.label(other.system)} − {known.label(row.system)}"
        lines.append([name, *_values(other, axes), signed(mean, 1), interval, each])
    one = rows[0].repeated
    head = [f"points of ACC, paired by {one}", *axes, "mean", "95 % interval", f"each {one}"]
    return markdown(head, lines) if lines else ""


def _half(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean, Student's."""
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    half: float | None  # of the 95 % interval, or another spread; None of one seed


def estimate(row: Row, name: str, spread: Spread | None = _half) -> Estimate | None:
    """A figure's mean and its spread, in % if it is a rate; None where it was not measured."""
    values = [(1 if name in PLACES else 100) * value for value in row.measured(name)]
    if not values:
        return None
    return Estimate(statistics.mean(values), spread(values) if spread and len(values) > 1 else None)


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
    labels = [known.label(row.system) for row in trained]
    names = [f"**{label}**" if front else label for label, front in zip(labels, best, strict=True)]
    columns = {
        head: _mean_of(name, None if name == "device_seconds" else _half) for head, name in FRONT.items()
    }
    seeds = max(len(row.seeds) for row in trained)
    title = "learned, %, and forgotten, nats a token"
    title += f"; 95 % intervals of {seeds} {trained[0].repeated}s" if seeds > 1 else ""
    return _table(title, columns, trained, axes, names)


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
        write_bytes(path, painted(figure, PNG))
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
    names: Any = {"label": "", "words": "", "above": (), "recommended": False}

    def learns(name: str) -> ObjectiveConfig:
        return replace(known.of(name), **names, anchor=AnchorTermConfig(), learning_rate=0)

    return next(name for name in systems if learns(name) == learns(system))
