"""Sampling wholly on the device: one compiled loop from the prompt to all samples with their scores.

The samples of a prompt share its key-value cache, which is read and never copied; each has a small cache of
its own tokens. The vocabulary is never sorted: the thresholds of top-k and top-p are found exactly, one bit
of a float at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.decoding.best_tokens import BLOCK
from pretrainrl_jax.decoding.cache import empty_cache, extend, prefill
from pretrainrl_jax.decoding.decoded import DecodedBatch
from pretrainrl_jax.decoding.draw import Exact, inverse_cdf, take_along_last, uniform
from pretrainrl_jax.model import vocabulary
from pretrainrl_jax.model.beginnings import Before
from pretrainrl_jax.model.decoder import Model, Params, project
from pretrainrl_jax.model.layers import KeysValues
from pretrainrl_jax.model.mesh import Layout, constrain
from pretrainrl_jax.model.vocabulary import LOGITS, ROWS, TABLE, MeshAxes
from pretrainrl_jax.model.whole import for_decoding

MIN_TEMPERATURE = 1e-30  # a temperature above 0 but below this one counts as this: quotients stay finite


class SampleState(NamedTuple):
    step: jax.Array  # tokens drawn for every sample
    done: jax.Array  # bool [batch, samples]; of rows of no tokens from the beginning
    hidden: jax.Array  # [batch, samples, model], which predicts the next tokens
    cache: KeysValues
    tokens: jax.Array  # [batch, samples, max_new_tokens]
    lengths: jax.Array  # [batch, samples]
    token_logps: jax.Array  # [batch, samples, max_new_tokens]
    behaviour_token_logps: jax.Array  # the same


def _ordered(x: jax.Array) -> jax.Array:
    """float32 as uint32 in the same order, so that a threshold can be searched bit by bit."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 is 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """The largest uint32 for which `holds`, as it must for all smaller ones; 0, as `like` is, where never."""

    def try_bit(number: jax.Array, prefix: jax.Array) -> jax.Array:
        tried = prefix | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        return jnp.where(holds(tried), tried, prefix)

    return jax.lax.fori_loop(0, 32, try_bit, like)


def filtered_logps(
    logits: jax.Array, temperature: jax.Array | float, top_p: jax.Array | float, top_k: jax.Array | int
) -> jax.Array:
    """Log-probabilities under the tempered, truncated and renormalised distribution.

    As transformers has it: temperature first, then top-k, then top-p over what is left. Tokens with equal
    logits are kept or dropped together: top-k keeps every token at least as probable as the k-th, and top-p
    every token for which all more probable ones together stay below `top_p`. Where no two logits are equal,
    that is the smallest set of most probable tokens that reaches `top_p`. One token at least is kept; what is
    never drawn has -inf.

    Args:
        logits: float32 [..., vocabulary], no NaN.
        temperature: divides the logits; 0 counts as `MIN_TEMPERATURE`, which leaves only the largest logits.
        top_p: in (0, 1]; 1 keeps all.
        top_k: 0 or more than the vocabulary has keeps all.
    """
    order = _ordered(logits)  # of the logits as they are: no temperature makes a tie of two of them
    logits = (logits - logits.max(-1, keepdims=True)) / jnp.maximum(temperature, MIN_TEMPERATURE)
    lowest = jnp.zeros_like(order[..., :1])
    wanted = jnp.minimum(top_k, logits.shape[-1])

    def enough_tokens(at: jax.Array) -> jax.Array:
        return (order >= at).sum(-1, keepdims=True) >= wanted

    kth = jax.lax.cond(wanted > 0, lambda: _largest(enough_tokens, lowest), lambda: lowest)
    weights = jnp.where(order >= kth, jnp.exp(logits), 0)
    mass = top_p * weights.sum(-1, keepdims=True)

    def enough_above(at: jax.Array) -> jax.Array:
        above = jnp.where(order > at, weights, 0).sum(-1, keepdims=True)
        return (above >= mass) & (above > 0)  # the most probable token stays, even where the mass is 0

    # Whatever has enough above it is dropped; a sum over fewer tokens is never rounded to a larger one.
    dropped = jax.lax.cond(top_p < 1, lambda: _largest(enough_above, lowest), lambda: lowest)
    logits = jnp.where((order >= kth) & (order > dropped), logits, -jnp.inf)
    return logits - jax.nn.logsumexp(logits, -1, keepdims=True)


def all_logits(hidden: jax.Array, head: jax.Array, layout: Layout) -> jax.Array:
    """Logits float32 [batch, samples, vocabulary] of hidden states [batch, samples, model] and the head.

    On a mesh each device has those of its part. Where the head's model axis is cut, block after block of it
    is gathered: no device ever holds the head.
    """

    def per_shard(axes: MeshAxes, hidden: jax.Array, head: jax.Array) -> jax.Array:
        def body(start: Any, rows: jax.Array, logits: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(logits, project(hidden, rows), start, axis=-1)

        if not axes.model:
            return project(hidden, head)
        blank = jnp.zeros((*hidden.shape[:-1], head.shape[0]), jnp.float32)
        return vocabulary.fold_blocks(axes, head, BLOCK, body, blank)

    return vocabulary.maybe_shard_map(layout, per_shard, (ROWS, TABLE), LOGITS)(hidden, head)


@partial(jax.jit, static_argnames=("model", "samples", "max_new_tokens"))
def sample(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    terminators: jax.Array,
    keys: jax.Array,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
    top_k: jax.Array | int,
    earlier: Before | None = None,
) -> DecodedBatch:
    """Random continuations of each prompt.

    Each step draws one token for every sample that has not ended, from `filtered_logps` of the model's
    logits, by one uniform number (`draw.inverse_cdf`). A terminator ends a sample. Terminators are drawn as
    any other token and keep their own probability each; beam search, which asks for the most probable answer,
    counts only the most probable one. The loop stops when all samples have ended.

    The i-th sample's draw at a step depends on its prompt, the prompt's key, i and the step alone; so
    neighbours, padding and the batch size change nothing beyond the rounding of the logits. `logps` are the
    model's as it is, neither tempered nor truncated.

    Args:
        prompts, lengths, terminators, max_new_tokens, earlier: as `beam_search` takes them.
        keys: typed random keys [batch], one for each prompt.
        temperature: float32, 0 or more; 0 takes the most probable token (the first of equal ones), whatever
            top_p and top_k are, and its probability as sampled is then 1.
        top_p, top_k: float32 in (0, 1], where 1 is off; int32, 0 or more, where 0 is off.
    """
    model, params = for_decoding(model, params)
    head = model.head(params).astype(model.shape.dtype)
    prompt, last, read = prefill(model, params, prompts, lengths, samples, earlier)
    sample_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys)
    filters = temperature, top_p, top_k
    off = (temperature == 1) & (top_p >= 1) & ((top_k <= 0) | (top_k >= model.shape.vocabulary))

    def should_continue(state: SampleState) -> jax.Array:
        return (state.step < max_new_tokens) & ~state.done.all()

    def step(state: SampleState) -> SampleState:
        logits = all_logits(state.hidden, head, model.layout)
        step_keys = jax.vmap(jax.vmap(partial(jax.random.fold_in, data=state.step)))(sample_keys)
        number = uniform(step_keys)

        def plain() -> Drawn:
            token, logp = inverse_cdf(logits, number, model.layout)
            return token, logp, logp

        filtered = partial(_draw_filtered, logits, number, *filters, model.layout)
        drawn: Drawn = jax.lax.cond(off, plain, filtered)
        hidden, cache = extend(model, params, drawn[0], state.step, read, prompt, state.cache)
        return _written(state, drawn, terminators[drawn[0]])._replace(hidden=hidden, cache=cache)

    cache = empty_cache(model, prompt, max_new_tokens, own=True)
    state = jax.lax.while_loop(should_continue, step, _begin(last, lengths, samples, max_new_tokens, cache))
    of_tokens = state.token_logps, state.behaviour_token_logps
    sums = of_tokens[0].sum(-1), of_tokens[1].sum(-1)
    finished = state.done & (lengths > 0)[:, None]
    drawn = DecodedBatch(state.tokens, state.lengths, finished, *sums, *of_tokens)
    return jax.tree.map(lambda x: constrain(x, model.layout), drawn)


def _begin(
    last: jax.Array, lengths: jax.Array, samples: int, max_new_tokens: int, cache: KeysValues
) -> SampleState:
    """Nothing drawn yet, after hidden states `last` [batch, 1, model] of prompts."""
    blank, none = jnp.zeros((len(last), samples, max_new_tokens)), jnp.zeros((len(last), samples), bool)
    return SampleState(
        step=jnp.int32(0),
        done=none | (lengths == 0)[:, None],
        hidden=jnp.broadcast_to(last, (len(last), samples, last.shape[-1])),
        cache=cache,
        tokens=blank.astype(jnp.int32),
        lengths=none.astype(jnp.int32),
        token_logps=blank,
        behaviour_token_logps=blank,
    )


# What is drawn: tokens, their log-probabilities by the model as it is, and those that they were drawn by.
Drawn = tuple[jax.Array, jax.Array, jax.Array]


def _draw_filtered(
    logits: jax.Array,
    number: Exact,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
    top_k: jax.Array | int,
    layout: Layout,
) -> Drawn:
    logps = filtered_logps(logits, temperature, top_p, top_k)
    token = jax.lax.cond(
        temperature > 0,
        lambda: inverse_cdf(logps, number, layout)[0],
        lambda: logits.argmax(-1).astype(jnp.int32),
    )
    behaviour = jnp.where(temperature > 0, take_along_last(logps, token), 0)
    return token, take_along_last(logits, token) - jax.nn.logsumexp(logits, -1), behaviour


def _written(state: SampleState, drawn: Drawn, ends: jax.Array) -> SampleState:
    """The state with what was drawn at its step: tokens that end it or not."""
    token, logp, behaviour = drawn
    at, live = state.step, ~state.done
    kept = live & ~ends
    return state._replace(
        step=at + 1,
        done=state.done | ends,
        tokens=state.tokens.at[:, :, at].set(jnp.where(kept, token, 0)),
        lengths=state.lengths + kept,
        token_logps=state.token_logps.at[:, :, at].set(jnp.where(live, logp, 0)),
        behaviour_token_logps=state.behaviour_token_logps.at[:, :, at].set(jnp.where(live, behaviour, 0)),
    )


@jax.jit
def prompt_keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    """A random key for each prompt, [batch], from a uint32 seed and the prompts' numbers, int32 [batch]."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
