"""A sweep: every combination of some settings, each in a workdir of its own, with all that can be shared.

<workdir>/cells/<values>/    an ordinary workdir; what another cell has made already is linked, not made again
<workdir>/sweep.md           the table, as it is printed
<workdir>/sweep.json         its numbers
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from pretrainrl_jax.atomic import write_json, write_text
from pretrainrl_jax.cells import Cell, cells
from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.sweep import Row, chosen, differences, table
from pretrainrl_jax.stages.context import BASE, Context, say
from pretrainrl_jax.stages.depends import settings_of
from pretrainrl_jax.stages.run import every_stage
from pretrainrl_jax.workdir import prepare_workdir


def sweep(context: Context) -> None:
    """Every cell, then the table. A cell that an earlier run finished is skipped.

    Raises:
        InputError: if a cell's configuration, facts or workdir are refused.
    """
    every = cells(context.config)
    before: list[Context] = []
    for number, cell in enumerate(every, 1):
        workdir = context.workdir / "cells" / cell.name
        context.screen.say(f"sweep: cell {number} of {len(every)}, {cell.name}")
        prepare_workdir(workdir, cell.config, create=True)
        of_cell = Context(
            cell.config, workdir, context.mesh, _facts(cell.config), context.screen, context.command
        )
        for other in before:
            take_over(of_cell, other)
        every_stage(of_cell)
        write_report(workdir)
        before.append(of_cell)
    conclude(context.workdir, context.config)


def _facts(config: Config) -> list[Fact]:
    return _read(replace(Config(), facts=config.facts, world=config.world, seed=config.seed))


@cache
def _read(config: Config) -> list[Fact]:
    """The facts; few other settings matter to them, so that cells share one reading."""
    return read_facts(config).facts


def take_over(cell: Context, other: Context) -> None:
    """Link every finished stage of another cell whose settings are those of this one."""
    systems = cell.config.train.systems
    stages = [BASE, "mine", *(f"train/{s}" for s in systems), *(f"evaluate/{s}" for s in ("base", *systems))]
    there = other.finished()
    for stage in stages:
        if stage not in there or stage in cell.finished():
            continue
        if settings_of(cell.config, stage) != settings_of(other.config, stage):
            continue
        pairs = list(_files(cell.workdir, other.workdir, stage))
        if any(target.exists() for target, _ in pairs):
            continue  # begun here already
        for target, source in pairs:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(source, target.parent))
        _copy_metrics(cell.workdir, other.workdir, stage)
        origin = there[stage].get("from", other.workdir.name)
        write_json(cell.workdir / "finished.json", cell.finished() | {stage: there[stage] | {"from": origin}})


def _files(here: Path, there: Path, stage: str) -> Iterator[tuple[Path, Path]]:
    """What a stage leaves in a workdir: where it is to be linked, and where it lies."""
    kind, _, system = stage.partition("/")
    names = {
        BASE: ["checkpoints/pretrain"],
        "mine": [f"mined/{path.name}" for path in (there / "mined").glob("*") if path.is_file()],
        "train": [f"checkpoints/{stage}", f"mined/{system}"],
        "evaluate": [f"evaluations/{system}.json"],
    }[kind]
    yield from ((here / name, (there / name).resolve()) for name in names if (there / name).exists())


def _copy_metrics(here: Path, there: Path, stage: str) -> None:
    paths = here / "metrics.jsonl", there / "metrics.jsonl"
    own, others = (path.read_text().splitlines() if path.is_file() else [] for path in paths)
    lines = own + [line for line in others if json.loads(line)["stage"] == stage]
    write_text(paths[0], "".join(f"{line}\n" for line in lines))


def conclude(workdir: Path, config: Config) -> None:
    """Print and write the table of all cells.

    Raises:
        InputError: if a cell is not finished.
    """
    rows = collect(workdir, config)
    axes = [axis for axis in cells(config)[0].values if axis != "seed"]
    texts = [table(rows, axes), chosen(rows, axes) if axes else "", differences(rows, axes)]
    for text in filter(None, texts):
        say(text)
    write_text(workdir / "sweep.md", "\n".join(filter(None, texts)))
    write_json(
        workdir / "sweep.json",
        [{"system": row.system, "values": row.values, "seeds": row.seeds} for row in rows],
    )
    say(f"sweep: {workdir / 'sweep.md'}")


def collect(workdir: Path, config: Config) -> list[Row]:
    """One row for each system and each combination of the values that it depends on, with all its seeds.

    Raises:
        InputError: if a cell is not finished.
    """
    found: dict[str, Row] = {}
    every = cells(config)
    for system in ("base", *config.train.systems):
        axes = [axis for axis in every[0].values if axis != "seed" and _depends(every, system, axis)]
        for cell in every:
            path = workdir / "cells" / cell.name / "report" / "summary.json"
            if not path.is_file():
                raise InputError(f"{path} is missing: run the sweep to its end with the same command")
            values = {axis: cell.values[axis] for axis in axes}
            row = found.setdefault(f"{system} {values}", Row(system, values, {}))
            seed = str(cell.config.seed)
            row.seeds.setdefault(seed, json.loads(path.read_text())["systems"][system])
    return list(found.values())


def _depends(every: list[Cell], system: str, axis: str) -> bool:
    """Whether any setting that a system's results depend on changes along an axis."""
    seen = {}
    for cell in every:
        settings = settings_of(cell.config, f"evaluate/{system}")
        others = json.dumps({k: v for k, v in cell.values.items() if k != axis})
        if seen.setdefault(others, settings) != settings:
            return True
    return False
