"""What a compiled program does, read from its text: its loops, what devices exchange in them, sizes.

The text is that of XLA's optimised HLO (`jax.stages.Compiled.as_text`): computations, with one instruction a
line; a loop is an instruction that names the computations of its body and condition.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.planning.program import COLLECTIVES

COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
# Of a tuple's type the brackets may hold a layout's own, as in f32[8,128]{1,0:T(8,128)}.
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\(")
CALLED = re.compile(r"\w+=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}?")
MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")

Sizes = tuple[int, ...]


class Collective(NamedTuple):
    """One exchange between devices."""

    kind: str
    shapes: tuple[Sizes, ...]  # of its results; of an asynchronous one, its arguments may be among them
    groups: frozenset[Sizes]  # devices that exchange with each other
    name: str  # of the operation it was made for


class Loop(NamedTuple):
    """One loop."""

    name: str  # of the operation it was made for
    carries: tuple[Sizes, ...]  # shapes of all that it reads and changes
    collectives: tuple[Collective, ...]  # in its body and condition, and whatever they call


class Program:
    """A compiled program.

    Args:
        text: its optimised HLO.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines: dict[str, list[str]] = {}
        name = ""
        for line in text.splitlines():
            if header := COMPUTATION.match(line):
                name = header[1]
                self._lines[name] = []
            elif name:
                self._lines[name].append(line)

    def loops(self, name: str) -> list[Loop]:
        """The loops of operations whose name ends so."""
        return [
            Loop(_name(line), _shapes(kind), tuple(self._collectives(self._reached(line))))
            for lines in self._lines.values()
            for line, kind, operation in _instructions(lines)
            if operation == "while" and _name(line).endswith(name)
        ]

    def outside(self, name: str) -> list[Collective]:
        """The collectives that are in no loop of operations whose name ends so."""
        within = {
            computation
            for lines in self._lines.values()
            for line, _, operation in _instructions(lines)
            if operation == "while" and _name(line).endswith(name)
            for computation in self._reached(line)
        }
        return list(self._collectives(self._lines.keys() - within))

    def largest(self) -> int:
        """Elements of the largest array, wherever it is named."""
        return max(math.prod(_sizes(text)) for _, text in set(SHAPE.findall(self.text)))

    def _reached(self, line: str) -> set[str]:
        """The computations that an instruction calls, and those that they call."""
        reached: set[str] = set()
        waiting = [line]
        while waiting:
            called = {name.strip(" %") for each in CALLED.findall(waiting.pop()) for name in each.split(",")}
            new = (called & self._lines.keys()) - reached
            reached |= new
            waiting += [line for name in new for line in self._lines[name]]
        return reached

    def _collectives(self, computations: set[str]) -> Iterator[Collective]:
        for name in sorted(computations):
            for line, kind, operation in _instructions(self._lines[name]):
                if operation.removesuffix("-start") in COLLECTIVES:
                    operation = operation.removesuffix("-start")
                    yield Collective(operation, _shapes(kind), _groups(line), _name(line))


def _instructions(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each instruction, the type of its result, and its operation."""
    for line in lines:
        if match := INSTRUCTION.match(line):
            yield line, match[1], match[2]


def _name(line: str) -> str:
    match = re.search(r'op_name="([^"]*)"', line)
    return match[1] if match else ""


def _sizes(text: str) -> Sizes:
    return tuple(int(size) for size in text.split(",") if size)


def _shapes(kind: str) -> tuple[Sizes, ...]:
    return tuple(_sizes(text) for _, text in SHAPE.findall(kind))


def _groups(line: str) -> frozenset[Sizes]:
    """Devices by their places on the mesh, whichever of its three ways HLO writes them; none means all."""
    if "replica_groups={}" in line:
        return frozenset()
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line):
        return frozenset(tuple(sorted(_sizes(group))) for group in re.findall(r"\{([\d,]*)\}", match[1]))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        rows = _iota(match[2], match[3]).reshape(_sizes(match[1]))
    elif match := MESH.search(line):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        sizes = [int(size) for size in axes.values()]
        ids = _iota(match[2] or ",".join(map(str, sizes)), match[3]).reshape(sizes)
        along = [list(axes).index(name) for name in re.findall(r"'(\w+)'", match[4])]
        last = np.moveaxis(ids, along, range(-len(along), 0))
        rows = last.reshape(-1, math.prod(sizes[axis] for axis in along))
    else:
        raise ValueError(f"no groups of devices in: {line}")
    return frozenset(tuple(sorted(row)) for row in rows.tolist())


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Devices in order, as an array of these sizes, its axes reordered."""
    counted = np.arange(math.prod(_sizes(sizes))).reshape(_sizes(sizes))
    return counted.transpose(_sizes(order)) if order else counted
