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
from pretrainrl_jax.decoding.constraints import State, Trie
from pretrainrl_jax.decoding.continuous import Work, run
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.model.beginnings import Before
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.layers import KeysValues
from pretrainrl_jax.model.mesh import constrain, row_shards
from pretrainrl_jax.model.vocabulary import REPLICATED, ROWS, TABLE, MeshAxes, maybe_shard_map
from pretrainrl_jax.model.whole import for_decoding


class Hypotheses(NamedTuple):
    logps: jax.Array  # [batch, beams]
    tokens: jax.Array  # [batch, beams, max_new_tokens]
    token_logps: jax.Array  # the same
    lengths: jax.Array  # [batch, beams]
    ending_logps: jax.Array  # [batch, beams], of all terminators together where it ended; live: 0


class BeamState(NamedTuple):
    step: jax.Array  # int32 [batch], tokens every live beam has
    live: Hypotheses
    ended: Hypotheses
    ancestors: jax.Array  # [batch, beams, max_new_tokens] which branch had this beam's token of each step
    allowed: State  # of the constraint


STATE_SPECS = BeamState._make([ROWS] * 5)  # how it lies on a mesh


class Asked(NamedTuple):
    """Questions, [questions, …]."""

    prompts: jax.Array
    lengths: jax.Array
    starts: jax.Array | None
    of_rows: jax.Array | None  # what stands before each


class Searched(NamedTuple):
    """Questions on their way, and what their next step reads."""

    state: BeamState
    cache: KeysValues  # of the beams' tokens
    prompt: KVCache
    lengths: jax.Array  # [batch], of the prompts with what was read before them


AXES = Searched._make((0, 1, KVCache._make((1, 1, 0, 0)), 0))  # of the questions


@partial(jax.jit, static_argnames=("model", "beams", "max_new_tokens", "batch"))
def beam_search(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    terminators: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
    batch: int | None = None,
    constraint: Trie | None = None,
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
    Those that wait take its place. An answer depends on nothing beside its prompt, but for rounding. Beams
    still alive at the length limit fill the places left empty, marked unfinished.

    In transformers, `generate(num_beams=beams, length_penalty=0.0)` with `early_stopping` "never" or False
    ends beams and stops by the same rules, with two exceptions. It makes a hypothesis of each EOS id. And at
    the length limit it ranks live beams among the answers by score; ours only fill the places left empty.

    Args:
        prompts: int32 [questions, time], padded on the right.
        lengths: int32 [questions]; nothing is searched for rows of no tokens, which fill up a batch.
        terminators: bool [vocabulary], the tokens that end an answer.
        max_new_tokens: longest answer, terminator included.
        batch: questions that are searched at a time; None is all.
        constraint: which tokens and terminators may follow; scores stay those of the model as it is.
        starts: int32 [questions], where of the constraint each prompt begins; None is 0.
        earlier: what was read before the prompts.

    Raises ValueError for a batch that rows cannot be cut into.
    """
    shards = row_shards(model.mesh)
    batch = batch or len(prompts)
    if batch % shards or len(prompts) % shards:
        raise ValueError(f"{len(prompts)} rows, {batch} at a time, do not divide over {shards} devices")
    model, params = for_decoding(model, params)
    head = model.head(params).astype(model.shape.dtype)
    in_specs = STATE_SPECS, ROWS, TABLE, REPLICATED, REPLICATED
    of_shard = partial(_choose, beams, block_for(model.layout.platform))
    choose = maybe_shard_map(model.layout, of_shard, in_specs, STATE_SPECS)

    def begin(asked: Asked) -> Searched:
        before = earlier and earlier._replace(of_rows=asked.of_rows)
        prompt, last, read = prefill(model, params, asked.prompts, asked.lengths, beams, before)
        state = _nothing_said(asked, beams, max_new_tokens, constrained=constraint is not None)
        state = choose(state, last, head, terminators, constraint)
        return Searched(state, empty_cache(model, prompt, max_new_tokens, own=False), prompt, read)

    def goes_on(searched: Searched) -> jax.Array:
        """Whether a live beam of the question can still beat its worst answer, bool [batch]."""
        live, ended, at = searched.state.live.logps, searched.state.ended.logps, searched.state.step
        return (live.max(-1) > ended.min(-1)) & (at < max_new_tokens)

    def step(searched: Searched) -> Searched:
        state, cache, prompt, read = searched
        at = state.step - 1
        newest = jnp.take_along_axis(state.live.tokens, at[:, None, None], axis=2, mode="clip")[..., 0]
        hidden, cache = extend(model, params, newest, at, read, prompt, cache, state.ancestors)
        chosen, on = choose(state, hidden, head, terminators, constraint), goes_on(searched)
        state = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(on, new, old), chosen, state)
        return Searched(state, cache, prompt, read)

    asked = Asked(prompts, lengths, starts, earlier and earlier.of_rows)
    work = Work(begin, step, goes_on, lambda searched: finalize(searched.state), AXES, max_new_tokens - 1)
    places = 1 + jnp.arange(len(prompts) // shards, dtype=jnp.int32)
    counts = jnp.where((lengths > 0).reshape(shards, -1), places, 0).max(-1)
    decoded = run(work, asked, counts, batch // shards)
    return jax.tree.map(lambda x: constrain(x, model.layout), decoded)


def _nothing_said(asked: Asked, beams: int, max_new_tokens: int, *, constrained: bool) -> BeamState:
    """Beams without a token, all of each question alike."""
    rows = len(asked.prompts)
    blank, none = jnp.zeros((rows, beams, max_new_tokens), jnp.int32), jnp.zeros((rows, beams))
    live = Hypotheses(none, blank, blank.astype(jnp.float32), blank[..., 0], none)
    worst = jnp.where(asked.lengths > 0, NEG_INF, jnp.inf)  # what a row of no tokens has is never beaten
    ended = live._replace(logps=jnp.broadcast_to(worst[:, None], none.shape))
    starts = jnp.zeros(rows, jnp.int32) if asked.starts is None else asked.starts
    allowed = jnp.broadcast_to(starts[:, None], (rows, beams)) if constrained else None
    return BeamState(jnp.zeros(rows, jnp.int32), live, ended, blank, allowed)


def _choose(
    beams: int,
    block: int,
    axes: MeshAxes,
    state: BeamState,
    hidden: jax.Array,
    head: jax.Array,
    terminators: jax.Array,
    constraint: Trie | None,
) -> BeamState:
    """Let endings and extensions compete, and keep the best of each. hidden [batch, sources, model]."""
    sources = hidden.shape[1]
    now = jnp.arange(state.live.tokens.shape[2]) == state.step[:, None, None]  # [batch, 1, max_new_tokens]
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
        tokens=jnp.where(now, token[..., None], before.tokens),
        token_logps=jnp.where(now, token_logp[..., None], before.token_logps),
        lengths=before.lengths + 1,
    )

    # An ending counts only among the best `beams` of all candidates of this step.
    ending = top.ending + offset
    threshold = jax.lax.top_k(jnp.concatenate([ending, logps], 1), beams)[0][:, -1:]
    last = jnp.where(now, (top.ending - top.normaliser)[..., None], live.token_logps)
    ending = jnp.where(ending >= threshold, ending, NEG_INF)
    ending = live._replace(logps=ending, token_logps=last, ending_logps=top.endings - top.normaliser)
    competing = jax.tree.map(lambda *x: jnp.concatenate(x, 1), state.ended, ending)
    return BeamState(
        state.step + 1,
        extended,
        gather_beams(competing, jax.lax.top_k(competing.logps, beams)[1]),
        jnp.where(now, jnp.arange(beams)[:, None], ancestors),
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
    source = jax.lax.div(best, jnp.asarray(per_source, best.dtype))
    return logps, token, token_logp, jnp.minimum(source, sources - 1)


def finalize(state: BeamState) -> DecodedBatch:
    """Answers first; live beams fill the places that are left."""
    ended = state.ended.logps > NEG_INF
    count = ended.sum(-1, keepdims=True)
    place = jnp.arange(ended.shape[1])[None]
    index = jnp.where(place < count, place, ended.shape[1] + place - count)
    both = jax.tree.map(lambda *x: jnp.concatenate(x, 1), state.ended, state.live)
    logps, tokens, token_logps, lengths, ending_logps = gather_beams(both, index)
    finished = place < count
    return DecodedBatch(tokens, lengths, finished, logps, logps, token_logps, token_logps, ending_logps)
