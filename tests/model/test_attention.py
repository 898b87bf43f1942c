import itertools
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_shape
from jax import random
from jax._src.cudnn import fused_attention_stablehlo

from pretrainrl_jax.model import attention, splash
from pretrainrl_jax.model.attention import (
    TreeRows,
    attend,
    can_use_cudnn,
    can_use_splash,
    causal_mask,
    for_kernel,
    rotary_angles,
    rotate,
    rotates_by_product,
    tree_mask,
)
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import Layout, Rules
from pretrainrl_jax.model.shape import RopeScaling

BATCH, TIME, HEADS, KV_HEADS, WIDTH = 2, 5, 6, 2, 4


def inputs(seed=0, lengths=(7,), spread=1.0):
    """Queries, and one source of each length; every query sees at least the first key of the first source."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (spread * rng.normal(size=shape)).astype(np.float32)

    queries = normal(BATCH, TIME, HEADS, WIDTH)
    sources = []
    for length in lengths:
        keys, values = (normal(BATCH, length, KV_HEADS, WIDTH) for _ in range(2))
        sources.append((keys, values, rng.random((BATCH, TIME, length)) < 0.6))
    sources[0][2][:, :, 0] = True
    return queries, sources


def softmax_attention(queries, keys, values, mask, scale):
    """Attention as its definition has it, one query at a time in float64; head h reads group h // (H / K)."""
    out = np.zeros(queries.shape)
    queries, keys, values = (x.astype(np.float64) for x in (queries, keys, values))
    for b, t, h in itertools.product(range(BATCH), range(TIME), range(HEADS)):
        group = h // (HEADS // KV_HEADS)
        seen = mask[b, t]
        scores = keys[b, seen, group] @ queries[b, t, h] * scale
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ values[b, seen, group]
    return out


def joined(sources):
    keys, values, masks = zip(*sources, strict=True)
    return np.concatenate(keys, 1), np.concatenate(values, 1), np.concatenate(masks, 2)


@pytest.mark.parametrize("lengths", [(7,), (3, 4), (1, 5, 2)])
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_attend_is_softmax_over_all_sources_together(lengths, spread):
    queries, sources = inputs(len(lengths), lengths, spread)
    attended = jax.jit(attend)(queries, sources, scale=0.7)
    wanted = softmax_attention(queries, *joined(sources), scale=0.7)
    assert attended.dtype == jnp.float32
    # Scores, and with them what rounding does to a weight, grow with the square; values with it.
    np.testing.assert_allclose(attended, wanted, atol=3e-6 * spread**3, rtol=1e-5)


def test_several_sources_are_one_concatenated_source_in_value_and_gradient():
    queries, sources = inputs(3, (3, 4))
    together = joined(sources)
    weights = np.random.default_rng(9).normal(size=queries.shape).astype(np.float32)

    def split(q, keys, values):
        cut = [(keys[:, :3], values[:, :3], sources[0][2]), (keys[:, 3:], values[:, 3:], sources[1][2])]
        return (attend(q, cut, 0.5) * weights).sum()

    def plain(q, keys, values):
        grouped = q.reshape(BATCH, TIME, KV_HEADS, -1, WIDTH)
        scores = jnp.einsum("btkgd,bskd->bkgts", grouped, keys) * 0.5
        attention = jax.nn.softmax(jnp.where(together[2][:, None, None], scores, -jnp.inf))
        return (jnp.einsum("bkgts,bskd->btkgd", attention, values).reshape(q.shape) * weights).sum()

    parted = jax.jit(jax.value_and_grad(split, (0, 1, 2)))(queries, *together[:2])
    wanted = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(queries, *together[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), parted, wanted)


def test_what_is_masked_has_exactly_no_influence():
    queries, sources = inputs(4, (3, 4))
    other = [(np.where(np.arange(k.shape[1])[:, None, None] == 2, 1e4, k), v, m) for k, v, m in sources]
    for _, _, mask in sources:
        mask[:, :, 2] = False
    np.testing.assert_array_equal(attend(queries, sources, 1.0), attend(queries, other, 1.0))


def test_a_query_that_sees_nothing_gives_numbers_with_finite_gradients():
    queries, sources = inputs(5, (3, 4))
    for _, _, mask in sources:
        mask[0, 1] = False

    def total(q):
        return attend(q, sources, 1.0).sum()

    assert np.isfinite(attend(queries, sources, 1.0)).all()
    assert np.isfinite(jax.jit(jax.grad(total))(queries)).all()


def test_bfloat16_in_bfloat16_out_with_a_float32_softmax():
    queries, ((keys, values, mask),) = inputs(6)
    half = [jnp.bfloat16(x) for x in (queries, keys, values)]
    attended = attend(half[0], [(half[1], half[2], mask)], scale=1.0)
    assert attended.dtype == jnp.bfloat16
    wanted = softmax_attention(*map(np.float32, half), mask, 1.0)
    np.testing.assert_allclose(np.float32(attended), wanted, atol=0.02)


def test_causal_mask_is_its_definition():
    lengths = np.array([0, 1, 3, 5])
    mask = np.asarray(causal_mask(lengths, 5))
    for b, i, j in itertools.product(range(4), range(5), range(5)):
        assert mask[b, i, j] == (j <= i and j < lengths[b])


# Rotary embedding


def turned(x, positions, theta):
    """Each pair (x[k], x[k + width / 2]) as a complex number, turned by position * theta ** (-2k / width)."""
    half = x.shape[-1] // 2
    angle = positions[..., None] * theta ** (-2 * np.arange(half) / x.shape[-1])
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, :, None]
    return np.concatenate([pairs.real, pairs.imag], -1)


@pytest.mark.parametrize("by_product", [False, True])
def test_rotate_turns_halves_against_each_other(by_product):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = rng.integers(0, 300, (2, 5))
    turn = partial(rotate, by_product=by_product)
    rotated = turn(x, *rotary_angles(positions, 8, 100.0, None))
    np.testing.assert_allclose(rotated, turned(x.astype(np.float64), positions, 100.0), atol=1e-4)
    assert turn(jnp.bfloat16(x), *rotary_angles(positions, 8, 100.0, None)).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rotating_by_a_product_is_the_same_with_the_same_gradient(dtype):
    x, weights = (random.normal(random.key(seed), (2, 5, 3, 8), dtype) for seed in (0, 1))
    angles = rotary_angles(jnp.arange(10).reshape(2, 5) * 7, 8, 100.0, None)

    def both(by_product):
        def loss(x):
            rotated = rotate(x, *angles, by_product=by_product)
            return (rotated * weights).astype(jnp.float32).sum(), rotated

        return jax.grad(loss, has_aux=True)(x)

    near = {"rtol": 0, "atol": 1e-6 if dtype == jnp.float32 else 0}
    for ours, wanted in zip(both(True), both(False), strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), wanted.astype(jnp.float32), **near)


def test_long_rows_rotate_by_a_product_on_tpus():
    """Of heads that are whole on a device."""
    tpu, cpu = (SimpleNamespace(platform=name, rules=Rules()) for name in ("tpu", "cpu"))
    assert rotates_by_product(tpu, 1024)
    assert not rotates_by_product(tpu, 1023)
    assert not rotates_by_product(cpu, 4096)
    assert not rotates_by_product(SimpleNamespace(platform="tpu", rules=Rules(head="tensor")), 4096)


def test_scores_depend_on_the_distance_alone_and_position_0_is_left_as_it_is():
    rng = np.random.default_rng(1)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(of_query, of_key):
        a, b = (
            rotate(x, *rotary_angles(jnp.array([[at]]), 8, 1e4, None))
            for x, at in ((q, of_query), (k, of_key))
        )
        return float((a * b).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4, rel=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)
    np.testing.assert_array_equal(rotate(q, *rotary_angles(jnp.array([[0]]), 8, 1e4, None)), q)


def test_scaling_stretches_long_wavelengths_and_leaves_short_ones():
    """Llama 3.1: below original / high as it is; above original / low divided; between, mixed."""
    scaling, theta, width = RopeScaling(8.0, 1.0, 4.0, 64), 1000.0, 16
    plain = theta ** (-np.arange(0, width, 2) / width)
    wanted = []
    for frequency in plain:
        wavelength = 2 * np.pi / frequency
        if wavelength < 64 / 4:
            wanted.append(frequency)
        elif wavelength > 64 / 1:
            wanted.append(frequency / 8)
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            wanted.append((1 - smooth) * frequency / 8 + smooth * frequency)
    assert wanted[0] == plain[0]
    assert wanted[-1] == plain[-1] / 8
    assert any(p / 8 < w < p for p, w in zip(plain, wanted, strict=True))
    cosine, sine = rotary_angles(jnp.array([[3]]), width, theta, scaling)
    np.testing.assert_allclose(cosine[0, 0], np.cos(3 * np.array(wanted)), atol=1e-6)
    np.testing.assert_allclose(sine[0, 0], np.sin(3 * np.array(wanted)), atol=1e-6)


# cuDNN


def packed(seed, time=24):
    """Queries, one source of packed trees with padding behind them, and which tokens are not padding."""
    rng = np.random.default_rng(seed)
    trees = np.sort(rng.integers(1, 4, (BATCH, time)), axis=1)
    trees[0, time // 2 :] = trees[1, time - 3 :] = 0
    mask = tree_mask(jnp.array(trees), jnp.array(rng.integers(0, 3, trees.shape)))
    queries, keys, values = (
        rng.normal(size=(*trees.shape, heads, WIDTH)).astype(np.float32)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return queries, (keys, values, mask), np.asarray(trees > 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_fused_call_gives_what_attend_gives_wherever_a_token_sees_something(seed):
    """Its arguments, with XLA behind it: what cuDNN is asked to compute is our attention."""
    queries, (keys, values, mask), real = packed(seed)
    assert not real.all()
    weights = np.random.default_rng(9).normal(size=queries.shape) * real[:, :, None, None]

    def ours(q, k, v):
        out = attend(q, [(k, v, mask)], 0.6)
        return (out * weights).sum(), out

    def fused(q, k, v):
        out = attention._attend_fused(q, k, v, mask, scale=0.6, implementation="xla")
        return (out * weights).sum(), out

    (_, wanted), wanted_gradients = jax.value_and_grad(ours, (0, 1, 2), has_aux=True)(queries, keys, values)
    (_, attended), gradients = jax.value_and_grad(fused, (0, 1, 2), has_aux=True)(queries, keys, values)
    np.testing.assert_allclose(attended[real], wanted[real], rtol=1e-5, atol=3e-6)
    for gradient, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=2e-5)
    assert np.isfinite(attended).all()


def test_the_mask_given_to_cudnn_has_no_row_that_sees_nothing(monkeypatch):
    """Nor does it change a row that sees something."""
    queries, (keys, values, mask), real = packed(5)
    given = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *_, mask, **__: given.append(mask))
    attention._attend_fused(queries, keys, values, mask, scale=1.0, implementation="cudnn")
    assert given[0].shape == (BATCH, 1, mask.shape[1], mask.shape[2])
    assert given[0].any(-1).all()
    np.testing.assert_array_equal(given[0][:, 0][real], mask[real])


@pytest.mark.parametrize(
    ("dtype", "width", "lengths", "can"),
    [
        ("bfloat16", 128, [256, 256], True),
        ("float16", 64, [128, 1024], True),
        ("float32", 64, [256, 256], False),
        ("bfloat16", 256, [256, 256], False),  # from Hopper on alone
        ("bfloat16", 100, [256, 256], False),
        ("bfloat16", 64, [256, 512, 256], False),  # a cache, and the new tokens
        ("bfloat16", 64, [192, 192], False),  # half a tile
        ("bfloat16", 64, [1, 256], False),
    ],
)
def test_what_cudnn_computes(dtype, width, lengths, can):
    assert can_use_cudnn(dtype, width, lengths) == can


def test_what_cudnn_cannot_compute_xla_does():
    queries, sources = inputs(7, (3, 4))
    np.testing.assert_array_equal(
        attend(queries, sources, 0.5, kernel="cudnn"), attend(queries, sources, 0.5)
    )


def test_cudnn_gets_grouped_heads_as_they_are_and_a_mask_for_all_of_them(monkeypatch):
    """Forward and backward are lowered for a GPU; nothing here can run them."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91500)
    rows, time, width = 2, 128, 64
    queries, keys = (jnp.ones((rows, time, heads, width), jnp.bfloat16) for heads in (HEADS, KV_HEADS))
    mask = causal_mask(jnp.array([time, 90]), time)

    def total(q, k, v):
        return attend(q, [(k, v, mask)], 0.125, kernel="cudnn").astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(queries, keys, keys)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @__cudnn\$(\w+)\(.* : \((.*)\) -> \((.*)\)", text)
    assert [name for name, _, _ in calls] == ["fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"]
    query, key = (f"tensor<{rows}x{time}x{heads}x{width}xbf16>" for heads in (HEADS, KV_HEADS))
    bias = f"tensor<{rows}x1x{time}x{time}xbf16>"
    assert calls[0][1].split(", ") == [query, key, key, bias]
    gradient = f"tensor<{rows}x{KV_HEADS}x{time}x{width}xbf16>"
    assert calls[1][2].split(", ")[1:3] == [gradient, gradient]


# Splash


def documents(seed, heads, kv_heads, head_dim, time=256):
    """Queries, keys and values of two rows of several documents with padding behind them, and `tree_id`."""
    rng = np.random.default_rng(seed)
    tree_id = np.sort(rng.integers(1, 5, (2, time)), axis=1).astype(np.int32)
    tree_id[0, time * 3 // 4 :] = tree_id[1, time - 3 :] = 0
    arrays = (
        rng.normal(size=(2, time, count, head_dim)).astype(np.float32)
        for count in (heads, kv_heads, kv_heads)
    )
    return tree_id, tuple(arrays)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 128), (2, 2, 64), (3, 1, 64)])
def test_splash_attention_is_attention_within_each_document(heads, kv_heads, head_dim):
    """Interpreted, in values and gradients, wherever there is a document."""
    tree_id, arrays = documents(heads, heads, kv_heads, head_dim)
    real = tree_id > 0
    weights = np.random.default_rng(9).normal(size=arrays[0].shape) * real[:, :, None, None]

    def computed(visible):
        def total(queries, keys, values):
            out = attend(queries, [(keys, values, visible)], head_dim**-0.5)
            return (out * weights).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arrays)
        assert np.isfinite(out).all()
        return (out[real], *gradients)

    found, wanted = computed(TreeRows(jnp.array(tree_id))), computed(tree_mask(tree_id))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def some_trees(seed, time):
    """`tree_id` and `branch_id` of a row of trees, and the tokens of its longest branch.

    Prefixes of some and of no tokens, and none to many branches, some of no tokens; padding behind them.
    """
    rng, at, longest = np.random.default_rng(seed), 0, 1
    tree_id, branch_id = np.zeros((2, time), np.int32)
    for tree in itertools.count(1):
        lengths = [rng.choice([0, 1, 90]), *rng.integers(0, 60, rng.integers(0, 4))]
        if at + sum(lengths) > time:
            return tree_id, branch_id, longest
        for branch, length in enumerate(lengths):
            tree_id[at : at + length], branch_id[at : at + length] = tree, branch
            at += length
        longest = max(longest, *lengths[1:], 1)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "bound", "dtype"),
    [
        (4, 2, 64, "the longest branch", "float32"),
        (3, 1, 64, "a row", "float32"),
        (2, 2, 128, "the longest branch", "bfloat16"),
    ],
)
def test_splash_attention_is_attention_within_each_tree(heads, kv_heads, head_dim, bound, dtype, monkeypatch):
    """By two kernels, interpreted, in values and gradients, wherever there is a token; beside float32."""
    monkeypatch.setattr(splash, "BLOCKS", (128,))  # of which a row has three
    time = 384
    drawn = [some_trees(seed, time) for seed in range(2)]
    tree_id, branch_id = (np.stack([row[i] for row in drawn]) for i in (0, 1))
    longest = max(row[2] for row in drawn) if bound == "the longest branch" else None
    rng, real = np.random.default_rng(1), tree_id > 0
    arrays = [
        rng.normal(size=(2, time, count, head_dim)).astype(np.float32)
        for count in (heads, kv_heads, kv_heads)
    ]
    weights = rng.normal(size=arrays[0].shape) * real[:, :, None, None]

    def computed(visible, dtype):
        def total(*arrays):
            queries, keys, values = (x.astype(dtype) for x in arrays)
            out = attend(queries, [(keys, values, visible)], head_dim**-0.5)
            assert out.dtype == dtype
            return (out * weights).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arrays)
        assert np.isfinite(out.astype(np.float32)).all()
        return (np.float32(out)[real], *gradients)

    rows = TreeRows(jnp.array(tree_id), jnp.array(branch_id), longest)
    wanted = computed(tree_mask(tree_id, branch_id), jnp.float32)
    for one, other in zip(computed(rows, jnp.dtype(dtype)), wanted, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        else:
            assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(other)


def rows(count=2, time=2048, branches=False):
    ids = jnp.zeros((count, time), jnp.int32)
    return TreeRows(ids, ids if branches else None)


WIDE = {"head_dim": 128}


@pytest.mark.parametrize(
    ("visible", "shape", "cached", "can"),
    [
        (rows(), WIDE, False, True),
        (rows(time=1024), {"head_dim": 64}, False, True),
        (rows(branches=True), WIDE, False, True),
        (rows(), WIDE, True, False),
        (rows(), WIDE | {"windows": (0, 512)}, False, False),
        (rows(time=896), WIDE, False, False),  # short
        (rows(time=2000), WIDE, False, False),  # part of a block
        (rows(), {"head_dim": 80}, False, False),
    ],
)
def test_what_splash_computes(visible, shape, cached, can):
    made, layout = small_shape(**shape), Layout()
    assert can_use_splash(visible, made, layout, cached=cached) == can
    told = for_kernel(visible, "splash", made, layout, cached=cached)
    assert isinstance(told, TreeRows) == can
    mask = tree_mask(visible.tree_id, visible.branch_id)
    if not can:
        np.testing.assert_array_equal(told, mask)
    for kernel in ("xla", "cudnn"):
        np.testing.assert_array_equal(for_kernel(visible, kernel, made, layout, cached=cached), mask)


@pytest.mark.parametrize(
    ("tokens", "row"), [(700, 700), (1024, 1024), (1100, 1152), (2176, 2304), (2305, 2560)]
)
def test_a_row_that_large_blocks_divide(tokens, row):
    assert splash.suitable_row(tokens) == row
    assert row < splash.MIN_TIME or splash.block_size(row) >= 384


def test_rows_grow_for_splash_alone():
    rows = {
        (kernel, windows): Model(small_shape(**WIDE, windows=windows), kernel=kernel).suitable_row(2176)
        for kernel in ("splash", "xla", "cudnn")
        for windows in ((), (0, 512))
    }
    assert rows.pop(("splash", ())) == 2304
    assert set(rows.values()) == {2176}


def test_splash_takes_what_a_mesh_divides():
    """Whole rows and whole groups of queries; the mesh's devices count, not those that are here."""

    class Mesh:
        def __init__(self, platform):
            self.shape, self.size = {"data": 2, "fsdp": 2, "tensor": 2}, 8
            self.devices = np.array([type("Device", (), {"platform": platform})()])

    def can(count, platform="tpu", **changed):
        layout = Layout(Mesh(platform), Rules(**changed))
        return can_use_splash(rows(count), small_shape(**WIDE), layout, cached=False)

    assert can(8)
    assert not can(6)
    assert not can(8, platform="gpu")
    assert not can(8, kv_heads=None)
    assert can(8, heads=None, kv_heads=None)
    assert not can(8, heads=None, kv_heads=None, head="tensor")


def test_rows_without_branches_are_masked_as_those_of_one_branch_each():
    tree_id, _ = documents(0, 1, 1, 8, time=24)
    np.testing.assert_array_equal(tree_mask(tree_id), tree_mask(tree_id, np.ones_like(tree_id)))
