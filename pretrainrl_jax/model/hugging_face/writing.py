"""Parameters as a Hugging Face folder's weights: safetensors in shards with an index."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import is_process_0, process_count
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.hugging_face.files import INDEX, SINGLE, save_tensors
from pretrainrl_jax.model.hugging_face.reading import THREADS, Parameter, Place, copy_matrix, parameters
from pretrainrl_jax.model.mesh import ONE_DEVICE, Layout, Rules, constrain, row_shards
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.model.vocabulary import embed

TOKENS = 1024  # rows of an embedding that each part of the mesh asks for at a time, where hosts share it


class Tensor(NamedTuple):
    """A tensor to write, still where its parameter lies."""

    parameter: Parameter
    value: jax.Array  # the parameter, all layers and experts
    place: Place  # its layer and expert
    dtype: Any

    @property
    def bytes(self) -> int:
        return int(np.prod(self.parameter.theirs)) * self.dtype.itemsize

    def fetch(self) -> np.ndarray:
        """Its values, in their order of axes."""
        ours = self._layer()
        made = np.empty(self.parameter.theirs, self.dtype)
        copy_matrix(np.atleast_2d(made), self.parameter.as_theirs(ours).astype(self.dtype, copy=False))
        return made

    def _layer(self) -> np.ndarray:
        """The layer and expert of ours, the others left where they are."""
        if not self.value.is_fully_addressable:
            return self._from_all_hosts()
        if not self.parameter.stacked:
            return np.asarray(self.value)
        if all(device.platform == "cpu" for device in self.value.devices()):  # then the host has them
            return np.asarray(self.value)[tuple(slice(at, at + 1) for at in self.place)]
        return np.asarray(_cut(self.value, np.asarray(self.place, np.int32)))

    def _from_all_hosts(self) -> np.ndarray:
        """The same where other hosts have parts of it; all processes must ask, in the same order."""
        lies: Any = self.value.sharding
        layout = Layout(lies.mesh)
        if self.parameter.axes[0] != "vocabulary":
            return np.asarray(_cut(self.value, np.asarray(self.place, np.int32), layout))
        vocabulary, model, *_ = *lies.spec, None, None
        layout = Layout(lies.mesh, Rules(vocabulary=vocabulary, model=model))
        count, kind = len(self.value), np.dtype(f"uint{8 * self.value.dtype.itemsize}")
        step = TOKENS * row_shards(lies.mesh)
        made = np.empty(self.value.shape, kind)
        for start in range(0, count, step):
            tokens = np.minimum(np.arange(start, start + step, dtype=np.int32), count - 1)
            rows = _rows(self.value, place_rows(tokens.reshape(-1, TOKENS), lies.mesh), layout)
            made[start : start + step] = np.asarray(rows).reshape(step, -1)[: count - start]
        return made.view(self.value.dtype)


@partial(jax.jit, static_argnums=2)
def _cut(x: jax.Array, place: jax.Array, layout: Layout = ONE_DEVICE) -> jax.Array:
    leading, rest = len(place), x.shape[len(place) :]
    begin = (*place, *[jnp.int32(0)] * len(rest))
    return constrain(jax.lax.dynamic_slice(x, begin, (*[1] * leading, *rest)), layout)


@partial(jax.jit, static_argnums=2)
def _rows(table: jax.Array, tokens: jax.Array, layout: Layout) -> jax.Array:
    """The bits of some rows of an embedding or a head, on every device: it never has the whole table."""
    bits = jax.lax.bitcast_convert_type(table, jnp.dtype(f"uint{8 * table.dtype.itemsize}"))
    return constrain(embed(bits, tokens, jnp.uint32, layout), layout)


def tensors_of(
    model: Model, params: Params, dtype: str = "", own: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Tensor]:
    """Every tensor of a model under the name Hugging Face has for it, layer by layer.

    `dtype` is the one to write; empty keeps that of `own` (`reading.own_dtypes`), else its parameter's.
    """
    flat: Any = flax.traverse_util.flatten_dict(params, sep="/")
    tensors = {
        name: Tensor(parameter, flat[path], place, jnp.dtype(dtype or own.get(name) or flat[path].dtype))
        for path, parameter in parameters(model).items()
        for place, name in zip(parameter.places, parameter.names, strict=True)
    }
    return dict(sorted(tensors.items(), key=lambda item: item[1].place))  # those of no layer come first


def _fetched(tensors: dict[str, Tensor], names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors' values, several fetched at a time; one by one where all processes must do so together."""
    if process_count() > 1:
        yield from ((name, tensors[name].fetch()) for name in names)
        return
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        yield from zip(names, threads.map(lambda name: tensors[name].fetch(), names), strict=True)


def write_weights(
    folder: Path, tensors: dict[str, Tensor], shard_size: str, advance: Callable[[int], None] = lambda n: None
) -> None:
    """Write tensors to files of at most `shard_size` ("5GB"), with an index where there are several.

    One file's tensors are on the host at a time. Of several processes all must call it; process 0 writes.
    Raises InputError if `shard_size` is no size, OSError if they cannot be written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    try:
        split = split_state_dict_into_shards_factory(
            tensors,
            get_storage_size=lambda tensor: tensor.bytes,
            filename_pattern=SINGLE.replace(".", "{suffix}."),
            max_shard_size=shard_size,
        )
    except ValueError:
        raise InputError(f"export.shard_size is {shard_size!r}: give a size such as 5GB or 500MB") from None
    for file, names in split.filename_to_tensors.items():
        values = {}
        for name, value in _fetched(tensors, names):
            values[name] = value if is_process_0() else None
            advance(1)
        save_tensors(folder / file, values)
    if split.is_sharded and is_process_0():
        count = sum(int(np.prod(tensor.parameter.theirs)) for tensor in tensors.values())
        metadata = split.metadata | {"total_parameters": count}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": split.tensor_to_filename})
