"""Attention over answer trees: who may look at whom, and the one place where a kernel is chosen."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.model import splash
from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout, row_shards
from pretrainrl_jax.model.shape import LinearScaling, ModelShape, RopeScaling
from pretrainrl_jax.model.splash import MIXED
from pretrainrl_jax.platforms import Kernel

MASKED = -1e30  # finite, so that a row of padding (nothing visible) gives numbers and no NaN
CUDNN_MAX_HEAD_DIM = 128  # of a head, on every GPU that has cuDNN's flash attention
CUDNN_TILE = 128  # tokens; gradients of lengths that leave a tile part empty were NaN in several versions


@struct.dataclass
class TreeRows:
    """Who sees whom in packed rows, as `tree_mask` says: what a mask is derived from, where one is needed."""

    tree_id: jax.Array  # int32 [rows, time], 0 is padding
    branch_id: jax.Array | None = None  # int32 [rows, time], 0 is the prefix; None: each tree is one sequence
    # Tokens of a branch, at most; None: of a row.
    longest: int | None = struct.field(pytree_node=False, default=None)


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
    takes = kernel == "splash" and can_use_splash(visible, shape, layout, cached=cached)
    return visible if takes else tree_mask(visible.tree_id, visible.branch_id)


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
        longest = rows.longest or queries.shape[1]
        return splash.attend(queries, *sources[-1][:2], rows.tree_id, rows.branch_id, longest, scale, layout)
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

    Windows are not for it, since layers are scanned and theirs is traced; nor are earlier tokens, if there
    are some (`cached`). Each device computes its own rows and heads, whole. On a CPU it is interpreted,
    slowly: tests alone ask for that (`platforms.kernel_for`).
    """
    (count, time), rules = rows.tree_id.shape, layout.rules
    return (
        not cached
        and splash.suits(shape, time)
        and layout.platform in ("tpu", "cpu")
        and count % row_shards(layout.mesh) == 0
        and rules.heads == rules.kv_heads  # a group of queries lies where its keys lie
        and rules.head is None
    )


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
    return layout.platform == "tpu" and time >= splash.MIN_TIME and layout.rules.head is None


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
