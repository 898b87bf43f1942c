"""Where parameters and batches lie: a sharding for each, and how they get there; results come back."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from pretrainrl_jax.hosts.watch import waiting
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import Layout, check_model, replicated, row_sharding

Batch = TypeVar("Batch")


def parameter_shardings(model: Model, mesh: Mesh | None) -> Any:
    """A sharding for each parameter, from its logical axes and the model's rules.

    Without a mesh it is the first device of this process. Raises InputError if the mesh does not divide what
    it cuts.
    """
    if mesh is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: one, nn.unbox(model.abstract()))
    check_model(model.shape, mesh, model.rules)
    layout = Layout(mesh, model.rules)
    return jax.tree.map(lambda axes: layout.sharding(*axes), nn.get_partition_spec(model.abstract()))


def place(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, on the devices: each process gives its own their parts."""
    x = np.asarray(x)
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return from_shards(x.shape, sharding, lambda index: x[index])


def from_shards(
    shape: tuple[int, ...], sharding: NamedSharding, part: Callable[[Any], np.ndarray]
) -> jax.Array:
    """An array over several processes, of which each gives the parts that its devices hold.

    Unlike `jax.make_array_from_callback` this asks for its transfers by name, which a transfer guard lets by.
    """
    places = sharding.addressable_devices_indices_map(shape)
    made = [jax.device_put(part(index), device) for device, index in places.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, made)


def place_rows(x: Any, mesh: Mesh | None) -> jax.Array:
    """A batch [rows, …], spread over the devices."""
    return jax.device_put(np.asarray(x)) if mesh is None else place(x, row_sharding(mesh))


def local_rows(mesh: Mesh, rows: int) -> tuple[int, ...]:
    """The rows of a batch that this process's devices hold."""
    parts: Any = row_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return tuple(sorted({row for (part,) in parts for row in range(rows)[part]}))


def place_local_rows(batch: Batch, mesh: Mesh, own: tuple[int, ...], rows: int) -> Batch:
    """A batch on the devices, arrays [microsteps, rows, …] of so many rows.

    Each process gives a tree of arrays [microsteps, own rows, …] of those that `local_rows` gives.
    """
    sharding = row_sharding(mesh, leading=1)
    if len(own) == rows and sharding.is_fully_addressable:
        return jax.device_put(batch, sharding)

    def placed(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[1].indices(rows)
            at = own.index(start)  # a device's rows stand together
            return x[:, at : at + stop - start]

        return from_shards((len(x), rows, *x.shape[2:]), sharding, part)

    return jax.tree.map(placed, batch)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays that every device is to have whole."""
    tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree) if mesh is None else jax.tree.map(lambda x: place(x, replicated(mesh)), tree)


def results(begun: Iterable[tuple[Any, Any]], what: str) -> Iterator[tuple[Any, Any]]:
    """Arrays read from the devices, each only when the next ones are begun, so that no device waits.

    `begun` begins one after another as it is iterated; gives what it is of, and the arrays. `what` is waited
    for.
    """
    for (item, arrays), _ in pairwise(chain(begun, [(None, None)])):
        with waiting(what):
            values = jax.device_get(arrays)
        yield item, values
