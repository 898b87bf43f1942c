"""Weights to decode from: a copy in the compute dtype, of which each device has all that fsdp cuts.

Every token that is written reads every weight. Where parameters are cut along fsdp each device would gather
them, and cast them, at each token: the network would bound it all. The copy is made once for all tokens.
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape

FLOAT32 = 4  # bytes of a parameter, and of each of the optimizer's two moments


def copy_bytes(shape: ModelShape, cut: Cut) -> float:
    """Of a copy on one device."""
    return jnp.dtype(shape.dtype).itemsize * parameters(shape, cut.expert).total / cut.tensor


def needed_bytes(shape: ModelShape, cut: Cut) -> float:
    """Of a copy beside a training that waits: parameters and moments."""
    of = parameters(shape, cut.expert)
    return copy_bytes(shape, cut) + FLOAT32 * (of.total + 2 * of.learned) / (cut.fsdp * cut.tensor)


def takes_copy(shape: ModelShape, cut: Cut, room: float) -> bool:
    """Whether there is something to copy, and `room` for it: bytes for the copy, parameters and moments."""
    as_it_lies = cut.fsdp == 1 and jnp.dtype(shape.dtype).itemsize == FLOAT32
    return not as_it_lies and needed_bytes(shape, cut) <= room


def told(shape: ModelShape, cut: Cut, room: float) -> str:
    """What decoding reads, in a line; "" where none is cut or cast, and where nobody wants a copy."""
    copy = f"{copy_bytes(shape, cut) / 2**30:.2f} GiB a device"
    if takes_copy(shape, cut, room):
        return f"decoding reads a copy of the weights, {copy}, made once a call"
    if cut.fsdp == 1 or not room:
        return ""
    return (
        f"! decoding gathers all weights at each token: a copy, {copy}, takes "
        f"{needed_bytes(shape, cut) / 2**30:.2f} with parameters and optimizer, and "
        f"platform.decoding_memory allows {room / 2**30:.2f}; a larger mesh.fsdp or mesh.tensor takes less"
    )


def cuts_of(model: Model) -> Cut:
    """How its mesh and its rules cut a model."""
    sizes, rules = model.mesh.shape if model.mesh else {}, model.rules
    return Cut(1, *(sizes.get(axis or "", 1) for axis in (rules.model, rules.mlp, rules.experts)))


def for_decoding(model: Model, params: Params) -> tuple[Model, Params]:
    """The model and its parameters as they are, or as that copy; within a jitted function."""
    if not takes_copy(model.shape, cuts_of(model), model.room):
        return model, params
    whole = replace(model, rules=replace(model.rules, model=None))
    axes = nn.get_partition_spec(model.abstract())

    # Matrices are cast where they are used; norms and biases are not, or are next to nothing.
    def cast(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        is_matrix = "model" in names and bool(set(names) - {"model", "layers"})  # a norm has no other axis
        return x.astype(model.shape.dtype) if is_matrix else x

    copy = jax.tree.map(cast, params, axes)
    if model.mesh:
        copy = jax.lax.with_sharding_constraint(copy, parameter_shardings(whole, model.mesh))
    return whole, jax.lax.optimization_barrier(copy)  # made once, not again within the loop
