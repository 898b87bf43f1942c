"""`run`: every stage in order; and a sweep, which runs every combination of some settings.

Each has a workdir of its own, with all that can be shared:

<workdir>/cells/<values>/    an ordinary workdir; what another cell has made already is linked, not made again
<workdir>/sweep.md           the table, as it is printed
<workdir>/sweep.json         its numbers
<workdir>/sweep.png          what is learned against what is forgotten
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pretrainrl_jax.atomic import write_json, write_text
from pretrainrl_jax.cells import cells, depends
from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import settings_of
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.mesh import check_batch
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.summary import forgetting
from pretrainrl_jax.report.sweep import ALL, Row, chosen, differences, save_front, table
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.stages import anchor, check
from pretrainrl_jax.stages.context import BASE, Context, finished_stages, say
from pretrainrl_jax.stages.material import evaluate, mine
from pretrainrl_jax.stages.pretrain import pretrain
from pretrainrl_jax.stages.report import report
from pretrainrl_jax.stages.train import train
from pretrainrl_jax.storage import link, remove_tree
from pretrainrl_jax.workdir import anchor_file, prepare_workdir

REPEATS = {"seed": "seed", "train.order": "order"}  # axes along which the same is done again, in words
FACTS = "facts"  # what is read before any stage


def run(context: Context) -> None:
    """A base model, its falsehoods, the systems trained against them, and what came of it."""
    every_stage(context)
    run_on_process_0(lambda: report(context.workdir), "writing the report")


def every_stage(context: Context) -> None:
    """All but the report."""
    for stage, work in ((BASE, pretrain), ("mine", mine)):
        if not context.done(stage):
            work(context)
    train(context)
    evaluate(context)


def sweep(context: Context) -> None:
    """Every cell, then the table; raises InputError if a cell's facts or workdir are refused."""
    every = cells(context.config)
    facts = {_key(context.config, FACTS): (context.facts, context.head)}
    for cell in every:  # before the first of them takes its time
        config = cell.config
        if (key := _key(config, FACTS)) not in facts:
            reading = read_facts(config)
            facts[key] = reading.facts, reading.head
        check.facts(config, facts[key][0])
        check.text(config)
        if config.pretrain.epochs:
            check_batch("pretrain.rows", config.pretrain.rows, context.mesh, config.pretrain.grad_accum_steps)
    made: dict[str, Path] = {}  # by stage and settings, the cell that has it
    for cell in every:  # of an earlier run, which may have had other values
        made = _finished(cell.config, context.workdir / "cells" / cell.name) | made
    for number, cell in enumerate(every, 1):
        config, workdir = cell.config, context.workdir / "cells" / cell.name
        context.screen.say(f"sweep: cell {number} of {len(every)}, {cell.name}")
        run_on_process_0(
            lambda c=config, w=workdir: prepare_workdir(w, c, create=True), f"preparing {workdir.name}"
        )
        asked, head = facts[_key(config, FACTS)]
        of_cell = replace(context, config=config, workdir=workdir, facts=asked, head=head)
        keys = {stage: _key(config, stage) for stage in _stages(config)}
        others = {stage: made[key] for stage, key in keys.items() if key in made}
        run_on_process_0(lambda c=of_cell, o=others: take_over(c, o), f"linking into {workdir.name}")
        every_stage(of_cell)
        run_on_process_0(lambda w=workdir: str(write_report(w)), f"reporting on {workdir.name}")
        made = dict.fromkeys(keys.values(), workdir) | made
    run_on_process_0(lambda: conclude(context.workdir, context.config), "writing the table")


def _stages(config: Config) -> list[str]:
    systems = config.train.systems
    anchored = [anchor.STAGE] if any(config.objectives[system].anchored for system in systems) else []
    trained = (f"train/{system}" for system in systems)
    return [BASE, "mine", *anchored, *trained, *(f"evaluate/{system}" for system in ("base", *systems))]


def _key(config: Config, stage: str) -> str:
    """A stage, or the facts, with all the settings that they depend on."""
    if stage == FACTS:
        return str((config.seed, config.facts, config.world, config.evaluate.by))
    return f"{stage} {sorted(settings_of(config, stage).items())}"


def _finished(config: Config, workdir: Path) -> dict[str, Path]:
    """The stages that a cell has, by their keys; none where it is not begun.

    Raises InputError if it is of another configuration.
    """

    def read() -> list[str]:
        if not workdir.is_dir():
            return []
        prepare_workdir(workdir, config, create=True)
        return list(finished_stages(workdir))

    marks = run_on_process_0(read, f"reading {workdir.name}")
    return {_key(config, stage): workdir for stage in _stages(config) if stage in marks}


def take_over(cell: Context, made: Mapping[str, Path]) -> None:
    """Link every stage that another cell has made with the same settings, but what is begun here already."""
    marks, begun = finished_stages(cell.workdir), cell.workdir / "linking.json"
    half = json.loads(begun.read_text()) if begun.is_file() else None  # a run was killed in the middle
    if half in marks:  # or right after it
        begun.unlink()
    for stage, other in made.items():
        pairs = list(_files(cell.workdir, other, stage))
        if stage in marks:
            continue
        if stage == half:
            for target, _ in pairs:
                remove_tree(target)
        elif any(target.exists() for target, _ in pairs):
            continue
        write_json(begun, stage)
        for target, source in pairs:
            link(target, source)
        _copy_metrics(cell.workdir, other, stage)
        notes = finished_stages(other)[stage]
        marks[stage] = notes | {"from": notes.get("from", other.name)}
        write_json(cell.workdir / "finished.json", marks)
        begun.unlink()


def _files(here: Path, there: Path, stage: str) -> Iterator[tuple[Path, Path]]:
    """What a stage leaves in a workdir: where it is to be linked, and where it lies."""
    kind, _, system = stage.partition("/")
    mined, anchors = (there / "mined").glob("*"), anchor_file(there)
    names = {
        BASE: ["checkpoints/pretrain"],
        "mine": [f"mined/{path.name}" for path in mined if path.is_file() and path != anchors],
        anchor.STAGE: [str(anchors.relative_to(there))],
        "train": [f"checkpoints/{stage}", f"mined/{system}"],
        "evaluate": [f"evaluations/{system}.json"],
    }[kind]
    yield from ((here / name, (there / name).resolve()) for name in names if (there / name).exists())


def _copy_metrics(here: Path, there: Path, stage: str) -> None:
    paths = here / "metrics.jsonl", there / "metrics.jsonl"
    own, others = (path.read_text().splitlines() if path.is_file() else [] for path in paths)
    own = [line for line in own if json.loads(line)["stage"] != stage]  # of a run that was killed
    lines = own + [line for line in others if json.loads(line)["stage"] == stage]
    write_text(paths[0], "".join(f"{line}\n" for line in lines))


def conclude(workdir: Path, config: Config) -> None:
    """Print and write the table of all cells; raises InputError if one is not finished."""
    rows = collect(workdir, config)
    axes = [axis for axis in cells(config)[0].values if axis not in REPEATS]
    known = Systems(config.objectives)
    tables = (table, chosen, differences) if axes else (table, differences)
    texts = [text for told in tables if (text := told(rows, axes, known))]
    for text in texts:
        say(text)
    write_text(workdir / "sweep.md", "\n".join(texts))
    write_json(workdir / "sweep.json", [asdict(row) for row in rows])
    drawn = save_front(workdir / "sweep.png", rows, known)
    say(f"sweep: {workdir / 'sweep.md'}" + (f", {workdir / 'sweep.png'}" if drawn else ""))


def collect(workdir: Path, config: Config) -> list[Row]:
    """One row for each system and each combination of the values that it depends on, with all its seeds."""
    rows: dict[str, Row] = {}
    every = cells(config)
    axis = next((axis for axis in REPEATS if len(config.sweep.axes.get(axis, ())) > 1), "seed")
    paths = [workdir / "cells" / cell.name / "report" / "summary.json" for cell in every]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing: run the sweep to its end with the same command")
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for system in ("base", *config.train.systems):
        settings = [settings_of(cell.config, f"evaluate/{system}") for cell in every]
        axes = [a for a in every[0].values if a not in REPEATS and depends(every, settings, a)]
        own = axis == "seed" or depends(every, settings, axis)
        for cell, summary in zip(every, summaries, strict=True):
            values = {axis: cell.values[axis] for axis in axes}
            row = rows.setdefault(f"{system} {values}", Row(system, values, {}, REPEATS[axis]))
            forgot = {"forgetting": forgetting(summary).get(system)}
            again = str(cell.values.get(axis, cell.config.seed)) if own else ALL
            row.seeds.setdefault(again, summary["systems"][system] | forgot)
    return list(rows.values())
