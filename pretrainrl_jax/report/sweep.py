"""What a sweep's systems learn against what they forget: means over seeds, the best values, a picture."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from pretrainrl_jax.atomic import write_bytes
from pretrainrl_jax.cells import shown
from pretrainrl_jax.report.columns import Told, markdown, sheet
from pretrainrl_jax.report.drawing import PNG, canvas, looks, painted
from pretrainrl_jax.report.formats import Json, decimals, percent, signed
from pretrainrl_jax.report.summary import PLACES, figure
from pretrainrl_jax.report.systems import Systems

ALL = "all"  # in place of seeds, where a system does not depend on them


@dataclass(frozen=True)
class Row:
    """A system at one combination of the swept values that it depends on."""

    system: str
    values: dict[str, float]
    seeds: dict[str, Json]  # by seed the system's part of summary.json, and its `forgetting`; or of `ALL`
    repeated: str = "seed"  # what is another one of the same: a seed, or an order of the same facts

    def measured(self, name: str) -> list[float]:
        """A figure, of each seed that has it."""
        return [value for system in self.seeds.values() if (value := figure(system, name)) is not None]


FIGURES = {
    "ACC": "acc", "HR": "hr", "MRR": "mrr", "Prob": "prob", "unseen": "unseen", "paraphrase": "paraphrase",
    "held out": "held_out", "held-out head": "held_out_head", "head kept": "head_kept",
    "neighbours": "neighbour_answer", "distant": "distant", "forgetting": "forgetting",
    "text NLL": "text_nll", "device s": "device_seconds",
}  # fmt: skip
"""The columns of the table, and what `summary.figure` calls them."""


def table(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Every row with the 95 % intervals of its means; bold what none beats in ACC and forgetting."""
    seeds = max(len(row.seeds) for row in rows)
    title = "%; forgetting and text NLL in nats a token"
    title += f"; 95 % intervals of {seeds} {rows[0].repeated}s" if seeds > 1 else ""
    columns: dict[str, Told] = {head: partial(_mean_of, name=name) for head, name in FIGURES.items()}
    begun = [
        [f"**{known.label(row.system)}**" if front else known.label(row.system), *_values(row, axes), row]
        for row, front in zip(rows, on_front(rows), strict=True)
    ]
    made = sheet(columns, begun, title, *axes)
    return markdown(made.heads, made.texts())


def _values(row: Row, axes: Sequence[str]) -> list[str]:
    return [shown(row.values[axis]) if axis in row.values else "" for axis in axes]


def _mean_of(row: Row, name: str) -> str:
    """A figure's mean, with half its interval where there are several seeds; a time has none."""
    if (found := estimate(row, name)) is None:
        return ""
    places = PLACES.get(name, 1)
    spread = "" if found.half is None or name == "device_seconds" else f" ± {found.half:.{places}f}"
    return decimals(found.mean, places) + spread


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
        rates = [rate for rate in reworded if rate]
        if len(rates) < len(candidates):
            rates = [(_mean(row, "acc"), 0) for row in candidates]
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
        both = [(row.seeds.get(seed, row.seeds.get(ALL)), told) for seed, told in other.seeds.items()]
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
    half: float | None  # of the 95 % interval; None of one seed


def estimate(row: Row, name: str) -> Estimate | None:
    """A figure's mean and its interval, in % if it is a rate; None where it was not measured."""
    values = [(1 if name in PLACES else 100) * value for value in row.measured(name)]
    if not values:
        return None
    return Estimate(statistics.mean(values), _half(values) if len(values) > 1 else None)


def on_front(rows: Sequence[Row]) -> list[bool]:
    """Of each trained row whether no other is as accurate and forgets no more, and better in one."""
    both = [(estimate(row, "acc"), estimate(row, "forgetting")) for row in rows]
    points = [
        (acc.mean, -rise.mean) if acc and rise and row.system != "base" else None
        for row, (acc, rise) in zip(rows, both, strict=True)
    ]
    means = set(filter(None, points))
    return [
        own is not None and not any(acc >= own[0] and kept >= own[1] for acc, kept in means - {own})
        for own in points
    ]


def save_front(path: Path, rows: Sequence[Row], known: Systems) -> bool:
    """Draw accuracy against forgetting into a PNG file; False, and no file, where there is nothing to draw.

    A system's rows are one line in their order, full where it is anchored; bars are 95 % intervals.
    """
    trained = [row for row in rows if estimate(row, "forgetting") and estimate(row, "acc")]
    systems = [system for system in dict.fromkeys(row.system for row in trained) if system != "base"]
    if not systems:
        return False
    with canvas(8.6, 5.6) as figure:
        axes = figure.subplots()
        for system, look in looks(systems, known).items():
            own = [row for row in trained if row.system == system]
            both = [[estimate(row, name) for row in own] for name in ("forgetting", "acc")]
            (x, x_half), (y, y_half) = (
                zip(*((e.mean, e.half or 0) for e in one if e), strict=True) for one in both
            )
            style: Any = {"color": look.color, "marker": look.marker, "label": known.label(system)}
            line = "-" if known.of(system).anchored else "--"
            axes.errorbar(x, y, y_half, x_half, **style, linestyle=line, linewidth=1.4, elinewidth=0.8)
        axes.axvline(0, color="#BBBBBB", linewidth=1, zorder=0)  # the base model
        axes.set(
            xlabel="forgetting: rise of the loss on held-out text, nats a token",
            ylabel="ACC on trained facts, %",
        )
        figure.legend(loc="outside right upper", fontsize=9.5, handlelength=3.2)
        write_bytes(path, painted(figure, PNG))
    return True
