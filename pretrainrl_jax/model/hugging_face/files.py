"""The files of a Hugging Face folder: where each tensor lies, and a view of any part of it.

A part is mapped into memory while it is looked at and no longer: the safetensors library either maps whole
files, whose pages then count as the process's memory, or reads a whole tensor for a slice of it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from pretrainrl_jax.errors import InputError

# All of a model on the hub that is read.
FILES = ["*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt", "*.jinja"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype(np.float16)}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

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
    """Every tensor of a folder, by name.

    Raises:
        InputError: if a file is missing, or is no whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Stored] = {}
    for file in _weight_files(folder):
        try:
            safe_open(str(file), framework="numpy")  # which checks that its header fits its size
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(length))
        except (SafetensorError, OSError, ValueError) as error:  # a Git LFS pointer, a download cut short
            raise InputError(f"cannot read {file}: {error}; download it again") from None
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            tensors[name] = Stored(file, 8 + length + begin, end - begin, entry["dtype"], shape)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
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
        raise InputError(f"{index} names {listed(absent)}, not in that folder: download the rest")
    return [folder / name for name in names]


def listed(names: list[str], most: int = 5) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
