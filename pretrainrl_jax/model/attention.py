"""Attention over answer trees: who may look at whom, and the one place where a kernel is chosen."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout, row_shards
from pretrainrl_jax.model.shape import LinearScaling, ModelShape, RopeScaling
from pretrainrl_jax.platforms import Kernel

MIXED = "mixed"  # the name of what attention gives, for `layers.KEPT`
MASKED = -1e30  # finite, so that a row of padding (nothing visible) gives numbers and no NaN
CUDNN_MAX_HEAD_DIM = 128  # of a head, on every GPU that has cuDNN's flash attention
CUDNN_TILE = 128  # tokens; gradients of lengths that leave a tile part empty were NaN in several versions
SPLASH_MIN_TIME = 1024  # tokens of a row; the scores of a shorter one are small, and XLA's kernel takes it
# Tokens of queries, and of keys, that splash attention takes at a time: the largest that divides a row.
# Scores of 512 x 512 in float32 are 1 MiB of the 16 MiB of VMEM that a kernel may take by default.
SPLASH_BLOCKS = (512, 384, 256, 128)
SPLASH_HEAD_DIM = 64  # a head is a multiple of it: half a vector register's lanes; smaller ones are not tried


class TreeRows(NamedTuple):
    """Who sees whom in packed rows, as `tree_mask` says: what a mask is derived from, where one is needed."""

    tree_id: jax.Array  # int32 [rows, time], 0 is padding
    branch_id: jax.Array | None  # int32 [rows, time], 0 is the prefix; None: every tree is one sequence


Visible = jax.Array | TreeRows  # a mask, bool [batch, time, time], is the other way to say it


def tree_mask(tree_id: jax.Array, branch_id: jax.Array | None = None) -> jax.Array:
    """The visibility of packed answer trees (`TreeRows`), bool [rows, time, time]: at [r, i, j] i sees j.

    That is iff j <= i, both lie in the same tree, and j is in the prefix or in i's branch.
    """
    time = tree_id.shape[-1]
    causal = jnp.tril(jnp.ones((time, time), bool))
    same_tree = tree_id[:, :, None] == tree_id[:, None, :]
    seen = causal & same_tree & (tree_id[:, None, :] > 0)
    if branch_id is None:
        return seen
    return seen & ((branch_id[:, None, :] == 0) | (branch_id[:, :, None] == branch_id[:, None, :]))


def causal_mask(lengths: jax.Array, time: int) -> jax.Array:
    """bool [batch, time, time]: ordinary left-to-right visibility of sequences padded on the right."""
    valid = jnp.arange(time)[None] < lengths[:, None]
    return jnp.tril(jnp.ones((time, time), bool)) & valid[:, None, :]


def for_kernel(
    visible: Visible, kernel: Kernel, shape: ModelShape, layout: Layout, *, cached: bool
) -> Visible:
    """What `attend` is to be told of the new tokens: a mask, or rows as they are where splash takes them."""
    if not isinstance(visible, TreeRows):
        return visible
    splash = kernel == "splash" and can_use_splash(visible, shape, layout, cached=cached)
    return visible if splash else tree_mask(*visible)


def attend(
    queries: jax.Array,
    sources: list[tuple[jax.Array, jax.Array, Any]],
    scale: float,
    *,
    kernel: Kernel = "xla",
    layout: Layout = ONE_DEVICE,
) -> jax.Array:
    """Softmax attention over the union of several sources of keys and values.

    A cache stays where it is: scores are computed source by source and normalised together, so a prompt
    shared by many beams is neither copied nor concatenated.

    Args:
        queries: [batch, time, heads, head].
        sources: (keys, values, mask) of each source. Keys and values of all queries are [batch, length,
            kv_heads, head]; where each query has its own, [batch, time, length, kv_heads, head]. Their rank
            tells. The mask is bool [batch, time, length]; `for_kernel` leaves rows in its place to splash.
        scale: multiplies the scores.
        kernel: what computes it, where it can (`can_use_cudnn`, `can_use_splash`); XLA computes the rest.

    Returns:
        [batch, time, heads, head] in the queries' dtype; scores and softmax are float32. The rows that see
        something are the same from either kernel, but for rounding; those that see nothing are finite.
    """
    if isinstance(rows := sources[-1][2], TreeRows):
        return _attend_splash(queries, *sources[-1][:2], rows.tree_id, scale, layout)
    lengths = [queries.shape[1], *(keys.shape[-3] for keys, _, _ in sources)]
    if kernel == "cudnn" and can_use_cudnn(queries.dtype, queries.shape[-1], lengths):
        fused = _attend_fused(queries, *sources[0], scale=scale, implementation="cudnn")
        return checkpoint_name(fused, MIXED)
    batch, time, heads, head_dim = queries.shape
    kv_heads = sources[0][0].shape[-2]
    grouped = queries.reshape(batch, time, kv_heads, heads // kv_heads, head_dim)
    axes = ["bskd" if keys.ndim == 4 else "btskd" for keys, _, _ in sources]
    mix = partial(jnp.einsum, preferred_element_type=jnp.float32)
    scores = [
        jnp.where(mask[:, None, None], mix(f"btkgd,{axis}->bkgts", grouped, keys) * scale, MASKED)
        for axis, (keys, _, mask) in zip(axes, sources, strict=True)
    ]
    largest = jnp.stack([s.max(-1) for s in scores]).max(0)
    weights = [jnp.exp(s - jax.lax.stop_gradient(largest)[..., None]) for s in scores]
    total = sum(w.sum(-1) for w in weights)
    each = zip(axes, weights, (values for _, values, _ in sources), strict=True)
    mixed = sum(mix(f"bkgts,{axis}->btkgd", w.astype(values.dtype), values) for axis, w, values in each)
    normalised = mixed / jnp.moveaxis(total, -1, 1)[..., None]
    return checkpoint_name(normalised.reshape(queries.shape).astype(queries.dtype), MIXED)


def can_use_cudnn(dtype: Any, head_dim: int, lengths: list[int]) -> bool:
    """Whether cuDNN's flash attention computes such attention, and its gradients: of bfloat16 and float16.

    `lengths` are tokens of the queries, then of each source: it takes one source, hence no cache, and we give
    it whole tiles alone.
    """
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= CUDNN_MAX_HEAD_DIM
        and len(lengths) == 2
        and all(length % CUDNN_TILE == 0 for length in lengths)
    )


def can_use_splash(rows: TreeRows, shape: ModelShape, layout: Layout, *, cached: bool) -> bool:
    """Whether splash attention computes such attention, and its gradients, and is worth it.

    It masks by order and by sequence, so that a tree's branches are not for it; nor are windows, since layers
    are scanned and theirs is traced; nor earlier tokens, if there are some (`cached`). Each device computes
    its own rows and heads, whole. On a CPU it is interpreted, slowly: tests alone ask for that
    (`platforms.kernel_for`).
    """
    (count, time), rules = rows.tree_id.shape, layout.rules
    return (
        rows.branch_id is None
        and not cached
        and splash_suits(shape, time)
        and layout.platform in ("tpu", "cpu")
        and count % row_shards(layout.mesh) == 0
        and rules.heads == rules.kv_heads  # a group of queries lies where its keys lie
        and rules.head is None
    )


def splash_suits(shape: ModelShape, time: int) -> bool:
    """Whether splash attention takes a model's rows of so many tokens, where every tree is one sequence."""
    return (
        not any(shape.windows)
        and time >= SPLASH_MIN_TIME
        and time % SPLASH_BLOCKS[-1] == 0
        and shape.head_dim % SPLASH_HEAD_DIM == 0
    )


def splash_block(time: int) -> int:
    """Tokens of a row of so many that are taken at a time."""
    return next(size for size in SPLASH_BLOCKS if time % size == 0)


def splash_part(time: int) -> int:
    """Tokens whose gradients the backward pass sums at a time."""
    block = splash_block(time)
    return 2 * block if time % (2 * block) == 0 else block


def _attend_splash(
    queries: jax.Array, keys: jax.Array, values: jax.Array, tree_id: jax.Array, scale: float, layout: Layout
) -> jax.Array:
    """Causal attention within each sequence of a row, by JAX's splash attention (Pallas).

    Scores stay in the kernel: blocks above the diagonal are skipped, softmax and sums are float32, and the
    gradient computes them again from one number a query. That of the queries comes in parts (`splash_part`),
    in their own dtype, which are added up. Padding sees padding.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        CausalMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha,
    )

    time = queries.shape[1]
    block = splash_block(time)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")
    sizes: Any = {f"block_{name}": block for name in names}
    # The gradient of queries comes in a part for each of these: fewer parts, less traffic.
    sizes["block_kv_dkv"] = splash_part(time)

    def of_device(queries: jax.Array, keys: jax.Array, values: jax.Array, tree_id: jax.Array) -> jax.Array:
        kernel: Any = make_splash_mha(
            MultiHeadMask([CausalMask((time, time))] * queries.shape[2]),
            block_sizes=BlockSizes(**sizes, use_fused_bwd_kernel=True),  # scores are made again once
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=MIXED,  # the kernel does not run again where that is kept
            interpret=layout.platform != "tpu",
        )
        by_head = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
        return jnp.swapaxes(jax.vmap(kernel)(*by_head, SegmentIds(tree_id, tree_id)), 1, 2)

    of_queries, of_keys = (layout.spec("rows", None, heads, None) for heads in ("heads", "kv_heads"))
    in_specs = of_queries, of_keys, of_keys, layout.spec("rows", None)
    of_all = layout.on_each_device(of_device, in_specs, of_queries)
    scaled = (queries.astype(jnp.float32) * scale).astype(queries.dtype)  # the kernel has no scale
    return of_all(scaled, keys, values, tree_id)


def _attend_fused(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    scale: float,
    implementation: Literal["xla", "cudnn"],
) -> jax.Array:
    # cuDNN adds -2e12 to what is masked. A row of that alone has a log-sum no gradient can be computed from
    # (its probabilities come out as 1 each, or NaN), so a token that sees nothing, padding, sees everything.
    seen = mask | ~mask.any(-1, keepdims=True)
    return jax.nn.dot_product_attention(
        queries, keys, values, mask=seen[:, None], scale=scale, implementation=implementation
    )


def rotary_angles(
    positions: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | LinearScaling | None
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine, float32 [batch, time, head_dim / 2], of rotary positions (arXiv 2104.09864)."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if isinstance(scaling, LinearScaling):
        frequencies = frequencies / scaling.factor
    elif scaling is not None:
        wavelengths = 2 * jnp.pi / frequencies
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        blend = jnp.clip((scaling.original_length / wavelengths - low) / (high - low), 0, 1)
        frequencies = frequencies * ((1 - blend) / scaling.factor + blend)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotates_by_product(layout: Layout, time: int) -> bool:
    """Whether `rotate` is faster by a product. Around that of short rows XLA gathers weights twice."""
    return layout.platform == "tpu" and time >= SPLASH_MIN_TIME and layout.rules.head is None


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array, *, by_product: bool = False) -> jax.Array:
    """Rotary embedding of x [batch, time, heads, head], halves rotated against each other as Llama does.

    `by_product` exchanges the halves by a product with a matrix of 0, 1 and -1, which rounds nothing. A TPU's
    vectors are 128 numbers wide, so that such heads' halves are padded arrays of their own in main memory.
    """
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    if by_product:
        cosine, sine = (jnp.concatenate([part, part], -1) for part in (cosine, sine))
        return _exchanged(x, cosine, sine)
    real, imaginary = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([real * cosine - imaginary * sine, imaginary * cosine + real * sine], axis=-1)
    return rotated.astype(x.dtype)


@jax.custom_vjp
def _exchanged(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    half = jnp.eye(x.shape[-1] // 2, dtype=x.dtype)
    exchange = jnp.block([[jnp.zeros_like(half), half], [-half, jnp.zeros_like(half)]])
    other = jnp.einsum("bthd,de->bthe", x, exchange, precision="highest", preferred_element_type=jnp.float32)
    return (x.astype(jnp.float32) * cosine + other * sine).astype(x.dtype)


def _turned_back(angles: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, None]:
    """The gradient is rotated the other way, and rounded once; angles have none: they are positions'."""
    cosine, sine = angles
    return _exchanged(gradient, cosine, -sine), None, None


_exchanged.defvjp(lambda x, cosine, sine: (_exchanged(x, cosine, sine), (cosine, sine)), _turned_back)
