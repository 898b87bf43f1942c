"""The training loop: batches of packed rows through one compiled step, with figures and checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Checkpoint
from pretrainrl_jax.hosts.agree import first
from pretrainrl_jax.hosts.watch import waiting
from pretrainrl_jax.model.mesh import row_sharding, whole_rows
from pretrainrl_jax.model.partitioning import own_rows, place_own_rows, place_whole
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.progress import NORMAL, Screen
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import BEGINNING, Progress, Saver, saving
from pretrainrl_jax.training.interrupts import Interrupted, stop_requested
from pretrainrl_jax.training.metrics import MetricsWriter, NoMetrics
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.profile import traced
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.training.votes import Vote, Votes
from pretrainrl_jax.trees.dataset import PackedRows, Share
from pretrainrl_jax.trees.rows import Rows
from pretrainrl_jax.trees.tree import AnswerTree

CHECKPOINT = Checkpoint()
LOG_POINTS = 100  # lines a stage writes to metrics.jsonl, at most, plus its last update
READ_EVERY = 100  # updates whose figures wait on the device, at most: what is not finite is seen that soon
Numbers = TypeVar("Numbers", Weights, Schedule)
NAMED = 3  # questions of a batch that is not finite named on the line; the file has them all


@dataclass(frozen=True)
class Run:
    """One stage of training: where it writes, how it cuts its batches, what it does when stopped."""

    workdir: Path
    stage: str  # "pretrain" or "train/<system>"
    accumulate: int = 1
    checkpoint: Checkpoint = CHECKPOINT
    skip_nonfinite: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # settings and data that checkpoints depend on
    name: Callable[[AnswerTree], str] = lambda tree: tree.id  # how a tree is called in messages
    rate: str = ""  # the setting of its learning rate
    shown: Mapping[str, str] = field(default_factory=dict)  # on the progress bar: name → figure
    screen: Screen = NORMAL
    command: str = ""  # what goes on after an interruption
    profile: str = ""  # updates to trace, as 10:13

    @property
    def folder(self) -> Path:
        """The stage's checkpoints."""
        return self.workdir / "checkpoints" / self.stage

    def saving(self) -> AbstractContextManager[Saver]:
        """The stage's folder opened for checkpoints."""
        return saving(self.folder, self.checkpoint, dict(self.about), self.screen.detail)


class NotFinite(FloatingPointError):
    """A loss or a gradient was not a number, and the run stopped without that update."""


def fit(
    run: Run,
    step: Any,
    state: TrainState,
    source: PackedRows,
    weights: Weights,
    schedule: Schedule,
    mesh: Mesh,
    progress: Progress = BEGINNING,
) -> tuple[TrainState, Progress]:
    """Train on every row of `source` from row `progress.row` on.

    Args:
        run: the stage.
        step: the compiled update (`step.compile_step`); it takes `state` over.
        state: the state after `state.step` updates.
        source: the packed rows.
        weights: of the objective, traced scalars.
        schedule: of the learning rate, traced scalars.
        mesh: where the batches go.
        progress: what was done before.

    Returns:
        The final state, and the progress, compilation left out of its seconds.

    Raises:
        Interrupted: after a signal, when the state is saved.
        NotFinite: naming the questions, if a loss or a gradient is not finite and is not to be skipped.
        OSError: if a checkpoint cannot be written.
    """
    start = int(state.step)
    total = start + -(-(len(source) - progress.row) // source.rows)
    width = whole_rows(mesh, source.rows // run.accumulate)
    share = Share(source, run.accumulate, width, own_rows(mesh, width))

    def place(rows: Rows) -> Rows:
        return place_own_rows(rows, mesh, share.places, width)

    if start >= total:
        return state, progress
    weights, schedule = jax.tree.map(lambda x: place_whole(x, mesh), (_float32(weights), _float32(schedule)))
    compiled = _compiled(run, step, state, share, weights, schedule, mesh)
    every = max(1, total // LOG_POINTS)
    with (
        stop_requested(run.checkpoint.grace_seconds, run.command) as stopping,
        run.saving() as saver,
        MetricsWriter(run.workdir, run.stage, start) if first() else NoMetrics() as writer,
        traced(compiled, start, run.profile, run.workdir / "profile", run.stage, run.screen.say) as update,
        run.screen.track(run.stage, total - start, "updates") as bar,
        jax.transfer_guard("disallow"),
    ):
        votes = Votes(mesh)
        began = marked = saved = time.perf_counter()
        tally = _Tally(progress.skipped)

        def reached(at: int) -> Progress:
            """What is done after update `at`, once the figures up to it are read."""
            if (bad := tally.read()) and not run.skip_nonfinite:
                row = progress.row + (bad[0].at - start - 1) * source.rows
                saver.wait()  # the message names the last checkpoint
                raise _not_finite(run, source, row, bad[0])
            row = progress.row + (at - start) * source.rows
            return Progress(row, progress.seconds + time.perf_counter() - began, tally.skipped, tally.loss())

        def save(at: int) -> None:
            with jax.transfer_guard("allow"):  # how Orbax takes the state off the devices is its own affair
                saver.save(state, reached(at))
            tally.losses.clear()

        for at, rows in enumerate(share.batches(progress.row), start=start + 1):
            with waiting(f"update {at} of {run.stage}"):
                state, figures = update(state, place(rows), weights, schedule)
                tally.add(at, figures)
                if at % READ_EVERY == 0:
                    reached(at)
                if at % every == 0 or at == total:
                    values = {k: float(v) for k, v in jax.device_get(figures).items()}
                    done = reached(at)
                    rates = tally.per_second(time.perf_counter() - marked)
                    del values["questions"], values["tokens"]
                    writer.write(at, values | rates | {"skipped": float(done.skipped)})
                    marked = time.perf_counter()
                bar.advance(1, lambda figures=figures: _shown(run, figures))
                minutes = (time.perf_counter() - saved) / 60
                late = bool(run.checkpoint.every_minutes) and minutes >= run.checkpoint.every_minutes
                agreed = votes.cast(Vote(stopping(), late and first()))
                if at == total:
                    agreed = Vote(agreed.stop or votes.rest().stop, False)
            by_updates = run.checkpoint.every_updates and at % run.checkpoint.every_updates == 0
            if agreed.stop or (at < total and (by_updates or agreed.save)):
                save(at)
                saved = time.perf_counter()
            if agreed.stop:
                saver.wait()
                raise Interrupted(f"{run.stage} stopped after update {at} of {total} and saved")
        jax.block_until_ready(state)
        done = reached(total)
    if done.skipped:
        run.screen.say(f"{run.stage}: {done.skipped} of {total} updates skipped: they were not finite")
    return state, done


def _compiled(
    run: Run, step: Any, state: TrainState, share: Share, weights: Weights, schedule: Schedule, mesh: Mesh
) -> Any:
    """The step for batches of this shape; nothing is read for it."""
    began = time.perf_counter()
    leading, rows = (share.microsteps, share.width), row_sharding(mesh, leading=1)
    empty = share.source.empty
    batch = Rows(*(jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=rows) for x in empty))
    compiled = step.lower(state, batch, weights, schedule).compile()
    run.screen.detail(f"{run.stage}: compiled in {time.perf_counter() - began:.1f} s")
    return compiled


def _float32(numbers: Numbers) -> Numbers:
    """The same numbers in the dtype that the step is compiled for, whatever they were given as."""
    return jax.tree.map(np.float32, numbers)


def _shown(run: Run, figures: Mapping[str, jax.Array]) -> dict[str, float]:
    values = jax.device_get({name: figures[key] for name, key in run.shown.items()})
    return {name: float(value) for name, value in values.items()}


class _Update(NamedTuple):
    """Figures of one update that the loop itself reads."""

    at: int
    figures: dict[str, Any]  # device scalars until they are read


class _Tally:
    """Figures of the updates since they were last read: reading waits for the device, adding does not."""

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped
        self.losses: list[float] = []  # since the last checkpoint
        self._counted = dict.fromkeys(("questions", "tokens"), 0.0)  # since the last line of metrics
        self._unread: list[_Update] = []

    def add(self, at: int, figures: Mapping[str, jax.Array]) -> None:
        """Take an update's figures, wherever they are."""
        names = ("loss", "grad_norm", "skipped", *self._counted)
        self._unread.append(_Update(at, {name: figures[name] for name in names}))

    def read(self) -> list[_Update]:
        """Wait for all figures; gives the updates that were not finite."""
        read = [_Update(at, figures) for at, figures in jax.device_get(self._unread)]
        self._unread.clear()
        for name in self._counted:
            self._counted[name] += sum(float(update.figures[name]) for update in read)
        bad = [update for update in read if update.figures["skipped"]]
        self.skipped += len(bad)
        self.losses += [float(update.figures["loss"]) for update in read if not update.figures["skipped"]]
        return bad

    def loss(self) -> float:
        """Mean loss since the last checkpoint; infinite where no update was finite."""
        return float(np.mean(self.losses)) if self.losses else math.inf

    def per_second(self, seconds: float) -> dict[str, float]:
        """Questions and tokens a second since this was last asked."""
        rates = {f"{name}_per_second": count / seconds for name, count in self._counted.items()}
        self._counted = dict.fromkeys(self._counted, 0.0)
        return rates


def _not_finite(run: Run, source: PackedRows, row: int, update: _Update) -> NotFinite:
    """What went wrong in the update that began with `row`, and what can be done."""
    planned = source.plan[row : row + source.rows]
    named = list(dict.fromkeys(run.name(source.trees[index]) for row in planned for index in row))
    loss, norm = (float(update.figures[name]) for name in ("loss", "grad_norm"))
    path = run.workdir / "nonfinite.json"
    record = {
        "stage": run.stage,
        "update": update.at,
        "loss": repr(loss),
        "grad_norm": repr(norm),
        "questions": named,
    }
    if first():
        write_json(path, record)
    shown = "; ".join(named[:NAMED]) + (f"; and {len(named) - NAMED} more in {path}" if named[NAMED:] else "")
    step = checkpoints.latest_step(run.folder)
    kept = f"the checkpoint of update {step} is kept" if step else "no checkpoint was saved before"
    return NotFinite(
        f"{run.stage}: the loss is {loss} and the gradient's norm {norm} at update {update.at}, of: {shown}; "
        f"{kept}. Lower {run.rate}, or leave such updates out with --optimizer.nonfinite=skip"
    )


def resume(run: Run, state: TrainState) -> tuple[TrainState, Progress]:
    """Where an interrupted run of the stage stopped, and what it had done; else `state`, and nothing.

    Raises:
        InputError: if the checkpoint there depends on other settings or data.
    """

    def warn(text: str) -> None:
        run.screen.warn(f"{run.stage}: {text}")

    found = checkpoints.restore_state(run.folder, state, dict(run.about), warn)
    if found is None:
        return state, BEGINNING
    run.screen.say(f"{run.stage}: goes on after update {int(found[0].step)}")
    return found
