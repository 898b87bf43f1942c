"""What was sampled and is not learned: kept as it is, and no more of it than is needed."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import SelfimproveConfig
from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.improvement.experience import Sampled, packed, unpacked
from pretrainrl_jax.stages.selfimprove import wants_more

tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple)
cuts = st.builds(Cut, st.integers(0, 2**40), st.text(max_size=5), tokens, tokens, tokens)
logps = st.floats(allow_nan=False, allow_infinity=True)
rollouts = st.lists(st.tuples(st.integers(0, 9), logps), min_size=1, max_size=4).map(
    lambda pairs: Rollout(*(tuple(values) for values in zip(*pairs, strict=True)))
)
documents = st.tuples(cuts, st.lists(rollouts, max_size=3).map(tuple))


@given(st.integers(0, 5), st.lists(documents, max_size=4))
def test_what_is_kept_as_json_comes_back_to_the_bit(after, sampled):
    step = Sampled(after, tuple(cut for cut, _ in sampled), tuple(own for _, own in sampled))
    back = unpacked(json.loads(json.dumps(packed(step))))
    assert back == step
    assert repr(back) == repr(step)  # -0.0 is not 0.0, and 1 not 1.0


@pytest.mark.parametrize(("vocabulary", "megabytes"), [(600, 7), (128_000, 10)])
def test_a_step_of_the_paper_s_size_takes_no_more_than_is_said(vocabulary: int, megabytes: float):
    rng, documents = np.random.default_rng(0), 16

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, vocabulary, count).tolist())  # as random as no text is

    def rollout() -> Rollout:
        return Rollout(some(128), tuple((-rng.exponential(1.0, 128)).astype(np.float32).tolist()))

    made = tuple(Cut(i, f"file.jsonl line {i}", some(2048), some(1920), some(128)) for i in range(documents))
    step = Sampled(0, made, tuple(tuple(rollout() for _ in range(16)) for _ in made))
    size = len(json.dumps(packed(step))) * 256 / documents
    assert 0.8 < size / megabytes / 1e6 < 1, size


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
@pytest.mark.parametrize("updates", [1, 3])
def test_nothing_is_sampled_that_is_not_learned(ahead: int, updates: int):
    draw = random.Random(ahead)
    settings = SelfimproveConfig(steps=7, documents=6, updates=updates, staleness=ahead)
    done = outstanding = 0
    while done < settings.steps * updates:
        while wants_more(settings, done, outstanding, ahead):
            outstanding += 1
        assert 1 <= outstanding <= ahead + 1
        outstanding -= 1
        done += draw.choice([0, updates, max(1, updates - 1)])  # a step may teach little, or nothing
    assert outstanding == 0
