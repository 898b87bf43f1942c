"""The largest logits by groups against a full sort, ties and gaps included; with all else against NumPy."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.best_tokens import FIRST, GROUP, _merge, best_tokens, top_k
from pretrainrl_jax.model.vocabulary import MeshAxes

few = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])  # most are equal to many


sorted_few = jax.jit(top_k, static_argnums=1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.sampled_from([3, FIRST * 4, FIRST * 40, FIRST * 40 - 5]), st.data())
def test_equal_ones_go_by_their_place(k: int, size: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(few, min_size=2 * size, max_size=2 * size)), np.float32)
    values = values.reshape(2, 1, size)
    found, at = map(np.asarray, sorted_few(values, k))
    for row, own, places in zip(values[:, 0], found[:, 0], at[:, 0], strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(own[: len(order)], row[order])
        np.testing.assert_array_equal(places[: len(order)], order)
        assert (own[len(order) :] == -np.inf).all()  # there are fewer


merged = jax.jit(_merge, static_argnums=2)


@settings(deadline=None)
@given(
    st.lists(st.lists(few, min_size=4, max_size=4), min_size=1, max_size=6),
    st.sampled_from([1, 3]),
    st.data(),
)
def test_parts_in_any_order_merge_by_value_then_token(parts: list[list[float]], k: int, data: st.DataObject):
    values = np.array(parts, np.float32).ravel()
    tokens = np.array(data.draw(st.permutations(range(values.size))), np.int32)
    found, which = merged(values, tokens, k)
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


@partial(jax.jit, static_argnames=("k", "block"))
def walked(hidden, head, ends, may, k, block):
    def allowed(start, size):
        return jax.lax.dynamic_slice_in_dim(may, start, size, axis=-1)

    return best_tokens(MeshAxes(), hidden, head, ends, k, None if may is None else allowed, block)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(
    ("vocabulary", "k", "block"),
    [
        (3, 4, GROUP),
        (GROUP, 1, 1024),
        (5 * GROUP + 3, 30, GROUP),
        (5 * GROUP + 3, 4, 4 * GROUP),
        (203, 30, 1024),
        (203, 4, 4 * GROUP),
    ],
)
def test_what_a_walk_in_blocks_finds_is_what_all_logits_say(vocabulary, k, block, constrained) -> None:
    """Whole numbers have the same products in every order: equal logits are many, and equal."""
    for seed in range(4):
        assert_found(vocabulary, k, block, constrained, np.random.default_rng(seed))


def assert_found(vocabulary, k, block, constrained, rng) -> None:
    hidden, head = (rng.integers(-2, 3, (*of, 5)).astype(np.float32) for of in ((2, 3), (vocabulary,)))
    ends = rng.random(vocabulary) < rng.choice([0.0, 0.02, 0.5])
    may = rng.random((2, 3, vocabulary)) < 0.5 if constrained else np.ones((2, 3, vocabulary), bool)
    k = min(k, vocabulary)
    found = walked(hidden, head, ends, may if constrained else None, k=k, block=block)
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
