"""The mesh of devices, and which of its axes each axis of an array lies along: a model's layout."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.shape import ModelShape

AXES = ("data", "fsdp", "expert", "tensor")


class Cut(NamedTuple):
    """How many devices share a model and its batch."""

    data: int = 1
    fsdp: int = 1  # along the model axis of parameters, too
    tensor: int = 1  # heads, MLP and vocabulary
    expert: int = 1  # the experts of a mixture

    @property
    def rows(self) -> int:
        """Parts of a batch."""
        return self.data * self.fsdp * self.expert


@dataclass(frozen=True)
class Rules:
    """The mesh axis of each logical axis of a model; None is replicated."""

    # Of a batch, its caches and beams, for any model.
    rows: ClassVar[tuple[str, ...]] = ("data", "fsdp", "expert")
    model: str | None = "fsdp"  # of parameters; activations have it whole
    vocabulary: str | None = "tensor"
    heads: str | None = "tensor"
    kv_heads: str | None = "tensor"
    mlp: str | None = "tensor"
    experts: str | None = "expert"
    routes: str | None = None  # of a router, a column for each expert
    head: str | None = None
    layers: str | None = None
    rank: str | None = None  # of adapters

    def __post_init__(self) -> None:
        """Raises ValueError if the vocabulary lies along an axis of the rows, or model along another one."""
        if self.vocabulary in self.rows or self.model not in (None, *self.rows):
            raise ValueError("the vocabulary lies along an axis of the rows, or model along another one")


@dataclass(frozen=True)
class Layout:
    """Where a model lies: on which devices, and by which rules. Hashable."""

    mesh: Mesh | None = None  # None: one device
    rules: Rules = Rules()

    @property
    def is_sharded(self) -> bool:
        return self.mesh is not None and self.mesh.size > 1

    @property
    def platform(self) -> str:
        """The kind of its devices, as JAX calls it; a program may be compiled for others than are here."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def spec(self, *axes: str | None) -> PartitionSpec:
        """The partition of an array whose axes have these logical names; None is whole."""
        return PartitionSpec(*(getattr(self.rules, axis) if axis else None for axis in axes))

    def sharding(self, *axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, self.spec(*axes))

    @property
    def several(self) -> list[str]:
        """The axes of the mesh along which there are several devices."""
        return [axis for axis, size in self.mesh.shape.items() if size > 1] if self.mesh is not None else []

    def on_each_device(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Any:
        """The function on every device's part of its arguments; as it is where there is one device."""
        if not self.is_sharded:
            return function
        of_all = partial(jax.shard_map, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)
        return of_all(function, check_vma=False)  # a Pallas call does not say along which axes results differ


ONE_DEVICE = Layout()


def make_mesh(settings: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh with axes data, fsdp, expert and tensor over all devices, neighbours on the last axes.

    Raises InputError if the sizes do not multiply to the number of devices.
    """
    count = len(devices) if devices is not None else jax.device_count()
    asked = tuple(getattr(settings, axis) for axis in AXES)
    known = math.prod(size for size in asked if size > 0)
    sizes = tuple(size if size > 0 else max(1, count // known) for size in asked)
    if math.prod(sizes) != count:
        shown = " x ".join(map(str, sizes))
        raise InputError(
            f"mesh {shown} ({' x '.join(AXES)}) needs {math.prod(sizes)} devices and {count} are here: "
            f"change {', '.join(f'mesh.{axis}' for axis in AXES[:-1])} or mesh.tensor"
        )
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, types, devices=devices)
    except NotImplementedError:  # a slice's own axes, as 4 x 4 x 4, do not multiply to these: one is cut
        placed = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(placed, AXES, axis_types=types)


def check_model(shape: ModelShape, mesh: Mesh, rules: Rules = Rules()) -> None:
    """Raises InputError if the mesh does not divide what it cuts of the model."""
    if mesh.shape.get("expert", 1) > 1 and not shape.experts:
        raise InputError(
            f"mesh.expert is {mesh.shape['expert']} and the model has no experts: make it 1, and mesh.fsdp "
            "or mesh.data larger"
        )
    names = {"vocabulary": "rows of vocabulary", "mlp": "d_ff", "model": "d_model", "head": "head_dim"}
    for axis, parts in mesh.shape.items():
        sizes = {names.get(n, n): size for n, size in shape.sizes.items() if getattr(rules, n) == axis}
        if wrong := [f"{size} {name}" for name, size in sizes.items() if size % parts]:
            raise InputError(
                f"mesh.{axis} is {parts} and does not divide the model's {', '.join(wrong)}: "
                f"make it a divisor of {math.gcd(*sizes.values())}"
            )


def check_batch(name: str, rows: int, mesh: Mesh, microsteps: int = 1) -> None:
    """Raises InputError if the mesh does not divide a batch of so many rows.

    `name` is the setting that says how many; data, fsdp and expert cut what each of the microsteps has.
    """
    parts = row_shards(mesh)
    if (rows // microsteps) % parts:
        cut = f" in {microsteps} microsteps" if microsteps > 1 else ""
        raise InputError(
            f"{name} is {rows}, and does not divide over data x fsdp x expert = {parts}{cut}: "
            f"make it a multiple of {parts * microsteps}, or change the mesh"
        )


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def row_shards(mesh: Mesh | None) -> int:
    """Parts that a batch's rows are cut into."""
    return math.prod(mesh.shape.get(axis, 1) for axis in Rules.rows) if mesh is not None else 1


def round_up_rows(mesh: Mesh | None, rows: int) -> int:
    """`rows` rounded up to what divides over the devices."""
    return -(-rows // row_shards(mesh)) * row_shards(mesh)


def row_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows of a batch over data, fsdp and expert, after `leading` unsharded axes (microsteps)."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, Rules.rows))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, layout: Layout, *axes: str | None) -> jax.Array:
    """The same values, laid over the mesh by their logical axes; as they are where there is one device."""
    return jax.lax.with_sharding_constraint(x, layout.sharding(*axes)) if layout.is_sharded else x
