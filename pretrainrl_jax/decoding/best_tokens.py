"""The most probable next tokens without the logits of a whole vocabulary."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.model.decoder import project
from pretrainrl_jax.model.vocabulary import Parts, first_row, grown, log_of_all, walk

BLOCK = 16384  # rows of the vocabulary looked at together; smaller ones are looked at whole
NEVER = -jnp.inf


class Best(NamedTuple):
    """What may follow each hidden state; terminators are kept apart from all other tokens."""

    logits: jax.Array  # float32 [batch, sources, k], the best other tokens', best first; -inf: no such token
    tokens: jax.Array  # int32 [batch, sources, k]
    ending: jax.Array  # float32 [batch, sources], largest logit of a terminator; -inf where there is none
    normaliser: jax.Array  # float32 [batch, sources], logsumexp over the whole vocabulary


def best_tokens(
    parts: Parts,
    hidden: jax.Array,
    head: jax.Array,
    terminators: jax.Array,
    k: int,
    allowed: Callable[[Any, int], jax.Array] | None = None,
    block: int = BLOCK,
) -> Best:
    """The k best tokens after each hidden state, the lower id first where logits are equal.

    Runs on each device's part (`vocabulary.on_shards`): the device walks its own rows of the head, and the
    best k of each part are gathered over the vocabulary's devices when it is done.

    Args:
        parts: how the arrays are cut.
        hidden: [batch, sources, model].
        head: the device's rows of the head and its part of their model axis.
        terminators: bool [vocabulary], whole.
        k: how many.
        allowed: of a first token and a number of them, which may follow: bool [batch, sources, number].
        block: rows looked at together.
    """
    first = first_row(parts, head)

    def visit(start: Any, rows: jax.Array, carry: Any) -> Any:
        logits = project(hidden, rows)  # [batch, sources, block]
        ends = jax.lax.dynamic_slice_in_dim(terminators, first + start, rows.shape[0])
        may = jnp.where(allowed(first + start, rows.shape[0]), logits, NEVER) if allowed else logits
        ending = jnp.where(ends, may, NEVER).max(-1)
        values, at = _top(jnp.where(ends, NEVER, may), k)
        tokens = at + first + start
        if carry is None:
            return values, tokens, ending, grown(None, logits)
        values_before, tokens_before, ending_before, before = carry
        values, tokens = _merged(
            jnp.concatenate([values_before, values], -1), jnp.concatenate([tokens_before, tokens], -1), k
        )
        return values, tokens, jnp.maximum(ending, ending_before), grown(before, logits)

    values, tokens, ending, found = walk(parts, head, block, visit, None)
    if parts.vocabulary:
        of_all = partial(jax.lax.all_gather, axis_name=parts.vocabulary, axis=-1, tiled=True)
        values, tokens = _merged(of_all(values), of_all(tokens), k)
        ending = jax.lax.pmax(ending, parts.vocabulary)
    return Best(values, tokens, ending, log_of_all(parts, found))


def _top(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest and their places; -inf where there are fewer."""
    values, at = jax.lax.top_k(values, min(k, values.shape[-1]))
    more = [(0, 0)] * (values.ndim - 1) + [(0, k - values.shape[-1])]
    return jnp.pad(values, more, constant_values=NEVER), jnp.pad(at, more)


def _merged(values: jax.Array, tokens: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of several parts' best. The parts come in no order, so equal ones go by their token."""
    values, tokens = jax.lax.sort((-values, tokens), num_keys=2)
    return -values[..., :k], tokens[..., :k]
