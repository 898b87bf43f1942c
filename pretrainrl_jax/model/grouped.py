"""Rows times the matrix of the group they belong to, and the gradients of such products.

`jax.lax.ragged_dot` becomes a kernel that multiplies each row with its group's matrix alone: on TPUs the
product, and its gradient of the rows. Of the gradient of the matrices libtpu (0.0.42) makes a product of all
rows with each group, masked, as many times the work as there are groups: JAX's megablox takes its place.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

TILE = 256  # rows that megablox takes at a time
SIDE = 2048  # bytes of a side of the part of a matrix that it makes at a time: VMEM holds a few such squares
LANES = 128


def grouped_product(x: jax.Array, matrices: jax.Array, sizes: jax.Array, platform: str) -> jax.Array:
    """Each row times its group's matrix; what rows after the last group become is not said.

    Args:
        x: [rows, inputs], one group's rows after another's.
        matrices: [groups, inputs, outputs].
        sizes: int32 [groups], rows of each.
        platform: that it is compiled for.
    """
    if platform == "tpu":
        return with_megablox(x, matrices, sizes, False)
    return jax.lax.ragged_dot(x, matrices, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def with_megablox(x: jax.Array, matrices: jax.Array, sizes: jax.Array, interpret: bool) -> jax.Array:
    """The same, whose gradient of the matrices is megablox's; `interpret`: on a device that is no TPU."""
    return jax.lax.ragged_dot(x, matrices, sizes)


def _backward(interpret: bool, saved: tuple[Any, Any, Any], gradient: jax.Array) -> tuple[Any, Any, None]:
    x, matrices, sizes = saved
    (of_x,) = jax.vjp(lambda x: jax.lax.ragged_dot(x, matrices, sizes), x)[1](gradient)
    return of_x, gradient_of_matrices(x, gradient, sizes, interpret), None


with_megablox.defvjp(
    lambda x, matrices, sizes, interpret: (jax.lax.ragged_dot(x, matrices, sizes), (x, matrices, sizes)),
    _backward,
)


def gradient_of_matrices(
    x: jax.Array, gradient: jax.Array, sizes: jax.Array, interpret: bool = False
) -> jax.Array:
    """Of each group the sum over its rows of x · gradient, [groups, inputs, outputs]."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    longest = SIDE // x.dtype.itemsize
    sides = (min(longest, -(-y.shape[1] // LANES) * LANES) for y in (x, gradient))
    x, gradient = (jnp.pad(y, ((0, -len(y) % TILE), (0, 0))) for y in (x, gradient))
    tiling: Any = (TILE, *sides)
    return tgmm(x.swapaxes(0, 1), gradient, sizes, x.dtype, tiling, interpret=interpret)
