"""As many passes as a time allows, and what a question takes."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import Config, MeshConfig, TrainConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.stages import budget
from pretrainrl_jax.stages.budget import Cost, passes_of, passes_to_measure, seconds_a_question


def took(cost: Cost, passes: float) -> float:
    """What so many passes take: mined again whenever another stretch begins."""
    minings = max(0, int(np.ceil(passes / cost.passes_between - 1e-9)) - 1)
    return cost.first + passes * cost.a_pass + minings * cost.mining


@given(
    a_pass=st.floats(0.5, 9),
    first=st.floats(0, 5),
    mining=st.floats(0, 20),
    between=st.floats(0.3, 4),
    seconds=st.floats(6, 200),
)
def test_no_more_passes_would_fit(a_pass, first, mining, between, seconds) -> None:
    """But for a hundredth, where the next mining is what does not fit."""
    cost = Cost(a_pass, first, mining, between)
    passes = cost.passes(seconds)
    assert took(cost, passes) <= seconds + 1e-6
    assert took(cost, passes / 0.99 + 1e-3) > seconds - 1e-2


def test_without_mining_it_is_a_division() -> None:
    assert Cost(2.0).passes(7) == 3.5
    assert Cost(2.0, first=8).passes(7) < 0


def learning(folder: Path, seconds: float, said: list[str]) -> Any:
    """What `passes_of` reads of a learner, on two devices."""
    train = TrainConfig(passes=3.0, device_seconds=seconds, questions=8)
    context = SimpleNamespace(
        config=Config(train=train), mesh=SimpleNamespace(size=2), screen=SimpleNamespace(say=said.append)
    )
    return SimpleNamespace(context=context, run=SimpleNamespace(folder=folder, stage="train/dpo"))


def test_passes_of_a_budget_are_measured_once_and_kept(tmp_path: Path) -> None:
    costs, said = [Cost(3.0, first=1.0)], list[str]()
    for _ in range(2):  # the second is a run that goes on
        assert (
            passes_of(learning(tmp_path, 20.0, said), costs.pop) == 3.0
        )  # 2 + 3 passes of 6 devices' seconds
    assert said == ["train/dpo: 3.00 passes take 20 device seconds, by a measurement"] * 2
    assert json.loads((tmp_path / "passes.json").read_text()) == {
        "passes": 3.0, "device_seconds_of_a_pass": 6.0, "device_seconds_before": 2.0,
        "device_seconds_of_mining": 0.0,
    }  # fmt: skip


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        passes_of(learning(tmp_path, 2.0, []), lambda: Cost(3.0, first=1.5))
    assert str(refused.value) == (
        "train.device_seconds=2 is too little for train/dpo: what is taught before its first pass takes 3.0"
    )
    assert not list(tmp_path.iterdir())


def test_without_a_budget_nothing_is_measured(tmp_path: Path) -> None:
    assert passes_of(learning(tmp_path, 0.0, []), lambda: pytest.fail("it is measured")) == 3.0


def test_enough_is_measured_of_few_questions_and_a_pass_of_many(tmp_path: Path) -> None:
    assert passes_to_measure(learning(tmp_path, 1.0, []), 16) == 3.0  # 6 batches of 8 questions
    assert passes_to_measure(learning(tmp_path, 1.0, []), 1000) == 1.0


class Clock:
    """Time that goes on when it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize("batches", [1, 3, 9])
def test_a_question_takes_what_batches_after_the_first_take(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has compiling in it: a single one is taken again."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    made = []

    def compiled_for(*arguments):
        def step(state, batch, *numbers):
            made.append(batch)
            clock.now += 100 if len(made) == 1 else 3
            return state, {}

        return step

    monkeypatch.setattr(budget, "compiled_for", compiled_for)
    state = State(jnp.zeros(2))
    listed = [(6, lambda params, number=number: number) for number in range(batches)]
    learner: Any = SimpleNamespace(step=None, first=lambda: state, policy=SimpleNamespace(frozen=None))
    learner.context = SimpleNamespace(mesh=make_mesh(MeshConfig()))
    assert seconds_a_question(learner, iter(listed), (1.0,)) == pytest.approx(0.5)
    assert made == ([0, 0] if batches == 1 else list(range(min(batches, 1 + budget.MEASURED))))


@jax.tree_util.register_dataclass
@dataclass
class State:
    """What a step goes on from."""

    params: jax.Array
