"""Everything that a plan says of a configuration on a slice, as numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.estimate import Efficiencies, Estimate, estimate
from pretrainrl_jax.planning.programs import Planned, Program
from pretrainrl_jax.planning.work import Work

ENDS = ("shortest", "middle", "longest")  # of an estimate
SPARE = 0.10  # of a chip's memory that is to be free
FEW_UPDATES = 100  # fewer teach little, whatever the hardware
LITTLE = 2048  # tokens of a chip's rows below which its matrix unit waits for weights


@dataclass(frozen=True)
class Memory:
    """Bytes of one chip."""

    parameters: float
    optimizer: float
    resident: float  # of other models, and what else stays while the program runs
    cache: float  # keys and values
    saved: float  # activations that the backward pass reads, at least
    temporary: float  # all that the program makes for itself, cache and saved ones included
    peak: float  # held at once, at most
    hbm: float

    @property
    def free(self) -> float:
        """Share of the chip's memory that is free; below 0 it does not fit."""
        return 1 - self.peak / self.hbm


@dataclass(frozen=True)
class Figures:
    """Of one program."""

    program: Program
    memory: Memory
    work: Work
    time: Estimate
    compiled: float | None  # seconds it took to compile; None: not compiled, from shapes alone
    unknown_loops: tuple[str, ...] = ()  # whose trips the compiled program does not tell: counted once

    def mfu(self, topology: Topology, seconds: float) -> float:
        """Of the counted FLOPs, nothing recomputed, causal attention halved, at the chip's published peak."""
        return self.program.counted / (topology.count * topology.chip.flops * seconds)

    @property
    def fits(self) -> bool:
        """Within the memory."""
        return self.memory.free >= 0


def figures(
    planned: Planned,
    program: Program,
    work: Work,
    temporary: float,
    peak: float,
    topology: Topology,
    efficiencies: Efficiencies,
    compiled: float | None = None,
    unknown_loops: Sequence[str] = (),
) -> Figures:
    """Of one program: `peak` is its own, `temporary` a part of it, in bytes of a chip."""
    trains = bool(program.updates)
    memory = Memory(
        planned.parameters,
        planned.optimizer if trains else 0.0,
        program.resident,
        program.cache,
        program.saved,
        temporary,
        peak + program.resident,
        topology.chip.hbm,
    )
    time = estimate(work, topology, efficiencies)
    return Figures(program, memory, work, time, compiled, tuple(unknown_loops))


def warnings(every: Sequence[Figures], topology: Topology) -> list[str]:
    """What a user must know before renting."""
    said = []
    steps = [one.program for one in every if one.program.updates]
    if few := [program for program in steps if program.updates < FEW_UPDATES]:
        updates = min(program.updates for program in few)
        said.append(
            f"{_named(few)}: {updates:,.0f} updates are few to learn from: give more passes or "
            "steps, or less in each update"
        )
    if idle := [program for program in steps if program.tokens / topology.count < LITTLE]:
        tokens = max(program.tokens for program in idle)
        said.append(
            f"{_named(idle)}: up to {tokens:,.0f} tokens an update are {tokens / topology.count:,.0f} a "
            f"chip, and {max(1, tokens // LITTLE):,.0f} of the {topology.count} would be busy with them: "
            "more chips buy memory here, not speed"
        )
    return said


def _named(programs: Sequence[Program]) -> str:
    first, *others = (program.name for program in programs)
    return f"{first} and {len(others)} more" if others else first


def remedies(one: Figures, planned: Planned, topology: Topology) -> list[str]:
    """What would make a program fit."""
    memory, limit = one.memory, topology.chip.hbm * (1 - SPARE)
    state = memory.parameters + memory.optimizer + memory.resident
    if state > limit:
        cut = planned.mesh.shape["fsdp"] * planned.mesh.shape["tensor"]
        chips = math.ceil(cut * state / (0.6 * limit))
        if cut < topology.count:
            return [f"--mesh.data=1 --mesh.fsdp={topology.count}: parameters are cut {cut} times only"]
        return [f"a slice of {1 << (chips - 1).bit_length()} chips or more"]
    rest = memory.peak - state
    parts = 1 << (math.ceil(rest / max(limit - state, GIB / 8)) - 1).bit_length()
    section = one.program.section
    if one.program.updates:
        said = [f"--{section}.grad_accum_steps={parts}"]
        return said if planned.shape.remat == "full" else ["--model.remat=full", *said]
    return [f"--{section}.batch={max(1, one.program.rows // parts)}"] if section else ["a larger slice"]


def as_json(every: Sequence[Figures], topology: Topology) -> list[dict[str, Any]]:
    """Plain values, seconds and bytes; for scripts."""
    told = []
    for one in every:
        program = {name: value for name, value in vars(one.program).items() if not callable(value)}
        told.append(
            program
            | {
                "memory": asdict(one.memory) | {"free": one.memory.free},
                "flops": one.work.flops,
                "hbm_bytes": one.work.bytes,
                "sent_bytes": one.work.crossing,
                "collectives": [sent._asdict() for sent in one.work.sent],
                "seconds": one.time._asdict() | {"bound": one.time.bound},
                "mfu": {end: one.mfu(topology, getattr(one.time, end)) for end in ENDS},
                "compiled_seconds": one.compiled,
                "unknown_loops": list(one.unknown_loops),
            }
        )
    return told
