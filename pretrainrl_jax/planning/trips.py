"""How often the loops of a compiled XLA program turn."""

import re
from typing import NamedTuple

from pretrainrl_jax.planning.hlo import Computation, Frame, Instruction

PASSING = ("copy", "copy-done", "bitcast", "convert", "reshape", "opt-barrier")  # the same number goes on
CALLING = ("fusion", "call", "async")  # of one computation, with the instruction's own operands


def trip_count(frame: Frame, loop: Instruction) -> int | None:
    """How often the body of a `while` runs, each time it is entered; none where that cannot be told.

    Some compilers write it down. Otherwise it is derived, where a carried number, to which the body adds a
    constant, is to be less than another constant: all that JAX's scans and counted loops become.
    """
    if match := re.search(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)', loop.attributes):
        return int(match[1])
    (body,), (where,) = frame.called(loop, "body"), frame.called(loop, "condition")
    test = where.computation.root
    while test.opcode in CALLING and (inner := where.called(test, "calls", "to_apply")):
        where, test = inner[0], inner[0].computation.root
    direction = re.search(r"direction=(LT|GT)", test.attributes)
    if test.opcode != "compare" or direction is None:
        return None
    number, limit = (_number(where, name) for name in test.operands[:: 1 if direction[1] == "LT" else -1])
    if number is None or limit is None or number.carried is None or limit.carried is not None:
        return None
    first = _number(frame, loop.operands[0], number.carried)
    then = _number(body, body.computation.root.name, number.carried)
    if first is None or first.carried is not None or then is None or then.carried != number.carried:
        return None
    distance = limit.offset - number.offset - first.offset
    return 0 if distance <= 0 else -(-distance // then.offset) if then.offset > 0 else None


class _Number(NamedTuple):
    """An integer of a loop's body or condition."""

    carried: int | None  # the place of the carried number that is added; none: there is only the constant
    offset: int


def _number(frame: Frame, name: str, place: int | None = None) -> _Number | None:
    """The value of a scalar, or of the one at a place in a tuple, where it can be told from the text."""
    instruction = frame.find(name)
    operands = instruction.operands
    match instruction.opcode:
        case "constant":
            return _Number(None, int(operands[0])) if re.fullmatch(r"-?\d+", operands[0]) else None
        case "add":
            return _sum(*(_number(frame, operand) for operand in operands))
        case "tuple" if place is not None:
            return _number(frame, operands[place])
        case "get-tuple-element" if place is None:
            match = re.search(r"index=(\d+)", instruction.attributes)
            return _number(frame, operands[0], int(match[1])) if match else None
        case "while" if place is not None:
            kept = _kept(frame.called(instruction, "body")[0].computation, place)
            return _number(frame, operands[0], place) if kept else None
        case "parameter":
            return _given(frame, int(operands[0]), place)
        case opcode if opcode in PASSING:
            return _number(frame, operands[0], place)
        case opcode if opcode in CALLING:
            inner = frame.called(instruction, "calls", "to_apply")
            return _number(inner[0], inner[0].computation.root.name, place) if inner else None
        case _:
            return None


def _sum(left: _Number | None, right: _Number | None) -> _Number | None:
    """Of two numbers of which one at most is carried."""
    if left is None or right is None or None not in (left.carried, right.carried):
        return None
    carried = left.carried if right.carried is None else right.carried
    return _Number(carried, left.offset + right.offset)


def _given(frame: Frame, parameter: int, place: int | None) -> _Number | None:
    """What a computation's caller gives it; in a loop's the number at a place is carried."""
    caller, parent = frame.caller, frame.parent
    if caller is None or parent is None:
        return None
    if caller.opcode in CALLING:
        return _number(parent, caller.operands[parameter], place)
    if caller.opcode != "while" or place is None:
        return None
    if _kept(parent.called(caller, "body")[0].computation, place):
        before = _number(parent, caller.operands[0], place)
        if before is not None and before.carried is None:  # else it is carried by an outer loop
            return before
    return _Number(place, 0)


def _kept(body: Computation, place: int) -> bool:
    """Whether a loop's body gives on what it was given there."""
    if body.root.opcode != "tuple":
        return False
    instruction = body.instructions[body.root.operands[place]]
    while instruction.opcode in ("copy", "copy-done", "bitcast"):
        instruction = body.instructions[instruction.operands[0]]
    if instruction.opcode != "get-tuple-element":
        return False
    whole = body.instructions[instruction.operands[0]]
    return whole.opcode == "parameter" and re.search(rf"index={place}\b", instruction.attributes) is not None
