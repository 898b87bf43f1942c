"""General ability: what the lm-evaluation-harness found of each system, side by side."""

import itertools
from functools import partial
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.columns import Sheet, Told, plain, sheet
from pretrainrl_jax.report.formats import Json, decimals, number, percent
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems


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


def ability(records: dict[str, Json], known: Systems, tasks: list[str] | None = None) -> Sheet | None:
    """What all did of what some names asked for, of everything if None: values ± standard errors, or None.

    They are in % where the metric is a share. What a system was asked otherwise than the first one was (fewer
    questions, say) is left out.
    """
    shown = {system: _shown(record, tasks) for system, record in records.items()}
    columns: dict[str, Told] = {}
    for task in dict.fromkeys(itertools.chain(*shown.values())):
        every = [results[task] for results in shown.values() if task in results]
        main, settings = every[0]
        share = all(r["value"] is not None and 0 <= r["value"] <= 1 for r, _ in every)
        share = share and main["higher_is_better"] is not False
        columns[f"{task}\n{main['metric']}{', %' * share}"] = partial(_value, task, settings, share)
    rows = [(known.label(system), own) for system, own in shown.items()]
    return sheet(columns, rows, "system") if columns else None


def _value(task: str, settings: Json, share: bool, results: dict[str, tuple[Json, Json]]) -> str:
    result, how = results.get(task, ({}, None))
    figures = [result.get("value"), result.get("stderr")] if how == settings else [None]
    texts = [percent(figure, "") if share else decimals(figure, 2) for figure in figures]
    return " ± ".join(texts[:1] if None in figures else texts)


def table(shown: Sheet) -> str:
    """Systems as rows and tasks as columns, for a terminal."""
    return plain(shown, width=30 * len(shown.heads), words=[60])
