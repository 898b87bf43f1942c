"""The most probable next tokens without the logits of a whole vocabulary."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.decoder import project
from pretrainrl_jax.model.vocabulary import MeshAxes

BLOCK = 16384  # rows of the vocabulary looked at together
CPU_BLOCK = 1024  # there: their logits stay in the processor's cache
GROUP = 8  # neighbours of which the walk keeps the maximum alone, and as many bits as a byte has
FIRST = 16  # neighbours whose maximum a search for the largest looks at first
NEG_INF = -jnp.inf
_at = partial(jnp.take_along_axis, mode="promise_in_bounds")  # places that sorting gave


def block_for(platform: str) -> int:
    """Rows of the vocabulary that a search looks at together, by the platform of its devices."""
    return CPU_BLOCK if platform == "cpu" else BLOCK


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

    A walk over the vocabulary keeps the largest logit of each group of neighbours. The k best lie in the k
    groups with the largest, whose logits are then computed once more: what they cost is k groups of rows, and
    what they spare is a search of every block.

    Runs on each device's part (`vocabulary.maybe_shard_map`): the device looks at its own rows of the head,
    and the best k of each part are gathered over the vocabulary's devices when it is done.

    Args:
        head: the device's rows of it, and its part of their model axis.
        hidden: [batch, sources, model].
        terminators: bool [vocabulary], whole.
        allowed: of a starting token and a number of them, which may follow: bool [batch, sources, number].
        block: rows looked at together, a multiple of GROUP.
    """
    offset = vocabulary.row_offset(axes, head)
    walked = _walk(axes, hidden, head, terminators, allowed, block)
    values, places = _best_of_groups(axes, hidden, head, walked, k)
    tokens = offset + jnp.minimum(places, head.shape[0] - 1)  # the last group may be larger than what is left
    endings = walked.endings
    if axes.vocabulary:
        gather = partial(jax.lax.all_gather, axis_name=axes.vocabulary, axis=-1, tiled=True)
        values, tokens = _merge(gather(values), gather(tokens), k)
        endings = jax.nn.logsumexp(jax.lax.all_gather(endings, axes.vocabulary), axis=0)
    ending = jax.lax.pmax(walked.ending, axes.vocabulary)
    endings = jnp.maximum(endings, ending)
    (normaliser,) = vocabulary.global_logsumexp(axes, walked.sums)
    # Logits that were computed once more may differ in their last bits: no probability is above 1.
    normaliser = jnp.maximum(normaliser, jnp.maximum(values[..., 0], endings))
    return Best(values, tokens, ending, normaliser, endings)


class _Walked(NamedTuple):
    """What a walk over a device's part of the vocabulary keeps."""

    maxima: jax.Array  # float32 [batch, sources, groups], the largest logit that may be chosen of each
    may: jax.Array  # uint8 [(batch, sources,) groups], a bit for each token: whether it may be chosen
    ending: jax.Array  # as Best has it, of this part
    endings: jax.Array  # the same
    sums: vocabulary.LogSumExp  # over all tokens


def _walk(
    axes: MeshAxes,
    hidden: jax.Array,
    head: jax.Array,
    terminators: jax.Array,
    allowed: Callable[[Any, int], jax.Array] | None,
    block: int,
) -> _Walked:
    offset, groups = vocabulary.row_offset(axes, head), -(-head.shape[0] // GROUP)

    def body(start: Any, rows: jax.Array, before: _Walked | None) -> _Walked:
        size = rows.shape[0]
        logits = project(hidden, rows)  # [batch, sources, block]
        ends = jax.lax.dynamic_slice_in_dim(terminators, offset + start, size)
        follow = allowed(offset + start, size) if allowed else jnp.ones(size, bool)
        chosen = jnp.packbits(follow & ~ends, axis=-1)
        if before is None:
            of_all = logits.shape[:-1]
            maxima, ending, endings = (jnp.full((*of_all, *n), NEG_INF) for n in ((groups,), (), ()))
            may, sums = jnp.zeros((*chosen.shape[:-1], groups), jnp.uint8), None
        else:
            maxima, may, ending, endings, sums = before

        def put(into: jax.Array, values: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(into, values, jax.lax.div(start, GROUP), axis=-1)

        def with_ends() -> tuple[jax.Array, ...]:
            best = jnp.where(ends & follow, logits, NEG_INF).max(-1)
            of_block = jax.nn.logsumexp(jnp.where(ends, logits, NEG_INF), axis=-1)
            others = _in_groups(jnp.where(~ends, follows, NEG_INF)).max(-1)
            return others, jnp.maximum(ending, best), jnp.logaddexp(endings, of_block)

        follows = jnp.where(follow, logits, NEG_INF) if allowed else logits
        largest = _in_groups(follows).max(-1)
        # Without a constraint that is the largest of all logits, too: each pass over them costs.
        sums = vocabulary.update_logsumexp(sums, logits, maximum=None if allowed else largest.max(-1))
        # Few blocks have a terminator: the others are not searched for it.
        largest, ending, endings = jax.lax.cond(ends.any(), with_ends, lambda: (largest, ending, endings))
        return _Walked(put(maxima, largest), put(may, chosen), ending, endings, sums)

    return vocabulary.fold_blocks(axes, head, block, body, None)


def _in_groups(values: jax.Array, size: int = GROUP) -> jax.Array:
    """[..., n] as [..., groups, size], filled up with -inf."""
    missing = -values.shape[-1] % size
    values = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=NEG_INF)
    return values.reshape(*values.shape[:-1], -1, size)


def _best_of_groups(
    axes: MeshAxes, hidden: jax.Array, head: jax.Array, walked: _Walked, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k largest logits of those that may be chosen, and their places in the device's rows."""
    count = min(k, walked.maxima.shape[-1])
    _, largest = top_k(walked.maxima, count)
    largest = jnp.sort(largest, -1)  # so that equal logits stand by their places
    offset = vocabulary.row_offset(axes, head)
    batch, sources, width = hidden.shape

    def with_group(i: Any, logits: jax.Array) -> jax.Array:
        group = jax.lax.dynamic_index_in_dim(largest, i, axis=-1)
        tokens = offset + group * GROUP + jnp.arange(GROUP)  # [batch, sources, GROUP]
        rows = vocabulary.gather_rows(axes, head, tokens.reshape(batch, -1), hidden.dtype)
        rows = rows.reshape(batch, sources, GROUP, width)
        own = jnp.einsum("bsd,bsgd->bsg", hidden, rows, preferred_element_type=jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(logits, own, i * GROUP, axis=-1)

    logits = jnp.zeros((batch, sources, count * GROUP))
    with jax.named_scope("groups"):  # so that the loop is found in what was compiled
        logits = jax.lax.fori_loop(0, count, with_group, logits)
    may = _at(jnp.broadcast_to(walked.may, walked.maxima.shape), largest, -1)
    values, at = top_k(jnp.where(jnp.unpackbits(may, axis=-1) == 1, logits, NEG_INF), k)
    return values, _places(largest, at, GROUP)


def top_k(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest and their places, the first where some are equal; -inf where there are fewer.

    They lie in the k groups of neighbours with the largest maxima: a value outside of these has one in each
    of them that goes before it. So most of the work is a maximum, and no sorting.
    """
    values = jnp.asarray(values)
    size = values.shape[-1]
    if size > 4 * FIRST * k:
        groups = _in_groups(values, FIRST)
        _, largest = jax.lax.top_k(groups.max(-1), k)
        largest = jnp.sort(largest, -1)  # so that equal values stand by their places again
        among = _at(groups, largest[..., None], -2).reshape(*values.shape[:-1], k * FIRST)
        values, at = jax.lax.top_k(among, k)
        return values, _places(largest, at, FIRST)
    values, at = jax.lax.top_k(values, min(k, size))
    more = [(0, 0)] * (values.ndim - 1) + [(0, k - values.shape[-1])]
    return jnp.pad(values, more, constant_values=NEG_INF), jnp.pad(at, more)


def _places(groups: jax.Array, at: jax.Array, size: int) -> jax.Array:
    """Where in all groups of so many that stands which stands `at` in these, one behind the other."""
    many = jnp.asarray(size, at.dtype)
    return _at(groups, jax.lax.div(at, many), -1) * many + jax.lax.rem(at, many)


def _merge(values: jax.Array, tokens: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of several parts' best. The parts come in no order, so equal ones go by their token."""
    values, tokens = jax.lax.sort((-values, tokens), num_keys=2)
    return -values[..., :k], tokens[..., :k]
