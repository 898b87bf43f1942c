"""The text of a compiled XLA program: its computations, their instructions, and who calls whom.

The text is optimised HLO after partitioning, so that shapes are those of one device: what
`jax.stages.Compiled.as_text` gives, or XLA's `xla_dump_to`. It has one instruction a line.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((\[[^)]*\)?|[\d,]+)\))? \{([^}]*)\}")
AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")  # 'a', or of its splitting into parts one: 'a':(2)4


class Shape(NamedTuple):
    """Of one array."""

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0  # of its layout, as in S(1): 0 is the device's main memory

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        bits = re.search(r"\d+", self.dtype)
        each = 8 if self.dtype == "pred" else int(bits[0]) if bits else 0  # a token has none
        return -(-math.prod(self.sizes) * each // 8)


class Instruction(NamedTuple):
    """One line. An asynchronous start is the operation it starts, with that one's result alone."""

    name: str
    opcode: str
    result: tuple[Shape, ...]  # one array, or all of a tuple, wherever in it they are
    operands: tuple[str, ...]  # names; of a constant its value, of a parameter its place
    attributes: str  # the rest of the line

    @property
    def op_name(self) -> str:
        """The operation it was made for, in the words of JAX; may be empty."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self, *kinds: str) -> tuple[str, ...]:
        """The computations it names as one of these: body, condition, calls."""
        match = re.search(rf"[ ,](?:{'|'.join(kinds)})=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return tuple(name.strip(" %") for name in match[1].strip("{}").split(",")) if match else ()

    def numbers(self, key: str) -> tuple[int, ...]:
        """An attribute such as lhs_contracting_dims={1,2}; none where it is not there."""
        match = re.search(rf"[ ,]{key}=\{{([\d,]*)\}}", self.attributes)
        return numbers(match[1]) if match else ()


class Computation(NamedTuple):
    """Instructions that are called together."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def parameter(self, place: int) -> Instruction | None:
        """The one that stands for an operand of the caller."""
        found = (i for i in self.instructions.values() if i.opcode == "parameter")
        return next((i for i in found if i.operands[0] == str(place)), None)

    def users(self, name: str) -> Iterator[Instruction]:
        return (
            i
            for i in self.instructions.values()
            if name in i.operands and i.opcode not in ("parameter", "constant")
        )

    def origin(self, name: str) -> Instruction:
        """What it is a view of."""
        instruction = self.instructions[name]
        while instruction.opcode in ("bitcast", "reshape"):
            instruction = self.instructions[instruction.operands[0]]
        return instruction


class Module(NamedTuple):
    """A whole text."""

    computations: dict[str, Computation]
    entry: str
    devices: int


class Frame(NamedTuple):
    """A computation as it is called from one place."""

    module: Module
    computation: Computation
    caller: Instruction | None = None  # nobody calls the entry
    parent: "Frame | None" = None

    def find(self, name: str) -> Instruction:
        return self.computation.instructions[name]

    def called(self, caller: Instruction, *kinds: str) -> list["Frame"]:
        known = self.module.computations
        return [
            Frame(self.module, known[name], caller, self) for name in caller.called(*kinds) if name in known
        ]

    def op_name(self, instruction: Instruction) -> str:
        """The operation that an instruction was made for, or, where it does not say, its callers."""
        if instruction.op_name or self.caller is None or self.parent is None:
            return instruction.op_name
        return self.parent.op_name(self.caller)


def parse(text: str) -> Module:
    """All computations of a text."""
    if ":T(" not in text:  # not of a TPU: there S(1) is main memory too, which collectives registered
        text = re.sub(r":S\(1\)\}", "}", text)
    text = re.sub(r'\n(?="|\}\})', " ", text)  # attributes of a kernel may have line breaks
    computations: dict[str, Computation] = {}
    name = entry = ""
    instructions: dict[str, Instruction] = {}
    root = ""
    for line in text.splitlines():
        if name and (match := INSTRUCTION.match(line)):
            root = match[2] if match[1] else root
            instructions[match[2]] = _instruction(
                match[2], re.sub(r"/\*index=\d+\*/", "", line[match.end() :])
            )
        elif name and line.startswith("}"):
            if last := root or next(reversed(instructions), ""):
                computations[name] = Computation(name, instructions, instructions[last])
            name = ""
        elif match := HEADER.match(line):
            name, instructions, root = match[2], {}, ""
            entry = name if match[1] else entry
    if not entry:
        raise ValueError("not the text of a compiled program: it has no ENTRY computation")
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
    return Module(computations, entry, math.prod(map(int, counts)))


def numbers(text: str) -> tuple[int, ...]:
    """Those between commas."""
    return tuple(int(number.strip(" <=")) for number in text.split(",") if number)


def group(instruction: Instruction, devices: int) -> tuple[int, ...]:
    """The first group of devices of a collective, ascending, in whichever way HLO writes it.

    A collective that names none is of all `devices` of the program.
    """
    text = instruction.attributes
    if match := re.search(r"source_target_pairs=\{(.*?\})\}", text):
        return _ring({int(a): int(b) for a, b in re.findall(r"\{(\d+),(\d+)\}", match[1])})
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return tuple(sorted(numbers(match[1])))
    if match := re.search(r"replica_groups=\[([\d,]+)\](<=\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return tuple(sorted(_iota(match[2])[: numbers(match[1])[-1]]))
    if match := re.search(r"replica_groups=" + MESH.pattern, text):
        return _mesh_group(match[1], match[2], match[3])
    return tuple(range(devices))


def _instruction(name: str, text: str) -> Instruction:
    """Of the text after its equals sign."""
    is_tuple, one = text.startswith("("), ARRAY.match(text)
    if not is_tuple and one is None:
        raise ValueError(f"no type in: {text[:80]}")
    end = one.end() if one else _closing(text, 1) + 1
    kind = text[:end]
    opcode, _, _ = text[end:].lstrip().partition("(")
    begin = text.index("(", end) + 1
    stop = _closing(text, begin)
    operands = tuple(part.split()[-1].lstrip("%") for part in _split(text[begin:stop]))
    if opcode.endswith("-start"):
        opcode = opcode.removesuffix("-start")
        # A start has the operands' buffers among its results, each kind in its own order.
        if is_tuple and opcode not in ("all-reduce", "async"):
            kind = _split(kind[1:-1])[0 if opcode == "copy" else 1]
    result = tuple(map(_shape, ARRAY.finditer(kind)))
    return Instruction(name, opcode, result, operands, text[stop + 1 :])


def _shape(array: re.Match[str]) -> Shape:
    space = re.search(r"S\((\d+)\)", array[3] or "")
    return Shape(array[1], numbers(array[2]), int(space[1]) if space else 0)


def _closing(text: str, begin: int) -> int:
    """Where the bracket closes that was opened before."""
    depth = 1
    for match in re.compile(r'[()]|"[^"]*"').finditer(text, begin):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    raise ValueError(f"an open bracket in: {text[:80]}")


def _split(text: str) -> list[str]:
    """Operands, which may have their types before them: commas in brackets part none."""
    depth, begin, parts = 0, 0, list[str]()
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[begin:place])
            begin = place + 1
    return [part for part in (*parts, text[begin:]) if part.strip()]


def _iota(text: str) -> list[int]:
    """The numbers from 0 as sizes, and maybe an order of axes, write them: <=[4,2]T(1,0)."""
    sizes, *order = (numbers(bracket) for bracket in re.findall(r"[\[(]([\d,]+)[\])]", text))
    counted = np.arange(math.prod(sizes)).reshape(sizes)
    return counted.transpose(*order).ravel().tolist()


def _mesh_group(mesh: str, devices: str | None, along: str) -> tuple[int, ...]:
    """The first group along some axes of a mesh: where all other axes are at 0."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    names, sizes = list(axes), list(axes.values())
    steps = []
    for name, before, part in AXIS.findall(along):
        beside = math.prod(sizes[names.index(name) + 1 :])
        size = int(part or axes[name])
        steps.append([beside * (axes[name] // (int(before or 1) * size)) * place for place in range(size)])
    places = [sum(each) for each in itertools.product(*steps)]
    if devices:
        told = _iota(devices) if devices.startswith("[") else numbers(devices)
        places = [told[place] for place in places]
    return tuple(sorted(places))


def _ring(targets: dict[int, int]) -> tuple[int, ...]:
    """The most devices that send to each other in turn."""
    rings: list[tuple[int, ...]] = []
    for device in sorted(targets, key=lambda device: (device in targets.values(), device)):
        ring = dict.fromkeys([device])
        while (device := targets.get(device, device)) not in ring:
            ring[device] = None
        rings.append(tuple(sorted(ring)))
    return max(rings, key=len)
