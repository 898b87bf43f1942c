"""A trace of a few steps, for xprof: what the host and the devices do, and when."""

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
    lies under the stage's name. The devices are done with all before it when it begins, and with the last of
    the steps when it ends, or the block is left. Of several processes the first alone is traced.
    """
    if not steps or not is_process_0():
        yield step
        return
    first, stop = map(int, steps.split(":"))
    at, start = begun, max(first, begun + 1)
    with ExitStack() as trace:

        def call(*arguments: Any) -> Any:
            nonlocal at
            at += 1
            if at == start <= stop:
                jax.block_until_ready(arguments)
                trace.callback(say, f"{stage}: traced; to see it: pip install xprof, then xprof {folder}")
                trace.enter_context(jax.profiler.trace(trace.enter_context(spooled(folder / stage))))
            with jax.profiler.StepTraceAnnotation(stage, step_num=at):
                results = step(*arguments)
            if at == stop:
                jax.block_until_ready(results)
                trace.close()
            return results

        yield call
        if not start <= min(at, stop):
            had = f"its steps were {begun + 1} to {at}"
            say(f"{stage}: nothing was traced: profile_steps is {steps}, and {had}")
