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
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import ModelShape

FLOAT32 = 4  # bytes of a parameter, and of each of the optimizer's two moments


def copy_bytes(shape: ModelShape, tensor: int, expert: int = 1) -> float:
    """Of a copy on one device, where so many share heads, MLP and vocabulary, and so many the experts."""
    return jnp.dtype(shape.dtype).itemsize * parameters(shape, expert).total / tensor


def needed_bytes(shape: ModelShape, cut: int, tensor: int, expert: int = 1) -> float:
    """Of a copy beside a training that waits: parameters and moments, of which `cut` devices share each."""
    of = parameters(shape, expert)
    return copy_bytes(shape, tensor, expert) + FLOAT32 * (of.total + 2 * of.learned) / (cut * tensor)


def takes_copy(shape: ModelShape, cut: int, tensor: int, room: float, expert: int = 1) -> bool:
    """Whether there is something to copy, and room for it.

    Args:
        shape: of the model.
        cut: devices that share the model axis of each parameter.
        tensor: devices along that axis of the mesh.
        room: bytes of a device that the copy, parameters and both moments may take.
        expert: devices that share a mixture's experts, in the copy as well.
    """
    as_it_lies = cut == 1 and jnp.dtype(shape.dtype).itemsize == FLOAT32
    return not as_it_lies and needed_bytes(shape, cut, tensor, expert) <= room


def told(shape: ModelShape, cut: int, tensor: int, room: float, expert: int = 1) -> str:
    """What decoding reads, in a line; "" where none is cut or cast, and where nobody wants a copy."""
    copy = f"{copy_bytes(shape, tensor, expert) / 2**30:.2f} GiB a device"
    if takes_copy(shape, cut, tensor, room, expert):
        return f"decoding reads a copy of the weights, {copy}, made once a batch"
    if cut == 1 or not room:
        return ""
    return (
        f"! decoding gathers all weights at each token: a copy, {copy}, takes "
        f"{needed_bytes(shape, cut, tensor, expert) / 2**30:.2f} with parameters and optimizer, and "
        f"platform.decoding_memory allows {room / 2**30:.2f}; a larger mesh.fsdp or mesh.tensor takes less"
    )


def cuts(model: Model) -> tuple[int, int]:
    """Devices that share the model axis of each parameter, and those along the tensor axis."""
    sizes = model.mesh.shape if model.mesh else {}
    return sizes.get(model.rules.model or "", 1), sizes.get(model.rules.mlp or "", 1)


def cuts_of_experts(model: Model) -> int:
    """Devices that share a mixture's experts."""
    return model.mesh.shape.get(model.rules.experts or "", 1) if model.mesh else 1


def for_decoding(model: Model, params: Params) -> tuple[Model, Params]:
    """The model and its parameters as they are, or as that copy; within a jitted function."""
    if not takes_copy(model.shape, *cuts(model), model.room, cuts_of_experts(model)):
        return model, params
    whole = replace(model, rules=replace(model.rules, model=None))
    axes = nn.get_partition_spec(model.abstract())
    # Matrices are cast where they are used; norms and biases are not, or are next to nothing.
    copy = jax.tree.map(
        lambda x, names: x.astype(model.shape.dtype) if _is_matrix(names) else x, params, axes
    )
    if model.mesh:
        copy = jax.lax.with_sharding_constraint(copy, parameter_shardings(whole, model.mesh))
    return whole, jax.lax.optimization_barrier(copy)  # made once, not again within the loop


def _is_matrix(axes: tuple[str | None, ...]) -> bool:
    return "model" in axes and bool(set(axes) - {"model", "layers"})  # a norm has no other axis
