"""`train`: each objective on the mined trees, every one from the same base model."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Objective
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import once
from pretrainrl_jax.mining.fingerprint import (
    PROBES,
    TOLERANCE,
    differences,
    fingerprint,
    probe_difference,
    probes,
)
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.stages.context import BASE, Context
from pretrainrl_jax.stages.depends import settings_of
from pretrainrl_jax.stages.mine import add_references, find_falsehoods
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.loop import Run, fit, resume
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import TrainState, compile_step, first_state
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.packing import Capacity
from pretrainrl_jax.trees.records import digest, read_trees, refuse_unscored, write_trees
from pretrainrl_jax.trees.tree import AnswerTree, gold_only

ROOM = 1.2  # of the first round's targets and slots a row


def train(context: Context) -> None:
    """Every system of `train.systems` that is not finished yet."""
    for system in context.config.train.systems:
        if not context.done(f"train/{system}"):
            train_system(context, system)


def train_system(context: Context, system: str) -> None:
    """Base model, trees, one compiled step; in each round falsehoods, rows, training; a checkpoint."""
    config, settings = context.config, context.config.train
    objective: Objective = config.objectives[system]
    began = time.perf_counter()
    base = context.load(BASE)
    trees = read_mined(context, base)
    # What an objective ignores is dropped before packing: it would only be computed for nothing.
    if objective.dpo.weight:
        refuse_unscored(trees)
    else:
        trees = [gold_only(tree) for tree in trees]

    step = compile_step(base.model, config.optimizer, settings.ntp_scale, context.mesh)
    weights = Weights(
        objective.ntp.question,
        objective.ntp.answer,
        objective.dpo.weight,
        objective.dpo.beta,
        objective.ntp.answer_mean,
    )
    questions = {fact.id: fact.question for fact in context.trained}
    run = Run(
        context.workdir,
        f"train/{system}",
        settings.accumulate,
        config.checkpoint,
        skip_nonfinite=config.optimizer.nonfinite == "skip",
        about=settings_of(config, f"train/{system}") | {"data": digest(trees)},
        name=lambda tree: questions[tree.id],
        rate=f"objectives.{system}.learning_rate",
        shown={"true": "logp_gold"}  # log-probabilities: one is to rise, the other to fall
        | ({"false": "logp_negative"} if objective.dpo.weight else {"loss": "loss"}),
        screen=context.screen,
        command=context.command,
        profile=config.profile_steps,
    )
    template = context.template(settings.template)
    checkpoints.describe(run.folder, base.model, base.tokenizer, template, base.origin)
    state, progress = resume(run, first_state(base.model, base.params, config.optimizer, context.mesh))
    jax.tree.map(lambda x: x.delete(), base.params)  # no reference model is kept while training
    if not int(state.step):  # what an earlier training of this system mined is of another policy
        old = refreshed(context, system)
        once(lambda: shutil.rmtree(old, ignore_errors=True), f"beginning {run.stage}")

    whole = pack(context, trees)
    context.screen.say(
        f"{run.stage}: {whole.batches} updates of {whole.rows} rows, "
        f"{len(trees) * settings.passes / whole.batches:.1f} questions each, rows {whole.fill:.0%} full"
    )
    done, of_rounds = 0, rounds(objective, len(trees), settings.passes, whole.batches)
    size = roomier(whole.capacity) if len(of_rounds) > 1 else whole.capacity
    for span in of_rounds:
        if span.number:
            trees, progress = refresh(context, run, base, state, progress, trees, span.number, done)
        source = replace(whole, trees=trees, start=span.start, passes=span.stop, at_least=size)
        size = source.capacity
        # Later rounds' rows are not known yet: as many updates a question as in this one.
        updates = done + round(source.batches * (settings.passes - span.start) / (span.stop - span.start))
        schedule = Schedule(objective.learning_rate, updates, config.optimizer.warmup, config.optimizer.final)
        done += source.batches
        if int(state.step) < done:  # else an earlier run has finished this round
            state, progress = fit(run, step, state, source, weights, schedule, context.mesh, progress)
        if int(state.step) == done:
            progress = replace(progress, row=0)  # the next round has rows of its own
    with run.saving() as saver:
        saver.finish(state, progress)
    context.finish(
        run.stage,
        device_seconds=progress.seconds * context.mesh.size,
        seconds=time.perf_counter() - began,
        updates=int(state.step),
        skipped=progress.skipped,
    )
    jax.tree.map(lambda x: x.delete(), state)


@dataclass(frozen=True)
class Round:
    """A stretch of training on one set of negatives."""

    number: int
    start: float  # passes over the facts before it
    stop: float  # and after it


def rounds(objective: Objective, facts: int, passes: int, updates: int) -> list[Round]:
    """One round, or one for every `refresh_every` updates of the `updates` planned.

    A round is cut by questions, not by rows, since later rounds' rows depend on what is mined then: it takes
    `refresh_every` updates to within the packing of its rows.
    """
    if not objective.refresh_every or not objective.dpo.weight:
        return [Round(0, 0.0, passes)]
    visits = passes * facts
    of_round = max(1, round(objective.refresh_every * visits / updates))
    return [
        Round(number, first / facts, min(first + of_round, visits) / facts)
        for number, first in enumerate(range(0, visits, of_round))
    ]


def pack(context: Context, trees: Sequence[AnswerTree]) -> PackedRows:
    """The rows of all passes, cut into batches of about `train.questions` questions."""
    settings = context.config.train
    multiple = settings.accumulate
    source = PackedRows(
        trees,
        settings.row_length,
        context.config.seed,
        settings.passes,
        multiple,
        context.config.mine.negatives,
        settings.layout,
    )
    rows = settings.questions * len(source.plan) / max(1, len(trees) * settings.passes)
    return replace(source, rows=max(1, round(rows / multiple)) * multiple)


def roomier(size: Capacity) -> Capacity:
    """Sizes with room to spare for later rounds' negatives, so that the compiled step serves them too."""
    return replace(size, targets=round(ROOM * size.targets), slots=round(ROOM * size.slots))


def read_mined(context: Context, base: Loaded) -> list[AnswerTree]:
    """The mined trees, after a check that they were made with this model, these facts and these settings.

    Raises:
        InputError: if there are none, or saying what differs.
    """
    folder = context.workdir / "mined"
    trees = read_trees(folder / "trees.array_record")
    stamp = folder / "fingerprint.json"
    if not stamp.is_file():
        raise InputError(f"{folder} does not say what it was mined with: run `mine` with this workdir again")
    mined = json.loads(stamp.read_text(encoding="utf-8"))
    now = fingerprint(
        base.model,
        base.params,
        base.tokenizer,
        context.template(context.config.train.template),
        context.asked(context.trained),
        asdict(context.config.mine),
    )
    differ = differences(mined["made_with"], now)
    if not differ:
        again = probes(add_references(context, base, trees[:PROBES]))
        nats = probe_difference(mined["probes"], again)
        if not nats <= TOLERANCE[context.config.model.dtype]:
            differ = [f"log-probabilities computed again are {nats:.2g} nats away"]
    if differ:
        raise InputError(
            f"the falsehoods in {folder} are of something else: {'; '.join(differ)}. "
            "Run `mine` with this workdir again"
        )
    return trees


def refreshed(context: Context, system: str) -> Path:
    """Where a system keeps the falsehoods it mined while training."""
    return context.workdir / "mined" / system


def refresh(
    context: Context,
    run: Run,
    base: Loaded,
    state: TrainState,
    progress: Progress,
    trees: Sequence[AnswerTree],
    number: int,
    done: int,
) -> tuple[list[AnswerTree], Progress]:
    """The trees of a later round: the current policy's own falsehoods, gold answers scored anew.

    References are the base model's, read again, used and freed, or (renewed) the current policy's for every
    branch, gold included, as in iterative RPO (arXiv 2404.19733). An interrupted run finds them in its file.

    Args:
        context: its settings say where negatives come from.
        run: the stage.
        base: of the base model, its tokenizer and template; its parameters are not read.
        state: after the update that ends the last round.
        progress: after it, saved with the state.
        trees: of the last round.
        number: of the round, from 1.
        done: updates of the earlier rounds.

    Returns:
        The trees, and the progress with the time that this took.
    """
    system = run.stage.removeprefix("train/")
    path = refreshed(context, system) / f"round{number}.array_record"
    parts = path.with_suffix(".parts")

    def mined() -> bool:
        if path.is_file():
            shutil.rmtree(parts, ignore_errors=True)
        return path.is_file()

    if once(mined, f"reading {path.name}"):
        return read_trees(path), progress
    began = time.perf_counter()
    with run.saving() as saver:  # mining may be interrupted
        saver.save(state, progress)
    objective: Objective = context.config.objectives[system]
    policy = Loaded(base.model, state.params, base.tokenizer, base.template)
    renewed = objective.reference == "renewed"
    kept = {tree.id for tree in trees}
    facts = [fact for fact in context.asked(context.trained) if fact.id in kept]
    reference = policy if renewed else context.load(BASE)
    found = find_falsehoods(context, policy, reference, facts, parts, run.stage)
    if not renewed:
        jax.tree.map(lambda x: x.delete(), reference.params)
    before = {(tree.id, b.text) for tree in trees for b in tree.branches[1:]}
    now = {(tree.id, b.text) for tree in found.trees for b in tree.branches[1:]}
    context.screen.say(
        f"{run.stage}: mined again after update {done}: {len(now)} negatives, "
        f"{len(now - before) / max(1, len(now)):.0%} of them new"
    )

    def write() -> None:
        write_json(path.with_suffix(".json"), found.statistics)
        write_trees(path, found.trees)
        shutil.rmtree(parts)

    once(write, f"writing {path.name}")
    return found.trees, replace(progress, seconds=progress.seconds + time.perf_counter() - began)
