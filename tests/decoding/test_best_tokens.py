"""The largest logits by groups against a full sort, ties and gaps included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.best_tokens import GROUP, top_k

few = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])  # most are equal to many


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.sampled_from([3, GROUP * 4, GROUP * 40]), st.data())
def test_equal_ones_go_by_their_place(k: int, size: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(few, min_size=2 * size, max_size=2 * size)), np.float32)
    values = values.reshape(2, 1, size)
    found, at = top_k(values, k)
    for row, own, places in zip(values[:, 0], found[:, 0], at[:, 0], strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(own[: len(order)], row[order])
        np.testing.assert_array_equal(places[: len(order)], order)
        assert (own[len(order) :] == -np.inf).all()  # there are fewer


@pytest.mark.parametrize("k", [1, 2, 50])
def test_random_ones_are_those_of_a_sort(k: int) -> None:
    values = np.random.default_rng(k).normal(size=(3, 4, 1280)).astype(np.float32)
    found, at = top_k(values, k)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(at, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, -1))
