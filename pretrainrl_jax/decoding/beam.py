"""Beam search wholly on the device: one compiled loop from the prompt to all beams with their scores.

The beams of a question are themselves an answer tree. Each step's tokens are written once into a small
cache, and a beam sees the tokens of its own ancestors through a mask: neither the prompt's cache nor the
grown one is ever copied or reordered.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.decoding.best_tokens import NEVER, best_tokens
from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, WHOLE, Parts, on_shards


class Beams(NamedTuple):
    """The answers found for each prompt, best first; finished ones before unfinished ones."""

    tokens: jax.Array  # int32 [batch, beams, max_new_tokens], 0 after the end; terminators are not kept
    lengths: jax.Array  # int32 [batch, beams], without the terminator
    logps: jax.Array  # float32 [batch, beams], the terminator's included where finished; -inf: no such beam
    finished: jax.Array  # bool [batch, beams]: ended by a terminator within the limit


class _Cache(NamedTuple):
    """Keys and values of the beams' own tokens, all beams' of a step together."""

    keys: jax.Array  # [layers, batch, max_new_tokens * beams, kv_heads, head]
    values: jax.Array  # the same


class _Search(NamedTuple):
    step: jax.Array  # tokens every live beam has
    live_logps: jax.Array  # [batch, beams]
    live_tokens: jax.Array  # [batch, beams, max_new_tokens]
    ancestors: jax.Array  # [batch, beams, max_new_tokens] which beam slot held this beam's token of each step
    ended_logps: jax.Array  # [batch, beams]
    ended_tokens: jax.Array  # [batch, beams, max_new_tokens]
    ended_lengths: jax.Array  # [batch, beams]


OF_SEARCH = _Search._make([WHOLE, *[ROWS] * 6])  # how it lies on a mesh


def _pick(array: jax.Array, index: jax.Array) -> jax.Array:
    """array[b, index[b, i]] for arrays [batch, n, …] and an index [batch, m]."""
    return jax.vmap(lambda a, i: a[i])(array, index)


@partial(jax.jit, static_argnames=("model", "beams", "max_new_tokens"))
def beam_search(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    terminators: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
) -> Beams:
    """The most probable answers to each prompt.

    A hypothesis is a token sequence without terminators; it ends with its most probable terminator. At each
    step the endings and the one-token extensions of all live beams compete: an ending among the best `beams`
    of them becomes an answer, and the best `beams` extensions live on. With one beam this is greedy decoding.
    A question stops when no live beam can still beat its worst answer: scores only fall, since they are sums
    of log-probabilities without length normalisation (PretrainRL, arXiv 2602.01875, section 1 of its method).

    In transformers, `generate(num_beams=beams, length_penalty=0.0)` with `early_stopping` "never" or False
    ends beams and stops by the same rules, with two exceptions. It makes a hypothesis of each EOS id. And at
    the length limit it ranks live beams among the answers by score; ours only fill the places left empty.

    Args:
        model: the decoder (static).
        params: its parameters.
        prompts: int32 [batch, time], padded on the right.
        lengths: int32 [batch], at least 1.
        terminators: bool [vocabulary], the tokens that end an answer.
        beams: beam width (static).
        max_new_tokens: longest answer, terminator included (static).

    Returns:
        Beams. Those still alive at the length limit fill the places left empty, marked unfinished.
    """
    batch, time = prompts.shape
    head = model.head(params).astype(model.shape.dtype)
    positions = jnp.broadcast_to(jnp.arange(time), prompts.shape)
    read = model.hidden(params, prompts, positions, causal_mask(lengths, time))
    keys, values = read.keys, read.values
    last = _pick(read.hidden, lengths[:, None] - 1)  # [batch, 1, model]
    in_prompt = jnp.broadcast_to((jnp.arange(time)[None] < lengths[:, None])[:, None], (batch, beams, time))
    prompt = KVCache(keys, values, in_prompt, positions)

    def grow(search: _Search, cache: _Cache) -> tuple[_Cache, jax.Array]:
        """Read the newest token of every live beam: the hidden states that predict the next ones."""
        at = search.step - 1
        token = jax.lax.dynamic_index_in_dim(search.live_tokens, at, axis=2, keepdims=False)
        steps = jnp.arange(max_new_tokens)
        is_ancestor = search.ancestors[..., None] == jnp.arange(beams)  # [batch, beams, steps, beams]
        is_ancestor &= (steps < at)[:, None]
        seen = is_ancestor.reshape(batch, beams, max_new_tokens * beams)
        grown = KVCache(*cache, seen, lengths[:, None] + jnp.repeat(steps, beams))
        alone = jnp.broadcast_to(jnp.eye(beams, dtype=bool), (batch, beams, beams))
        position = jnp.broadcast_to((lengths + at)[:, None], (batch, beams))
        new = model.hidden(params, token, position, alone, (prompt, grown))
        where = (0, 0, at * beams, 0, 0)
        return _Cache(
            *(jax.lax.dynamic_update_slice(old, new, where) for old, new in zip(cache, new[1:3], strict=True))
        ), new.hidden

    def select(
        parts: Parts, search: _Search, hidden: jax.Array, head: jax.Array, terminators: jax.Array
    ) -> _Search:
        """Let endings and extensions compete, and keep the best of each. hidden [batch, sources, model]."""
        rows, sources = hidden.shape[:2]
        live_logps, live_tokens = search.live_logps[:, :sources], search.live_tokens[:, :sources]
        per_source = min(beams, len(terminators))
        found = best_tokens(parts, hidden, head, terminators, per_source)
        # Normalising keeps the order within a source: only the few values that are chosen are normalised.
        offset = live_logps - found.normaliser  # [batch, sources]
        ending = found.ending + offset
        logps = _pad((found.logits + offset[..., None]).reshape(rows, -1), beams, NEVER)
        tokens = _pad(found.tokens.reshape(rows, -1), beams, 0)
        logps, best = jax.lax.top_k(logps, beams)  # [batch, beams]
        token, parent = _pick(tokens, best), jnp.minimum(best // per_source, sources - 1)

        # An ending counts only among the best `beams` of all candidates of this step.
        threshold = jax.lax.top_k(jnp.concatenate([ending, logps], 1), beams)[0][:, -1:]
        ending = jnp.where(ending >= threshold, ending, NEVER)
        ended_lengths = jnp.broadcast_to(search.step, ending.shape)
        ended_logps, kept = jax.lax.top_k(jnp.concatenate([search.ended_logps, ending], 1), beams)
        return search._replace(
            step=search.step + 1,
            live_logps=logps,
            live_tokens=_pick(live_tokens, parent).at[:, :, search.step].set(token),
            ancestors=_pick(search.ancestors[:, :sources], parent)
            .at[:, :, search.step]
            .set(jnp.arange(beams)),
            ended_logps=ended_logps,
            ended_tokens=_pick(jnp.concatenate([search.ended_tokens, live_tokens], 1), kept),
            ended_lengths=_pick(jnp.concatenate([search.ended_lengths, ended_lengths], 1), kept),
        )

    def unsettled(search: _Search) -> jax.Array:
        can_improve = search.live_logps.max(-1) > search.ended_logps.min(-1)
        return (search.step < max_new_tokens) & can_improve.any()

    def step(state: tuple[_Search, _Cache]) -> tuple[_Search, _Cache]:
        search, cache = state
        cache, hidden = grow(search, cache)
        return choose(search, hidden, head, terminators), cache

    choose = on_shards(model.layout, select, (OF_SEARCH, ROWS, TABLE, WHOLE), OF_SEARCH)
    shape = (keys.shape[0], batch, max_new_tokens * beams, *keys.shape[3:])
    empty = constrain(jnp.zeros(shape, keys.dtype), model.layout, "layers", "rows", None, "kv_heads", "head")
    blank = jnp.zeros((batch, beams, max_new_tokens), jnp.int32)
    search = _Search(
        step=jnp.int32(0),
        live_logps=jnp.zeros((batch, beams)),
        live_tokens=blank,
        ancestors=blank,
        ended_logps=jnp.full((batch, beams), NEVER),
        ended_tokens=blank,
        ended_lengths=jnp.zeros((batch, beams), jnp.int32),
    )
    begun = (choose(search, last, head, terminators), _Cache(empty, empty))
    search, _ = jax.lax.while_loop(lambda state: unsettled(state[0]), step, begun)
    return jax.tree.map(lambda x: constrain(x, model.layout), _settle(search))


def _pad(x: jax.Array, width: int, fill: float) -> jax.Array:
    """x [batch, n] widened to at least `width` columns."""
    return jnp.pad(x, ((0, 0), (0, max(0, width - x.shape[1]))), constant_values=fill)


def _settle(search: _Search) -> Beams:
    """Answers first; live beams fill the places that are left."""
    ended = search.ended_logps > NEVER
    count = ended.sum(-1, keepdims=True)
    place = jnp.arange(ended.shape[1])[None]
    index = jnp.where(place < count, place, ended.shape[1] + place - count)

    def both(a: jax.Array, b: jax.Array) -> jax.Array:
        return _pick(jnp.concatenate([a, b], 1), index)

    lengths = both(search.ended_lengths, jnp.broadcast_to(search.step, search.ended_lengths.shape))
    tokens = both(search.ended_tokens, search.live_tokens)
    return Beams(tokens, lengths, both(search.ended_logps, search.live_logps), place < count)
