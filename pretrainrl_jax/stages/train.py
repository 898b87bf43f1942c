"""`train`: each objective on the mined trees, every one from the same base model."""

from collections.abc import Sequence
from dataclasses import replace

import jax

from pretrainrl_jax.config import Objective
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.stages.context import BASE, Context, say
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loop import Run, fit
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.records import read_trees, refuse_unscored
from pretrainrl_jax.trees.tree import AnswerTree, gold_only


def train(context: Context) -> None:
    """Every system of `train.systems` that is not finished yet."""
    for system in context.config.train.systems:
        if f"train/{system}" in context.finished():
            say(f"train/{system}: finished, skipped")
        else:
            train_system(context, system)


def train_system(context: Context, system: str) -> None:
    """Base model, trees, rows, one compiled step, training, checkpoint."""
    config, settings = context.config, context.config.train
    objective: Objective = getattr(config.objectives, system)
    base = context.load(BASE)
    trees = read_trees(context.workdir / "mined" / "trees.array_record")

    # What an objective ignores is dropped before packing: it would only be computed for nothing.
    if objective.preference:
        refuse_unscored(trees)
    else:
        trees = [gold_only(tree) for tree in trees]
    source = pack(context, trees)
    per_update = len(trees) * settings.passes / source.batches
    say(
        f"train/{system}: {source.batches} updates of {source.rows} rows, {per_update:.1f} questions each, "
        f"rows {source.fill:.0%} full"
    )

    step = compile_step(base.model, config.optimizer, settings.ntp_scale, context.mesh)
    weights = Weights(
        objective.question_weight, objective.answer_weight, objective.preference, objective.beta
    )
    schedule = Schedule(
        objective.learning_rate, source.batches, config.optimizer.warmup, config.optimizer.final
    )
    run = Run(context.workdir, f"train/{system}", settings.accumulate, settings.save_every)
    checkpoints.describe(run.folder, base.model, base.tokenizer, context.template(settings.template))
    state = init_state(base.params, adamw(config.optimizer))
    state, seconds = fit(run, step, state, source, weights, schedule, context.mesh)
    checkpoints.save(run.folder, state, finished=True)
    context.finish(run.stage, device_seconds=seconds * context.mesh.size)
    jax.tree.map(lambda x: x.delete(), state)


def pack(context: Context, trees: Sequence[AnswerTree]) -> PackedRows:
    """The rows of all passes, cut into batches of about `train.questions` questions."""
    settings = context.config.train
    multiple = context.shards * settings.accumulate
    source = PackedRows(trees, settings.row_length, context.config.seed, settings.passes, multiple)
    rows = settings.questions * len(source.plan) / max(1, len(trees) * settings.passes)
    return replace(source, rows=max(1, round(rows / multiple)) * multiple)
