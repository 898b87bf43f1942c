"""General ability: what the lm-evaluation-harness found of each system, side by side."""

import itertools
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.columns import grid, plain
from pretrainrl_jax.report.formats import Json, decimals, number, percent
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems


class Column(NamedTuple):
    """A task, and how the first system that did it was asked."""

    task: str
    main: Json  # as `main_results`
    share: bool  # the metric is a share of the questions, shown in %


class Ability(NamedTuple):
    """What all systems did on all tasks."""

    columns: list[Column]
    rows: dict[str, list[str]]  # by system its value ± standard error, in % where the metric is a share


def folder(workdir: Path) -> Path:
    """Where the results of the harness lie, a file for each system."""
    return workdir / "evaluations" / "harness"


def read_harness(workdir: Path, known: Systems) -> dict[str, Json]:
    """The results of each system: base first, then as systems are told.

    Raises:
        InputError: if a file cannot be read.
    """
    records = {}
    for path in sorted(folder(workdir).glob("*.json"), key=lambda path: known.place(path.stem)):
        records[path.stem] = read_json(path)
        if not isinstance(records[path.stem].get("tasks"), dict):
            raise InputError(f"{path} holds no results of the harness: remove it, and evaluate again")
    return records


def main_results(record: Json) -> dict[str, Json]:
    """Of each task shown its main metric, the first it lists, with its value, and how it was asked."""
    return {task: result for task, (result, _) in _shown(record).items()}


def _shown(record: Json, names: list[str] | None = None) -> dict[str, tuple[Json, Json]]:
    """Of what some names asked for, or all did: the main result, and the settings, whatever the model."""
    tasks = {}
    for name in record["tasks"] if names is None else filter(record["tasks"].__contains__, names):
        asked = record["tasks"][name]
        settings = {key: value for key, value in asked["made_with"].items() if key != "model"}
        for task in asked["shown"]:
            result = asked["results"][task]
            metric, measured = next(iter(result["metrics"].items()))
            main = {"metric": metric, **{key: number(measured[key]) for key in ("value", "stderr")}}
            main |= {"higher_is_better": measured["higher_is_better"]}
            tasks[task] = main | {key: result[key] for key in ("questions", "shots")}, settings
    return tasks


def ability(records: dict[str, Json], tasks: list[str] | None = None) -> Ability | None:
    """The table of what some names asked for, of everything if None; None where there is nothing.

    What a system was asked otherwise than the first one was (fewer questions, say) is left out.
    """
    shown = {system: _shown(record, tasks) for system, record in records.items()}
    columns, rows = [], {system: [] for system in shown}
    for task in dict.fromkeys(itertools.chain(*shown.values())):
        every = [results[task] for results in shown.values() if task in results]
        main, settings = every[0]
        shares = all(r["value"] is not None and 0 <= r["value"] <= 1 for r, _ in every)
        columns.append(Column(task, main, share := shares and main["higher_is_better"] is not False))
        for system, results in shown.items():
            result, asked = results.get(task, ({}, None))
            figures = [result.get("value"), result.get("stderr")] if asked == settings else [None]
            texts = [percent(f, "") if share else decimals(f, 2) for f in figures]
            known = figures[0] is not None and figures[1] is not None
            rows[system].append(" ± ".join(texts) if known else texts[0])
    return Ability(columns, rows) if columns else None


def table(shown: Ability, known: Systems) -> str:
    """Systems as rows and tasks as columns, for a terminal."""
    heads = [
        f"{column.task}\n{column.main['metric']}{', %' if column.share else ''}" for column in shown.columns
    ]
    rows = [[known.label(system), *cells] for system, cells in shown.rows.items()]
    return plain(grid({"system": None}, heads, rows), width=30 * (1 + len(heads)))
