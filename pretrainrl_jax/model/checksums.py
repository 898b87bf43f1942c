"""Checksums of a model's parameters: the same on every mesh, another one for every changed bit."""

import jax
import jax.numpy as jnp

from pretrainrl_jax.model.decoder import Params


def checksums(params: Params) -> dict[str, int]:
    """One 32-bit checksum of each parameter's bits.

    Integer arithmetic modulo 2**32, computed where the parameters lie: the same on every mesh.
    """
    sums = jax.device_get(jax.tree.map(_checksum, params))
    return {jax.tree_util.keystr(path): int(of) for path, of in jax.tree.leaves_with_path(sums)}


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, length in enumerate(x.shape):
        place = place * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)
