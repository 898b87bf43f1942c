"""The matrices with a row for each token, embedding and head: read by row, and walked block by block.

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

from pretrainrl_jax.model.mesh import Layout

TABLE, ROWS = PartitionSpec("vocabulary", "model"), PartitionSpec("rows")  # by logical axes
WHOLE = PartitionSpec()


class Parts(NamedTuple):
    """How a matrix is cut where a function runs on one device: by mesh axes along which there are several."""

    vocabulary: str | None = None  # the axis its rows lie along; None: the device has all of them
    model: str | None = None  # the axis its columns lie along, and rows of the batch, too
    copies: tuple[str, ...] = ()  # the others of the batch: along them devices have the same part


Visit = Callable[[Any, jax.Array, Any], Any]


def on_shards(layout: Layout, function: Callable[..., Any], takes: Any, gives: Any) -> Callable[..., Any]:
    """`function(parts, …)` on every device's part of its arguments; of all where there is one device.

    Args:
        layout: of the model.
        function: gives of its arguments' parts the results' parts.
        takes: of the arguments the partition by logical axes, as TABLE is.
        gives: of the results.
    """
    if layout.mesh is None or not layout.spread:
        return partial(function, Parts())
    rules, several = layout.rules, [axis for axis, size in layout.mesh.shape.items() if size > 1]
    vocabulary, model = (axis if axis in several else None for axis in (rules.vocabulary, rules.model))
    copies = tuple(axis for axis in rules.rows if axis in several and axis != model)
    takes, gives = jax.tree.map(lambda of: layout.spec(*of), (takes, gives))
    of_device = partial(function, Parts(vocabulary, model, copies))
    return jax.shard_map(of_device, mesh=layout.mesh, in_specs=takes, out_specs=gives, check_vma=False)


def block_size(model: int) -> int:
    """Vocabulary rows walked at a time: as many as the model is wide, at least 256, a multiple of 128.

    A block's logits then take about the memory of the float32 hidden states. On one CPU core this was within
    8 % of the best block at every width from 64 to 1024 and 128 to 16,384 tokens: an exp costs the same at
    every width, so narrow models need their logits in cache, and wide ones do not. On an accelerator (not
    measured) a small block would be bound by memory: each block reads and writes the sum of the hidden
    states' gradient once.
    """
    return max(256, -(-model // 128) * 128)


def walk(parts: Parts, table: jax.Array, block: int, visit: Visit, carry: Any) -> Any:
    """carry = visit(start, rows, carry) for every block of the vocabulary that this device has.

    `start` counts from the device's own first row. The rows are [block, model] with the model axis whole:
    where it is cut, each block is gathered, which is the walk's only communication.

    The remainder (one to `block` rows) has a static shape of its own and goes first: outside the loop, it
    gives the carry the type, sharding and finite values that the loop then keeps.
    """
    block = min(block, table.shape[0])
    full = (table.shape[0] - 1) // block

    def step(i: Any, carry: Any) -> Any:
        return visit(i * block, rows_at(i * block, block), carry)

    def rows_at(start: Any, size: int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(table, start, size)
        return jax.lax.all_gather(rows, parts.model, axis=1, tiled=True) if parts.model else rows

    with jax.named_scope("vocabulary"):  # so that the loop is found in what was compiled
        carry = visit(full * block, rows_at(full * block, table.shape[0] - full * block), carry)
        return jax.lax.fori_loop(0, full, step, carry)


class LogSum(NamedTuple):
    """A logsumexp on its way through the vocabulary: log(total) + largest, both float32."""

    largest: jax.Array
    total: jax.Array


def grown(before: LogSum | None, logits: jax.Array) -> LogSum:
    """With a block's logits [..., block]: the total is rescaled as the maximum rises."""
    largest = logits.max(-1)
    if before is None:
        return LogSum(largest, jnp.exp(logits - largest[..., None]).sum(-1))
    largest = jnp.maximum(largest, before.largest)
    rest = before.total * jnp.exp(before.largest - largest)
    return LogSum(largest, rest + jnp.exp(logits - largest[..., None]).sum(-1))


def log_of_all(parts: Parts, found: LogSum) -> jax.Array:
    """The logsumexp over the whole vocabulary, of what each device found in its part."""
    largest, total = found
    if parts.vocabulary:
        of_all = jax.lax.pmax(largest, parts.vocabulary)
        largest, total = of_all, jax.lax.psum(total * jnp.exp(largest - of_all), parts.vocabulary)
    return largest + jnp.log(total)


def first_row(parts: Parts, table: jax.Array) -> Any:
    """The token of the device's first row."""
    return jax.lax.axis_index(parts.vocabulary) * table.shape[0] if parts.vocabulary else 0


def _own(parts: Parts, table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of all tokens of the devices that share the model axis, places in this device's rows; whether there."""
    if parts.model:
        tokens = jax.lax.all_gather(tokens, parts.model, axis=0, tiled=True)
    place = tokens - first_row(parts, table)
    return place, (place >= 0) & (place < table.shape[0])


def rows_of(parts: Parts, table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of the table [rows, n, model] for tokens [rows, n]: zeros for tokens of other devices.

    Summed over the vocabulary's devices they are the rows. Only rows asked for are sent, never the table.
    """
    place, here = _own(parts, table, tokens)
    found = jnp.take(table, place, axis=0, mode="clip").astype(dtype)
    found = jnp.where(here[..., None], found, 0) if parts.vocabulary else found
    if parts.model:
        found = jax.lax.all_to_all(found, parts.model, split_axis=0, concat_axis=found.ndim - 1, tiled=True)
    return found


def add_rows(parts: Parts, table: jax.Array, tokens: jax.Array, values: jax.Array) -> jax.Array:
    """The table with values [rows, n, model] added to the rows of tokens [rows, n]: `rows_of` backwards.

    Every device adds to its own part what the devices that share the model axis have for it.
    """
    place, here = _own(parts, table, tokens)
    if parts.model:
        last = values.ndim - 1
        values = jax.lax.all_to_all(values, parts.model, split_axis=last, concat_axis=0, tiled=True)
    if parts.vocabulary:
        place = jnp.where(here, place, table.shape[0])  # out of bounds: dropped
    return jnp.asarray(table).at[place].add(values, mode="drop")


def look_up(table: jax.Array, tokens: jax.Array, dtype: Any, layout: Layout) -> jax.Array:
    """Embeddings [rows, time, model] of tokens int32 [rows, time], from a table [vocabulary, model]."""
    return _look_up(table, tokens, jnp.dtype(dtype), layout) if layout.spread else table[tokens].astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _look_up(table: jax.Array, tokens: jax.Array, dtype: Any, layout: Layout) -> jax.Array:
    def of_part(parts: Parts, table: jax.Array, tokens: jax.Array) -> jax.Array:
        found = rows_of(parts, table, tokens, dtype)
        return jax.lax.psum(found, parts.vocabulary) if parts.vocabulary else found

    return on_shards(layout, of_part, (TABLE, ROWS), ROWS)(table, tokens)


def _look_up_forward(table: jax.Array, tokens: jax.Array, dtype: Any, layout: Layout) -> tuple[Any, Any]:
    return _look_up(table, tokens, dtype, layout), (table, tokens)


def _look_up_backward(dtype: Any, layout: Layout, saved: Any, gradient: jax.Array) -> tuple[jax.Array, None]:
    def of_part(parts: Parts, table: jax.Array, tokens: jax.Array, gradient: jax.Array) -> jax.Array:
        added = add_rows(parts, jnp.zeros_like(table), tokens, gradient.astype(table.dtype))
        return jax.lax.psum(added, parts.copies) if parts.copies else added

    return on_shards(layout, of_part, (TABLE, ROWS, ROWS), TABLE)(*saved, gradient), None


_look_up.defvjp(_look_up_forward, _look_up_backward)
