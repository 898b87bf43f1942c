"""Chips and slices of them as data, each property with where it is published."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from pretrainrl_jax.errors import InputError

GIB = 2**30
ACROSS_HOSTS = 5e10  # bytes a second of a GPU one way: a 400 Gb/s adapter each, as hosts of eight have


@dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are of one chip; decimal units unless a name says otherwise."""

    name: str
    kind: Literal["tpu", "gpu"]
    flops: float  # bfloat16 matrix products with float32 sums, dense, operations a second
    hbm: float  # bytes
    hbm_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second one way: of one link of a TPU, of all NVLinks of a GPU
    axes: int  # of the torus that chips are wired in; 0: every chip reaches every other one by a switch
    wraps: int  # chips along an axis from which on it is a ring, two links along it in use; 0: never
    of_host: int  # chips of a host machine
    told: float = 1.0  # share of its memory that a chip tells JAX of (`memory_stats`), which a run goes by
    side: int = 1  # of the matrix unit: a product over fewer entries leaves a part of it idle
    accelerator: str = ""  # as Google Cloud names a slice: this, and a number
    counts: int = 1  # what that number counts, a chip
    capability: str = ""  # of CUDA, which says what kernels a GPU has
    source: str = ""


GPUS_SHARE = 0.75  # of a GPU that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
_TPU = "Google Cloud TPU documentation, system architecture"
_SCALING = "How to Scale Your Model (jax-ml.github.io/scaling-book), TPUs"
CHIPS = {
    chip.name: chip
    for chip in (
        # Links: 9e10, 9e10 and 4.5e10 bytes a second one way (scaling book), of 4, 6 and 4 links a chip.
        Chip(
            "v5e", "tpu", 197e12, 16 * GIB, 8.2e11, 4.5e10, 2, 16, 4, 15.75 / 16, 128, "v5litepod", 1,
            source=f"{_TPU}: v5e; {_SCALING}",
        ),
        Chip(
            "v5p", "tpu", 459e12, 95 * GIB, 2.765e12, 9e10, 3, 4, 4, 1.0, 128, "v5p", 2,
            source=f"{_TPU}: v5p; {_SCALING}",
        ),
        Chip(
            "v6e", "tpu", 918e12, 32 * GIB, 1.64e12, 9e10, 2, 16, 4, 31.25 / 32, 256, "v6e", 1,
            source=f"{_TPU}: v6e; {_SCALING}",
        ),
        Chip(
            "h100", "gpu", 989.4e12, 80e9, 3.35e12, 4.5e11, 0, 0, 8, GPUS_SHARE,
            capability="9.0", source="NVIDIA H100 SXM data sheet",
        ),
        Chip(
            "h200", "gpu", 989.4e12, 141e9, 4.8e12, 4.5e11, 0, 0, 8, GPUS_SHARE,
            capability="9.0", source="NVIDIA H200 SXM data sheet",
        ),
        Chip(
            "a100", "gpu", 312e12, 80e9, 2.039e12, 3e11, 0, 0, 8, GPUS_SHARE,
            capability="8.0", source="NVIDIA A100 80GB SXM data sheet",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind, and how they are wired."""

    chip: Chip
    shape: tuple[int, ...]  # chips along each axis of the torus; of GPUs their number

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def count(self) -> int:
        """Chips."""
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        return -(-self.count // self.chip.of_host)

    @property
    def accelerator_type(self) -> str:
        """Google Cloud's name of such a slice."""
        return f"{self.chip.accelerator}-{self.count * self.chip.counts}"

    def network(self, group: int, stride: int = 1) -> float:
        """Bytes a second that a chip sends in a collective over `group` chips, of which each has a part.

        In a torus chips of a group are neighbours; the collective uses every axis that the group spans, in
        both directions where that axis is a ring, in one where it is a line (its ends have one neighbour).
        GPUs of a host, numbered one after another, meet in a switch; `stride` is from one to the next.
        """
        chip, spanned, left = self.chip, 0.0, group
        if not chip.axes:
            return chip.link_bandwidth if group * stride <= chip.of_host else ACROSS_HOSTS
        for size in sorted(self.shape, reverse=True):
            if left <= 1:
                break
            spanned += 2.0 if chip.wraps and size >= chip.wraps and left >= size else 1.0
            left = -(-left // size)
        return chip.link_bandwidth * max(spanned, 1.0)


def topology(name: str) -> Topology:
    """The slice that `v5p:4x4x4` or `h100:8` names; raises InputError for another chip or form."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match[1].lower()) if match else None
    if match is None or chip is None:
        known = ", ".join(CHIPS)
        raise InputError(
            f"--topology={name}: give a chip and its slice, as v5p:4x4x4 or h100:8; chips: {known}"
        )
    shape = tuple(map(int, match[2].split("x")))
    if len(shape) != max(chip.axes, 1) or 0 in shape:
        form = {0: "h100:8", 2: f"{chip.name}:4x4", 3: f"{chip.name}:4x4x4"}[chip.axes]
        raise InputError(f"--topology={name}: a slice of {chip.name} is written as {form}")
    return Topology(chip, shape)
