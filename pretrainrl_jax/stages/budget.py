"""How often the facts are visited: as train.passes says, or as often as train.device_seconds allows."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training.session import Run, compiled_for

MEASURED = 4  # batches, after one that is not


def passes_of(context: Context, run: Run, seconds_of_a_pass: Callable[[], float]) -> float:
    """Passes over the facts; those of a budget are measured once and kept: a run goes on with them."""
    settings = context.config.train
    if not settings.device_seconds:
        return settings.passes
    path = run.folder / "passes.json"

    def read() -> float | None:
        return json.loads(path.read_text(encoding="utf-8"))["passes"] if path.is_file() else None

    passes = run_on_process_0(read, f"reading {path.name}")
    if passes is None:
        seconds = seconds_of_a_pass() * context.mesh.size

        def write() -> float:
            passes = settings.device_seconds / seconds
            write_json(path, {"passes": passes, "device_seconds_of_a_pass": seconds})
            return passes

        passes = run_on_process_0(write, f"writing {path.name}")
    context.screen.say(
        f"{run.stage}: {passes:.2f} passes take {settings.device_seconds:g} device seconds, by a measurement"
    )
    return passes


def passes_to_measure(context: Context, questions: int) -> float:
    """Passes over so many questions in which there are batches enough."""
    return max(1.0, (2 + MEASURED) * context.config.train.questions / questions)


def seconds_a_question(
    step: Any,
    state: Any,
    batches: Iterable[tuple[int, Callable[[Any], Any]]],
    numbers: Any,
    mesh: Mesh,
    updates: int = 1,
) -> float:
    """What a question takes of steps on batches; `state` is used up.

    Args:
        step: the jitted step.
        state: the first one.
        batches: of each its questions, and what makes it of the state's parameters, which is timed too.
        numbers: coefficients and schedule.
        mesh: where they go.
        updates: on each batch.
    """
    placed = jax.tree.map(lambda x: replicate(np.float32(x), mesh), numbers)
    began, asked = time.perf_counter(), 0
    for place, (questions, make) in zip(range(1 + MEASURED), batches, strict=False):
        batch = make(state.params)
        for _ in range(updates):
            state, _ = compiled_for(step, state, batch, *placed)(state, batch, *placed)
        jax.block_until_ready(state)
        if place == 0:  # it was compiled for
            began = time.perf_counter()
        asked += questions * (place > 0)
    seconds = time.perf_counter() - began
    jax.tree.map(lambda x: x.delete(), state)
    return seconds / asked
