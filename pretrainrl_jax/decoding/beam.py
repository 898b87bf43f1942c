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
from pretrainrl_jax.decoding.cache import empty_cache, extend, gather_beams, prefill
from pretrainrl_jax.decoding.constraints import Constraint, State, begin
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.layers import Pair
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, WHOLE, Parts, on_shards


class Hypotheses(NamedTuple):
    logps: jax.Array  # [batch, beams]
    tokens: jax.Array  # [batch, beams, max_new_tokens]
    token_logps: jax.Array  # the same
    lengths: jax.Array  # [batch, beams]


class BeamState(NamedTuple):
    step: jax.Array  # tokens every live beam has
    live: Hypotheses
    ended: Hypotheses
    ancestors: jax.Array  # [batch, beams, max_new_tokens] which beam slot held this beam's token of each step
    allowed: State  # of the constraint, [batch, beams, …]


OF_STATE = BeamState._make([WHOLE, *[ROWS] * 4])  # how it lies on a mesh


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
        prompts: int32 [batch, time], padded on the right.
        lengths: int32 [batch], at least 1.
        terminators: bool [vocabulary], the tokens that end an answer.
        beams: beam width.
        max_new_tokens: longest answer, terminator included.
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
        step = state.step
        live, ancestors, allowed = jax.tree.map(
            lambda x: x[:, :sources], (state.live, state.ancestors, state.allowed)
        )
        may_follow = partial(constraint.allowed, allowed) if constraint else None
        per_source = min(beams, len(terminators))
        found = best_tokens(parts, hidden, head, terminators, per_source, may_follow)
        # Normalising keeps the order within a source: only the few values that are chosen are normalised.
        offset = live.logps - found.normaliser  # [batch, sources]
        logps, tokens, of_tokens = (
            _pad(x.reshape(rows, -1), beams, fill)
            for x, fill in (
                (found.logits + offset[..., None], NEVER),
                (found.tokens, 0),
                (found.logits - found.normaliser[..., None], NEVER),
            )
        )
        logps, best = jax.lax.top_k(logps, beams)  # [batch, beams]
        token, token_logp = gather_beams((tokens, of_tokens), best)
        parent = jnp.minimum(best // per_source, sources - 1)
        before, ancestors, allowed = gather_beams((live, ancestors, allowed), parent)
        extended = Hypotheses(
            logps,
            before.tokens.at[:, :, step].set(token),
            before.token_logps.at[:, :, step].set(token_logp),
            before.lengths + 1,
        )

        # An ending counts only among the best `beams` of all candidates of this step.
        ending = found.ending + offset
        threshold = jax.lax.top_k(jnp.concatenate([ending, logps], 1), beams)[0][:, -1:]
        last = live.token_logps.at[:, :, step].set(found.ending - found.normaliser)
        ending = live._replace(logps=jnp.where(ending >= threshold, ending, NEVER), token_logps=last)
        competing = _joined(state.ended, ending)
        return BeamState(
            step + 1,
            extended,
            gather_beams(competing, jax.lax.top_k(competing.logps, beams)[1]),
            ancestors.at[:, :, step].set(jnp.arange(beams)),
            constraint.advance(allowed, token) if constraint else None,
        )

    def should_continue(carry: tuple[BeamState, Pair]) -> jax.Array:
        state, _ = carry
        can_improve = state.live.logps.max(-1) > state.ended.logps.min(-1)
        return (state.step < max_new_tokens) & can_improve.any()

    def step(carry: tuple[BeamState, Pair]) -> tuple[BeamState, Pair]:
        state, cache = carry
        at = state.step - 1
        newest = jax.lax.dynamic_index_in_dim(state.live.tokens, at, axis=2, keepdims=False)
        hidden, cache = extend(model, params, newest, at, lengths, prompt, cache, state.ancestors)
        return choose(state, hidden, head, terminators, constraint), cache

    choose = on_shards(model.layout, select, (OF_STATE, ROWS, TABLE, WHOLE, WHOLE), OF_STATE)
    blank = jnp.zeros((batch, beams, max_new_tokens), jnp.int32)
    live = Hypotheses(jnp.zeros((batch, beams)), blank, blank.astype(jnp.float32), blank[..., 0])
    ended = live._replace(logps=jnp.full((batch, beams), NEVER))
    state = BeamState(jnp.int32(0), live, ended, blank, begin(constraint, batch, beams))
    state = choose(state, last, head, terminators, constraint)
    begun = (state, empty_cache(model, prompt, max_new_tokens, own=False))
    state, _ = jax.lax.while_loop(should_continue, step, begun)
    return jax.tree.map(lambda x: constrain(x, model.layout), finalize(state))


def _pad(x: jax.Array, width: int, fill: float) -> jax.Array:
    """x [batch, n] widened to at least `width` columns."""
    return jnp.pad(x, ((0, 0), (0, max(0, width - x.shape[1]))), constant_values=fill)


def _joined(first: Hypotheses, second: Hypotheses) -> Hypotheses:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), first, second)


def finalize(state: BeamState) -> DecodedBatch:
    """Answers first; live beams fill the places that are left."""
    ended = state.ended.logps > NEVER
    count = ended.sum(-1, keepdims=True)
    place = jnp.arange(ended.shape[1])[None]
    index = jnp.where(place < count, place, ended.shape[1] + place - count)
    logps, tokens, token_logps, lengths = gather_beams(_joined(state.ended, state.live), index)
    return DecodedBatch(tokens, lengths, place < count, logps, logps, token_logps, token_logps)
