"""Log-probabilities of targets without logits: the one function behind every objective and all scoring.

log p(y | h) = h·W_y − logsumexp_v(h·W_v), with one logsumexp per hidden state however many targets it
predicts. The vocabulary is walked in blocks, so that neither the forward nor the backward pass ever holds
a [tokens, vocabulary] array.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def block_size(model: int) -> int:
    """Vocabulary rows walked at a time: as many as the model is wide, at least 256, a multiple of 128.

    A block's logits then take about the memory of the float32 hidden states. On one CPU core this was within
    8 % of the best block at every width from 64 to 1024 and 128 to 16,384 tokens: an exp costs the same at
    every width, so narrow models need their logits in cache, and wide ones do not. On an accelerator (not
    measured) a small block would be bound by memory: each block reads and writes the sum of the hidden
    states' gradient once.
    """
    return max(256, -(-model // 128) * 128)


def token_logps(
    hidden: jax.Array, head: jax.Array, predictor: jax.Array, targets: jax.Array, *, block: int | None = None
) -> jax.Array:
    """Log-probability of each target under the hidden state that predicts it, in nats.

    log p(y | h) = h·W_y − logsumexp_v(h·W_v). Products and sums are float32; with bfloat16 inputs the
    operands of every matrix product are bfloat16, in the backward pass the block's probabilities among them.
    The gradient is hand-written, for `hidden` and `head`, in their dtypes; beside its result it holds a
    few float32 arrays of the size of `hidden` and, for a bfloat16 head, one of the size of the head.

    Rows may be sharded under `jit`: the head's gradient, a sum over tokens, is then one all-reduce for each
    block and one for the target terms. Inside `shard_map`, with `head` varying over the mesh axes of the
    rows (`jax.lax.pcast`), nothing is communicated and the caller sums the whole gradient once.

    Args:
        hidden: [rows, time, model] float32 or bfloat16; finite, padding too.
        head: [vocabulary, model] the same dtype, the embedding's orientation.
        predictor: [rows, targets] int32, index in `time` of the predicting hidden state; -1 is padding.
        targets: [rows, targets] int32, indices in `vocabulary`.
        block: vocabulary rows walked at a time; by default `block_size(model)`.

    Returns:
        [rows, targets] float32; exactly 0, with no gradient, where `predictor` is -1.
    """
    block = min(block or block_size(head.shape[1]), head.shape[0])
    return _token_logps(hidden, head, predictor, targets, block)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _token_logps(
    hidden: jax.Array, head: jax.Array, predictor: jax.Array, targets: jax.Array, block: int
) -> jax.Array:
    return _forward(hidden, head, predictor, targets, block)[0]


def _logits(hidden: jax.Array, rows: jax.Array) -> jax.Array:
    """[rows, time, block] float32 logits of a block of the head's rows."""
    return jnp.einsum("rtd,vd->rtv", hidden, rows, preferred_element_type=jnp.float32)


def _walk(head: jax.Array, block: int, visit: Any, carry: Any) -> Any:
    """carry = visit(start, rows of the head, carry) for every block of the vocabulary.

    The remainder (one to `block` rows) has a static shape of its own and goes first: outside the loop, it
    gives the carry the type, sharding and finite values that the loop then keeps.
    """
    full = (head.shape[0] - 1) // block
    carry = visit(full * block, head[full * block :], carry)

    def step(i: jax.Array, carry: Any) -> Any:
        return visit(i * block, jax.lax.dynamic_slice_in_dim(head, i * block, block), carry)

    return jax.lax.fori_loop(0, full, step, carry)


def _logsumexp(hidden: jax.Array, head: jax.Array, block: int) -> jax.Array:
    """[rows, time] float32 logsumexp of all logits, online: the sum is rescaled as the maximum rises."""

    def visit(start: Any, rows: jax.Array, carry: Any) -> tuple[jax.Array, jax.Array]:
        logits = _logits(hidden, rows)  # [rows, time, block]
        largest = logits.max(-1)
        if carry is None:
            return largest, jnp.exp(logits - largest[..., None]).sum(-1)
        before, total = carry
        largest = jnp.maximum(largest, before)
        return largest, total * jnp.exp(before - largest) + jnp.exp(logits - largest[..., None]).sum(-1)

    largest, total = _walk(head, block, visit, None)
    return largest + jnp.log(total)


def greedy_tokens(hidden: jax.Array, head: jax.Array, *, block: int | None = None) -> jax.Array:
    """The most probable token after each hidden state, the first of equal ones: greedy decoding's choice.

    Logits are those of `token_logps`, and the vocabulary is walked in the same blocks.

    Args:
        hidden: [rows, time, model] float32 or bfloat16.
        head: [vocabulary, model] the same dtype.
        block: vocabulary rows walked at a time; by default `block_size(model)`.

    Returns:
        [rows, time] int32, indices in `vocabulary`.
    """

    def visit(start: Any, rows: jax.Array, carry: Any) -> tuple[jax.Array, jax.Array]:
        logits = _logits(hidden, rows)  # [rows, time, block]
        largest, token = logits.max(-1), start + logits.argmax(-1).astype(jnp.int32)
        if carry is None:
            return largest, token
        before, first = carry
        # The blocks are not walked in order: the last one comes first.
        replaces = (largest > before) | ((largest == before) & (token < first))
        return jnp.maximum(largest, before), jnp.where(replaces, token, first)

    return _walk(head, min(block or block_size(head.shape[1]), head.shape[0]), visit, None)[1]


def _forward(
    hidden: jax.Array, head: jax.Array, predictor: jax.Array, targets: jax.Array, block: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    normaliser = _logsumexp(hidden, head, block)  # [rows, time]
    at = jnp.maximum(predictor, 0)
    state = jnp.take_along_axis(hidden, at[..., None], axis=1).astype(jnp.float32)  # [rows, targets, model]
    logit = (state * head[targets].astype(jnp.float32)).sum(-1)
    logps = jnp.where(predictor >= 0, logit - jnp.take_along_axis(normaliser, at, axis=1), 0.0)
    return logps, (hidden, head, predictor, targets, normaliser)


def _backward(
    block: int, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    hidden, head, predictor, targets, normaliser = saved
    at = jnp.maximum(predictor, 0)
    gradient = jnp.where(predictor >= 0, gradient, 0.0)[..., None]  # [rows, targets, 1]
    add = jax.vmap(lambda sums, index, values: sums.at[index].add(values))  # for each row

    # The softmax term is −weight·p for each hidden state. The weight is taken out of the loop, onto the
    # hidden states on one side and onto the finished sum on the other: a block costs one exp a logit.
    weight = add(jnp.zeros((*hidden.shape[:2], 1), jnp.float32), at, gradient)  # [rows, time, 1]
    weighted = (-weight * hidden).astype(hidden.dtype)

    def visit(start: Any, rows: jax.Array, carry: Any) -> tuple[jax.Array, jax.Array]:
        mean, dhead = carry  # [rows, time, model], [vocabulary, model]
        p = jnp.exp(_logits(hidden, rows) - normaliser[..., None]).astype(head.dtype)
        mean += jnp.einsum("rtv,vd->rtd", p, rows, preferred_element_type=jnp.float32)
        drows = jnp.einsum("rtv,rtd->vd", p, weighted, preferred_element_type=jnp.float32)
        return mean, jax.lax.dynamic_update_slice_in_dim(dhead, drows, start, axis=0)

    start = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(head.shape, jnp.float32))
    mean, dhead = _walk(head, block, visit, start)

    # The target term: W_y for the hidden state, h for the target's row; several targets may share either.
    state = jnp.take_along_axis(hidden, at[..., None], axis=1).astype(jnp.float32)  # [rows, targets, model]
    dhidden = add(-weight * mean, at, gradient * head[targets].astype(jnp.float32))
    dhead = dhead.at[targets].add(gradient * state)
    return dhidden.astype(hidden.dtype), dhead.astype(head.dtype), None, None


_token_logps.defvjp(_forward, _backward)
