"""Log-probabilities of targets without logits: the one function behind every objective and all scoring.

log p(y | h) = h·W_y − logsumexp_v(h·W_v), with one logsumexp per hidden state however many targets it
predicts. It is a fold over blocks of the vocabulary: neither the forward nor the backward pass ever holds a
[tokens, vocabulary] array.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout
from pretrainrl_jax.model.vocabulary import REPLICATED, ROWS, TABLE, MeshAxes

LOOKED_UP = 2**22  # elements of targets' hidden states at once: 16 MiB of them, where all may take far more


def token_logps(
    hidden: jax.Array,
    head: jax.Array,
    source_index: jax.Array,
    targets: jax.Array,
    *,
    block: int | None = None,
    layout: Layout = ONE_DEVICE,
) -> jax.Array:
    """Log-probability of each target under the hidden state that predicts it, in nats.

    log p(y | h) = h·W_y − logsumexp_v(h·W_v). Products and sums are float32; with bfloat16 inputs the
    operands of every matrix product are bfloat16, in the backward pass the block's probabilities among them.
    The gradient is hand-written, for `hidden` and `head`, in their dtypes; beside its result it holds a
    few float32 arrays of the size of `hidden` and, for a bfloat16 head, one of the size of the head.

    On a mesh each device folds over its own part of the vocabulary for its own rows, and the results are
    combined when it is done. Blocks that are cut along the model axis, too, are gathered when they are read
    and, in the backward pass, their gradients summed and scattered. Nothing else is communicated in a fold.

    Args:
        hidden: [rows, time, model] float32 or bfloat16; finite, padding too.
        head: [vocabulary, model] the same dtype, the embedding's orientation.
        source_index: [rows, targets] int32, index in `time` of the predicting hidden state; -1 is padding.
        targets: [rows, targets] int32, indices in `vocabulary`.
        block: vocabulary rows at a time; by default `block_size(model)`.

    Returns:
        [rows, targets] float32; exactly 0, with no gradient, where `source_index` is -1.
    """
    block = block or vocabulary.block_size(head.shape[1])
    return _token_logps(block, layout, hidden, head, source_index, targets)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_logps(block: int, layout: Layout, *arrays: jax.Array) -> jax.Array:
    return _forward(block, layout, *arrays)[0]


def token_and_ending_logps(
    hidden: jax.Array,
    head: jax.Array,
    source_index: jax.Array,
    targets: jax.Array,
    terminators: jax.Array,
    *,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """The same, and of the same shape the log-probability of any terminator in each target's place.

    They have no gradient. `terminators` are bool [vocabulary].
    """
    block = vocabulary.block_size(head.shape[1])
    logps, _, endings = _fold(block, layout, hidden, head, source_index, targets, terminators)
    return logps, endings


def greedy_tokens(
    hidden: jax.Array, head: jax.Array, *, block: int | None = None, layout: Layout = ONE_DEVICE
) -> jax.Array:
    """The most probable token after each hidden state, the first of equal ones: greedy decoding's choice.

    int32 [rows, time], indices in `vocabulary`; logits, blocks and arguments are those of `token_logps`.
    """

    def per_shard(axes: MeshAxes, hidden: jax.Array, head: jax.Array) -> jax.Array:
        def body(start: Any, rows: jax.Array, carry: Any) -> tuple[jax.Array, jax.Array]:
            logits = vocabulary.block_logits(hidden, rows)  # [rows, time, block]
            largest, token = logits.max(-1), start + logits.argmax(-1).astype(jnp.int32)
            if carry is None:
                return largest, token
            # Blocks come in no order, the last one before the others.
            before, earlier = carry
            replaces = (largest > before) | ((largest == before) & (token < earlier))
            return jnp.maximum(largest, before), jnp.where(replaces, token, earlier)

        largest, token = vocabulary.fold_blocks(axes, head, size, body, None)
        if not axes.vocabulary:
            return token
        best = jax.lax.pmax(largest, axes.vocabulary) == largest
        none = jnp.iinfo(jnp.int32).max
        return jax.lax.pmin(jnp.where(best, token + vocabulary.row_offset(axes, head), none), axes.vocabulary)

    size = block or vocabulary.block_size(head.shape[1])
    return vocabulary.maybe_shard_map(layout, per_shard, (ROWS, TABLE), ROWS)(hidden, head)


def _forward(block: int, layout: Layout, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    logps, normaliser = _fold(block, layout, *arrays)
    return logps, (*arrays, normaliser)


def _fold(block: int, layout: Layout, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Log-probabilities of targets, the normalisers [rows, time], and of each mask of tokens [vocabulary] the
    log-probability of all of them in each target's place. The masks come last among the arrays."""
    masks = len(arrays) - 4
    in_specs = ROWS, TABLE, ROWS, ROWS, *[REPLICATED] * masks
    of_device = partial(_fold_of_device, block)
    return vocabulary.maybe_shard_map(layout, of_device, in_specs, (ROWS,) * (2 + masks))(*arrays)


def _fold_of_device(
    block: int,
    axes: MeshAxes,
    hidden: jax.Array,
    head: jax.Array,
    source_index: jax.Array,
    targets: jax.Array,
    *masks: jax.Array,
) -> tuple[jax.Array, ...]:
    offset = vocabulary.row_offset(axes, head)

    def body(start: Any, rows: jax.Array, carry: Any) -> vocabulary.LogSumExp:
        parts = (jax.lax.dynamic_slice_in_dim(mask, offset + start, len(rows)) for mask in masks)
        return vocabulary.update_logsumexp(carry, vocabulary.block_logits(hidden, rows), *parts)

    def at_targets(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, at, axis=1)

    local = vocabulary.fold_blocks(axes, head, block, body, None)
    normaliser, *of_masks = vocabulary.global_logsumexp(axes, local)  # [rows, time]
    at = jnp.maximum(source_index, 0)

    def logit_of(start: Any, size: int, logit: jax.Array) -> jax.Array:
        part = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=1)
        state = jnp.take_along_axis(hidden, part(at)[..., None], axis=1).astype(jnp.float32)
        rows = vocabulary.gather_rows(axes, head, part(targets), head.dtype).astype(jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(logit, (state * rows).sum(-1), start, axis=1)

    logit = vocabulary.fold(at.shape[1], _at_once(hidden), logit_of, jnp.zeros(at.shape, jnp.float32))
    logps = jax.lax.psum(logit, axes.vocabulary) - at_targets(normaliser)
    masses = (at_targets(of_mask - normaliser) for of_mask in of_masks)
    logps, *masses = (jnp.where(source_index >= 0, values, 0.0) for values in (logps, *masses))
    return logps, normaliser, *masses


def _backward(
    block: int, layout: Layout, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    of_device = partial(_gradients, block)
    run = vocabulary.maybe_shard_map(layout, of_device, (ROWS, TABLE, *(ROWS,) * 4), (ROWS, TABLE))
    return *run(*saved, gradient), None, None


def _gradients(
    block: int,
    axes: MeshAxes,
    hidden: jax.Array,
    head: jax.Array,
    source_index: jax.Array,
    targets: jax.Array,
    normaliser: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `hidden` and `head` on one device's part of both."""
    at = jnp.maximum(source_index, 0)
    gradient = jnp.where(source_index >= 0, gradient, 0.0)[..., None]  # [rows, targets, 1]
    add = jax.vmap(lambda sums, index, values: sums.at[index].add(values))  # for each row

    # The softmax term is −weight·p for each hidden state. The weight is taken out of the loop, onto the
    # hidden states on one side and onto the finished sum on the other: a block costs one exp a logit.
    weight = add(jnp.zeros((*hidden.shape[:2], 1), jnp.float32), at, gradient)  # [rows, time, 1]
    weighted = (-weight * hidden).astype(hidden.dtype)

    def probabilities(start: Any, rows: jax.Array) -> jax.Array:
        logits = vocabulary.block_logits(hidden, rows)
        return jnp.exp(logits - normaliser[..., None]).astype(head.dtype)

    mean, dhead = vocabulary.fold_gradients(axes, head, block, probabilities, weighted)

    # The target term: W_y for the hidden state, h for the target's row; several targets may share either.
    def add_targets(start: Any, size: int, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        dhidden, dhead = sums
        part = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=1)
        state = jnp.take_along_axis(hidden, part(at)[..., None], axis=1).astype(jnp.float32)
        rows = vocabulary.gather_rows(axes, head, part(targets), head.dtype).astype(jnp.float32)
        dhidden = add(dhidden, part(at), part(gradient) * rows)
        return dhidden, vocabulary.scatter_add_rows(axes, dhead, part(targets), part(gradient) * state)

    dhidden, dhead = vocabulary.fold(at.shape[1], _at_once(hidden), add_targets, (-weight * mean, dhead))
    dhidden = jax.lax.psum(dhidden, axes.vocabulary).astype(hidden.dtype)
    return dhidden, jax.lax.psum(dhead, axes.replicas).astype(head.dtype)


def _at_once(hidden: jax.Array) -> int:
    """Targets of a row whose states are looked up at once."""
    return max(1, LOOKED_UP // max(1, hidden.shape[0] * hidden.shape[2]))


_token_logps.defvjp(_forward, _backward)
