"""JAX's splash attention (Pallas, for TPUs) over packed rows: sequences by one kernel, answer trees by two.

Scores stay in the kernel. It masks by an order that is known when it is compiled, whose empty blocks it
leaves out, and by numbers that a query and its keys must share. That is all that sequences need. A token of a
branch sees its prefix, and its own branch: two sets of keys, each of which the kernel can mask.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.model.mesh import Layout
from pretrainrl_jax.model.shape import ModelShape

MIXED = "mixed"  # the name of what attention gives, for `layers.KEPT`
MIN_TIME = 1024  # tokens of a row; the scores of a shorter one are small, and XLA's kernel takes it
# Tokens of queries, and of keys, that are taken at a time: the largest that divides a row.
# Scores of 512 x 512 in float32 are 1 MiB of the 16 MiB of VMEM that a kernel may take by default.
BLOCKS = (512, 384, 256, 128)
HEAD_DIM = 64  # a head is a multiple of it: half a vector register's lanes; smaller ones are not tried


def suits(shape: ModelShape, time: int) -> bool:
    """Whether the kernel takes a model's rows of so many tokens."""
    return (
        not any(shape.windows)
        and time >= MIN_TIME
        and time % BLOCKS[-1] == 0
        and shape.head_dim % HEAD_DIM == 0
    )


def block_size(time: int) -> int:
    """Tokens of a row of so many that are taken at a time."""
    return next(size for size in BLOCKS if time % size == 0)


def part_size(time: int) -> int:
    """Tokens whose gradients the backward pass sums at a time."""
    block = block_size(time)
    return 2 * block if time % (2 * block) == 0 else block


def suitable_row(time: int) -> int:
    """Tokens of the shortest row for so many that larger blocks divide; of a short one none more."""
    return time if time < MIN_TIME else min(-(-time // size) * size for size in (512, 384))


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    tree_id: jax.Array,
    branch_id: jax.Array | None,
    longest: int,
    scale: float,
    layout: Layout,
) -> jax.Array:
    """Attention of packed rows as `attention.tree_mask` says who sees whom; padding sees padding.

    Softmax and sums are float32; the gradient computes scores again from one number a query. That of the
    queries comes in parts (`part_size`), in their own dtype, which are added up.

    Queries, keys and values are [rows, time, heads or kv_heads, head], and so is what it gives, in the
    queries' dtype; ids int32 [rows, time], `branch_id` None where every tree is one sequence. A branch has
    `longest` tokens at most.
    """
    ids = [tree_id] if branch_id is None else [tree_id, branch_id]

    def of_device(queries: jax.Array, keys: jax.Array, values: jax.Array, *ids: jax.Array) -> jax.Array:
        by_head = [jnp.swapaxes(x, 1, 2) for x in (queries, keys, values)]
        _, time, heads, _ = queries.shape
        static = _Static(time, heads, longest, layout.platform != "tpu")
        of_row = partial(_sequences if branch_id is None else _trees, static)
        return jnp.swapaxes(jax.vmap(of_row)(*by_head, *ids), 1, 2)

    of_queries, of_keys = (layout.spec("rows", None, heads, None) for heads in ("heads", "kv_heads"))
    in_specs = of_queries, of_keys, of_keys, *[layout.spec("rows", None)] * len(ids)
    scaled = (queries.astype(jnp.float32) * scale).astype(queries.dtype)  # the kernel has no scale
    return layout.on_each_device(of_device, in_specs, of_queries)(scaled, keys, values, *ids)


class _Static(NamedTuple):
    """What the kernels are compiled for."""

    time: int
    heads: int
    longest: int
    interpret: bool


def _sequences(static: _Static, *arrays: jax.Array) -> jax.Array:
    """Causal attention within each sequence of one row, by one kernel; arrays as `_trees` takes them."""
    from jax.experimental.pallas.ops.tpu.splash_attention import CausalMask, SegmentIds

    *projections, tree_id = arrays
    # It does not run again where what it gives is kept.
    kernel = _kernel(static, CausalMask((static.time, static.time)), residual_checkpoint_name=MIXED)
    return kernel(*projections, SegmentIds(tree_id, tree_id))


def _kernel(static: _Static, mask: Any, **options: Any) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, MultiHeadMask, make_splash_mha

    time, heads, _, interpret = static
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")
    sizes: Any = {f"block_{name}": block_size(time) for name in names}
    # The gradient of queries comes in a part for each of these: fewer parts, less traffic.
    sizes["block_kv_dkv"] = part_size(time)
    blocks = BlockSizes(**sizes, use_fused_bwd_kernel=True)  # scores are made again once
    every = MultiHeadMask([mask] * heads)
    options = {"head_shards": 1, "q_seq_shards": 1, "interpret": interpret} | options
    return make_splash_mha(every, block_sizes=blocks, **options)


def _parts(static: _Static, tree_id: jax.Array, branch_id: jax.Array) -> list[tuple[Any, Any]]:
    """The kernels of prefixes and of branches, each with the numbers that queries and keys must share."""
    from jax.experimental.pallas.ops.tpu.splash_attention import CausalMask, LocalMask, SegmentIds

    time, _, longest, _ = static
    before: Any = CausalMask((time, time))
    near = before if longest >= time else LocalMask((time, time), (longest - 1, 0), 0)
    kernels = [_kernel(static, mask, save_residuals=True) for mask in (before, near)]
    in_branch = branch_id > 0
    own = tree_id * time + branch_id  # a number of its own for each branch of a row
    ids = [
        SegmentIds(tree_id, jnp.where(in_branch, -1, tree_id)),
        SegmentIds(jnp.where(in_branch, own, -1), jnp.where(in_branch, own, -2)),
    ]
    return list(zip(kernels, ids, strict=True))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trees(static: _Static, *arrays: jax.Array) -> jax.Array:
    """Attention in one row: queries [heads, time, head], keys and values [kv_heads, time, head], both ids."""
    return _trees_forward(static, *arrays)[0]


def _trees_forward(static: _Static, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Softmax over both sets of keys is the mean of those over each, weighed by what normalises them."""
    *projections, tree_id, branch_id = arrays
    results = [kernel(*projections, ids) for kernel, ids in _parts(static, tree_id, branch_id)]
    logsumexp = partial(checkpoint_name, name=MIXED)(jnp.logaddexp(*(log for _, (log,) in results)))
    weighed = (out.astype(jnp.float32) * jnp.exp(log - logsumexp)[..., None] for out, (log,) in results)
    mixed: Any = sum(weighed)
    out = checkpoint_name(mixed.astype(arrays[0].dtype), MIXED)
    return out, (*arrays, out, logsumexp)


def _trees_backward(static: _Static, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[Any, ...]:
    """Each kernel's own backward pass, told the result and the normaliser of both together.

    Of a score s it is p (dp - sum(p dp)), with p = exp(s - normaliser): so told, each gives its share.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library

    gradients: Any = library._splash_attention_bwd  # pyright: ignore[reportPrivateUsage]
    *projections, tree_id, branch_id, out, logsumexp = saved
    shares = []
    for kernel, ids in _parts(static, tree_id, branch_id):
        residuals = *projections, ids, None, out, logsumexp, None, kernel.dkv_mask_info
        shares.append(gradients(**kernel.kwargs, res=residuals, do=gradient)[3:6])
    return *(one + other for one, other in zip(*shares, strict=True)), None, None


_trees.defvjp(_trees_forward, _trees_backward)
