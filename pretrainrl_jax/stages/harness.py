"""`evaluate --harness`: standard evaluations of every system of a workdir, or of one model."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pretrainrl_jax.evaluation.harness import run_harness
from pretrainrl_jax.evaluation.tasks import Task
from pretrainrl_jax.report.ability import ability, folder, read_harness, table
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.stages.context import Context, keep_json, say, stage_of
from pretrainrl_jax.training.loading import Loaded, load
from pretrainrl_jax.workdir import called

Json = dict[str, Any]
LENGTH = 4096  # tokens read at once by a model that states no limit


def harness(context: Context, tasks: Sequence[Task]) -> None:
    """The base model and every trained system on every task that is not done yet, then the table."""
    finished, known = context.finished(), Systems(context.config.objectives)
    systems = ["base", *(s for s in context.config.train.systems if f"train/{s}" in finished)]
    for system in systems:
        stage = stage_of(system)
        trained = finished.get(stage, {}).get("ended")
        before = read_harness(context.workdir, known).get(system, {"tasks": {}})["tasks"]
        provenance = how(context, trained)
        left = [task for task in tasks if before.get(task.name, {}).get("made_with") != provenance]
        if left:
            evaluate_tasks(context, context.load(stage), left, system, trained, before)
        else:
            context.screen.say(f"harness/{system}: finished, skipped")
    records = read_harness(context.workdir, known)
    show({system: records[system] for system in systems}, tasks, known)


def evaluate_model(context: Context, source: str, dtype: str, tasks: Sequence[Task]) -> None:
    """The results of a model of no workdir, in a file of its folder's name: what is there is replaced."""
    name = called(source)
    loaded = load(source, context.mesh, dtype, chosen=context.chosen)
    show({name: {"tasks": evaluate_tasks(context, loaded, tasks, name, source, {})}}, tasks, Systems({}))
    say(f"results: {folder(context.workdir) / name}.json")


def evaluate_tasks(
    context: Context, loaded: Loaded, tasks: Sequence[Task], name: str, model: str | None, done: Json
) -> Json:
    """The results by task, those that are done included; each is written as soon as it is there."""
    settings = context.config.harness
    stated = loaded.origin.get("config", {}).get("max_position_embeddings")
    for task in tasks:
        label = f"harness/{name}/{task.name}"
        result = run_harness(
            loaded.model,
            loaded.params,
            loaded.tokenizer,
            task,
            max_length=settings.length or stated or LENGTH,
            limit=settings.limit,
            chat=settings.chat,
            seed=context.config.seed,
            tokens=settings.tokens,
            track=partial(context.screen.track, label),
        )
        if short := result["shortened"]:
            context.screen.say(f"{label}: {short} contexts were too long and lost their beginning")
        done[task.name] = {"made_with": how(context, model), **result}
        keep_json(folder(context.workdir) / f"{name}.json", {"system": name, "tasks": done})
    return done


def how(context: Context, model: str | None) -> Json:
    """The model and the settings that results depend on."""
    settings = {name: x for name, x in asdict(context.config.harness).items() if name != "tokens"}
    return settings | {"seed": context.config.seed, "model": model}


def show(records: dict[str, Json], tasks: Sequence[Task], known: Systems) -> None:
    """The systems side by side on these tasks."""
    rows = ability(records, known, [task.name for task in tasks])
    say(table(rows) if rows else "these tasks have no metric")
