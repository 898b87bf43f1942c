"""The key-value caches of decoding: the prompt's, read by all its branches, and the one they extend.

Branches are beams or samples. The prompt's cache is never copied, and neither is ever reordered: beams share
one cache of what they all have read, in which each sees its ancestors through a mask; a sample has its own.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.beginnings import Before, cache_before
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.layers import KeysValues
from pretrainrl_jax.model.mesh import constrain


def gather_beams(tree: Any, index: jax.Array) -> Any:
    """array[b, index[b, i]] for every array [batch, n, …] of a tree, for an index [batch, m]."""
    of_row = partial(jnp.take, axis=0, mode="clip")  # which compiles sooner than [] for any index
    return jax.tree.map(lambda array: jax.vmap(of_row)(array, index), tree)


def prefill(
    model: Model,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    branches: int,
    earlier: Before | None = None,
) -> tuple[KVCache, jax.Array, jax.Array]:
    """Read prompts int32 [batch, time], padded on the right; so many branches will see each.

    Of these `lengths`, int32 [batch]; `earlier` was read before the prompts. Gives their cache, the hidden
    states that predict what follows, [batch, 1, model], and lengths with what was read before.
    """
    batch, time = prompts.shape
    positions = jnp.broadcast_to(jnp.arange(time), prompts.shape)

    def by_branches(seen: jax.Array) -> jax.Array:
        """bool [batch, length], for every branch."""
        return jnp.broadcast_to(seen[:, None], (batch, branches, seen.shape[1]))

    def own(caches: tuple[KVCache, ...]) -> tuple[KVCache, jax.Array]:
        read = model.hidden(params, prompts, positions, causal_mask(lengths, time), caches)
        last = gather_beams(read.hidden, jnp.maximum(lengths - 1, 0)[:, None])
        seen = by_branches(jnp.arange(time) < lengths[:, None])
        return KVCache(read.keys, read.values, seen, positions), last

    if earlier is None:
        return *own(()), lengths
    begun, offset = cache_before(model, earlier, time)
    positions = positions + offset[:, None]
    cache, last = own((begun,))
    begun = begun._replace(mask=by_branches(begun.mask[:, 0]))
    of_length = 2, 2, 2, 1  # the axis of each
    both = (jnp.concatenate(two, axis) for *two, axis in zip(begun, cache, of_length, strict=True))
    return KVCache(*both), last, lengths + offset


def empty_cache(model: Model, prompt: KVCache, steps: int, *, own: bool) -> KeysValues:
    """Room for `steps` tokens of every branch.

    Zeros [layers, batch, steps * branches, kv_heads, head], a step's tokens together; with `own`, of each
    branch apart: [layers, batch, branches, steps, kv_heads, head].
    """
    layers, batch, _, *of_token = prompt.keys.shape
    branches = prompt.mask.shape[1]
    inner = (branches, steps) if own else (steps * branches,)
    axes = ("layers", "rows", *[None] * len(inner), "kv_heads", "head")
    empty = jnp.zeros((layers, batch, *inner, *of_token), prompt.keys.dtype)
    empty = constrain(empty, model.layout, *axes)
    return empty, empty


def extend(
    model: Model,
    params: Params,
    tokens: jax.Array,
    step: jax.Array,
    lengths: jax.Array,
    prompt: KVCache,
    cache: KeysValues,
    ancestors: jax.Array | None = None,
) -> tuple[jax.Array, KeysValues]:
    """Read the newest token of every branch.

    Gives the hidden states [batch, branches, model] that predict what follows, and the cache with the tokens.

    Args:
        tokens: int32 [batch, branches].
        step: how many tokens each branch has read before; int32 [batch] where they share a cache.
        lengths, prompt: of the prompts with their beginnings, int32 [batch], and their cache.
        cache: of the branches' tokens, from `empty_cache`.
        ancestors: int32 [batch, branches, steps], which branch read this branch's token of each step; None
            where each has a cache of its own.
    """
    batch, branches = tokens.shape
    before = jnp.arange(cache[0].shape[3] if ancestors is None else ancestors.shape[-1])
    positions = lengths[:, None] + before
    if ancestors is None:
        seen = jnp.broadcast_to(before < step, (batch, branches, len(before)))
    else:
        of_branch = ancestors[..., None] == jnp.arange(branches)  # [batch, branches, steps, branches]
        earlier = (before < step[:, None])[:, None, :, None]
        seen = (of_branch & earlier).reshape(batch, branches, -1)
        positions = jnp.repeat(positions, branches, axis=1)
    alone = jnp.broadcast_to(jnp.eye(branches, dtype=bool), (batch, branches, branches))
    position = jnp.broadcast_to((lengths + step)[:, None], (batch, branches))
    new = model.hidden(params, tokens, position, alone, (prompt, KVCache(*cache, seen, positions)))

    def written(old: jax.Array, new: jax.Array) -> jax.Array:
        if ancestors is None:
            return jax.lax.dynamic_update_slice_in_dim(old, new[:, :, :, None], step, axis=3)
        of_row = partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
        return jax.vmap(of_row, (1, 1, 0), 1)(old, new, step * branches)

    return new.hidden, (written(cache[0], new.keys), written(cache[1], new.values))
