"""What one device does when a compiled XLA program runs: matrix products, exchanges, traffic of its memory.

It is read from the program's text (`pretrainrl_jax.planning.hlo`), so that a program can be judged which was
compiled for machines that are not there.
"""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.planning.hlo import Computation, Frame, Instruction, Shape, group, parse
from pretrainrl_jax.planning.trips import trip_count
from pretrainrl_jax.planning.work import Operation

COLLECTIVES = (
    *("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute"),
    *("ragged-all-to-all", "reduce-scatter"),
)
# What moves nothing by itself: names, what only calls others, and ends of what was counted at its start.
STILL = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency"),
    *("opt-barrier", "partition-id", "replica-id", "while", "conditional", "call", "async"),
)
# The computations that run as a part of it, by the attribute that names them.
RUN = {
    "while": ("body",),
    "fusion": ("calls",),
    "conditional": ("branch_computations",),
    "call": ("calls", "to_apply"),
    "async": ("calls", "to_apply"),
}
SLICES = ("dynamic-slice", "slice", "gather")  # read as much of their first operand as they write
IN_PLACE = ("dynamic-update-slice", "scatter")  # write as much as they are given, into their first operand


class Collective(NamedTuple):
    """One exchange between devices."""

    name: str  # of the instruction
    op_name: str  # of the operation it was made for
    kind: str  # such as all-gather
    dtype: str
    bytes: int  # of the whole operand: after gathering, before scattering; of one execution
    group: tuple[int, ...]  # devices that exchange with each other, as places on the mesh: the first group
    trips: int  # executions

    @property
    def size(self) -> int:
        """Devices of a group."""
        return len(self.group)


class Loop(NamedTuple):
    """One loop."""

    name: str  # of the instruction
    op_name: str  # of the operation it was made for
    trips: int | None  # turns, each time it is entered; none: not known


class Program(NamedTuple):
    """What one device does."""

    collectives: tuple[Collective, ...] = ()
    loops: tuple[Loop, ...] = ()
    operations: tuple[Operation, ...] = ()  # that compute something, or touch main memory: a fusion is one

    @property
    def hbm_bytes(self) -> float:
        """Read from main memory and written to it: an estimate."""
        return sum((one.bytes * one.times for one in self.operations), 0.0)

    @property
    def flops(self) -> float:
        """Of all matrix products."""
        return sum((one.flops * one.times for one in self.operations), 0.0)

    @property
    def unknown_loops(self) -> tuple[Loop, ...]:
        """Those of which it is not known how often they turn."""
        return tuple(loop for loop in self.loops if loop.trips is None)


def read_program(text: str, turns: int = 1) -> Program:
    """What one device does when a program runs once.

    Of a conditional the branch with the most operations counts.

    Args:
        text: optimised HLO after partitioning, of any backend.
        turns: of a loop whose condition does not tell how often it turns, as where it may end early. Where
            several of one name stand side by side they share the turns, and the first is given all.
    """
    module = parse(text)
    return _visit(Frame(module, module.computations[module.entry]), 1, False, turns)


def _visit(frame: Frame, trips: int, fused: bool, unknown: int) -> Program:
    """What a computation does that is executed `trips` times, and what it calls.

    `fused`: whether it is within a fusion, which alone reads and writes memory. `unknown` are the turns of a
    loop that does not tell them.
    """
    collectives, loops, operations = list[Collective](), list[Loop](), list[Operation]()
    begun = set[str]()  # loops that do not tell their turns
    for instruction in frame.computation.instructions.values():
        name, op_name = instruction.name, frame.op_name(instruction)
        if instruction.opcode in COLLECTIVES:
            collectives.append(_collective(frame, instruction, trips))
        inner = trips
        if instruction.opcode == "while":
            turns = trip_count(frame, instruction)
            loops.append(Loop(name, op_name, turns))
            inner = trips * (turns if turns is not None else unknown if op_name not in begun else 0)
            if turns is None:
                begun.add(op_name)
        fuses = instruction.opcode == "fusion"
        called = [_visit(f, inner, fused or fuses, unknown) for f in _called(frame, instruction)]
        if instruction.opcode == "conditional":
            called = [max(called, key=lambda part: (part.flops, part.hbm_bytes))]
        flops, moved = _flops(frame, instruction), 0.0 if fused else _traffic(frame, instruction)
        for part in called:
            collectives += part.collectives
            loops += part.loops
            if fuses:
                flops += sum(one.flops for one in part.operations)
            else:
                operations += part.operations
        if flops + moved:
            operations.append(Operation(flops, moved, trips, op_name))
    return Program(tuple(collectives), tuple(loops), tuple(operations))


def _called(frame: Frame, instruction: Instruction) -> list[Frame]:
    """What runs as a part of an instruction; others only tell how to add or compare two numbers."""
    if kinds := RUN.get(instruction.opcode):
        return frame.called(instruction, *kinds)
    if instruction.opcode != "custom-call":
        return []
    called = frame.called(instruction, "called_computations", "calls")
    gives = [shape[:2] for shape in instruction.result]
    return [f for f in called if [shape[:2] for shape in f.computation.root.result] == gives]


def _shapes(frame: Frame, instruction: Instruction) -> list[Shape]:
    return [shape for name in instruction.operands for shape in frame.find(name).result]


def _flops(frame: Frame, instruction: Instruction) -> float:
    """Of a matrix product, 0 of all else."""
    if instruction.opcode == "convolution":
        return _convolution_flops(frame, instruction)
    if instruction.opcode != "dot":
        return 0.0
    left, result = _shapes(frame, instruction)[0], instruction.result[0]
    contracted = instruction.numbers("lhs_contracting_dims")
    return 2.0 * math.prod(result.sizes) * math.prod(left.sizes[axis] for axis in contracted)


def _convolution_flops(frame: Frame, instruction: Instruction) -> float:
    """Of a convolution, without the multiplications by padding and by the zeros between dilated entries.

    TPUs write every matrix product so: axes of batches, and further axes that are kept or contracted, become
    axes that a window moves along, most of whose positions would fall on such zeros.
    """
    labels = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)[0]
    left, right = _shapes(frame, instruction)[:2]
    result = instruction.result[0]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    keys = dict(pair.split("=") for pair in window[1].split()) if window else {}
    sizes = [int(size) for size in keys.get("size", "").split("x") if size]

    def along(key: str, axis: int, default: int) -> int:
        """The window's value along an axis; of its padding the one before the operand."""
        return int(keys[key].split("x")[axis].split("_")[0]) if key in keys else default

    multiplied = 1
    for axis, size in enumerate(sizes):
        multiplied *= _positions(
            left.sizes[labels[0].index(str(axis))],
            size,
            result.sizes[labels[2].index(str(axis))],
            along("stride", axis, 1),
            along("pad", axis, 0),
            along("lhs_dilate", axis, 1),
            along("rhs_dilate", axis, 1),
        )
    kept = result.sizes[labels[2].index("b")] * result.sizes[labels[2].index("f")]
    return 2.0 * kept * right.sizes[labels[1].index("i")] * multiplied


@functools.cache
def _positions(size: int, window: int, results: int, stride: int, pad: int, dilate: int, spread: int) -> int:
    """How many pairs of a result and a place of its window meet a real entry, along one axis.

    Args:
        size: of the operand.
        window: its places.
        results: the size of the result.
        stride: of the window from one result to the next.
        pad: zeros before the operand; negative ones cut it.
        dilate: the distance of the operand's entries, zeros between them.
        spread: the distance of the window's places.
    """
    starts = np.arange(results) * stride - pad
    met = (starts + place * spread for place in range(window))
    return sum(int(np.sum((at >= 0) & (at <= (size - 1) * dilate) & (at % dilate == 0))) for at in met)


def _collective(frame: Frame, instruction: Instruction, trips: int) -> Collective:
    """Of one, or of a fusion of one with what takes the device's part of its result, which TPUs have."""
    devices = group(instruction, frame.module.devices)
    kind, shapes = instruction.opcode, _shapes(frame, instruction)
    sliced = any(i.opcode == "dynamic-slice" for i in frame.computation.instructions.values())
    if kind == "all-reduce" and sliced and "all-reduce-scatter" in frame.computation.name:
        kind = "reduce-scatter"
    whole = sum(shape.bytes for shape in shapes) * (len(devices) if kind == "all-gather" else 1)
    op_name = frame.op_name(instruction)
    return Collective(instruction.name, op_name, kind, shapes[0].dtype, whole, devices, trips)


def _traffic(frame: Frame, instruction: Instruction) -> float:
    """Bytes of main memory that an instruction reads and writes; what it calls is counted there."""
    opcode = instruction.opcode
    if opcode in STILL or opcode.endswith(("-done", "-update")):
        return 0.0
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0.0
    called = _called(frame, instruction)
    if opcode == "custom-call" and called:
        return 0.0
    if called:  # of a fusion
        fused = called[0]
        read = sum(
            _within(frame.find(name).result, _read(fused, place))
            for place, name in enumerate(instruction.operands)
        )
        return read + _written(fused.computation, instruction.result)
    operands = [frame.find(name).result for name in dict.fromkeys(instruction.operands)]
    if opcode in SLICES:
        indices = [] if opcode == "slice" else operands[1:]
        read = _within(operands[0], _bytes(instruction.result))
        return read + sum(map(_held, indices)) + _held(instruction.result)
    if opcode in IN_PLACE:
        changed = _bytes(frame.find(_update(instruction)).result)
        before = _within(operands[0], changed) if opcode == "scatter" else 0.0  # which adds to what is there
        return before + sum(map(_held, operands[1:])) + _within(instruction.result, changed)
    return sum(map(_held, operands)) + _held(instruction.result)


def _bytes(shapes: Iterable[Shape]) -> float:
    return float(sum(shape.bytes for shape in shapes))


def _held(shapes: Iterable[Shape]) -> float:
    """Bytes of them that are in main memory."""
    return _bytes(shape for shape in shapes if shape.space == 0)


def _within(shapes: Iterable[Shape], part: float | None) -> float:
    """As many bytes of them as are touched, if they are in main memory; none means all."""
    return _held(shapes) if part is None else min(_held(shapes), part)


def _update(instruction: Instruction) -> str:
    """What an operation in place writes."""
    return instruction.operands[1 if instruction.opcode == "dynamic-update-slice" else 2]


def _results(computation: Computation) -> list[Instruction]:
    root = computation.root
    names = root.operands if root.opcode == "tuple" else (root.name,)
    return [computation.origin(name) for name in names]


def _in_place(computation: Computation) -> dict[str, Instruction]:
    """Results of a fusion that are one of its operands, changed in some part."""
    changed = (i for i in _results(computation) if i.opcode in IN_PLACE)
    return {i.name: i for i in changed if computation.origin(i.operands[0]).opcode == "parameter"}


def _read(frame: Frame, place: int) -> float | None:
    """Bytes that a fusion reads of an operand of which it needs only parts; none: it may need all."""
    computation = frame.computation
    parameter = computation.parameter(place)
    if parameter is None:
        return None
    in_place, outputs = _in_place(computation), {i.name for i in _results(computation)}
    waiting, read = [parameter.name], 0.0
    while waiting:
        name = waiting.pop()
        if name in outputs:
            return None
        for user in computation.users(name):
            if user.opcode in ("bitcast", "reshape"):
                waiting.append(user.name)
            elif user.opcode == "fusion":
                (inner,) = frame.called(user, "calls")
                for position in (p for p, operand in enumerate(user.operands) if operand == name):
                    part = _read(inner, position)
                    if part is None:
                        return None
                    read += part
            elif name in user.operands[1:]:
                return None
            elif user.opcode in SLICES:
                read += _bytes(user.result)
            elif user.name in in_place:
                scattered = user.opcode == "scatter"  # which adds to what is there
                read += _bytes(computation.instructions[_update(user)].result) if scattered else 0.0
            else:
                return None
    return read


def _written(computation: Computation, shapes: Sequence[Shape]) -> float:
    """Bytes that a fusion writes."""
    in_place, results = _in_place(computation), _results(computation)
    if len(shapes) != len(results):
        return _held(shapes)
    written = 0.0
    for shape, result in zip(shapes, results, strict=True):
        changed = in_place.get(result.name)
        part = None if changed is None else _bytes(computation.instructions[_update(changed)].result)
        written += _within([shape], part)
    return written
