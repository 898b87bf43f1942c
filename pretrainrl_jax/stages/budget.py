"""How often the facts are visited: as train.passes says, or as often as train.device_seconds allows."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

import jax
import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.lora import join
from pretrainrl_jax.model.partitioning import replicate
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages.context import keep_json, kept_json
from pretrainrl_jax.stages.learner import Learner
from pretrainrl_jax.stages.mine import mine_negatives
from pretrainrl_jax.storage import remove_tree
from pretrainrl_jax.training.session import compiled_for

MEASURED = 4  # batches, after one that is not


class Cost(NamedTuple):
    """What training takes, in seconds."""

    a_pass: float
    first: float = 0.0  # before the first pass
    mining: float = 0.0  # each time that falsehoods are mined again
    passes_between: float = inf  # two such times

    def passes(self, seconds: float) -> float:
        """How many passes so many seconds allow; 0 or less where not even what is first."""
        left, minings = seconds - self.first, 0
        while (allowed := (left - minings * self.mining) / self.a_pass) > (
            (minings + 1) * self.passes_between
        ):
            minings += 1
        # Where the next mining does not fit, a little less than up to it: rows pack otherwise each time.
        return max(allowed, 0.99 * minings * self.passes_between if minings else allowed)


def passes_of(learner: Learner, cost: Callable[[], Cost]) -> float:
    """Passes over the facts; those of a budget are measured once and kept: a run goes on with them.

    Raises InputError if the budget is not enough for what comes before the first pass.
    """
    context, run = learner.context, learner.run
    settings = context.config.train
    if not settings.device_seconds:
        return settings.passes
    path = run.folder / "passes.json"
    passes = (kept_json(path) or {}).get("passes")
    if passes is None:
        devices = context.mesh.size
        a_pass, first, mining, between = cost()
        measured = Cost(devices * a_pass, devices * first, devices * mining, between)
        told = {"device_seconds_of_a_pass": measured.a_pass, "device_seconds_before": measured.first}
        told |= {"device_seconds_of_mining": measured.mining}
        passes = run_on_process_0(lambda: measured.passes(settings.device_seconds), "counting passes")
        if passes <= 0:
            raise InputError(
                f"train.device_seconds={settings.device_seconds:g} is too little for {run.stage}: what is "
                f"taught before its first pass takes {measured.first:.1f}"
            )
        keep_json(path, {"passes": passes} | told)
    context.screen.say(
        f"{run.stage}: {passes:.2f} passes take {settings.device_seconds:g} device seconds, by a measurement"
    )
    return passes


def passes_to_measure(learner: Learner, questions: int) -> float:
    """Passes over so many questions in which there are batches enough."""
    return max(1.0, (2 + MEASURED) * learner.context.config.train.questions / questions)


def seconds_a_question(
    learner: Learner, batches: Iterable[tuple[int, Callable[[Any], Any]]], numbers: Any, updates: int = 1
) -> float:
    """What a question takes of steps on batches, the median, as some may be compiled for.

    Of each batch there are its questions, and what makes it of the state's parameters, which is timed, too;
    one alone is taken twice. `numbers` are coefficients and schedule.
    """
    step, state, frozen = learner.step, learner.first(), learner.policy.frozen
    placed = jax.tree.map(lambda x: replicate(np.float32(x), learner.context.mesh), numbers)
    placed = (*placed, frozen) if frozen else placed
    times: list[tuple[int, float]] = []

    def updated(state: Any, batch: Any) -> Any:
        for _ in range(updates):
            state, _ = compiled_for(step, state, batch, *placed)(state, batch, *placed)
        return jax.block_until_ready(state)

    made: Any = None
    for questions, make in itertools.islice(batches, 1 + MEASURED):
        began = time.perf_counter()
        made = make(join(frozen, state.params))
        state = updated(state, made)
        times.append((questions, time.perf_counter() - began))
    if len(times) == 1:  # its time has that of compiling in it
        began = time.perf_counter()
        state = updated(state, made)
        times.append((times[0][0], time.perf_counter() - began))
    jax.tree.map(lambda x: x.delete(), state)
    return statistics.median(seconds / questions for questions, seconds in times[1:])


def seconds_of_mining(learner: Learner) -> float:
    """What mining all questions again takes, by some of them, once it was compiled for these."""
    context, policy = learner.context, learner.policy.plain
    shards = context.parts(f"{learner.run.stage}.measured")
    facts = context.asked
    some = facts[: 4 * context.config.mine.batch]
    quiet, seconds = replace(context, screen=SILENT), 0.0

    def clear() -> None:
        run_on_process_0(lambda: remove_tree(shards), f"removing {shards.name}")

    for _ in range(2):
        clear()
        began = time.perf_counter()
        mine_negatives(quiet, policy, policy, some, shards)
        seconds = time.perf_counter() - began
    clear()
    return seconds * len(facts) / len(some)
