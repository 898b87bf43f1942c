"""A trace of a few steps, for xprof: what the host and the devices do, and when."""

import shlex
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from pretrainrl_jax.hosts.agree import is_process_0
from pretrainrl_jax.storage import spooled

StepFunction = Callable[..., Any]


@contextmanager
def traced(
    step: StepFunction, begun: int, steps: str, folder: Path, stage: str, say: Callable[[str], None]
) -> Generator[StepFunction]:
    """`step` as it is, or, where `steps` names the first and last of some (10:13), one that traces them.

    It is called once for each step, in order; `begun` were called before. `folder` is of all traces; this one
    lies under the stage's name. The devices have finished everything before the first of the steps when the
    trace begins, and the last of them when it ends; in between nothing waits. Of several processes the first
    alone is traced: the others do the same. The trace is closed however the block is left, and told of when
    it is. Raises OSError if it cannot be begun.
    """
    if not steps or not is_process_0():
        yield step
        return
    start, stop = map(int, steps.split(":"))
    at, done, results = begun, [], None  # the step called last, those traced, what the last of them gave

    def call(*arguments: Any) -> Any:
        nonlocal at, results
        at += 1
        if not start <= at <= stop:
            return step(*arguments)
        if not done:
            jax.block_until_ready(arguments)
            local = trace.enter_context(spooled(folder / stage))
            trace.enter_context(jax.profiler.trace(local))
            trace.callback(lambda: jax.block_until_ready(results))
        results = None  # this step may take their memory over
        with jax.profiler.StepTraceAnnotation(stage, step_num=at):
            given = results = step(*arguments)
        done.append(at)
        if at == stop:
            trace.close()
            results = None
        return given

    try:
        with ExitStack() as trace:
            yield call
        if not done:
            had = f"its steps were {begun + 1} to {at}"
            say(f"{stage}: nothing was traced: profile_steps is {steps}, and {had}")
    finally:
        if done:
            span = f"steps {done[0]} to {done[-1]} traced"
            say(f"{stage}: {span}; to see them: pip install xprof, then xprof {shlex.quote(str(folder))}")
