"""Weights of a Hugging Face folder as parameters on devices: safetensors alone, read lazily by slices.

Of each parameter a host reads what its devices hold and no more, and the devices turn it into our order of
axes while the next one is read. Beside what is on the devices a host holds two parameters' parts of a device.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.hugging_face.layout import Parameter, Slices, parameters
from pretrainrl_jax.progress import SILENT, Screen

ALIGNMENT = 64  # bytes
# All of a model on the hub that is read.
FILES = ["*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt", "*.jinja"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Kept by old checkpoints of Llama, and follow from rope_theta.
DERIVED = ".rotary_emb.inv_freq"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model: its description, and weights of any format."""
    weights = (*folder.glob("*.safetensors*"), *folder.glob("*.bin"))
    return (folder / "config.json").is_file() and bool(weights)


def read_params(folder: Path, model: Model, places: Any, screen: Screen = SILENT) -> Params:
    """The folder's weights as parameters, each in its own dtype.

    Args:
        folder: of a Hugging Face model.
        model: the decoder its config.json describes.
        places: a sharding for each parameter.
        screen: shows how far it is.

    Raises:
        InputError: if a file is missing or damaged, or tensors are missing, unknown, of another shape, of a
            dtype that is none of a model's, or not finite; each is named, before anything is read where the
            files' headers tell.
    """
    tensors = _open_all(folder)
    wanted = parameters(model)
    _check(folder, tensors, wanted)
    if model.shape.tied and "lm_head.weight" in tensors:
        _check_tied(folder, tensors)
    flat_places: Any = flax.traverse_util.flatten_dict(places, sep="/")
    flat: dict[str, jax.Array] = {}
    finite: list[tuple[list[str], jax.Array]] = []
    # The largest first: what a parameter takes for a moment beside itself then comes upon the fewest others.
    order = sorted(wanted, key=lambda path: -math.prod(wanted[path].shape))
    with screen.track("weights", sum(len(of.names) for of in wanted.values()), "tensors") as bar:
        for before, path in zip([None, *order], order, strict=False):
            flat[path], flags = _read(tensors, wanted[path], flat_places[path])
            finite += flags
            if before:  # one is read while the devices turn the one before
                flat[before].block_until_ready()
            bar.advance(len(wanted[path].names))
    bad = {name for names, fine in finite for name, of in zip(names, np.asarray(fine), strict=True) if not of}
    if bad:
        raise InputError(
            f"{folder}: {_listed(sorted(bad))} is not finite (NaN or infinite): the file is damaged"
        )
    return flax.traverse_util.unflatten_dict({path: flat[path] for path in wanted}, sep="/")


def _open_all(folder: Path) -> dict[str, Any]:
    """Every tensor of a folder, by name: a lazy slice with its shape and dtype."""
    from safetensors import SafetensorError, safe_open

    opened: dict[str, Any] = {}
    for file in _files(folder):
        try:
            # Read and not mapped: a mapped file's pages would count as the process's memory.
            handle = safe_open(str(file), framework="numpy", backend="pread")
            opened |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:  # a Git LFS pointer, or a download cut short
            raise InputError(f"cannot read {file}: {error}; download it again") from None
    return opened


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise InputError(f"no {SINGLE} and no {INDEX} in {folder}: only safetensors are read")
        return [folder / SINGLE]
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({Path(name).name for name in named})  # of that folder, wherever they point to
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of safetensors: {type(error).__name__}: {error}") from None
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{index} names {_listed(absent)}, not in that folder: download the rest")
    return [folder / name for name in names]


def _check(folder: Path, tensors: dict[str, Any], wanted: dict[str, Parameter]) -> None:
    shapes = {name: parameter.theirs for parameter in wanted.values() for name in parameter.names}
    extra = [n for n in tensors if n not in shapes and n != "lm_head.weight" and not n.endswith(DERIVED)]
    missing = [name for name in shapes if name not in tensors]
    if missing or extra:
        says = [f"has no tensor {_listed(missing)}"] * bool(missing)
        says += [f"has {_listed(extra)} that is no part of it"] * bool(extra)
        raise InputError(f"{folder} {', and '.join(says)}: the weights do not belong to its config.json")
    wrong = [
        f"{name} has shape {tuple(tensors[name].get_shape())} and not {shape}"
        for name, shape in shapes.items()
        if tuple(tensors[name].get_shape()) != shape
    ]
    wrong += [
        f"{name} is {tensors[name].get_dtype()} and not one of {', '.join(DTYPES)}"
        for name in shapes
        if tensors[name].get_dtype() not in DTYPES
    ]
    if wrong:
        raise InputError(f"{folder}: {_listed(wrong)}: the weights do not belong to its config.json")


def _check_tied(folder: Path, tensors: dict[str, Any]) -> None:
    """Some files repeat the embedding as a head: it must be the same."""
    head, embedding = tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]
    same = head.get_shape() == embedding.get_shape()
    count = head.get_shape()[0]
    rows = [slice(at, min(at + 4096, count)) for at in range(0, count, 4096)]
    if not same or not all(np.array_equal(head[of], embedding[of]) for of in rows):
        raise InputError(
            f"{folder}: tie_word_embeddings is true in config.json, and lm_head.weight is not the embedding: "
            "set it to false to use that head"
        )


def _read(
    tensors: dict[str, Any], parameter: Parameter, place: Any
) -> tuple[jax.Array, list[tuple[list[str], jax.Array]]]:
    """One parameter, each device's part of it, which may still be on its way.

    Beside it names of tensors, with flags that say of each whether it is finite.
    """
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}  # devices that hold the same part
    for device, index in place.addressable_devices_indices_map(parameter.shape).items():
        bounds = tuple(of.indices(size)[:2] for of, size in zip(index, parameter.shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    made, finite = [], []
    for bounds, devices in holders.items():
        names, part = _read_part(tensors, parameter, tuple(slice(*of) for of in bounds))
        for device in devices:
            of_device, fine = _turned(jax.device_put(part, device), parameter.inverse, parameter.stacked)
            made.append(of_device)
            finite.append((names, fine))
    return jax.make_array_from_single_device_arrays(parameter.shape, place, made), finite


def _read_part(tensors: dict[str, Any], parameter: Parameter, part: Slices) -> tuple[list[str], np.ndarray]:
    """The names of the tensors a part is made of, and the part, our axes in the order they have in theirs."""
    dtypes = {DTYPES[tensors[name].get_dtype()] for name in parameter.names}
    rows, unfolded, cut = parameter.take(part)
    names = parameter.names[part[0]] if parameter.stacked else parameter.names
    sizes = [len(range(size)[of]) for size, of in zip(unfolded, cut, strict=True)]
    made = _aligned((len(names), *sizes), jnp.result_type(*dtypes))  # which holds all layers exactly
    for of_layer, name in zip(made, names, strict=True):
        of_layer[...] = tensors[name][rows].reshape(unfolded)[cut]
    return names, made if parameter.stacked else made[0]


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins where a CPU device takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


@partial(jax.jit, static_argnums=(1, 2))
def _turned(part: jax.Array, inverse: tuple[int, ...], stacked: bool) -> tuple[jax.Array, jax.Array]:
    """A part with its axes in our order, and whether it is finite: [layers] if stacked, else [1]."""
    flat = part.reshape(part.shape[0] if stacked else 1, -1)
    return part.transpose(inverse), jnp.isfinite(flat).all(-1)


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
