"""A distribution by its k most probable tokens and the rest, against dense float64; and the anchor's KL."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.objectives.anchor import FLOOR, anchor, bucketed_kl
from pretrainrl_jax.objectives.bucketed import bucket_logps
from pretrainrl_jax.objectives.sums import Counts
from pretrainrl_jax.trees.anchors import AnchorBatch


def case(seed, rows, time, k, model, vocabulary, dtype=jnp.float32):
    """Hidden states, a head, k different tokens of each state, and gradients of what comes of them."""
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(rows, time, model)), dtype)
    head = jnp.asarray(rng.normal(size=(vocabulary, model)), dtype)
    tokens = np.argsort(rng.random((rows, time, vocabulary)), axis=-1)[..., :k].astype(np.int32)
    return hidden, head, tokens, rng.normal(size=(rows, time, k)), rng.normal(size=(rows, time))


def dense(hidden, head, tokens, of_tokens, of_rest):
    """Values and gradients with every logit in memory, in float64."""
    hidden, head = (np.asarray(jnp.asarray(x, jnp.float32), np.float64) for x in (hidden, head))
    logits = hidden @ head.T
    there = tokens >= 0
    member = np.zeros(logits.shape, bool)
    for row, time, j in np.argwhere(there):
        member[row, time, tokens[row, time, j]] = True
    with np.errstate(divide="ignore"):
        normaliser = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
        rests = np.where(member, -np.inf, logits)
        highest = np.where(np.isfinite(rests.max(-1)), rests.max(-1), 0)
        rest = np.log(np.exp(rests - highest[..., None]).sum(-1)) + highest - normaliser
    logps = logits - normaliser[..., None]
    values = np.where(there, np.take_along_axis(logps, np.maximum(tokens, 0), -1), 0)
    of_tokens = np.where(there, of_tokens, 0)
    dlogits = -(of_tokens.sum(-1) + of_rest)[..., None] * np.exp(logps)
    share = np.where(member, 0.0, np.exp(logps - np.where(np.isfinite(rest), rest, 0)[..., None]))
    dlogits += of_rest[..., None] * share
    for row, time, j in np.argwhere(there):
        dlogits[row, time, tokens[row, time, j]] += of_tokens[row, time, j]
    return values, rest, dlogits @ head, np.einsum("rtv,rtd->vd", dlogits, hidden)


@partial(jax.jit, static_argnames="block")
def fused(hidden, head, tokens, of_tokens, of_rest, block=None):
    values, pullback = jax.vjp(lambda *x: bucket_logps(*x, tokens, block=block), hidden, head)
    return *values, *pullback(tuple(jnp.asarray(g, jnp.float32) for g in (of_tokens, of_rest)))


def assert_matches(inputs, block=None, tolerance=2e-5):
    for ours, theirs in zip(fused(*inputs, block=block), dense(*inputs), strict=True):
        scale = max(1, np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((2, 7, 3, 8, 100), 32),  # a remainder of 4
        ((2, 7, 3, 8, 64), 32),  # no remainder
        ((1, 1, 2, 4, 3), 64),  # a block larger than the vocabulary
        ((3, 5, 33, 16, 300), 96),
        ((2, 16, 32, 32, 1187), None),
    ],
)
def test_values_and_gradients(shape, block):
    assert_matches(case(0, *shape), block)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.sampled_from([(1, 41), (40, 41), (7, 64), (3, 129), (33, 97), (40, 200)]),  # each compiled once
)
def test_any_tokens(seed, sizes):
    k, vocabulary = sizes
    assert_matches(case(seed, 2, 3, k, 8, vocabulary), 32, 5e-5)


def test_places_without_a_token():
    hidden, head, tokens, of_tokens, of_rest = case(1, 2, 5, 4, 8, 100)
    tokens[0, :, 2:] = -1
    tokens[1, 3] = -1
    assert_matches((hidden, head, tokens, of_tokens, of_rest), 32)


def test_blocks_are_of_whole_words():
    with pytest.raises(ValueError, match="block is 40: it must be a multiple of 32"):
        bucket_logps(*case(0, 1, 1, 1, 4, 100)[:3], block=40)


@pytest.mark.parametrize("rest", [1e-8, 1e-12])
def test_a_rest_that_float32_cannot_tell_from_nothing(rest):
    """Two tokens have all the probability but `rest`: 1 − Σ would be 0 in float32."""
    vocabulary = 66
    logits = np.full(vocabulary, np.log(rest / (vocabulary - 2)))
    logits[[3, 40]] = np.log(0.5)
    head = jnp.asarray(logits[:, None], jnp.float32)
    hidden, tokens = jnp.ones((1, 1, 1)), np.array([[[3, 40]]], np.int32)
    logps, of_rest = bucket_logps(hidden, head, tokens, block=32)
    np.testing.assert_allclose(of_rest, np.log(rest), rtol=1e-6)
    np.testing.assert_allclose(logps, np.log(0.5), rtol=1e-6)
    gradients = np.ones((1, 1, 2)), np.full((1, 1), -rest)  # that of a KL whose base has the same rest
    assert_matches((hidden, head, tokens, *gradients), 32)
    grown = (hidden * 0.5, head, tokens, np.zeros((1, 1, 2)), np.full((1, 1), -1.0))
    assert_matches(grown, 32)


def test_a_rest_of_nothing():
    """k is the whole vocabulary, or the others are impossible: -inf, and gradients that are numbers."""
    hidden, head, tokens, *_ = case(2, 1, 3, 40, 8, 40)
    logps, rest = bucket_logps(hidden, head, tokens, block=32)
    assert np.isneginf(rest).all()
    np.testing.assert_allclose(np.exp(logps).sum(-1), 1, rtol=1e-6)

    def kl(hidden, head):
        return bucketed_kl((logps, rest), bucket_logps(hidden, head, tokens, block=32)).sum()

    value, gradients = jax.jit(jax.value_and_grad(kl, (0, 1)))(hidden + 0.1, head)
    base, policy = (
        np.asarray(h, np.float64) @ np.asarray(head, np.float64).T for h in (hidden, hidden + 0.1)
    )
    logp, logq = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (base, policy))
    np.testing.assert_allclose(value, (np.exp(logp) * (logp - logq)).sum(), rtol=1e-4)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_memory_has_neither_the_vocabulary_nor_the_rows_of_all_tokens():
    rows, time, k, model, vocabulary = 2, 256, 64, 64, 40_000
    hidden = jax.ShapeDtypeStruct((rows, time, model), jnp.float32)
    head = jax.ShapeDtypeStruct((vocabulary, model), jnp.float32)
    tokens = jax.ShapeDtypeStruct((rows, time, k), jnp.int32)

    def total(*inputs):
        logps, rest = bucket_logps(*inputs)
        return logps.sum() + rest.sum()

    membership = rows * time * vocabulary // 8
    for function in (bucket_logps, jax.grad(total, (0, 1))):
        used = jax.jit(function).lower(hidden, head, tokens).compile().memory_analysis().temp_size_in_bytes
        assert used < 3 * membership + 16 * rows * time * model * 4 + vocabulary * model * 4
        assert used < rows * time * vocabulary * 4 / 4
    many = jax.ShapeDtypeStruct((rows, time, 4 * k), jnp.int32)
    compiled = [jax.jit(bucket_logps).lower(hidden, head, x).compile() for x in (tokens, many)]
    less, more = (c.memory_analysis().temp_size_in_bytes for c in compiled)
    assert more - less < rows * time * k * model * 4 / 4  # not by the rows of the head


def distributions(seed, vocabulary, k, distance):
    """Log-probabilities of a base and a policy, float64, and the base's k most probable tokens."""
    rng = np.random.default_rng(seed)
    base = 3 * rng.normal(size=(5, vocabulary))
    both = [base, base + distance * rng.normal(size=base.shape)]
    logps = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in both]
    return *logps, np.argsort(-base, axis=-1)[:, :k]


def in_buckets(logps, top):
    """Those of the tokens, and of the rest, float64."""
    values = np.take_along_axis(logps, top, -1)
    rest = logps.copy()
    np.put_along_axis(rest, top, -np.inf, -1)
    with np.errstate(divide="ignore"):
        return values, np.log(np.exp(rest).sum(-1))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), vocabulary=st.integers(2, 300), k=st.integers(1, 64), far=st.floats(0, 3))
def test_the_bucketed_kl_is_a_lower_bound_of_the_full_one(seed, vocabulary, k, far):
    base, policy, top = distributions(seed, vocabulary, min(k, vocabulary), far)
    full = (np.exp(base) * (base - policy)).sum(-1)
    both = [tuple(jnp.asarray(x, jnp.float32) for x in in_buckets(logps, top)) for logps in (base, policy)]
    bucketed = np.asarray(bucketed_kl(*both), np.float64)
    (p, p_rest), (q, q_rest) = in_buckets(base, top), in_buckets(policy, top)
    there = np.isfinite(p_rest)
    rest = np.where(there, np.exp(p_rest) * (np.where(there, p_rest, 0) - np.where(there, q_rest, 0)), 0)
    np.testing.assert_allclose(bucketed, (np.exp(p) * (p - q)).sum(-1) + rest, atol=2e-5)
    assert (bucketed <= full + 2e-5).all()
    if min(k, vocabulary) >= vocabulary - 1:  # a bucket of one token is that token
        np.testing.assert_allclose(bucketed, full, atol=2e-5)


def test_below_the_floor_the_rest_has_no_gradient():
    base = jnp.log(jnp.array([0.6, 0.3])), jnp.log(jnp.array(0.1))

    def kl(rest):
        return bucketed_kl(base, (base[0], rest))

    above, below = jax.grad(kl)(jnp.float32(FLOOR + 1)), jax.grad(kl)(jnp.float32(FLOOR - 1))
    np.testing.assert_allclose(above, -0.1, rtol=1e-6)
    assert below == 0
    assert jax.grad(kl)(-jnp.inf) == 0
    np.testing.assert_allclose(kl(-jnp.inf), 0.1 * (np.log(0.1) - FLOOR), rtol=1e-6)
    nothing = bucketed_kl((base[0], -jnp.inf), (base[0], -jnp.inf))  # of a base whose rest is nothing
    np.testing.assert_allclose(nothing, 0, atol=1e-7)


def test_the_loss_is_a_sum_over_tokens_divided_by_questions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 6, 4))  # base and policy, [rows, time, k + rest]
    base, policy = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    used = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    blank = np.zeros((2, 6), np.int32)
    rows = AnchorBatch(
        blank,
        used,
        blank,
        np.zeros((2, 6, 3), np.int32),
        jnp.asarray(base[..., :3]),
        jnp.asarray(base[..., 3]),
    )
    nothing = jnp.zeros(())
    counts = Counts(jnp.array(9), *[nothing] * 8, anchor_tokens=jnp.array(7))
    loss, told = anchor(
        (jnp.asarray(policy[..., :3]), jnp.asarray(policy[..., 3])), rows, {"weight": jnp.array(0.5)}, counts
    )
    kl = ((np.exp(base) * (base - policy)).sum(-1) * (used > 0)).sum()
    np.testing.assert_allclose(loss, 0.5 * kl / 9, rtol=1e-5)
    np.testing.assert_allclose(told["loss_anchor"], kl / 9, rtol=1e-5)
    np.testing.assert_allclose(told["anchor_kl"], kl / 7, rtol=1e-5)
