"""General ability: what the lm-evaluation-harness found of each system, side by side."""

from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.formats import Json, decimals, number, percent
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.terminal import grid, plain


class Column(NamedTuple):
    """A task and its main metric: the first that it lists."""

    task: str
    metric: str
    shots: int | None
    questions: int | None
    share: bool  # the metric is a share of the questions, shown in %


class Cell(NamedTuple):
    """One system on a task."""

    value: float
    stderr: float | None


class Ability(NamedTuple):
    """What all systems did on all tasks."""

    columns: list[Column]
    rows: dict[str, list[Cell | None]]  # by system; None where it did not do a task as the first one did


def folder(workdir: Path) -> Path:
    """Where the results of the harness lie, a file for each system."""
    return workdir / "evaluations" / "harness"


def read_harness(workdir: Path, known: Systems) -> dict[str, Json]:
    """The results of each system: base first, then as systems are told.

    Raises:
        InputError: if a file cannot be read.
    """
    found = {}
    for path in sorted(folder(workdir).glob("*.json"), key=lambda path: known.place(path.stem)):
        found[path.stem] = read_json(path)
        if not isinstance(found[path.stem].get("tasks"), dict):
            raise InputError(f"{path} holds no results of the harness: remove it, and evaluate again")
    return found


def main_results(record: Json) -> dict[str, Json]:
    """Of each task shown its main metric's name, value and standard error, and how the task was asked."""
    found = {}
    for of_name in record["tasks"].values():
        for task in of_name["shown"]:
            result = of_name["results"][task]
            metric, measured = next(iter(result["metrics"].items()))
            found[task] = {
                "metric": metric,
                "value": number(measured["value"]),
                "stderr": number(measured["stderr"]),
                "higher_is_better": measured["higher_is_better"],
                "questions": result["questions"],
                "shots": result["shots"],
            }
    return found


def ability(records: dict[str, Json], tasks: list[str] | None = None) -> Ability | None:
    """The table of what some names asked for, of everything if None; None where there is nothing.

    What a system was asked otherwise than the first one was (fewer questions, say) is left out.
    """
    if tasks is not None:
        records = {system: _only(tasks, record) for system, record in records.items()}
    of_systems = {system: main_results(record) for system, record in records.items()}
    asked = {system: _asked(record) for system, record in records.items()}
    first = {task: system for system in reversed(of_systems) for task in of_systems[system]}
    columns = []
    for task in dict.fromkeys(task for of in of_systems.values() for task in of):
        result = of_systems[first[task]][task]
        values = [of[task]["value"] for of in of_systems.values() if task in of]
        share = all(v is not None and 0 <= v <= 1 for v in values) and result["higher_is_better"] is not False
        columns.append(Column(task, result["metric"], result["shots"], result["questions"], share))

    def cell(system: str, task: str) -> Cell | None:
        result = of_systems[system].get(task)
        if result is None or result["value"] is None or asked[system][task] != asked[first[task]][task]:
            return None
        return Cell(result["value"], result["stderr"])

    rows = {system: [cell(system, column.task) for column in columns] for system in of_systems}
    return Ability(columns, rows) if columns else None


def _only(tasks: list[str], record: Json) -> Json:
    return record | {"tasks": {name: record["tasks"][name] for name in tasks if name in record["tasks"]}}


def _asked(record: Json) -> Json:
    """How each task shown was asked, whatever the model."""
    made_with = {task: of["made_with"] for of in record["tasks"].values() for task in of["shown"]}
    return {task: {name: v for name, v in of.items() if name != "model"} for task, of in made_with.items()}


def in_words(cell: Cell | None, share: bool) -> str:
    """A value, in % where it is a share, ± its standard error."""
    if cell is None:
        return "–"
    text, error = (percent(v, "") if share else decimals(v, 2) for v in cell)
    return text if cell.stderr is None else f"{text} ± {error}"


def table(found: Ability, known: Systems) -> str:
    """Systems as rows and tasks as columns, for a terminal."""
    heads = [f"{column.task}\n{column.metric}{', %' if column.share else ''}" for column in found.columns]
    rows = [
        [known.label(system), *(in_words(c, of.share) for c, of in zip(cells, found.columns, strict=True))]
        for system, cells in found.rows.items()
    ]
    return plain(grid({"system": None}, heads, rows), width=30 * (1 + len(found.columns)))
