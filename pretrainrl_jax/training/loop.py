"""The training loop: batches of packed rows through one compiled step, with figures and checkpoints."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.model.partitioning import row_sharding
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.progress import track
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.interrupts import Interrupted, stop_requested
from pretrainrl_jax.training.metrics import MetricsWriter
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.trees.dataset import PackedRows, batches
from pretrainrl_jax.trees.rows import Rows

LOG_POINTS = 100  # lines a stage writes to metrics.jsonl, at most, plus its last update


@dataclass(frozen=True)
class Run:
    """One stage of training: where it writes and how it cuts its batches."""

    workdir: Path
    stage: str  # "pretrain" or "train/<system>"
    accumulate: int
    save_every: int = 0

    @property
    def folder(self) -> Path:
        """The stage's checkpoints."""
        return self.workdir / "checkpoints" / self.stage


def fit(
    run: Run,
    step: Any,
    state: TrainState,
    source: PackedRows,
    weights: Weights,
    schedule: Schedule,
    mesh: Mesh,
    first: int = 0,
    before: float = 0.0,
) -> tuple[TrainState, float]:
    """Train on every batch of `source` that `state` has not seen.

    Args:
        run: names of the stage.
        step: the compiled update (`step.compile_step`); it takes `state` over.
        state: the state after `state.step` updates.
        source: the packed rows; batch i is update `first` + i.
        weights: of the objective, traced scalars.
        schedule: of the learning rate, traced scalars.
        mesh: where the batches go.
        first: updates made on other rows before these.
        before: seconds spent on updates so far.

    Returns:
        The final state, and the seconds spent on updates, `before` included and compilation left out.

    Raises:
        Interrupted: after a signal, when the state is saved.
    """
    start, total = int(state.step), first + source.batches
    place = row_sharding(mesh, leading=1)

    def microsteps(rows: Rows) -> Rows:
        return Rows(*(x.reshape(run.accumulate, -1, *x.shape[1:]) for x in rows))

    if start >= total:
        return state, before
    example = microsteps(batch_of(source))
    compiled = step.lower(state, example, weights, schedule).compile()
    every = max(1, total // LOG_POINTS)
    began = marked = time.perf_counter()
    figures: dict[str, jax.Array] = {}
    sums = {"questions": 0.0, "tokens": 0.0}
    with (
        stop_requested() as stopping,
        MetricsWriter(run.workdir, run.stage, start) as writer,
        track(run.stage, total - start, "updates") as bar,
    ):
        for at, rows in enumerate(batches(source, start - first, microsteps), start=start + 1):
            state, figures = compiled(state, jax.device_put(rows, place), weights, schedule)
            sums = {k: sums[k] + figures[k] for k in sums}
            if at % every == 0 or at == total:
                read = jax.device_get(figures | {f"all_{k}": v for k, v in sums.items()})
                values = {k: float(v) for k, v in read.items()}
                now = time.perf_counter()
                rates = {f"{k}_per_second": values.pop(f"all_{k}") / (now - marked) for k in sums}
                del values["questions"], values["tokens"]
                writer.write(at, values | rates)
                marked, sums = now, dict.fromkeys(sums, 0.0)
                if not np.isfinite(values["loss"]):
                    raise FloatingPointError(f"{run.stage}: loss is {values['loss']} at update {at}")
            bar.advance(1, lambda figures=figures: {"loss": float(figures["loss"])})
            stop = stopping()
            if stop or (run.save_every and at % run.save_every == 0 and at < total):
                jax.block_until_ready(state)
                seconds = before + time.perf_counter() - began
                checkpoints.save(run.folder, state, finished=False, seconds=seconds)
            if stop:
                raise Interrupted(f"{run.stage} stopped after update {at} of {total} and saved")
    jax.block_until_ready(state)
    return state, before + time.perf_counter() - began


def resume(run: Run, state: TrainState) -> tuple[TrainState, float]:
    """Where an interrupted run of the stage stopped, and the seconds it had spent; else `state` and 0."""
    return checkpoints.restore_state(run.folder, state) or (state, 0.0)


def batch_of(source: PackedRows) -> Rows:
    """The first batch, to compile with."""
    return next(iter(batches(source)))
