"""The matrices with a row for each token, embedding and head: read by row, and folded over block by block.

On a mesh they are cut by the model's rules, usually the vocabulary over `tensor` and the model axis over
`fsdp`. Everything here then runs inside `shard_map`, each device on its own part: no device ever holds a
whole matrix, nor its gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import Layout

TABLE, ROWS = PartitionSpec("vocabulary", "model"), PartitionSpec("rows")  # by logical axes
REPLICATED, LOGITS = PartitionSpec(), PartitionSpec("rows", None, "vocabulary")


class MeshAxes(NamedTuple):
    """How a matrix is cut where a function runs on one device: by mesh axes along which there are several."""

    vocabulary: tuple[str, ...] = ()  # the axis its rows lie along; none: the device has all of them
    model: str | None = None  # the axis its columns lie along, and rows of the batch, too
    replicas: tuple[str, ...] = ()  # the others of the batch: along them devices have the same part


def maybe_shard_map(
    layout: Layout, per_shard: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """`per_shard(axes, …)` on every device's part of its arguments; of all where there is one device.

    It gives the results' parts. The specs are partitions by logical axes, as TABLE is.
    """
    rules, several = layout.rules, layout.several
    axes = MeshAxes(
        tuple(axis for axis in several if axis == rules.vocabulary),
        rules.model if rules.model in several else None,
        tuple(axis for axis in rules.rows if axis in several and axis != rules.model),
    )
    in_specs, out_specs = jax.tree.map(lambda spec: layout.spec(*spec), (in_specs, out_specs))
    return layout.on_each_device(partial(per_shard, axes), in_specs, out_specs)


def check_tokens(largest: int, vocabulary: int) -> None:
    """Raise InputError for a token without a row: a gather would give it another's without a word."""
    if largest >= vocabulary:
        raise InputError(
            f"token {largest} has no row in the model's embedding, which has {vocabulary}: give a model that "
            "belongs to the tokenizer, or texts and a chat template without tokens that were added to it"
        )


def block_size(model: int) -> int:
    """Vocabulary rows of a block: as many as the model is wide, 256 to 1,024, a multiple of 128.

    From a width of 256 on its logits take at most the memory of the float32 hidden states. On one core it was
    within 8 % of the best block at every width from 64 to 1,024 and 128 to 16,384 tokens: an exp costs the
    same at every width, so narrow models need their logits in cache, and wide ones do not; at 2,048 blocks of
    1,024 and 2,048 took the same time. On an accelerator (not measured) a small block would be bound by
    memory: each block reads and writes the sum of the hidden states' gradient once.
    """
    return max(256, min(1024, -(-model // 128) * 128))


def fold_blocks(
    axes: MeshAxes, table: jax.Array, block: int, body: Callable[[Any, jax.Array, Any], Any], carry: Any
) -> Any:
    """carry = body(start, rows, carry) for every block of the vocabulary that this device has.

    `start` counts from the device's own first row. The rows are [block, model] with the model axis whole:
    where it is cut, each block is gathered, which is the loop's only communication.
    """

    def step(start: Any, size: int, carry: Any) -> Any:
        rows = jax.lax.dynamic_slice_in_dim(table, start, size)
        rows = jax.lax.all_gather(rows, axes.model, axis=1, tiled=True) if axes.model else rows
        return body(start, rows, carry)

    with jax.named_scope("vocabulary"):  # so that the loop is found in what was compiled
        return fold(table.shape[0], block, step, carry)


def fold(count: int, block: int, body: Callable[[Any, int, Any], Any], carry: Any) -> Any:
    """carry = body(start, size, carry) for every `block` of so many things, and for the remainder.

    The remainder (one to `block` things) has a static shape of its own and goes first: outside the loop, it
    gives the carry the type, sharding and finite values that the loop then keeps.
    """
    if not count:
        return carry
    block = min(block, count)
    full = (count - 1) // block
    carry = body(full * block, count - full * block, carry)
    if not full:
        return carry
    return jax.lax.fori_loop(0, full, lambda i, carry: body(i * block, block, carry), carry)


def block_logits(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    """Logits float32 [rows, time, block] of hidden states [rows, time, model] and a block's rows."""
    return jnp.einsum("rtd,vd->rtv", hidden, rows, preferred_element_type=jnp.float32)


def fold_gradients(
    axes: MeshAxes,
    table: jax.Array,
    block: int,
    of_logits: Callable[[Any, jax.Array], jax.Array],
    states: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Σ_v g_v · row_v for each state, [rows, time, model]; and of this device's rows Σ g_v · state, float32.

    `of_logits(start, rows)` gives g of a block, [rows, time, block] in the table's dtype.
    """

    def body(start: Any, rows: jax.Array, carry: Any) -> tuple[jax.Array, jax.Array]:
        dstates, dtable = carry  # [rows, time, model], [vocabulary, model]
        g = of_logits(start, rows)
        dstates += jnp.einsum("rtv,vd->rtd", g, rows, preferred_element_type=jnp.float32)
        drows = jnp.einsum("rtv,rtd->vd", g, states, preferred_element_type=jnp.float32)
        if axes.model:  # where the block was gathered, its gradient is scattered: it is never held whole
            drows = jax.lax.psum_scatter(drows, axes.model, scatter_dimension=1, tiled=True)
        return dstates, jax.lax.dynamic_update_slice_in_dim(dtable, drows, start, axis=0)

    start = (jnp.zeros(states.shape, jnp.float32), jnp.zeros(table.shape, jnp.float32))
    return fold_blocks(axes, table, block, body, start)


class LogSumExp(NamedTuple):
    """A logsumexp on its way through the vocabulary: log(total) + maximum, both float32."""

    maximum: jax.Array
    totals: list[jax.Array]  # over all tokens, then over those of each mask


def update_logsumexp(
    before: LogSumExp | None, logits: jax.Array, *masks: jax.Array, maximum: jax.Array | None = None
) -> LogSumExp:
    """With a block's logits [..., block]: totals are rescaled as the maximum rises. masks: bool [block].

    `maximum` is the largest of them, where that is known.
    """
    maximum = logits.max(-1) if maximum is None else maximum
    maximum = maximum if before is None else jnp.maximum(maximum, before.maximum)
    weights = jnp.exp(logits - maximum[..., None])  # one exp a logit, however many masks there are
    totals = [weights.sum(-1), *(jnp.where(mask, weights, 0).sum(-1) for mask in masks)]
    if before is not None:
        scale = jnp.exp(before.maximum - maximum)
        totals = [old * scale + new for old, new in zip(before.totals, totals, strict=True)]
    return LogSumExp(maximum, totals)


def global_logsumexp(axes: MeshAxes, local: LogSumExp) -> list[jax.Array]:
    """The logsumexp over the whole vocabulary, and over each mask, from each device's over its part.

    A mask whose tokens all are less probable than e^-87 has -inf.
    """
    maximum, totals = local
    if axes.vocabulary:
        maximum = jax.lax.pmax(maximum, axes.vocabulary)
        scale = jnp.exp(local.maximum - maximum)
        totals = [jax.lax.psum(total * scale, axes.vocabulary) for total in totals]
    return [maximum + jnp.log(total) for total in totals]


def row_offset(axes: MeshAxes, table: jax.Array) -> Any:
    """The token of the device's first row."""
    return jax.lax.axis_index(axes.vocabulary) * table.shape[0] if axes.vocabulary else 0


def _local_rows(axes: MeshAxes, table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of all tokens of the devices that share the model axis, places in this device's rows; whether there."""
    if axes.model:
        tokens = jax.lax.all_gather(tokens, axes.model, axis=0, tiled=True)
    place = tokens - row_offset(axes, table)
    return place, (place >= 0) & (place < table.shape[0])


def gather_rows(axes: MeshAxes, table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of the table [rows, n, model] for tokens [rows, n]: zeros for tokens of other devices.

    Summed over the vocabulary's devices they are the rows. Only rows asked for are sent, never the table.
    """
    place, here = _local_rows(axes, table, tokens)
    rows = jnp.take(table, place, axis=0, mode="clip").astype(dtype)
    rows = jnp.where(here[..., None], rows, 0) if axes.vocabulary else rows
    if axes.model:
        rows = jax.lax.all_to_all(rows, axes.model, split_axis=0, concat_axis=rows.ndim - 1, tiled=True)
    return rows


def scatter_add_rows(axes: MeshAxes, table: jax.Array, tokens: jax.Array, values: jax.Array) -> jax.Array:
    """The table with values [rows, n, model] added to the rows of tokens [rows, n]: `gather_rows` backwards.

    Every device adds to its own part what the devices that share the model axis have for it.
    """
    place, here = _local_rows(axes, table, tokens)
    if axes.model:
        last = values.ndim - 1
        values = jax.lax.all_to_all(values, axes.model, split_axis=last, concat_axis=0, tiled=True)
    if axes.vocabulary:
        place = jnp.where(here, place, table.shape[0])  # out of bounds: dropped
    return jnp.asarray(table).at[place].add(values, mode="drop")


def embed(table: jax.Array, tokens: jax.Array, dtype: Any, layout: Layout) -> jax.Array:
    """Embeddings [rows, time, model] of tokens int32 [rows, time], from a table [vocabulary, model]."""
    if not layout.is_sharded:
        return table[tokens].astype(dtype)
    return _embed(table, tokens, jnp.dtype(dtype), layout)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _embed(table: jax.Array, tokens: jax.Array, dtype: Any, layout: Layout) -> jax.Array:
    def per_shard(axes: MeshAxes, table: jax.Array, tokens: jax.Array) -> jax.Array:
        return jax.lax.psum(gather_rows(axes, table, tokens, dtype), axes.vocabulary)

    return maybe_shard_map(layout, per_shard, (TABLE, ROWS), ROWS)(table, tokens)


def _embed_backward(dtype: Any, layout: Layout, saved: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    def per_shard(axes: MeshAxes, table: jax.Array, tokens: jax.Array, gradient: jax.Array) -> jax.Array:
        added = scatter_add_rows(axes, jnp.zeros_like(table), tokens, gradient.astype(table.dtype))
        return jax.lax.psum(added, axes.replicas)

    return maybe_shard_map(layout, per_shard, (TABLE, ROWS, ROWS), TABLE)(*saved, gradient), None


_embed.defvjp(lambda *arguments: (_embed(*arguments), arguments[:2]), _embed_backward)
