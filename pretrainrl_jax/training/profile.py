"""A trace of a few updates, for xprof: what the host and the devices do, and when."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from pretrainrl_jax.hosts.agree import first

Update = Callable[..., Any]


@contextmanager
def traced(
    update: Update, begun: int, steps: str, folder: Path, stage: str, say: Callable[[str], None]
) -> Iterator[Update]:
    """`update` as it is, or, where `steps` names some updates, one that writes a trace of them.

    The devices have finished everything before the first of them when the trace begins, and the last of them
    when it ends; in between nothing waits. Of several processes the first alone is traced: the others do the
    same. The trace is closed however the block is left, and told of when it is.

    Args:
        update: called once for each update, in order.
        begun: how many updates there were before.
        steps: the first and the last update to trace, as 10:13, both counted from 1; empty traces none.
        folder: of all traces; this one lies under the stage's name.
        stage: what the updates are called in the trace.
        say: tells where the trace is.

    Raises:
        OSError: if the folder cannot be made.
    """
    if not steps or not first():
        yield update
        return
    trace = _Trace(update, begun, steps, folder / stage, stage)
    try:
        yield trace
        if not trace.last:
            had = f"its updates were {begun + 1} to {trace.at}"
            say(f"{stage}: nothing was traced: profile_steps is {steps}, and {had}")
    finally:
        trace.end()
        if trace.last:
            span = f"updates {trace.start} to {trace.last} traced"
            say(f"{stage}: {span}; to see them: pip install xprof, then xprof {shlex.quote(str(folder))}")


class _Trace:
    """Counts updates, and traces those that are wanted."""

    def __init__(self, update: Update, begun: int, steps: str, folder: Path, stage: str) -> None:
        self.at = begun  # the update that was called last
        self.start = self.last = 0  # the updates that were traced; 0: none
        self._update = update
        self._wanted = range(int(steps.partition(":")[0]), int(steps.partition(":")[2]) + 1)
        self._folder = folder
        self._stage = stage
        self._running = False
        self._results: Any = None  # of the update that was called last

    def __call__(self, *arguments: Any) -> Any:
        self.at += 1
        if self.at not in self._wanted:
            return self._update(*arguments)
        if not self._running:
            jax.block_until_ready(arguments)
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._running, self.start = True, self.at
        self._results = None  # this update may take their memory over
        with jax.profiler.StepTraceAnnotation(self._stage, step_num=self.at):
            self._results = results = self._update(*arguments)
        self.last = self.at
        if self.at == self._wanted[-1]:
            self.end()
        return results

    def end(self) -> None:
        """Close the trace, if one is open, once what was traced is finished."""
        if not self._running:
            return
        try:
            jax.block_until_ready(self._results)
        finally:
            self._running, self._results = False, None
            jax.profiler.stop_trace()
