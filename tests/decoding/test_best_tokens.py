"""The largest logits by groups against a full sort, ties and gaps included; with all else against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.best_tokens import FIRST, GROUP, _merge, best_tokens, top_k
from pretrainrl_jax.model.vocabulary import MeshAxes

few = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])  # most are equal to many


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.sampled_from([3, FIRST * 4, FIRST * 40, FIRST * 40 - 5]), st.data())
def test_equal_ones_go_by_their_place(k: int, size: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(few, min_size=2 * size, max_size=2 * size)), np.float32)
    values = values.reshape(2, 1, size)
    found, at = top_k(values, k)
    for row, own, places in zip(values[:, 0], found[:, 0], at[:, 0], strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(own[: len(order)], row[order])
        np.testing.assert_array_equal(places[: len(order)], order)
        assert (own[len(order) :] == -np.inf).all()  # there are fewer


@given(st.lists(st.lists(few, min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 4), st.data())
def test_parts_in_any_order_merge_by_value_then_token(parts: list[list[float]], k: int, data: st.DataObject):
    values = np.array(parts, np.float32).ravel()
    tokens = np.array(data.draw(st.permutations(range(values.size))), np.int32)
    found, which = _merge(jnp.asarray(values), jnp.asarray(tokens), k)
    order = np.lexsort((tokens, -values))[:k]
    np.testing.assert_array_equal(found, values[order])
    np.testing.assert_array_equal(which, tokens[order])


@pytest.mark.parametrize("k", [1, 2, 50])
def test_random_ones_are_those_of_a_sort(k: int) -> None:
    values = np.random.default_rng(k).normal(size=(3, 4, 1280)).astype(np.float32)
    found, at = top_k(values, k)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(at, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, -1))


@settings(deadline=None, max_examples=15)
@given(
    vocabulary=st.sampled_from([3, GROUP, 5 * GROUP + 3, 203]),
    k=st.sampled_from([1, 4, 30]),
    block=st.sampled_from([GROUP, 4 * GROUP, 1024]),
    constrained=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_what_a_walk_in_blocks_finds_is_what_all_logits_say(vocabulary, k, block, constrained, seed) -> None:
    """Whole numbers have the same products in every order: equal logits are many, and equal."""
    rng = np.random.default_rng(seed)
    hidden, head = (rng.integers(-2, 3, (*of, 5)).astype(np.float32) for of in ((2, 3), (vocabulary,)))
    ends = rng.random(vocabulary) < rng.choice([0.0, 0.02, 0.5])
    may = rng.random((2, 3, vocabulary)) < 0.5 if constrained else np.ones((2, 3, vocabulary), bool)
    placed = jnp.asarray(may)

    def allowed(start, size):
        return jax.lax.dynamic_slice_in_dim(placed, start, size, axis=-1)

    k = min(k, vocabulary)
    found = best_tokens(MeshAxes(), hidden, head, ends, k, allowed if constrained else None, block)
    logits = np.einsum("bsd,vd->bsv", np.float64(hidden), head)
    others = np.where(may & ~ends, logits, -np.inf)
    order = np.argsort(-others, axis=-1, kind="stable")[..., :k]
    values = np.take_along_axis(others, order, -1)
    np.testing.assert_array_equal(found.logits, values)
    np.testing.assert_array_equal(np.where(values > -np.inf, found.tokens, order), order)
    assert ((found.tokens >= 0) & (found.tokens < vocabulary)).all()  # also those of no worth: they have rows
    np.testing.assert_array_equal(found.ending, np.where(may & ends, logits, -np.inf).max(-1))
    np.testing.assert_allclose(found.normaliser, np.logaddexp.reduce(logits, axis=-1), rtol=1e-6, atol=1e-6)
    endings = np.logaddexp.reduce(np.where(ends, logits, -np.inf), axis=-1)
    np.testing.assert_allclose(found.endings, endings, rtol=1e-6, atol=1e-6)


def test_no_logit_is_above_the_normaliser() -> None:
    """One token has nearly all probability: its logit, computed once more, is rounded as it may be."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(2048, 256)).astype(np.float32)
    hidden = head[rng.integers(0, 2048, (20, 20))]
    found = jax.jit(lambda *x: best_tokens(MeshAxes(), *x, 3, block=256))(hidden, head, np.arange(2048) == 5)
    assert (found.logits[..., 0] <= found.normaliser).all()
    assert (found.endings <= found.normaliser).all()
    assert (found.normaliser - found.logits[..., 0]).max() < 1e-3  # of logits of about 256
