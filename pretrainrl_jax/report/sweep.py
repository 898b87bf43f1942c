"""The table of a sweep in Markdown: means and spread over seeds, the best values, paired differences."""

import itertools
import statistics
from collections.abc import Callable, Sequence

from scipy import stats

from pretrainrl_jax.cells import shown
from pretrainrl_jax.report.columns import filled, markdown
from pretrainrl_jax.report.formats import decimals, percent, signed
from pretrainrl_jax.report.front import Row
from pretrainrl_jax.report.summary import PLACES
from pretrainrl_jax.report.systems import Systems

FIGURES = {
    "ACC": "acc", "HR": "hr", "MRR": "mrr", "Prob": "prob", "unseen": "unseen", "paraphrase": "paraphrase",
    "held out": "held_out", "held-out head": "held_out_head", "head kept": "head_kept",
    "text NLL": "text_nll", "device s": "device_seconds",
}  # fmt: skip
"""The columns, and what `summary.figure` calls them."""


def table(rows: Sequence[Row], axes: Sequence[str], known: Systems) -> str:
    """Every row with all columns, %; means over seeds, and standard deviations where there are several."""
    seeds = max(len(row.seeds) for row in rows)
    heads, cells = filled({head: _column(name) for head, name in FIGURES.items()}, rows)
    title = "%" if seeds == 1 else f"%, mean ± standard deviation of {seeds} {rows[0].repeated}s"
    firsts = [[known.label(row.system), *_values(row, axes)] for row in rows]
    return markdown([title, *axes, *heads], [[*a, *b] for a, b in zip(firsts, cells, strict=True)])


def _values(row: Row, axes: Sequence[str]) -> list[str]:
    return [shown(row.values[axis]) if axis in row.values else "" for axis in axes]


def _column(name: str) -> Callable[[Row], str]:
    places, factor = (PLACES[name], 1) if name in PLACES else (1, 100)

    def cell(row: Row) -> str:
        values = [factor * value for value in row.measured(name)]
        deviation = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
        return decimals(statistics.mean(values), places) + deviation if values else ""

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
        pairs = [(own["acc"], told["acc"]) for own, told in both if own]
        unlike = any(row.values[axis] != other.values[axis] for axis in shared)
        if row.system == method or unlike or len(pairs) < 2:
            continue
        apart = [100 * (theirs - own) for own, theirs in pairs]
        mean = statistics.mean(apart)
        half = stats.t.ppf(0.975, len(apart) - 1) * stats.sem(apart)
        interval = f"{signed(mean - half, 1)} to {signed(mean + half, 1)}"
        each = ", ".join(signed(points, 1) for points in apart)
        name = f"{known.label(other.system)} − {known.label(row.system)}"
        lines.append([name, *_values(other, axes), signed(mean, 1), interval, each])
    one = rows[0].repeated
    head = [f"points of ACC, paired by {one}", *axes, "mean", "95 % interval", f"each {one}"]
    return markdown(head, lines) if lines else ""
