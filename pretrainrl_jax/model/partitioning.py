"""Where arrays live: one mesh, and one table from logical axes to mesh axes."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.linen.spmd
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainrl_jax.config import Mesh as MeshSettings
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model


@dataclass(frozen=True)
class Rules:
    """The mesh axis of each logical axis; None is replicated."""

    rows: tuple[str, ...] = ("data", "fsdp")  # the batch
    model: str | None = "fsdp"
    vocabulary: str | None = "tensor"
    heads: str | None = "tensor"
    kv_heads: str | None = "tensor"
    mlp: str | None = "tensor"
    head: str | None = None
    layers: str | None = None

    def pairs(self) -> list[tuple[str, Any]]:
        """The table as Flax reads it."""
        return [(name, getattr(self, name)) for name in self.__dataclass_fields__]


def make_mesh(settings: MeshSettings, devices: list[Any] | None = None) -> Mesh:
    """The mesh with axes data, fsdp and tensor over all devices.

    Raises:
        InputError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    inner = settings.fsdp * settings.tensor
    data = settings.data if settings.data > 0 else max(1, len(devices) // inner)
    if data * inner != len(devices):
        raise InputError(
            f"mesh {data} x {settings.fsdp} x {settings.tensor} (data x fsdp x tensor) needs {data * inner} "
            f"devices and {len(devices)} are here: change mesh.data, mesh.fsdp or mesh.tensor"
        )
    return Mesh(np.array(devices).reshape(data, settings.fsdp, settings.tensor), ("data", "fsdp", "tensor"))


def parameter_shardings(model: Model, mesh: Mesh, rules: Rules | None = None) -> Any:
    """A NamedSharding for each parameter, from its logical axes.

    Raises:
        InputError: if a size does not divide by the mesh axis it is cut along.
    """
    abstract = model.abstract()
    specs = nn.get_partition_spec(abstract)
    shardings = flax.linen.spmd.logical_to_mesh_sharding(specs, mesh, (rules or Rules()).pairs())
    for (path, leaf), sharding in zip(
        jax.tree.leaves_with_path(nn.unbox(abstract)), jax.tree.leaves(shardings), strict=True
    ):
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError:
            raise InputError(
                f"parameter {jax.tree_util.keystr(path)} of shape {leaf.shape} does not divide over the mesh "
                f"as {sharding.spec}: choose mesh.fsdp and mesh.tensor that divide it"
            ) from None
    return shardings


def one_device(model: Model) -> Any:
    """The same device for each parameter, the first one."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: one, nn.unbox(model.abstract()))


def row_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows of a batch over data and fsdp, after `leading` unsharded axes (microsteps)."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, Rules().rows))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())
