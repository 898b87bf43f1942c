"""token_logps against dense float64 NumPy; its gradients; its memory; sharded rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.forked import python
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pretrainrl_jax.model.vocabulary import block_size
from pretrainrl_jax.objectives.token_logps import greedy_tokens, token_and_ending_logps, token_logps


def case(seed, rows, time, targets, model, vocabulary, dtype=jnp.float32, scale=1.0):
    """Random inputs; about a fifth of the targets is padding, and some share a source."""
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(rows, time, model)) * scale, dtype)
    head = jnp.asarray(rng.normal(size=(vocabulary, model)), dtype)
    source_index = rng.integers(0, time, (rows, targets)).astype(np.int32)
    source_index[rng.random((rows, targets)) < 0.2] = -1
    tokens = rng.integers(0, vocabulary, (rows, targets)).astype(np.int32)
    gradient = rng.normal(size=(rows, targets)).astype(np.float32)
    return hidden, head, source_index, tokens, gradient


def dense(hidden, head, source_index, targets, gradient):
    """Values and gradients with every logit in memory, in float64."""
    hidden, head = (np.asarray(x.astype(jnp.float32), np.float64) for x in (hidden, head))
    logits = hidden @ head.T
    logits -= logits.max(-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    values, dlogits = np.zeros(targets.shape), np.zeros_like(logits)
    for row, n in np.argwhere(source_index >= 0):
        at, token = source_index[row, n], targets[row, n]
        values[row, n] = logps[row, at, token]
        dlogits[row, at] -= gradient[row, n] * np.exp(logps[row, at])
        dlogits[row, at, token] += gradient[row, n]
    return values, dlogits @ head, np.einsum("rtv,rtd->vd", dlogits, hidden)


def fused(hidden, head, source_index, targets, gradient, block=None):
    def logps(hidden, head):
        return token_logps(hidden, head, source_index, targets, block=block)

    @jax.jit
    def both(hidden, head):
        values, pullback = jax.vjp(logps, hidden, head)
        return values, *pullback(jnp.asarray(gradient))

    return both(hidden, head)


def assert_matches(inputs, block, tolerance=2e-5):
    values, dhidden, dhead = fused(*inputs, block=block)
    assert values.dtype == jnp.float32
    assert dhidden.dtype == inputs[0].dtype
    assert dhead.dtype == inputs[1].dtype
    expected = dense(*inputs)
    for ours, theirs in zip((values, dhidden, dhead), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance * max(1, abs(theirs).max()), rtol=0)
    assert not np.any(np.asarray(values)[inputs[2] < 0])


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((2, 7, 12, 8, 37), 8),  # a remainder of 5
        ((2, 7, 12, 8, 32), 8),  # no remainder
        ((1, 1, 5, 4, 3), 64),  # a block larger than the vocabulary
        ((3, 5, 1, 16, 100), 99),  # a remainder of 1
        ((3, 5, 9, 16, 100), 1),
        ((2, 16, 40, 32, 1187), None),
    ],
)
def test_values_and_gradients(shape, block):
    assert_matches(case(0, *shape), block)


@pytest.mark.parametrize("looked_up", [1, 2 * 8 * 5, 2 * 8 * 12])
def test_targets_looked_up_in_parts(looked_up, monkeypatch):
    """One by one, five at a time with a remainder of two, and all."""
    monkeypatch.setattr("pretrainrl_jax.objectives.token_logps.LOOKED_UP", looked_up)
    assert_matches(case(6, 2, 7, 12, 8, 37), 8)


@pytest.mark.parametrize("empty", ["rows", "targets"])
def test_of_nothing_there_is_nothing(empty):
    rows, count = (0, 4) if empty == "rows" else (2, 0)
    inputs = case(7, max(rows, 1), 7, max(count, 1), 8, 37)
    hidden, head = inputs[0][:rows], inputs[1]
    where = jnp.zeros((rows, count), jnp.int32)
    values, gradients = jax.vjp(lambda *arrays: token_logps(*arrays, where, where), hidden, head)
    assert values.shape == where.shape
    assert not any(np.any(x) for x in gradients(values))


@settings(max_examples=12, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(*(st.integers(1, most) for most in (3, 6, 10, 9, 70))),
    block=st.integers(1, 80),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
)
def test_any_shape_block_and_scale(seed, shape, block, scale):
    assert_matches(case(seed, *shape, scale=scale), block, tolerance=2e-5 * max(1, scale))


def test_logits_far_apart():
    """Exponents that overflow unless the maximum is carried from block to block, rising and falling."""
    for direction in (1, -1):
        hidden, head, source_index, targets, gradient = case(1, 2, 4, 6, 4, 50)
        head = head + direction * 40.0 * jnp.arange(50)[:, None]
        assert_matches((hidden, head, source_index, targets, gradient), 8, tolerance=2e-4)


def test_bfloat16():
    """Values as exact as float32 allows; gradients to 1 % of the largest entry (three roundings of 2^-9)."""
    inputs = case(2, 2, 32, 50, 64, 1000, jnp.bfloat16, scale=0.2)
    values, dhidden, dhead = fused(*inputs, block=128)
    assert dhidden.dtype == dhead.dtype == jnp.bfloat16
    expected = dense(*inputs)
    np.testing.assert_allclose(values, expected[0], rtol=1e-5, atol=2e-5)
    for ours, theirs in ((dhidden, expected[1]), (dhead, expected[2])):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=0.01 * abs(theirs).max())


def test_check_grads():
    hidden, head, source_index, targets, _ = case(3, 2, 3, 5, 4, 21)
    check_grads(
        lambda hidden, head: token_logps(hidden, head, source_index, targets, block=8),
        (hidden, head),
        order=1,
        modes=["rev"],
        atol=1e-2,
        rtol=1e-2,
    )


def test_padding_has_no_gradient():
    hidden, head, source_index, targets, gradient = case(4, 2, 5, 6, 4, 30)
    source_index[:] = -1
    for result in fused(hidden, head, source_index, targets, gradient * np.nan):
        assert not np.any(result)


def test_block_does_not_matter():
    inputs = case(5, 2, 8, 20, 16, 777)
    in_one = fused(*inputs, block=777)
    for block in (16, 128, None):
        for ours, theirs in zip(fused(*inputs, block=block), in_one, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, abs(theirs).max()))


def test_block_size():
    assert [block_size(model) for model in (32, 256, 1000, 5120)] == [256, 256, 1024, 1024]


def test_memory_does_not_grow_with_the_vocabulary():
    """Beside the head's gradient, which is the result, nothing has the vocabulary's size."""
    rows, time, model, small, large = 2, 512, 32, 8192, 65536

    def compiled(function, vocabulary):
        integers = jax.ShapeDtypeStruct((rows, time), jnp.int32)
        hidden, head = (
            jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, time, model), (vocabulary, model))
        )
        return jax.jit(function).lower(hidden, head, integers, integers).compile().memory_analysis()

    def total(*inputs):
        return token_logps(*inputs).sum()

    for function in (token_logps, jax.grad(total), jax.value_and_grad(total, (0, 1))):
        before, after = (compiled(function, vocabulary) for vocabulary in (small, large))
        assert abs(after.temp_size_in_bytes - before.temp_size_in_bytes) < 2**16
        assert after.temp_size_in_bytes < rows * time * small * 4 / 4  # a quarter of the small logits
    head_gradient = (large - small) * model * 4
    assert after.output_size_in_bytes - before.output_size_in_bytes == head_gradient


@pytest.mark.parametrize("ends", [[699], [3, 300, 512], range(0, 700, 7)])
def test_terminators_of_any_block_count_together(ends):
    """In the places of targets: the logarithm of the sum of their probabilities. A block has 256 tokens."""
    hidden, head, source_index, targets, gradient = case(5, 2, 6, 9, 8, 700)
    terminators = np.zeros(700, bool)
    terminators[list(ends)] = True
    logps, endings = token_and_ending_logps(hidden, head, source_index, targets, jnp.asarray(terminators))
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64).T
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    there = source_index >= 0
    row, _ = np.nonzero(there)
    wanted = np.log(probabilities[row, source_index[there]][:, terminators].sum(-1))
    np.testing.assert_allclose(np.asarray(endings)[there], wanted, atol=2e-5)
    np.testing.assert_allclose(logps, dense(hidden, head, source_index, targets, gradient)[0], atol=2e-5)


@pytest.mark.parametrize("vocabulary", [1, 5, 64, 65, 129])
@pytest.mark.parametrize("block", [None, 1, 7, 64])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_greedy_tokens_are_the_first_of_the_largest(vocabulary, block, dtype):
    """Small whole numbers, exact in both types, so that many of the largest logits are there twice."""
    rng = np.random.default_rng(vocabulary)
    hidden, head = rng.integers(-2, 3, (2, 30, 3)), rng.integers(-1, 2, (vocabulary, 3))
    logits = hidden @ head.T
    tokens = greedy_tokens(jnp.asarray(hidden, dtype), jnp.asarray(head, dtype), block=block)
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    if vocabulary > 5:
        assert ((logits == logits.max(-1, keepdims=True)).sum(-1) > 1).mean() > 0.3


def test_greedy_tokens_hold_no_logits():
    rows, time, model, vocabulary = 2, 256, 64, 20_000
    sizes = (rows, time, model), (vocabulary, model)
    shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    used = jax.jit(greedy_tokens).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < rows * time * vocabulary * 4 / 20


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from pretrainrl_jax.objectives.token_logps import token_logps

rng = np.random.default_rng(0)
hidden, head = rng.normal(size=(8, 16, 8)).astype("f"), rng.normal(size=(300, 8)).astype("f")
source_index = rng.integers(-1, 16, (8, 20)).astype("i")
targets = rng.integers(0, 300, (8, 20)).astype("i")
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

def values(hidden, head, source_index, targets):
    loss = lambda hidden, head: token_logps(hidden, head, source_index, targets, block=64).sum()
    return jax.value_and_grad(loss, (0, 1))(hidden, head)

def local(hidden, head, source_index, targets):
    loss, (dhidden, dhead) = values(hidden, jax.lax.pcast(head, "data", to="varying"), source_index, targets)
    return jax.lax.psum(loss, "data"), (dhidden, jax.lax.psum(dhead, "data"))

specs = (P("data"), P(), P("data"), P("data"))
inputs = (hidden, head, source_index, targets)
placed = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(inputs, specs)]
alone = jax.jit(values)(*inputs)
mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P(), (P("data"), P())))
for function in (values, mapped):
    for ours, theirs in zip(jax.tree.leaves(jax.jit(function)(*placed)), jax.tree.leaves(alone)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, abs(theirs).max()))
print("same")
"""


def test_sharded_rows():
    """Four devices, automatic sharding and shard_map, give what one device gives."""
    ran = python(SHARDED)
    assert ran.out.strip() == "same", ran.err
