"""Checksums of a model's parameters: the same on every mesh, another one for every changed bit."""

import hashlib
import json
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.hosts.agree import gather
from pretrainrl_jax.model.decoder import Params

CHUNK = 1 << 20  # values looked at together: little memory, and a processor's cache holds them


def checksums(params: Params) -> dict[str, int]:
    """One 32-bit checksum of each parameter's bits, as float32.

    Integer arithmetic modulo 2**32, computed where the parameters lie: the same on every mesh. Every process
    sums up its own part, and all of them must ask.
    """
    sums = [(path, _of_shards(x)) for path, x in jax.tree.leaves_with_path(params)]
    own = {jax.tree_util.keystr(path): sum(map(int, parts)) for path, parts in jax.device_get(sums)}
    of_all = gather(own, "checksums")
    return {name: sum(sums[name] for sums in of_all) % 2**32 for name in own}


def digest(params: Params, *beside: Any) -> str:
    """Of all checksums together: a short name of these parameters, the same in any dtype that holds them.

    `beside`: JSON values that it depends on, too.
    """
    return short_digest([checksums(params), *beside])


def short_digest(value: Any) -> str:
    """A digest of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _of_shards(x: Any) -> list[jax.Array]:
    """The part of each of an array's shards, replicas once; they add up to the whole's."""
    x = jnp.asarray(x)
    parts = []
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            starts = [index.indices(size)[0] for index, size in zip(shard.index, x.shape, strict=True)]
            kind = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
            on_cpu = shard.device.platform == "cpu"  # then its integers are a view
            bits = (
                np.asarray(shard.data).view(kind)
                if on_cpu
                else jax.lax.bitcast_convert_type(shard.data, kind)
            )
            parts.append(_checksum(bits, np.array(starts, np.uint32), x.shape, x.dtype))
    return parts


@partial(jax.jit, static_argnums=(2, 3))
def _checksum(data: jax.Array, starts: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Of a block that begins at `starts` of an array of that shape: each value's bits times its odd place.

    The block comes as integers: some compilers would widen all of a bfloat16 array to cut a piece out of it.
    """
    data, shape = jnp.atleast_1d(data), shape or (1,)
    rows = data.reshape(-1, data.shape[-1])  # the axis that lies together, and all others
    count = math.prod(data.shape[:-1])
    step = max(n for n in range(1, count + 1) if count % n == 0 and (n == 1 or n * data.shape[-1] <= CHUNK))

    def add(number: jax.Array, total: jax.Array) -> jax.Array:
        row = number * step + jnp.arange(step)
        before = jnp.zeros(step, jnp.uint32)  # place of the row's first value, in units of rows of the whole
        for axis, index in enumerate(jnp.unravel_index(row, data.shape[:-1]) if data.ndim > 1 else ()):
            before = before * jnp.uint32(shape[axis]) + index.astype(jnp.uint32) + starts[axis]
        column = jnp.arange(data.shape[-1], dtype=jnp.uint32) + (starts[-1] if len(starts) else 0)
        place = before[:, None] * jnp.uint32(shape[-1]) + column
        chunk = jax.lax.dynamic_slice_in_dim(rows, number * step, step)
        chunk = jax.lax.bitcast_convert_type(chunk, dtype)
        bits = jax.lax.bitcast_convert_type(chunk.astype(jnp.float32), jnp.uint32)
        return total + (bits * (2 * place + 1)).sum(dtype=jnp.uint32)

    return jax.lax.fori_loop(0, count // step, add, jnp.uint32(0))
