"""One token drawn from a large vocabulary by one uniform number: the inverse of the cumulated distribution.

The vocabulary is summed in small blocks; the block in which the number falls is found first, then the token
in it. Cumulated sums and the number are pairs of float32, of which the second has what the first rounds off:
so every token keeps its probability to the precision of a float32, however small it is and whatever stands
before it, where a plain cumulated sum would lose or lend 2**-24.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout
from pretrainrl_jax.model.vocabulary import LOGITS, ROWS, MeshAxes, maybe_shard_map

BLOCK = 128  # tokens summed together
TINY = 1.2e-38  # what has any probability has this much


class Exact(NamedTuple):
    """A number as the sum of two float32."""

    high: jax.Array
    low: jax.Array


def _add(a: Exact, b: Exact) -> Exact:
    total = a.high + b.high
    part = total - a.high
    error = (a.high - (total - part)) + (b.high - part) + a.low + b.low
    high = total + error
    return Exact(high, error - (high - total))


def _cumulated(masses: jax.Array) -> Exact:
    """Sums of masses [..., n] up to each place, its own included."""
    size = masses.shape[-1]
    before = [(0, 0)] * (masses.ndim - 1) + [(size, 0)]

    def double(i: jax.Array, sums: Exact) -> Exact:
        padded = (jnp.pad(term, before) for term in sums)
        earlier = (jax.lax.dynamic_slice_in_dim(term, size - (1 << i), size, -1) for term in padded)
        return _add(sums, Exact(*earlier))

    return jax.lax.fori_loop(0, (size - 1).bit_length(), double, Exact(masses, jnp.zeros_like(masses)))


def uniform(keys: jax.Array) -> Exact:
    """Of each random key one number on the grid of 2**-47, 0 <= number < 1."""
    bits = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys.reshape(-1))
    bits = bits.reshape(*keys.shape, 2)
    return Exact((bits[..., 0] >> 9) * jnp.float32(2**-23), (bits[..., 1] >> 8) * jnp.float32(2**-47))


def _locate(masses: jax.Array, total: jax.Array | float, number: Exact) -> tuple[jax.Array, Exact]:
    """The place [...] among masses [..., n] in which a number below `total` falls, and its way into it.

    `total` is what the masses add up to but for rounding, which is spread over all of them. A place without
    mass is never found.
    """
    cumulated = _cumulated(masses)
    excess = ((cumulated.high[..., -1] - total) + cumulated.low[..., -1]) / total
    number = Exact(number.high, number.low + number.high * excess)
    beyond = (cumulated.high - number.high[..., None]) + (cumulated.low - number.low[..., None]) > 0
    places = jnp.arange(masses.shape[-1])
    beginning = jnp.where(beyond & (masses > 0), places, masses.shape[-1]).min(-1)
    place = jnp.minimum(beginning, jnp.where(masses > 0, places, 0).max(-1))
    before = [jnp.where(place > 0, take_along_last(term, jnp.maximum(place - 1, 0)), 0) for term in cumulated]
    return place, _add(number, Exact(-before[0], -before[1]))


def take_along_last(values: jax.Array, place: jax.Array) -> jax.Array:
    """values[..., place] of arrays [..., n] and [...]."""
    return jnp.take_along_axis(values, place[..., None], -1)[..., 0]


def inverse_cdf(logits: jax.Array, number: Exact, layout: Layout = ONE_DEVICE) -> tuple[jax.Array, jax.Array]:
    """The token at which the cumulated softmax of the logits passes a number, and its log-probability.

    Of logits float32 [rows, samples, vocabulary], where -inf is never drawn, and one at least is finite; the
    number [rows, samples], from `uniform`. The order is that of the whole vocabulary, however it is cut.
    """

    def per_shard(axes: MeshAxes, logits: jax.Array, number: Exact) -> tuple[jax.Array, jax.Array]:
        size = logits.shape[-1]
        full = size // BLOCK * BLOCK
        largest = jax.lax.pmax(logits.max(-1, keepdims=True), axes.vocabulary)
        weights = jnp.exp(logits - largest)
        sums = weights[..., :full].reshape(*weights.shape[:-1], -1, BLOCK).sum(-1)
        if full < size:
            sums = jnp.concatenate([sums, weights[..., full:].sum(-1, keepdims=True)], -1)
        blocks, own = sums.shape[-1], 0
        if axes.vocabulary:
            sums = jax.lax.all_gather(sums, axes.vocabulary, axis=-1, tiled=True)
            own = jax.lax.axis_index(axes.vocabulary)
        total = sums.sum(-1, keepdims=True)
        masses = _of_total(sums, total)
        block, number = _locate(masses, 1.0, number)

        start = (block - own * blocks) * BLOCK  # of the device's own tokens, if the block is its own
        places = start[..., None] + jnp.arange(BLOCK)
        there = (places >= 0) & (places < size)
        near = jnp.take_along_axis(logits, jnp.clip(places, 0, size - 1), -1)
        within = _of_total(jnp.where(there, jnp.exp(near - largest), 0), total)
        place, _ = _locate(within, take_along_last(masses, block), number)
        token = (own * size + start + place).astype(jnp.int32)
        logp = take_along_last(near, place) - (largest + jnp.log(total))[..., 0]
        here = (block >= own * blocks) & (block < (own + 1) * blocks)
        token, logp = (jax.lax.psum(jnp.where(here, x, 0), axes.vocabulary) for x in (token, logp))
        return token, logp

    return maybe_shard_map(layout, per_shard, (LOGITS, ROWS), (ROWS, ROWS))(logits, number)


def _of_total(weights: jax.Array, total: jax.Array) -> jax.Array:
    return jnp.where(weights > 0, jnp.maximum(weights / total, TINY), 0)
