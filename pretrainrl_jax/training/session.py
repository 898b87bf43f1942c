"""A training under way, for a loop to call: it steps, counts, writes metrics, saves and stops.

with Session(run, step, state, progress, feed, mesh, total_steps) as session:
    hooks = [session.checkpoint, Hook(look, every_steps=100)]
    for batch in feed:
        metrics = session.step(batch, coefficients, schedule)
        for hook in session.due(hooks):
            hook.run()
    session.finish()
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import CheckpointConfig
from pretrainrl_jax.hosts.agree import is_process_0, process_count
from pretrainrl_jax.hosts.watch import waiting
from pretrainrl_jax.model.decoder import Params
from pretrainrl_jax.model.lora import join
from pretrainrl_jax.model.mesh import AXES, replicated
from pretrainrl_jax.model.partitioning import from_shards, replicate
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.progress import NORMAL, Screen, Track
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import BEGINNING, Progress, saving
from pretrainrl_jax.training.feed import Position
from pretrainrl_jax.training.interrupts import Interrupted, stop_requested, termination_interrupts
from pretrainrl_jax.training.metrics import MetricsWriter
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.profile import traced
from pretrainrl_jax.training.step import TrainState

CHECKPOINT = CheckpointConfig()
LOG_POINTS = 100  # lines a stage writes to metrics.jsonl, at most, plus its last step
READ_EVERY = 100  # steps whose metrics wait on the device, at most: what is not finite is seen that soon
LAG = 2  # steps after which a vote counts: the devices have counted it by then, and nobody waits
NAMED = 3  # questions of a batch that is not finite named on the line; the file has them all


@dataclass(frozen=True)
class Run:
    """One stage of training: where it writes, what it does when stopped."""

    workdir: Path
    stage: str  # "pretrain" or "train/<system>"
    checkpoint: CheckpointConfig = CHECKPOINT
    skip_nonfinite: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # settings and data that checkpoints depend on
    rate: str = ""  # the setting of its learning rate
    shown: Mapping[str, str] = field(default_factory=dict)  # on the progress bar: name → metric
    carries: Sequence[str] = ()  # metrics that each line of metrics.jsonl has; null where none is computed
    scored: bool = False  # the best checkpoint has the lowest `Session.score`, not the lowest loss
    screen: Screen = NORMAL
    command: str = ""  # what goes on after an interruption
    profile: str = ""  # steps to trace, as 10:13
    own_log: bool = False  # the loop writes all lines of metrics itself, by `Session.log`

    @property
    def folder(self) -> Path:
        return self.workdir / "checkpoints" / self.stage


class NotFinite(FloatingPointError):
    """A loss or a gradient was not a number, and the run stopped without that step."""


@dataclass
class Hook:
    """Something to do between steps: `run` after every n steps, minutes, or whenever `when` holds.

    Where a loop makes several steps at a time, it is the first time after a multiple of n.
    """

    run: Callable[[], None]
    every_steps: int = 0  # 0: not by steps
    every_minutes: float = 0.0  # 0: not by minutes; process 0's clock decides
    when: Callable[[], bool] = lambda: False
    last: bool = True  # after the last step, too
    ran: float = field(default_factory=lambda: time.perf_counter())


class Session:
    """The state of a training, its compiled step, checkpoints, metrics and trace, and its processes' votes.

    `step` makes one step, by the compiled one that it is given, which takes `state` over; `due` then saves
    and stops, if any process was told to, and names the hooks whose turn it is. Signals only ask for a stop
    from the first step on. `progress` is what was done before, `frozen` what does not learn of the model.
    """

    def __init__(
        self,
        run: Run,
        step: Any,
        state: TrainState,
        progress: Progress,
        feed: Position,
        mesh: Mesh,
        total_steps: int,
        frozen: Params = None,
    ) -> None:
        self.run, self.state = run, state
        self._frozen = frozen
        self.total_steps = total_steps  # may change on the way
        self.global_step = self._last_due = int(state.step)  # steps made; and those at the last `due`
        self.score = math.inf  # of the state, where `run.scored`: the lowest is the best
        every = run.checkpoint
        self.checkpoint = Hook(self.save, every.every_steps, every.every_minutes, last=False)
        self._step, self._feed, self._mesh = step, feed, mesh
        self._consensus = _StopConsensus(mesh)
        self._seconds, self._skipped = progress.seconds, progress.skipped
        self._losses: list[float] = []  # since the last checkpoint
        self._counted = dict.fromkeys(("questions", "tokens"), 0.0)  # since the last line of metrics
        self._unread: list[_StepMetrics] = []  # reading waits for the device
        self._run_step: Any = None  # the step, from the first batch on
        self._bar: Track | None = None
        self._beside: dict[str, float] = {}  # what the bar shows with it
        self.stop_asked: Callable[[], bool] = lambda: False  # whether a signal did; it may from `_begin` on
        self._writer: MetricsWriter | None = None
        self._began, self._marked = time.perf_counter(), 0.0  # the clock; seconds when metrics were written
        self._numbers: Any = ()  # coefficients and schedule, and the same on the devices
        self._placed: Any = ()

    def __enter__(self) -> "Session":
        run, best = self.run, "score" if self.run.scored else "loss"
        with ExitStack() as stack:  # closes what is open where something cannot be opened
            saver = saving(run.folder, run.checkpoint, dict(run.about), run.screen.detail, best)
            self._saver = stack.enter_context(saver)
            self._bars = stack.enter_context(ExitStack())
            if is_process_0():  # all processes have the same metrics
                self._writer = stack.enter_context(MetricsWriter(run.workdir, run.stage, self.global_step))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def step(self, batch: Any, coefficients: Coefficients, schedule: Schedule) -> dict[str, jax.Array]:
        """One step on a batch [microsteps, rows, …] on the devices; gives its metrics, there too.

        Raises NotFinite, with the questions, if a loss or a gradient is not finite and is not to be skipped.
        """
        numbers = jax.tree.map(np.float32, (coefficients, schedule))  # a copy: the caller may change its own
        if self._numbers != numbers:
            self._numbers = numbers
            self._placed = replicate(numbers, self._mesh)
        is_first = self._run_step is None
        frozen = (self._frozen,) if self._frozen else ()
        step = self._run_step = self._run_step or self._begin(batch, *self._placed, *frozen)
        if self._bar is None:
            tracked = self.run.screen.track(self.run.stage, self.total_steps - self.global_step, "steps")
            self._bar = self._bars.enter_context(tracked)
        self.global_step, self.score = self.global_step + 1, math.inf
        with waiting(f"step {self.global_step} of {self.run.stage}"), jax.transfer_guard("disallow"):
            self.state, metrics = step(self.state, batch, *self._placed, *frozen)
            if is_first and self.run.screen.verbose:
                jax.block_until_ready(metrics)
                since = time.monotonic() - self.run.screen.began
                self.run.screen.detail(f"{self.run.stage}: first update {since:.1f} s after the command")
            read = {name: metrics[name] for name in ("loss", "grad_norm", "skipped", *self._counted)}
            self._unread.append(_StepMetrics(self.global_step, self._feed.row, read))
            if self.global_step % READ_EVERY == 0:
                self.read()
            due = self.global_step % max(1, self.total_steps // LOG_POINTS) == 0 or self._feed.ended
            if due and not self.run.own_log:
                self._write(metrics)
            self._bar.advance(1, lambda: self._shown(metrics))
        return metrics

    def due(self, hooks: Sequence[Hook]) -> Iterator[Hook]:
        """The hooks whose turn it is, the same in all processes. Raises as `stop`, after a signal to any."""
        now, before = time.perf_counter(), self._last_due
        self._last_due = self.global_step
        late = [0 < 60 * hook.every_minutes <= now - hook.ran and is_process_0() for hook in hooks]
        for hook, is_late in zip(hooks, late, strict=True):
            hook.ran = now if is_late else hook.ran  # votes count later: asked for once, it runs once
        with waiting(f"step {self.global_step} of {self.run.stage}"), jax.transfer_guard("disallow"):
            stop, *late = self._consensus.vote([self.stop_asked(), *late])
            if self._feed.ended:
                stop |= any(asked for asked, *_ in self._consensus.drain())
        if stop:
            self.stop()
        for hook, is_late in zip(hooks, late, strict=True):
            every = hook.every_steps  # several steps may have been made since: a multiple passed counts
            by_steps = every and self.global_step // every > before // every
            if (by_steps or is_late or hook.when()) and (hook.last or self.global_step < self.total_steps):
                yield hook
                hook.ran = time.perf_counter()

    @property
    def params(self) -> Params:
        """All parameters of the model as it is: the policy's."""
        return join(self._frozen, self.state.params)

    def stop(self) -> NoReturn:
        """Save the state as it is and end the stage. All processes must come here together.

        Raises Interrupted when the state is saved; NotFinite, OSError while saving.
        """
        self.save()
        self._saver.wait()
        steps = f"step {self.global_step} of {self.total_steps}"
        raise Interrupted(f"{self.run.stage} stopped after {steps} and saved")

    def save(self) -> None:
        """Write a checkpoint of the state as it is, once its metrics are where they are looked for."""
        self.publish()
        self._saver.save(self.state, self.progress())
        self._losses.clear()

    def keep(self) -> None:
        """Write a checkpoint before something ends the run, if it has made a step.

        All processes must come here together.
        """
        if self._run_step is not None:
            self.save()
            self._saver.wait()

    def progress(self) -> Progress:
        """What is done, once the metrics up to now are read."""
        self.read()
        loss = float(np.mean(self._losses)) if self._losses else math.inf
        return Progress(self._feed.row, self._spent(), self._skipped, loss, self.score, self._feed.state)

    def release(self) -> None:
        """Free what is on the devices when all is done: this object may outlive the stage."""
        jax.tree.map(lambda x: x.delete(), (self.state, self._frozen))

    def read(self) -> None:
        """Wait for the metrics of all steps up to now; raises NotFinite as `step` does."""
        read: list[_StepMetrics] = jax.device_get(self._unread)
        self._unread.clear()
        for name in self._counted:
            self._counted[name] += sum(float(step.metrics[name]) for step in read)
        bad = [step for step in read if step.metrics["skipped"]]
        self._skipped += len(bad)
        self._losses += [float(step.metrics["loss"]) for step in read if not step.metrics["skipped"]]
        if bad and not self.run.skip_nonfinite:
            self._saver.wait()  # the message names the last checkpoint
            raise _not_finite(self.run, self._feed.names(bad[0].row), bad[0])

    def log(self, metrics: Mapping[str, float | None]) -> None:
        """Write metrics of the state as it is, a line of their own in metrics.jsonl."""
        if self._writer:
            self._writer.write(self.global_step, metrics)

    def show(self, values: Mapping[str, float]) -> None:
        """Values by name that the progress bar shows from now on, beside those of `run.shown`."""
        self._beside = dict(values)

    def publish(self) -> None:
        """Let metrics written up to now be found in the workdir."""
        if self._writer:
            self._writer.publish()

    @contextmanager
    def untimed(self) -> Generator[None]:
        """What is done within it is no part of the seconds of training."""
        self._seconds = self._spent()
        yield
        self._began = time.perf_counter()

    def _spent(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    @contextmanager
    def paused(self) -> Generator[None]:
        """Within it signals interrupt at once, as outside of a session, and other work shows its progress."""
        self._bars.close()
        self._bar = None
        left = self._spent()
        with termination_interrupts(self.run.checkpoint.grace_seconds, self.run.command):
            yield
        self._marked += self._spent() - left

    def finish(self) -> Progress:
        """Write the stage's result, or keep the best of scored checkpoints; gives what was done."""
        jax.block_until_ready(self.state)
        done = self.progress()
        self.publish()
        if done.skipped:
            skipped = f"{done.skipped} of {self.global_step} steps skipped"
            self.run.screen.say(f"{self.run.stage}: {skipped}: they were not finite")
        if self.run.scored:
            self._saver.choose(self.run.screen.say)
        else:
            self._saver.finish(self.state, done)
        return done

    def _begin(self, *arguments: Any) -> Any:
        """Compile, then open all that a training needs while it steps."""
        run, start = self.run, self.global_step
        by_shape: dict[Any, Any] = {}

        def step(state: TrainState, batch: Any, *numbers: Any) -> Any:
            shapes = tuple(x.shape for x in jax.tree.leaves(batch)), jax.tree.structure((batch, numbers))
            if shapes not in by_shape:
                by_shape[shapes] = self._compiled(state, batch, *numbers)
            return by_shape[shapes](state, batch, *numbers)

        self._compiled(self.state, *arguments)  # before signals only ask
        enter = self._stack.enter_context
        self.stop_asked = enter(stop_requested(run.checkpoint.grace_seconds, run.command))
        folder = run.workdir / "profile"
        traced_step = enter(traced(step, start, run.profile, folder, run.stage, run.screen.say))
        self._marked, self.checkpoint.ran = self._spent(), time.perf_counter()
        return traced_step

    def _compiled(self, *arguments: Any) -> Any:
        """The step for arguments of these shapes: compiled once a process, outside of the time it takes."""
        with self.untimed():
            began = time.perf_counter()
            step = compiled_for(self._step, *arguments)
            self.run.screen.detail(f"{self.run.stage}: compiled in {time.perf_counter() - began:.1f} s")
        return step

    def _write(self, metrics: Mapping[str, jax.Array]) -> None:
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        self.read()
        seconds = self._spent() - self._marked
        for name, count in self._counted.items():
            del values[name]
            values[f"{name}_per_second"] = count / seconds
        self._counted = dict.fromkeys(self._counted, 0.0)
        self.log(dict.fromkeys(self.run.carries) | values | {"skipped": float(self._skipped)})
        self._marked = self._spent()

    def _shown(self, metrics: Mapping[str, jax.Array]) -> dict[str, float]:
        shown = {name: metrics[key] for name, key in self.run.shown.items() if key in metrics}
        return {name: float(value) for name, value in jax.device_get(shown).items()} | self._beside


class _StopConsensus:
    """One vote a step. The devices count them, as they do everything that all processes must agree on."""

    def __init__(self, mesh: Mesh) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec(AXES))
        self._any = jax.jit(lambda votes: votes.any(0), out_shardings=replicated(mesh))
        self._size = mesh.size
        self._counted: deque[jax.Array] = deque()

    def vote(self, asked: Sequence[bool]) -> list[bool]:
        """Ask for some things, and learn what any asked for `LAG` steps ago; of one process at once."""
        if process_count() == 1:
            return list(asked)
        own = np.array([asked], bool)
        votes = from_shards((self._size, len(asked)), self._sharding, lambda index: own)
        self._counted.append(self._any(votes))
        return self._next() if len(self._counted) > LAG else [False] * len(asked)

    def drain(self) -> list[list[bool]]:
        """What was asked for and has not counted yet: at the end of the steps."""
        return [self._next() for _ in range(len(self._counted))]

    def _next(self) -> list[bool]:
        return list(map(bool, jax.device_get(self._counted.popleft())))


def compiled_for(step: Any, *arguments: Any) -> Any:
    """The step for a state, a batch and coefficients of these shapes: compiled once, nothing is computed."""
    leaves, structure = jax.tree.flatten(arguments)
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)) for x in leaves)
    return compiled(step, structure, tuple(shapes))


@cache
def compiled(step: Any, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    return step.lower(*jax.tree.unflatten(structure, leaves)).compile()


class _StepMetrics(NamedTuple):
    at: int
    row: int  # the feed's, after it
    metrics: dict[str, Any]  # device scalars until they are read


def _not_finite(run: Run, named: list[str], bad: _StepMetrics) -> NotFinite:
    loss, norm = (float(bad.metrics[name]) for name in ("loss", "grad_norm"))
    path, norms = run.workdir / "nonfinite.json", {"loss": repr(loss), "grad_norm": repr(norm)}
    if is_process_0():
        write_json(path, {"stage": run.stage, "update": bad.at} | norms | {"questions": named})
    shown = "; ".join(named[:NAMED]) + (f"; and {len(named) - NAMED} more in {path}" if named[NAMED:] else "")
    step = checkpoints.latest_step(run.folder)
    kept = f"the checkpoint of step {step} is kept" if step else "no checkpoint was saved before"
    return NotFinite(
        f"{run.stage}: the loss is {loss} and the gradient's norm {norm} at step {bad.at}, of: {shown}; "
        f"{kept}. Lower {run.rate}, or leave such steps out with --optimizer.nonfinite=skip"
    )


def resume(run: Run, state: TrainState) -> tuple[TrainState, Progress]:
    """Where an interrupted run of the stage stopped, and what it had done; else `state`, and nothing.

    Raises InputError if the checkpoint there depends on other settings or data.
    """
    warn = run.screen.warn
    restored = checkpoints.restore_state(
        run.folder, state, dict(run.about), lambda text: warn(f"{run.stage}: {text}")
    )
    if restored is None:
        return state, BEGINNING
    run.screen.say(f"{run.stage}: goes on after step {int(restored[0].step)}")
    return restored
