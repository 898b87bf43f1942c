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
from pretrainrl_jax.decoding.cache import Pair, empty_cache, extend, gather_beams, prefill
from pretrainrl_jax.decoding.constraints import Constraint, State, begin
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, WHOLE, Parts, on_shards


class BeamState(NamedTuple):
    step: jax.Array  # tokens every live beam has
    live_logps: jax.Array  # [batch, beams]
    live_tokens: jax.Array  # [batch, beams, max_new_tokens]
    live_token_logps: jax.Array  # the same
    ancestors: jax.Array  # [batch, beams, max_new_tokens] which beam slot held this beam's token of each step
    allowed: State  # of the constraint, [batch, beams, …]
    ended_logps: jax.Array  # [batch, beams]
    ended_tokens: jax.Array  # [batch, beams, max_new_tokens]
    ended_token_logps: jax.Array  # the same
    ended_lengths: jax.Array  # [batch, beams]


OF_STATE = BeamState._make([WHOLE, *[ROWS] * 9])  # how it lies on a mesh


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
) -> DecodedBatch:
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
        constraint: which tokens and terminators may follow; scores stay those of the model as it is.

    Returns:
        The beams. Those still alive at the length limit fill the places left empty, marked unfinished.
    """
    batch = len(prompts)
    head = model.head(params).astype(model.shape.dtype)
    prompt, last = prefill(model, params, prompts, lengths, beams)

    def select(
        parts: Parts,
        state: BeamState,
        hidden: jax.Array,
        head: jax.Array,
        terminators: jax.Array,
        constraint: Constraint | None,
    ) -> BeamState:
        """Let endings and extensions compete, and keep the best of each. hidden [batch, sources, model]."""
        rows, sources = hidden.shape[:2]
        step, live_logps = state.step, state.live_logps[:, :sources]
        live_tokens, live_token_logps, ancestors, allowed = jax.tree.map(
            lambda x: x[:, :sources],
            (state.live_tokens, state.live_token_logps, state.ancestors, state.allowed),
        )
        may_follow = partial(constraint.allowed, allowed) if constraint else None
        per_source = min(beams, len(terminators))
        found = best_tokens(parts, hidden, head, terminators, per_source, may_follow)
        # Normalising keeps the order within a source: only the few values that are chosen are normalised.
        offset = live_logps - found.normaliser  # [batch, sources]
        ending = found.ending + offset
        logps = _pad((found.logits + offset[..., None]).reshape(rows, -1), beams, NEVER)
        tokens = _pad(found.tokens.reshape(rows, -1), beams, 0)
        of_tokens = _pad((found.logits - found.normaliser[..., None]).reshape(rows, -1), beams, NEVER)
        logps, best = jax.lax.top_k(logps, beams)  # [batch, beams]
        parent = jnp.minimum(best // per_source, sources - 1)
        token, token_logp = gather_beams((tokens, of_tokens), best)
        parents = gather_beams((live_tokens, live_token_logps, ancestors, allowed), parent)

        # An ending counts only among the best `beams` of all candidates of this step.
        threshold = jax.lax.top_k(jnp.concatenate([ending, logps], 1), beams)[0][:, -1:]
        ending = jnp.where(ending >= threshold, ending, NEVER)
        ended_token_logps = live_token_logps.at[:, :, step].set(found.ending - found.normaliser)
        ended_lengths = jnp.broadcast_to(step, ending.shape)
        ended_logps, kept = jax.lax.top_k(jnp.concatenate([state.ended_logps, ending], 1), beams)
        competing = jax.tree.map(
            lambda before, new: jnp.concatenate([before, new], 1),
            (state.ended_tokens, state.ended_token_logps, state.ended_lengths),
            (live_tokens, ended_token_logps, ended_lengths),
        )
        return BeamState(
            step + 1,
            logps,
            parents[0].at[:, :, step].set(token),
            parents[1].at[:, :, step].set(token_logp),
            parents[2].at[:, :, step].set(jnp.arange(beams)),
            constraint.advance(parents[3], token) if constraint else None,
            ended_logps,
            *gather_beams(competing, kept),
        )

    def should_continue(carry: tuple[BeamState, Pair]) -> jax.Array:
        state, _ = carry
        can_improve = state.live_logps.max(-1) > state.ended_logps.min(-1)
        return (state.step < max_new_tokens) & can_improve.any()

    def step(carry: tuple[BeamState, Pair]) -> tuple[BeamState, Pair]:
        state, cache = carry
        at = state.step - 1
        newest = jax.lax.dynamic_index_in_dim(state.live_tokens, at, axis=2, keepdims=False)
        hidden, cache = extend(model, params, newest, at, lengths, prompt, cache, state.ancestors)
        return choose(state, hidden, head, terminators, constraint), cache

    choose = on_shards(model.layout, select, (OF_STATE, ROWS, TABLE, WHOLE, WHOLE), OF_STATE)
    blank = jnp.zeros((batch, beams, max_new_tokens), jnp.int32)
    state = BeamState(
        step=jnp.int32(0),
        live_logps=jnp.zeros((batch, beams)),
        live_tokens=blank,
        live_token_logps=blank.astype(jnp.float32),
        ancestors=blank,
        allowed=begin(constraint, batch, beams),
        ended_logps=jnp.full((batch, beams), NEVER),
        ended_tokens=blank,
        ended_token_logps=blank.astype(jnp.float32),
        ended_lengths=jnp.zeros((batch, beams), jnp.int32),
    )
    state = choose(state, last, head, terminators, constraint)
    begun = (state, empty_cache(model, prompt, max_new_tokens, own=False))
    state, _ = jax.lax.while_loop(should_continue, step, begun)
    return jax.tree.map(lambda x: constrain(x, model.layout), finalize(state))


def _pad(x: jax.Array, width: int, fill: float) -> jax.Array:
    """x [batch, n] widened to at least `width` columns."""
    return jnp.pad(x, ((0, 0), (0, max(0, width - x.shape[1]))), constant_values=fill)


def finalize(state: BeamState) -> DecodedBatch:
    """Answers first; live beams fill the places that are left."""
    ended = state.ended_logps > NEVER
    count = ended.sum(-1, keepdims=True)
    place = jnp.arange(ended.shape[1])[None]
    index = jnp.where(place < count, place, ended.shape[1] + place - count)

    def both(a: jax.Array, b: jax.Array) -> jax.Array:
        return gather_beams(jnp.concatenate([a, b], 1), index)

    lengths = both(state.ended_lengths, jnp.broadcast_to(state.step, state.ended_lengths.shape))
    tokens = both(state.ended_tokens, state.live_tokens)
    logps = both(state.ended_logps, state.live_logps)
    token_logps = both(state.ended_token_logps, state.live_token_logps)
    return DecodedBatch(tokens, lengths, place < count, logps, logps, token_logps, token_logps)
