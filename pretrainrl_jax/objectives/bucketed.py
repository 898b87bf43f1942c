"""A distribution by its k most probable tokens, one by one, and all others together: no logits are held.

log p(y_j | h) = h·W_j − logsumexp_v(h·W_v) for each of k tokens a hidden state, and for the rest
logsumexp over every other token − logsumexp over all. The rest is summed from its own tokens: 1 − Σ p_j in
float32 would be 0 where it is less than 1e-7, and its logarithm infinite.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, MeshAxes

WORD = 32  # tokens whose membership one integer holds


def bucket_logps(
    hidden: jax.Array,
    head: jax.Array,
    tokens: jax.Array,
    *,
    block: int | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of k tokens after each hidden state, and of all other tokens together, in nats.

    A fold over blocks of the vocabulary, as `token_logps`, with its dtypes and gradients. Which tokens are
    among the k is kept in a bit a token, [rows, time, vocabulary / 32] integers, and the k rows of the head
    are gathered one after another: neither [rows, time, vocabulary] floats nor [rows, time, k, model] are
    ever held.

    Args:
        hidden: [rows, time, model] float32 or bfloat16; finite.
        head: [vocabulary, model] the same dtype.
        tokens: [rows, time, k] int32, those of a state all different; -1: none.
        block, layout: as `token_logps` takes them; a block is a multiple of 32.

    Returns:
        float32 [rows, time, k], 0 with no gradient where there is no token; and [rows, time], -inf where the
        rest is empty, or all of it less probable than e^-87.
    """
    block = block or vocabulary.block_size(head.shape[1])
    if block % WORD:
        raise ValueError(f"block is {block}: it must be a multiple of {WORD}")
    return _bucket_logps(block, layout, hidden, head, tokens)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _bucket_logps(block: int, layout: Layout, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(block, layout, *arrays)[0]


def _forward(
    block: int, layout: Layout, hidden: jax.Array, head: jax.Array, tokens: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    run = vocabulary.maybe_shard_map(layout, partial(_fold, block), (ROWS, TABLE, ROWS), (ROWS,) * 3)
    logits, normaliser, of_rest = run(hidden, head, tokens)
    logps = jnp.where(tokens >= 0, logits - normaliser[..., None], 0.0)
    return (logps, of_rest - normaliser), (hidden, head, tokens, normaliser, of_rest)


def _fold(
    block: int, axes: MeshAxes, hidden: jax.Array, head: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits of the k tokens, and the logsumexp over all tokens and over the rest."""
    among = _membership(axes, head, tokens)

    def body(start: Any, rows: jax.Array, carry: Any) -> vocabulary.LogSumExp:
        logits = vocabulary.block_logits(hidden, rows)
        return vocabulary.update_logsumexp(carry, logits, ~_is_member(among, start, len(rows)))

    def logit_of(token: jax.Array) -> jax.Array:  # [rows, time]
        rows = vocabulary.gather_rows(axes, head, token, head.dtype)
        return (hidden.astype(jnp.float32) * rows.astype(jnp.float32)).sum(-1)

    local = vocabulary.fold_blocks(axes, head, block, body, None)
    normaliser, of_rest = vocabulary.global_logsumexp(axes, local)
    logits = jax.lax.map(logit_of, jnp.moveaxis(tokens, -1, 0))
    return jnp.moveaxis(jax.lax.psum(logits, axes.vocabulary), 0, -1), normaliser, of_rest


def _backward(
    block: int,
    layout: Layout,
    saved: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None]:
    run = vocabulary.maybe_shard_map(
        layout, partial(_gradients, block), (ROWS, TABLE, *(ROWS,) * 5), (ROWS, TABLE)
    )
    return *run(*saved, *gradients), None


def _gradients(
    block: int,
    axes: MeshAxes,
    hidden: jax.Array,
    head: jax.Array,
    tokens: jax.Array,
    normaliser: jax.Array,
    of_rest: jax.Array,
    of_tokens: jax.Array,
    of_bucket: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `hidden` and `head` on one device's part of both.

    With g_j for the k tokens, r for the rest and G = Σ g_j + r, a logit's is g_j − G·p of one of the k, and
    r·p / p_rest − G·p of another token.
    """
    of_tokens = jnp.where(tokens >= 0, of_tokens, 0.0)
    all_of_it = of_tokens.sum(-1) + of_bucket
    # Where the rest is (almost) nothing its gradient is 0, and its inverse is not to make that NaN.
    inverse = jnp.exp(jnp.minimum(normaliser - of_rest, 80.0))
    of_other = jnp.where(of_bucket == 0, 0.0, of_bucket * inverse) - all_of_it
    among = _membership(axes, head, tokens)

    def of_logits(start: Any, rows: jax.Array) -> jax.Array:
        p = jnp.exp(vocabulary.block_logits(hidden, rows) - normaliser[..., None])
        member = _is_member(among, start, len(rows))
        return (p * jnp.where(member, -all_of_it[..., None], of_other[..., None])).astype(head.dtype)

    def of_token(carry: tuple[jax.Array, jax.Array], one: tuple[jax.Array, jax.Array]) -> Any:
        (dhidden, dhead), (token, gradient) = carry, one
        rows = vocabulary.gather_rows(axes, head, token, head.dtype).astype(jnp.float32)
        dhidden += gradient[..., None] * rows
        values = gradient[..., None] * hidden.astype(jnp.float32)
        return (dhidden, vocabulary.scatter_add_rows(axes, dhead, token, values)), None

    summed = vocabulary.fold_gradients(axes, head, block, of_logits, hidden)
    by_token = jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(of_tokens, -1, 0)
    (dhidden, dhead), _ = jax.lax.scan(of_token, summed, by_token)
    dhidden = jax.lax.psum(dhidden, axes.vocabulary).astype(hidden.dtype)
    return dhidden, jax.lax.psum(dhead, axes.replicas).astype(head.dtype)


_bucket_logps.defvjp(_forward, _backward)


def _membership(axes: MeshAxes, head: jax.Array, tokens: jax.Array) -> jax.Array:
    """Which of this device's tokens are among the k, a bit each: uint32 [rows, time, words]."""
    words = -(-head.shape[0] // WORD)
    place = tokens - vocabulary.row_offset(axes, head)
    here = (place >= 0) & (place < head.shape[0]) & (tokens >= 0)
    bit = jnp.uint32(1) << (place % WORD).astype(jnp.uint32)
    word = jnp.where(here, place // WORD, words)  # out of bounds: dropped

    def of_state(word: jax.Array, bit: jax.Array) -> jax.Array:
        return jnp.zeros(words, jnp.uint32).at[word].add(bit, mode="drop")  # different bits: a sum is an or

    return jax.vmap(jax.vmap(of_state))(word, bit)


def _is_member(among: jax.Array, start: Any, size: int) -> jax.Array:
    """bool [rows, time, size] of the tokens from `start` on, a multiple of 32."""
    words = jax.lax.dynamic_slice_in_dim(among, start // WORD, -(-size // WORD), axis=-1)
    bits = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return bits.reshape(*among.shape[:2], -1)[..., :size] > 0
