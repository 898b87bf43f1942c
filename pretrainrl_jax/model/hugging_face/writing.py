"""Parameters as a Hugging Face folder's weights: safetensors in shards with an index."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.atomic import disk_errors, write_json
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.hugging_face.files import INDEX, SINGLE
from pretrainrl_jax.model.hugging_face.layout import Parameter, parameters
from pretrainrl_jax.model.hugging_face.reading import THREADS, copy_matrix


class Tensor(NamedTuple):
    """A tensor to write, still where its parameter lies."""

    parameter: Parameter
    value: jax.Array  # the parameter, all layers
    layer: int
    dtype: Any

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return int(np.prod(self.parameter.theirs)) * self.dtype.itemsize

    def fetch(self) -> np.ndarray:
        """Its values, in their order of axes."""
        ours = self._layer()
        made = np.empty(self.parameter.theirs, self.dtype)
        copy_matrix(np.atleast_2d(made), self.parameter.as_theirs(ours).astype(self.dtype, copy=False))
        return made

    def _layer(self) -> np.ndarray:
        """The layer of ours, the others left where they are."""
        if not self.parameter.stacked:
            return np.asarray(self.value)
        if all(device.platform == "cpu" for device in self.value.devices()):  # then the host has them
            return np.asarray(self.value)[self.layer : self.layer + 1]
        return np.asarray(_cut(self.value, np.int32(self.layer)))


@jax.jit
def _cut(x: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, layer, 1)


def tensors_of(model: Model, params: Params, dtype: str = "") -> dict[str, Tensor]:
    """Every tensor of a model under the name Hugging Face has for it, layer by layer.

    Args:
        model: the decoder.
        params: its parameters.
        dtype: to write; empty keeps each parameter's own.
    """
    flat: Any = flax.traverse_util.flatten_dict(params, sep="/")
    found = {
        name: Tensor(parameter, flat[path], layer, jnp.dtype(dtype or flat[path].dtype))
        for path, parameter in parameters(model).items()
        for layer, name in enumerate(parameter.names)
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].parameter.stacked, item[1].layer)))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_weights(
    folder: Path,
    tensors: dict[str, Tensor],
    shard_size: str,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write tensors to files of at most `shard_size` ("5GB"), with an index where there are several.

    One file's tensors are on the host at a time.

    Raises:
        InputError: if `shard_size` is no size.
        OSError: if they cannot be written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

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
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
            for name, value in zip(
                names, threads.map(lambda name: tensors[name].fetch(), names), strict=True
            ):
                values[name] = value
                advance(1)
        with disk_errors():
            save_file(values, str(folder / file), metadata={"format": "pt"})
        (folder / file).chmod(0o666 & ~_umask())  # as any other file: the library lets the owner alone read
    if split.is_sharded:
        count = sum(int(np.prod(tensor.parameter.theirs)) for tensor in tensors.values())
        metadata = split.metadata | {"total_parameters": count}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": split.tensor_to_filename})
