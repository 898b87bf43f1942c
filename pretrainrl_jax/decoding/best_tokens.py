"""The most probable next tokens without the logits of a whole vocabulary."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.decoder import project
from pretrainrl_jax.model.vocabulary import MeshAxes

BLOCK = 16384  # rows of the vocabulary looked at together; smaller ones are looked at whole
GROUP = 16  # neighbours whose maximum is looked at first
NEG_INF = -jnp.inf


class Best(NamedTuple):
    """What may follow each hidden state; terminators are kept apart from all other tokens."""

    logits: jax.Array  # float32 [batch, sources, k], the best other tokens', best first; -inf: no such token
    tokens: jax.Array  # int32 [batch, sources, k]
    ending: jax.Array  # float32 [batch, sources], largest logit of a terminator; -inf where there is none
    normaliser: jax.Array  # float32 [batch, sources], logsumexp over the whole vocabulary
    endings: jax.Array  # the same over all terminators, whether they may follow or not


def best_tokens(
    axes: MeshAxes,
    hidden: jax.Array,
    head: jax.Array,
    terminators: jax.Array,
    k: int,
    allowed: Callable[[Any, int], jax.Array] | None = None,
    block: int = BLOCK,
) -> Best:
    """The k best tokens after each hidden state, the lower id first where logits are equal.

    Runs on each device's part (`vocabulary.maybe_shard_map`): the device folds over its own rows of the head,
    and the best k of each part are gathered over the vocabulary's devices when it is done.

    Args:
        axes, head: how the arrays are cut; the device's rows of the head and its part of their model axis.
        hidden: [batch, sources, model].
        terminators: bool [vocabulary], whole.
        allowed: of a starting token and a number of them, which may follow: bool [batch, sources, number].
        block: rows looked at together.
    """
    offset = vocabulary.row_offset(axes, head)

    def body(start: Any, rows: jax.Array, carry: Any) -> Any:
        logits = project(hidden, rows)  # [batch, sources, block]
        ends = jax.lax.dynamic_slice_in_dim(terminators, offset + start, rows.shape[0])
        may = jnp.where(allowed(offset + start, rows.shape[0]), logits, NEG_INF) if allowed else logits
        ending = jnp.where(ends, may, NEG_INF).max(-1)
        values, at = top_k(jnp.where(ends, NEG_INF, may), k)
        tokens = at + offset + start
        if carry is None:
            return values, tokens, ending, vocabulary.update_logsumexp(None, logits, ends)
        values_before, tokens_before, ending_before, sums = carry
        values, tokens = _merge(
            jnp.concatenate([values_before, values], -1), jnp.concatenate([tokens_before, tokens], -1), k
        )
        sums = vocabulary.update_logsumexp(sums, logits, ends)
        return values, tokens, jnp.maximum(ending, ending_before), sums

    values, tokens, ending, local = vocabulary.fold_blocks(axes, head, block, body, None)
    if axes.vocabulary:
        gather = partial(jax.lax.all_gather, axis_name=axes.vocabulary, axis=-1, tiled=True)
        values, tokens = _merge(gather(values), gather(tokens), k)
    ending = jax.lax.pmax(ending, axes.vocabulary)
    normaliser, endings = vocabulary.global_logsumexp(axes, local)
    return Best(values, tokens, ending, normaliser, jnp.maximum(endings, ending))


def top_k(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest and their places, the first where some are equal; -inf where there are fewer.

    They lie in the k groups of neighbours with the largest maxima: a value outside of these has one in each
    of them that goes before it. So most of the work is a maximum, and no sorting.
    """
    values = jnp.asarray(values)
    size = values.shape[-1]
    if size % GROUP == 0 and size > 4 * GROUP * k:
        groups = values.reshape(*values.shape[:-1], size // GROUP, GROUP)
        _, largest = jax.lax.top_k(groups.max(-1), k)
        largest = jnp.sort(largest, -1)  # so that equal values stand by their places again
        among = jnp.take_along_axis(groups, largest[..., None], -2).reshape(*values.shape[:-1], k * GROUP)
        values, at = jax.lax.top_k(among, k)
        return values, jnp.take_along_axis(largest, at // GROUP, -1) * GROUP + at % GROUP
    values, at = jax.lax.top_k(values, min(k, size))
    more = [(0, 0)] * (values.ndim - 1) + [(0, k - values.shape[-1])]
    return jnp.pad(values, more, constant_values=NEG_INF), jnp.pad(at, more)


def _merge(values: jax.Array, tokens: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of several parts' best. The parts come in no order, so equal ones go by their token."""
    values, tokens = jax.lax.sort((-values, tokens), num_keys=2)
    return -values[..., :k], tokens[..., :k]
