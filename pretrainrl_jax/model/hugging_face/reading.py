"""Weights of a Hugging Face folder as parameters on devices, read lazily by slices.

Of each parameter a host reads what its devices hold and no more, several tensors at a time, and turns it into
our order of axes on the way. Beside what is on the devices it holds one parameter's part of one device, which
a CPU takes over as it is.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import gather
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.families import Weight, weights_of
from pretrainrl_jax.model.hugging_face.files import DTYPES, Stored, listed, stored
from pretrainrl_jax.progress import SILENT, Screen

ALIGNMENT = 64  # bytes
PIECE = 16 << 20  # bytes read at a time of a tensor that has no layers
THREADS = 16  # that read, one for each processor at most
ROWS = 16  # of a matrix turned at a time
DERIVED = ".rotary_emb.inv_freq"  # kept by old checkpoints of Llama, and follow from rope_theta
NOT_FINITE = "not finite (NaN or infinite): the file is damaged"
Slices = tuple[slice, ...]
Place = tuple[int, ...]  # layer and expert


class Parameter:
    """One of our parameters, and the tensors it is made of."""

    def __init__(self, weight: Weight, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
        self.weight = weight
        self.shape, self.axes = shape, axes  # ours, with all layers and experts; their logical names
        # Our first axes along which each entry is a tensor of its own: layers, then experts, or none.
        self.stacked = sum(axis in ("layers", "experts") for axis in axes)
        # Of each of its tensors the layer and the expert, as far as there are some; and their names.
        self.places: list[Place] = list(np.ndindex(*shape[: self.stacked]))
        self.names = [self.name(place) for place in self.places]
        # For each axis of theirs, our axes that lie flattened in it; and the shape of each of its tensors.
        self.groups = [[axes.index(n) for n in axis.split() if n in axes] for axis in weight.axes]
        self.theirs = tuple(math.prod(shape[axis] for axis in group) for group in self.groups)
        # Whether theirs is a matrix whose columns are our first axes.
        self.transposed = len(self.groups) == 2 and self.groups[0] > self.groups[1]

    def name(self, place: Place) -> str:
        """Their name of the tensor of a layer and an expert."""
        return self.weight.theirs.format(*place)

    def as_matrix(self, unfolded: np.ndarray) -> np.ndarray:
        """What `take` kept of a tensor of theirs as a matrix, with rows and columns as theirs."""
        rows = math.prod(unfolded.shape[: len(self.groups[0])]) if len(self.groups) == 2 else 1
        return unfolded.reshape(rows, -1)

    def as_theirs(self, ours: np.ndarray) -> np.ndarray:
        """A view of a layer of ours, or of a part of it, as that matrix."""
        if len(self.groups) == 1:
            return ours.reshape(1, -1)
        inner = len(self.groups[1 if self.transposed else 0])  # of ours, the axes that come first
        matrix = ours.reshape(math.prod(ours.shape[self.stacked :][:inner]), -1)  # of one layer and expert
        return matrix.T if self.transposed else matrix

    def take(self, part: Slices) -> tuple[Slices, tuple[int, ...], Slices]:
        """How to read a part of ours, of one layer, from a tensor of theirs.

        That is slices of theirs to read; the shape to unfold that into, our axes in their order; and what to
        keep of it. Of axes that lie flattened in one, all of the inner ones are read.
        """
        rows, unfolded, cut = [], [], []
        for outer, *inner in self.groups:
            size = math.prod(self.shape[axis] for axis in inner)
            rows.append(slice(part[outer].start * size, part[outer].stop * size))
            unfolded += [part[outer].stop - part[outer].start, *(self.shape[axis] for axis in inner)]
            cut += [slice(None), *(part[axis] for axis in inner)]
        return tuple(rows), tuple(unfolded), tuple(cut)


def parameters(model: Model) -> dict[str, Parameter]:
    """The parameters of a model by their path, joined with slashes."""
    boxed: Any = flax.traverse_util.flatten_dict(model.abstract(), sep="/")
    table = weights_of(model.shape.family)
    return {path: Parameter(table[path], leaf.value.shape, leaf.names) for path, leaf in boxed.items()}


def read_params(folder: Path, model: Model, places: Any, screen: Screen = SILENT) -> Params:
    """The folder's weights as parameters, in their dtypes; see `own_dtypes` for layers that differ in it.

    `model` is the decoder that its config.json describes; `places` has a sharding for each parameter. Raises
    InputError if a file is missing or damaged, or tensors are missing, unknown, of another shape, of a dtype
    that is none of a model's, or not finite; each is named, before anything is read where the files' headers
    tell.
    """
    tensors = stored(folder)
    wanted = parameters(model)
    _check(folder, tensors, wanted)
    if model.shape.tied and "lm_head.weight" in tensors:
        _check_tied(folder, tensors)
    flat_places: Any = flax.traverse_util.flatten_dict(places, sep="/")
    flat: dict[str, jax.Array] = {}
    bad = set[str]()
    with screen.track("weights", sum(len(p.names) for p in wanted.values()), "tensors") as bar:
        for path, parameter in wanted.items():
            flat[path], of_parameter = _read(tensors, parameter, flat_places[path])
            bad |= of_parameter
            bar.advance(len(parameter.names))
    if bad := {name for names in gather(sorted(bad), "reading weights") for name in names}:
        raise InputError(f"{folder}: {listed(sorted(bad))} is {NOT_FINITE}")
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def own_dtypes(folder: Path, model: Model) -> dict[str, str]:
    """The dtypes of those tensors of a folder that are stored in another one than their parameter.

    Layers of different dtypes are one parameter, in the dtype that holds the values of all.
    """
    tensors = stored(folder)
    return {
        name: DTYPES[tensors[name].kind].name
        for parameter in parameters(model).values()
        for name in parameter.names
        if DTYPES[tensors[name].kind] != _dtype(tensors, parameter)
    }


def _dtype(tensors: dict[str, Stored], parameter: Parameter) -> np.dtype:
    """The one in which every value of a parameter's tensors is exact."""
    return jnp.result_type(*{DTYPES[tensors[name].kind] for name in parameter.names})


def _check(folder: Path, tensors: dict[str, Stored], wanted: dict[str, Parameter]) -> None:
    shapes = {name: parameter.theirs for parameter in wanted.values() for name in parameter.names}
    extra = [n for n in tensors if n not in shapes and n != "lm_head.weight" and not n.endswith(DERIVED)]
    missing = [name for name in shapes if name not in tensors]
    if missing or extra:
        says = [f"has no tensor {listed(missing)}"] * bool(missing)
        says += [f"has {listed(extra)} that is no part of it"] * bool(extra)
        raise InputError(f"{folder} {', and '.join(says)}: the weights do not belong to its config.json")
    there = {name: (tensors[name].shape, tensors[name].kind) for name in shapes}
    wrong = [f"{n} has shape {s} and not {shapes[n]}" for n, (s, _) in there.items() if s != shapes[n]]
    known = ", ".join(DTYPES)
    wrong += [f"{n} is {kind} and not one of {known}" for n, (_, kind) in there.items() if kind not in DTYPES]
    if wrong:
        raise InputError(f"{folder}: {listed(wrong)}: the weights do not belong to its config.json")


def _check_tied(folder: Path, tensors: dict[str, Stored]) -> None:
    """Some files repeat the embedding as a head: it must be the same."""
    head, embedding = tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]
    same = (head.shape, head.kind) == (embedding.shape, embedding.kind)
    count, step = head.shape[0], 4096
    rows = [(slice(at, min(at + step, count)),) for at in range(0, count, step)]
    if not same or not all(np.array_equal(head.view(row), embedding.view(row)) for row in rows):
        raise InputError(
            f"{folder}: tie_word_embeddings is true in config.json, and lm_head.weight is not the embedding: "
            "set it to false to use that head"
        )


def _read(tensors: dict[str, Stored], parameter: Parameter, place: Any) -> tuple[jax.Array, set[str]]:
    """One parameter, each device's part of it, and the names of its tensors that are not finite."""
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}  # devices that hold the same part
    for device, index in place.addressable_devices_indices_map(parameter.shape).items():
        bounds = tuple(s.indices(size)[:2] for s, size in zip(index, parameter.shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    made, bad = [], set[str]()
    for bounds, devices in holders.items():
        part, of_part = _read_part(tensors, parameter, tuple(slice(*ends) for ends in bounds))
        made += [jax.device_put(part, device) for device in devices]
        bad |= of_part
    return jax.make_array_from_single_device_arrays(parameter.shape, place, made), bad


def _read_part(tensors: dict[str, Stored], parameter: Parameter, part: Slices) -> tuple[np.ndarray, set[str]]:
    """A part of a parameter, several pieces of it read at a time, and the tensors that are not finite."""
    made = _aligned(tuple(s.stop - s.start for s in part), _dtype(tensors, parameter))
    leading = parameter.stacked or 1
    first = [s.start for s in part[:leading]]
    steps = [1] * leading if parameter.stacked else [max(1, PIECE // made[:1].nbytes)]

    def fill(start: tuple[int, ...]) -> str:
        """Read what goes to `start` and on of our first axes; gives the tensor's name if it is not finite."""
        ends = zip(start, steps, part, strict=False)
        taken = [slice(at, min(at + step, along.stop)) for at, step, along in ends]
        name = parameter.name(start if parameter.stacked else ())
        rows, unfolded, cut = parameter.take((*taken, *part[leading:]))
        piece = tensors[name].view(rows).reshape(unfolded)[cut].astype(made.dtype, copy=False)
        to = tuple(slice(s.start - at, s.stop - at) for s, at in zip(taken, first, strict=True))
        fine = copy_matrix(parameter.as_theirs(made[to]), parameter.as_matrix(piece))
        return "" if fine else name

    starts = product(*(range(s.start, s.stop, step) for s, step in zip(part, steps, strict=False)))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        not_finite = set(threads.map(fill, starts))
    return made, not_finite - {""}


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins where a CPU device takes it over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy_matrix(to: np.ndarray, matrix: np.ndarray) -> bool:
    """Copy a matrix, whichever way both lie, and tell whether all of it is finite.

    A few rows at a time, which stay in the processor's cache while they are looked at and turned.
    """
    kind = np.dtype(f"u{matrix.dtype.itemsize}")
    exponent = np.asarray(np.inf, matrix.dtype).view(kind)  # all its bits are set in infinity and NaN alone
    to, matrix = to.view(kind), matrix.view(kind)
    fine = True
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        fine &= not bool(((rows & exponent) == exponent).any())
        to[start : start + ROWS] = rows
    return fine
