"""Sampling wholly on the device: one compiled loop from the prompt to all samples with their scores.

The samples of a prompt share its key-value cache, which is read and never copied. Their own tokens are
written once into a small cache, and each sample sees its own through a mask. The vocabulary is never sorted:
the thresholds of top-k and top-p are found exactly, one bit of a float at a time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pretrainrl_jax.decoding.best_tokens import BLOCK
from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.decoder import KVCache, Model, Params, project
from pretrainrl_jax.model.mesh import Layout, constrain
from pretrainrl_jax.model.vocabulary import ROWS, TABLE, Parts, on_shards, walk

COLDEST = 1e-30  # a temperature above 0 but below this one counts as this: quotients stay finite


class Samples(NamedTuple):
    """What was drawn for each prompt, in the order of the samples' numbers."""

    tokens: jax.Array  # int32 [batch, samples, max_new_tokens], 0 after the end; terminators are not kept
    lengths: jax.Array  # int32 [batch, samples], without the terminator
    logps: jax.Array  # float32 [batch, samples], of the model as it is; the terminator's included
    sampled_logps: jax.Array  # float32 [batch, samples], of the distribution drawn from; likewise
    finished: jax.Array  # bool [batch, samples]: ended by a terminator within the limit


class _Drawing(NamedTuple):
    step: jax.Array  # tokens drawn for every sample
    done: jax.Array  # bool [batch, samples]
    newest: jax.Array  # [batch, samples], not yet read
    tokens: jax.Array  # [batch, samples, max_new_tokens]
    lengths: jax.Array  # [batch, samples]
    logps: jax.Array  # [batch, samples]
    sampled_logps: jax.Array  # [batch, samples]
    keys: jax.Array  # [layers, batch, max_new_tokens * samples, kv_heads, head]
    values: jax.Array  # the same


def _ordered(x: jax.Array) -> jax.Array:
    """float32 as uint32 in the same order, so that a threshold can be searched bit by bit."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)  # -0.0 is 0.0
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[jax.Array], jax.Array], like: jax.Array) -> jax.Array:
    """The largest uint32 for which `holds`, which must hold for all smaller ones too; 0 where it never does.

    `like` has the shape of the answer.
    """

    def try_bit(number: jax.Array, found: jax.Array) -> jax.Array:
        tried = found | (jnp.uint32(1) << (31 - number).astype(jnp.uint32))
        return jnp.where(holds(tried), tried, found)

    return jax.lax.fori_loop(0, 32, try_bit, like)


def filtered_logps(
    logits: jax.Array, temperature: jax.Array | float, top_p: jax.Array | float, top_k: jax.Array | int
) -> jax.Array:
    """Log-probabilities under the tempered, truncated and renormalised distribution.

    As transformers has it: temperature first, then top-k, then top-p over what is left. Tokens with equal
    logits are kept or dropped together: top-k keeps every token at least as probable as the k-th, and top-p
    every token for which all more probable ones together stay below `top_p`. Where no two logits are equal,
    that is the smallest set of most probable tokens that reaches `top_p`. One token at least is kept.

    Args:
        logits: float32 [..., vocabulary], no NaN.
        temperature: divides the logits; 0 counts as `COLDEST`, which leaves only the largest logits.
        top_p: in (0, 1]; 1 keeps all.
        top_k: 0 or more than the vocabulary has keeps all.

    Returns:
        float32 [..., vocabulary], -inf for tokens that are never drawn.
    """
    order = _ordered(logits)  # of the logits as they are: no temperature makes a tie of two of them
    logits = (logits - logits.max(-1, keepdims=True)) / jnp.maximum(temperature, COLDEST)
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
    """Logits float32 [batch, samples, vocabulary]; on a mesh each device has those of its part.

    Where the head's model axis is cut, block after block of it is gathered: no device ever holds the head.

    Args:
        hidden: [batch, samples, model].
        head: [vocabulary, model].
        layout: how both are cut.
    """

    def of_part(parts: Parts, hidden: jax.Array, head: jax.Array) -> jax.Array:
        def visit(start: Any, rows: jax.Array, logits: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(logits, project(hidden, rows), start, axis=-1)

        if not parts.model:
            return project(hidden, head)
        blank = jnp.zeros((*hidden.shape[:-1], head.shape[0]), jnp.float32)
        return walk(parts, head, BLOCK, visit, blank)

    return on_shards(layout, of_part, (ROWS, TABLE), PartitionSpec("rows", None, "vocabulary"))(hidden, head)


def _of(values: jax.Array, token: jax.Array) -> jax.Array:
    """Each sample's value at its token: [batch, samples, vocabulary] and [batch, samples] to the latter."""
    return jnp.take_along_axis(values, token[..., None], -1)[..., 0]


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
) -> Samples:
    """Random continuations of each prompt.

    Each step draws one token for every sample that has not ended, from `filtered_logps` of the model's
    logits. A terminator ends a sample. Terminators are drawn as any other token and keep their own
    probability each; beam search, which asks for the most probable answer, counts only the most probable
    one. The loop stops when all samples have ended.

    The i-th sample's draw at a step depends on its prompt, the prompt's key, i and the step alone; so
    neighbours, padding and the batch size change nothing beyond the rounding of the logits.

    Args:
        model: the decoder (static).
        params: its parameters.
        prompts: int32 [batch, time], padded on the right.
        lengths: int32 [batch]; 0 marks a row that only fills up the batch, for which nothing is drawn.
        terminators: bool [vocabulary], the tokens that end a sample.
        keys: typed random keys [batch], one for each prompt.
        samples: how many to draw for each prompt (static).
        max_new_tokens: longest sample, terminator included (static).
        temperature: float32, 0 or more; 0 takes the most probable token (the first of equal ones), whatever
            top_p and top_k are, and its probability as sampled is then 1.
        top_p: float32 in (0, 1]; 1 is off.
        top_k: int32, 0 or more; 0 is off.

    Returns:
        Samples; `logps` belongs to the model as it is, neither tempered nor truncated.
    """
    batch, time = prompts.shape
    head = model.head(params)
    positions = jnp.broadcast_to(jnp.arange(time), prompts.shape)
    read = model.hidden(params, prompts, positions, causal_mask(lengths, time))
    prompt_k, prompt_v = read.keys, read.values
    # Each sample reads the prompt's last token for itself: so all steps are alike, and compiled once.
    last = jnp.take_along_axis(prompts, jnp.maximum(lengths - 1, 0)[:, None], 1)  # [batch, 1]
    in_prompt = jnp.broadcast_to(jnp.arange(time) < lengths[:, None, None] - 1, (batch, samples, time))
    prompt = KVCache(prompt_k, prompt_v, in_prompt, positions)
    slots = jnp.arange(max_new_tokens * samples)  # of the grown cache: all samples' tokens of a step together
    grown_positions = lengths[:, None] - 1 + slots // samples
    is_own = slots % samples == jnp.arange(samples)[:, None]
    alone = jnp.broadcast_to(jnp.eye(samples, dtype=bool), (batch, samples, samples))
    sample_keys = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples)))(keys)

    def grow(state: _Drawing) -> tuple[_Drawing, jax.Array]:
        """Read the newest token of every sample: the hidden states that predict the next ones."""
        at = state.step
        seen = jnp.broadcast_to(is_own & (slots < at * samples), (batch, samples, len(slots)))
        position = jnp.broadcast_to((lengths - 1 + at)[:, None], (batch, samples))
        past = (prompt, KVCache(state.keys, state.values, seen, grown_positions))
        new = model.hidden(params, state.newest, position, alone, past)
        where = (0, 0, at * samples, 0, 0)
        return state._replace(
            keys=jax.lax.dynamic_update_slice(state.keys, new.keys, where),
            values=jax.lax.dynamic_update_slice(state.values, new.values, where),
        ), new.hidden

    def draw(state: _Drawing, hidden: jax.Array) -> _Drawing:
        """Draw each sample's next token. hidden [batch, samples, model]."""
        logits = all_logits(hidden, head, model.layout)  # [batch, samples, vocabulary]
        logps = filtered_logps(logits, temperature, top_p, top_k)

        def random() -> jax.Array:
            step_keys = jax.vmap(jax.vmap(partial(jax.random.fold_in, data=state.step)))(sample_keys)
            noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:])))(step_keys)
            return (logps + noise).argmax(-1)

        token = jax.lax.cond(temperature > 0, random, lambda: logits.argmax(-1)).astype(jnp.int32)
        logp = _of(logits, token) - jax.nn.logsumexp(logits, -1)
        sampled_logp = jnp.where(temperature > 0, _of(logps, token), 0)
        ends = terminators[token]
        kept = ~state.done & ~ends
        return state._replace(
            step=state.step + 1,
            done=state.done | ends,
            newest=token,
            tokens=state.tokens.at[:, :, state.step].set(jnp.where(kept, token, 0)),
            lengths=state.lengths + kept,
            logps=state.logps + jnp.where(state.done, 0, logp),
            sampled_logps=state.sampled_logps + jnp.where(state.done, 0, sampled_logp),
        )

    def unsettled(state: _Drawing) -> jax.Array:
        return (state.step < max_new_tokens) & ~state.done.all()

    def step(state: _Drawing) -> _Drawing:
        return draw(*grow(state))

    shape = (prompt_k.shape[0], batch, len(slots), *prompt_k.shape[3:])
    empty = constrain(
        jnp.zeros(shape, prompt_k.dtype), model.layout, "layers", "rows", None, "kv_heads", "head"
    )
    blank = jnp.zeros((batch, samples))
    state = _Drawing(
        step=jnp.int32(0),
        done=jnp.broadcast_to((lengths == 0)[:, None], (batch, samples)),
        newest=jnp.broadcast_to(last, (batch, samples)),
        tokens=jnp.zeros((batch, samples, max_new_tokens), jnp.int32),
        lengths=blank.astype(jnp.int32),
        logps=blank,
        sampled_logps=blank,
        keys=empty,
        values=empty,
    )
    state = jax.lax.while_loop(unsettled, step, state)
    finished = state.done & (lengths > 0)[:, None]
    drawn = Samples(state.tokens, state.lengths, state.logps, state.sampled_logps, finished)
    return jax.tree.map(lambda x: constrain(x, model.layout), drawn)


@jax.jit
def prompt_keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    """A random key for each prompt, [batch], from a uint32 seed and the prompts' numbers, int32 [batch]."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
