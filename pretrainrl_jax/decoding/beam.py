"""Beam search wholly on the device: one compiled loop from the prompt to all beams with their scores.

The beams of a question are themselves an answer tree. Each step's tokens are written once into a small
cache, and a beam sees the tokens of its own ancestors through a mask: neither the prompt's cache nor
the branches' is ever copied or reordered.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.decoding.best_tokens import NEG_INF, Best, best_tokens, block_for
from pretrainrl_jax.decoding.cache import empty_cache, extend, gather_beams, prefill
from pretrainrl_jax.decoding.constraints import Constraint, State, begin
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.model.beginnings import Before
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.layers import KeysValues
from pretrainrl_jax.model.mesh import constrain, row_shards
from pretrainrl_jax.model.vocabulary import REPLICATED, ROWS, TABLE, MeshAxes, maybe_shard_map
from pretrainrl_jax.model.whole import for_decoding

LAST = 4  # when so small a part of a batch's questions is left, it goes on without the others


class Hypotheses(NamedTuple):
    logps: jax.Array  # [batch, beams]
    tokens: jax.Array  # [batch, beams, max_new_tokens]
    token_logps: jax.Array  # the same
    lengths: jax.Array  # [batch, beams]
    ending_logps: jax.Array  # [batch, beams], of all terminators together where it ended; live: 0


class BeamState(NamedTuple):
    step: jax.Array  # tokens every live beam has
    live: Hypotheses
    ended: Hypotheses
    ancestors: jax.Array  # [batch, beams, max_new_tokens] which branch had this beam's token of each step
    allowed: State  # of the constraint


STATE_SPECS = BeamState._make([REPLICATED, *[ROWS] * 4])  # how it lies on a mesh


class Searched(NamedTuple):
    """Questions on their way, and what their next step reads."""

    state: BeamState
    cache: KeysValues  # of the beams' tokens
    prompt: KVCache
    lengths: jax.Array  # [batch], of the prompts with what was read before them


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
    constraint: Constraint | None = None,
    starts: jax.Array | None = None,
    earlier: Before | None = None,
) -> DecodedBatch:
    """The most probable answers to each prompt.

    A hypothesis is a token sequence without terminators; it ends with its most probable terminator, and the
    probability of all of them together at that place is given beside it. At each step the endings and the
    one-token extensions of all live beams compete: an ending among the best `beams` of them becomes an
    answer, and the best `beams` extensions live on. With one beam this is greedy decoding. A question stops
    when no live beam can still beat its worst answer: scores only fall, since they are sums of
    log-probabilities without length normalisation (PretrainRL, arXiv 2602.01875, section 1 of its method).
    When few questions of a batch are left, they go on by themselves. An answer depends on nothing beside its
    prompt, beyond the rounding of logits in products of other sizes.
    Beams still alive at the length limit fill the places left empty, marked unfinished.

    In transformers, `generate(num_beams=beams, length_penalty=0.0)` with `early_stopping` "never" or False
    ends beams and stops by the same rules, with two exceptions. It makes a hypothesis of each EOS id. And at
    the length limit it ranks live beams among the answers by score; ours only fill the places left empty.

    Args:
        prompts: int32 [batch, time], padded on the right.
        lengths: int32 [batch]; nothing is searched for rows of no tokens, which fill up a batch.
        terminators: bool [vocabulary], the tokens that end an answer.
        beams: beam width.
        max_new_tokens: longest answer, terminator included.
        constraint: which tokens and terminators may follow; scores stay those of the model as it is.
        starts: int32 [batch], where of the constraint each prompt begins; None is 0.
        earlier: what was read before the prompts.
    """
    batch = len(prompts)
    model, params = for_decoding(model, params)
    head = model.head(params).astype(model.shape.dtype)
    prompt, last, read = prefill(model, params, prompts, lengths, beams, earlier)
    in_specs = STATE_SPECS, ROWS, TABLE, REPLICATED, REPLICATED
    of_shard = partial(_choose, beams, block_for(model.layout.platform))
    choose = maybe_shard_map(model.layout, of_shard, in_specs, STATE_SPECS)
    shards = row_shards(model.mesh)

    def step(searched: Searched) -> Searched:
        state, cache, prompt, read = searched
        at = state.step - 1
        newest = jax.lax.dynamic_index_in_dim(state.live.tokens, at, axis=2, keepdims=False)
        hidden, cache = extend(model, params, newest, at, read, prompt, cache, state.ancestors)
        return Searched(choose(state, hidden, head, terminators, constraint), cache, prompt, read)

    def until(left: int, searched: Searched) -> Searched:
        """Step on until of each device's questions so many, or fewer, can improve."""

        def goes_on(searched: Searched) -> jax.Array:
            improving = can_improve(searched.state).reshape(shards, -1).sum(-1).max()
            return (searched.state.step < max_new_tokens) & (improving > left)

        return jax.lax.while_loop(goes_on, step, searched)

    blank = jnp.zeros((batch, beams, max_new_tokens), jnp.int32)
    none = jnp.zeros((batch, beams))
    live = Hypotheses(none, blank, blank.astype(jnp.float32), blank[..., 0], none)
    worst = jnp.where(lengths > 0, NEG_INF, jnp.inf)  # nothing is better than what a row of no tokens has
    ended = live._replace(logps=jnp.broadcast_to(worst[:, None], none.shape))
    state = BeamState(jnp.int32(0), live, ended, blank, begin(constraint, batch, beams, starts))
    state = choose(state, last, head, terminators, constraint)
    searched = Searched(state, empty_cache(model, prompt, max_new_tokens, own=False), prompt, read)
    few = batch // shards // LAST
    if few > 1 and max_new_tokens > 2:
        searched = until(few, searched)
        left = jnp.argsort(~can_improve(searched.state).reshape(shards, -1))[:, :few]
        rest = until(0, _of_questions(searched, left))
        state = _put_back(searched.state, left, rest.state)
    else:
        state = until(0, searched).state
    return jax.tree.map(lambda x: constrain(x, model.layout), finalize(state))


def can_improve(state: BeamState) -> jax.Array:
    """Whether a live beam of the question can still beat its worst answer, bool [batch]."""
    return state.live.logps.max(-1) > state.ended.logps.min(-1)


def _of_questions(searched: Searched, index: jax.Array) -> Searched:
    """These of each device's questions alone. int32 [devices, few]."""

    def take(axis: int, array: jax.Array) -> jax.Array:
        shape = array.shape
        apart = array.reshape(*shape[:axis], len(index), -1, *shape[axis + 1 :])
        of_device = jax.vmap(partial(jnp.take, axis=axis), (axis, 0), axis)
        return of_device(apart, index).reshape(*shape[:axis], -1, *shape[axis + 1 :])

    state, cache, prompt, lengths = searched
    keys, values, mask, positions = prompt
    return Searched(
        BeamState(state.step, *jax.tree.map(partial(take, 0), tuple(state[1:]))),
        jax.tree.map(partial(take, 1), cache),
        KVCache(take(1, keys), take(1, values), take(0, mask), take(0, positions)),
        take(0, lengths),
    )


def _put_back(state: BeamState, index: jax.Array, some: BeamState) -> BeamState:
    """The state with that of some questions in their places."""

    def put(array: jax.Array, values: jax.Array) -> jax.Array:
        apart, own = (x.reshape(len(index), -1, *x.shape[1:]) for x in (array, values))
        return jax.vmap(lambda a, i, v: a.at[i].set(v))(apart, index, own).reshape(array.shape)

    return BeamState(some.step, *jax.tree.map(put, tuple(state[1:]), tuple(some[1:])))


def _choose(
    beams: int,
    block: int,
    axes: MeshAxes,
    state: BeamState,
    hidden: jax.Array,
    head: jax.Array,
    terminators: jax.Array,
    constraint: Constraint | None,
) -> BeamState:
    """Let endings and extensions compete, and keep the best of each. hidden [batch, sources, model]."""
    sources, step = hidden.shape[1], state.step
    live, ancestors, allowed = jax.tree.map(
        lambda x: x[:, :sources], (state.live, state.ancestors, state.allowed)
    )
    may_follow = partial(constraint.allowed, allowed) if constraint else None
    top = best_tokens(axes, hidden, head, terminators, min(beams, len(terminators)), may_follow, block)
    # Normalising keeps the order within a source: only the few values that are chosen are normalised.
    offset = live.logps - top.normaliser  # [batch, sources]
    logps, token, token_logp, parent = _extensions(top, offset, beams)
    before, ancestors, allowed = gather_beams((live, ancestors, allowed), parent)
    extended = before._replace(
        logps=logps,
        tokens=before.tokens.at[:, :, step].set(token),
        token_logps=before.token_logps.at[:, :, step].set(token_logp),
        lengths=before.lengths + 1,
    )

    # An ending counts only among the best `beams` of all candidates of this step.
    ending = top.ending + offset
    threshold = jax.lax.top_k(jnp.concatenate([ending, logps], 1), beams)[0][:, -1:]
    last = live.token_logps.at[:, :, step].set(top.ending - top.normaliser)
    ending = jnp.where(ending >= threshold, ending, NEG_INF)
    ending = live._replace(logps=ending, token_logps=last, ending_logps=top.endings - top.normaliser)
    competing = _concatenate(state.ended, ending)
    return BeamState(
        step + 1,
        extended,
        gather_beams(competing, jax.lax.top_k(competing.logps, beams)[1]),
        ancestors.at[:, :, step].set(jnp.arange(beams)),
        constraint.advance(allowed, token) if constraint else None,
    )


def _extensions(top: Best, offset: jax.Array, beams: int) -> tuple[jax.Array, ...]:
    """The best one-token extensions: log-probabilities, tokens, theirs, and sources, [batch, beams] each."""
    rows, sources, per_source = top.tokens.shape
    missing = max(0, beams - sources * per_source)
    logps, tokens, of_tokens = (
        jnp.pad(x.reshape(rows, -1), ((0, 0), (0, missing)), constant_values=fill)
        for x, fill in (
            (top.logits + offset[..., None], NEG_INF),
            (top.tokens, 0),
            (top.logits - top.normaliser[..., None], NEG_INF),
        )
    )
    logps, best = jax.lax.top_k(logps, beams)
    token, token_logp = gather_beams((tokens, of_tokens), best)
    return logps, token, token_logp, jnp.minimum(best // per_source, sources - 1)


def _concatenate(*hypotheses: Hypotheses) -> Hypotheses:
    return jax.tree.map(lambda *x: jnp.concatenate(x, 1), *hypotheses)


def finalize(state: BeamState) -> DecodedBatch:
    """Answers first; live beams fill the places that are left."""
    ended = state.ended.logps > NEG_INF
    count = ended.sum(-1, keepdims=True)
    place = jnp.arange(ended.shape[1])[None]
    index = jnp.where(place < count, place, ended.shape[1] + place - count)
    best = gather_beams(_concatenate(state.ended, state.live), index)
    logps, tokens, token_logps, lengths, ending_logps = best
    finished = place < count
    return DecodedBatch(tokens, lengths, finished, logps, logps, token_logps, token_logps, ending_logps)
