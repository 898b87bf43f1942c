"""The files of a Hugging Face folder: where each tensor lies, and a view of any part of it.

A part is mapped into memory while it is looked at and no longer: the safetensors library either maps whole
files, whose pages then count as the process's memory, or reads a whole tensor for a slice of it.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pretrainrl_jax.atomic import disk_errors
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import is_process_0
from pretrainrl_jax.progress import SILENT, Screen

# All of a model on the hub that is read.
FILES = ["*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt", "*.jinja"]
ADAPTER = "adapter_config.json"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TEXT = "language_model."  # before the names of its text's tensors, where a model has images, too
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Stored:
    file: Path
    offset: int  # of its first byte
    bytes: int
    kind: str  # the dtype, as safetensors names it
    shape: tuple[int, ...]

    def view(self, part: tuple[slice, ...]) -> np.ndarray:
        """A part of it, which is read where it is looked at; only for dtypes in DTYPES."""
        dtype = DTYPES[self.kind]
        row = math.prod(self.shape[1:]) * dtype.itemsize
        start, rows = part[0].start, part[0].stop - part[0].start
        place = self.offset + start * row
        mapped = np.memmap(self.file, np.uint8, "r", place, (rows * row,))
        return mapped.view(dtype).reshape(rows, *self.shape[1:])[(slice(None), *part[1:])]


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model: its description, and weights of any format."""
    weights = (*folder.glob("*.safetensors*"), *folder.glob("*.bin"))
    return (folder / "config.json").is_file() and bool(weights)


def stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder's model, by name; of a model of text and images those of its text alone.

    As in transformers, model.safetensors goes before shards beside it. Of shards, a tensor is read from the
    one that the index names for it, whatever others hold. Raises InputError if a file is missing, is no whole
    safetensors file, or two may hold a tensor.
    """
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{folder} has {ADAPTER}: an adapter to be added to its weights. Give a folder of the adapter "
            f"alone, merge it into them, or remove {ADAPTER} to use them as they are"
        )
    tensors = _every(folder)
    text = {name.removeprefix(TEXT): x for name, x in tensors.items() if name.startswith(TEXT)}
    return text or tensors


def left_out(folder: Path) -> int:
    """How many tensors of a folder `stored` leaves out: a model's images."""
    return len(_every(folder)) - len(stored(folder))


def _every(folder: Path) -> dict[str, Stored]:
    files, places = _weight_files(folder)
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            place = places.get(name, file.name)
            if place == file.name and tensors.setdefault(name, tensor) is not tensor:
                raise InputError(
                    f"{name} is in {tensors[name].file} and in {file}, and {INDEX} names neither for it: "
                    "download the index again"
                )
    return tensors


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one file; raises InputError if it is no whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        safe_open(str(file), framework="numpy")  # which checks that its header fits its size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError) as error:  # a Git LFS pointer, a download cut short
        raise InputError(f"cannot read {file}: {error}; download it again") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = Stored(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
    return tensors


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that hold a folder's weights, and the name of the one for each tensor that an index lists."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return [folder / SINGLE], {}
    if not index.is_file():
        raise InputError(f"no {SINGLE} and no {INDEX} in {folder}: only safetensors are read")
    try:
        listing = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {tensor: Path(name).name for tensor, name in listing.items()}  # of that folder, in any case
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of safetensors: {type(error).__name__}: {error}") from None
    names = sorted({*places.values()})
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{index} names {listed(absent)}, not in that folder: download the rest")
    return [folder / name for name in names], places


def save_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write a file of tensors, of several processes process 0; raises OSError if it cannot be written."""
    from safetensors.numpy import save_file

    if is_process_0():
        os.umask(umask := os.umask(0))
        with disk_errors():
            save_file(tensors, str(path), metadata={"format": "pt"})
        path.chmod(0o666 & ~umask)  # as any other: the library lets the owner alone read


def listed(names: list[str], most: int = 5) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def download(name: str, option: str, screen: Screen = SILENT) -> Path:
    """The folder of a model of the hub, fetched unless it is cached.

    `option` is what named it, for messages. Raises InputError if it cannot be fetched.
    """
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{option}={name}: no such folder, and no name of a model such as Qwen/Qwen3-8B-Base"
        )
    from huggingface_hub import snapshot_download

    screen.say(f"{name}: fetching it from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # of many kinds: no network, no such model, no permission
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{option}={name}: no such folder, and it cannot be fetched from the hub ({why}): check the "
            "name, the network, and HF_TOKEN for a model that asks for one"
        ) from None
