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
    start, stop = map(int, steps.split(":"))
    at, done, results = begun, [], None  # the update called last, those traced, what the last of them gave
    running = False

    def end() -> None:
        nonlocal running, results
        if running:
            try:
                jax.block_until_ready(results)
            finally:
                running, results = False, None
                jax.profiler.stop_trace()

    def call(*arguments: Any) -> Any:
        nonlocal at, running, results
        at += 1
        if not start <= at <= stop:
            return update(*arguments)
        if not running:
            jax.block_until_ready(arguments)
            (folder / stage).mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(folder / stage)
            running = True
        results = None  # this update may take their memory over
        with jax.profiler.StepTraceAnnotation(stage, step_num=at):
            given = results = update(*arguments)
        done.append(at)
        if at == stop:
            end()
        return given

    try:
        yield call
        if not done:
            had = f"its updates were {begun + 1} to {at}"
            say(f"{stage}: nothing was traced: profile_steps is {steps}, and {had}")
    finally:
        end()
        if done:
            span = f"updates {done[0]} to {done[-1]} traced"
            say(f"{stage}: {span}; to see them: pip install xprof, then xprof {shlex.quote(str(folder))}")
