"""The table of a sweep in Markdown: means and spread over seeds, the best values, paired differences."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from pretrainrl_jax.cells import shown
from pretrainrl_jax.report.formats import decimals, percent, signed
from pretrainrl_jax.report.summary import group_rate
from pretrainrl_jax.report.systems import Systems

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A system at one combination of the swept values that it depends on."""

    system: str
    values: dict[str, float]
    seeds: dict[str, Json]  # by seed the system's part of summary.json


COLUMNS: dict[str, tuple[Callable[[Json], float | None], int, float]] = {  # figure, decimals, factor
    "ACC": (lambda s: s["acc"], 1, 100),
    "HR": (lambda s: s["hr"], 1, 100),
    "MRR": (lambda s: s["mrr"], 1, 100),
    "Prob": (lambda s: s["prob"], 1, 100),
    "unseen": (lambda s: group_rate(s, "unseen"), 1, 100),
    "paraphrase": (lambda s: group_rate(s, "paraphrase"), 1, 100),
    "held out": (lambda s: group_rate(s, "held_out"), 1, 100),
    "held-out head": (lambda s: group_rate(s, "held_out_head"), 1, 100),
    "text NLL": (lambda s: s["text_nll"], 2, 1),
    "device s": (lambda s: s["device_seconds"], 1, 1),
}


def table(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Every row with all columns, %; means over seeds, and standard deviations where there are several."""
    seeds = max(len(row.seeds) for row in rows)
    columns = {
        name: column
        for name, column in COLUMNS.items()
        if any(column[0](of) is not None for row in rows for of in row.seeds.values())
    }
    head = ["%" if seeds == 1 else f"%, mean ± standard deviation of {seeds} seeds", *axes, *columns]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in rows:
        values = [shown(row.values[axis]) if axis in row.values else "" for axis in axes]
        cells = [_cell([figure(of) for of in row.seeds.values()], p, f) for figure, p, f in columns.values()]
        lines.append(_line([known.label(row.system), *values, *cells]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(values: Sequence[float | None], places: int, factor: float) -> str:
    known = [factor * value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.{places}f}" if len(known) > 1 else ""
    return decimals(statistics.mean(known), places) + spread


def chosen(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """The values to take for each system: by the accuracy on wordings that training never used.

    Of the rows within one standard error of the best one, it is the row that forgot the least text: what is
    within noise is not worth forgetting for. Where the facts have one wording, the trained one decides.
    """
    lines = []
    for system in dict.fromkeys(row.system for row in rows if row.values):
        of_system = [row for row in rows if row.system == system]
        rates = [_rate(row, "paraphrase") for row in of_system]
        by = "held-out wordings" if all(rates) else "trained wordings"
        rates_of = [rate or (_mean(row, "acc"), 0) for row, rate in zip(of_system, rates, strict=True)]
        best, count = max(rates_of)
        error = (best * (1 - best) / count) ** 0.5 if count else 0.0
        near = [row for row, (rate, _) in zip(of_system, rates_of, strict=True) if rate >= best - error]
        row = min(near, key=lambda row: _mean(row, "text_nll"))
        rate = rates_of[of_system.index(row)][0]
        values = ", ".join(f"{axis} {shown(row.values[axis])}" for axis in axes if axis in row.values)
        lines.append(
            f"- {known.label(system)}: {values}, chosen on {by} ({percent(rate)}, the best {percent(best)})"
        )
    return "\n".join(lines) + "\n" if lines else ""


def _rate(row: Row, group: str) -> tuple[float, int] | None:
    """Accuracy on a group of questions over all seeds, and how many they were; None where one had none."""
    found = [of["groups"].get(group) for of in row.seeds.values()]
    if not all(found):
        return None
    return statistics.mean(of["acc"] for of in found), sum(of["count"] for of in found)


def _mean(row: Row, figure: str) -> float:
    known = [of[figure] for of in row.seeds.values() if of[figure] is not None]
    return statistics.mean(known) if known else 0.0


def differences(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Accuracy of the method, or else of the best system, less every other system's, seed by seed, with the
    95 % interval of the mean.

    The seeds are paired: both systems start from the same base model and see the same facts. The interval is
    Student's, over so few seeds a wide one. Empty where there is one seed.
    """
    lines = []
    trained = [row for row in rows if row.system != "base"]
    best = max(trained, key=lambda row: _mean(row, "acc"), default=None)
    method = known.method(row.system for row in trained) or (best and best.system)
    for row in rows:
        if row.system == method:
            continue
        for other in (r for r in rows if r.system == method):
            shared = [axis for axis in axes if axis in row.values and axis in other.values]
            if any(row.values[axis] != other.values[axis] for axis in shared):
                continue
            apart = [
                100 * (other.seeds[s]["acc"] - row.seeds[s]["acc"]) for s in row.seeds if s in other.seeds
            ]
            if len(apart) < 2:
                continue
            half = stats.t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5
            values = [shown(other.values[axis]) if axis in other.values else "" for axis in axes]
            each = ", ".join(signed(points, 1) for points in apart)
            mean = statistics.mean(apart)
            interval = f"{signed(mean - half, 1)} to {signed(mean + half, 1)}"
            pair = f"{known.label(other.system)} − {known.label(row.system)}"
            lines.append(_line([pair, *values, signed(mean, 1), interval, each]))
    if not lines:
        return ""
    head = ["points of ACC, paired by seed", *axes, "mean", "95 % interval", "each seed"]
    return "\n".join([_line(head), "|---" * len(head) + "|", *lines]) + "\n"
