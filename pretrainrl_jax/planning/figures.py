"""Everything that a plan says of a configuration on a slice, as numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pretrainrl_jax.model.whole import told
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.estimate import EFFICIENCIES, Estimate, estimate
from pretrainrl_jax.planning.planned import Decoding, Planned, Program, Step
from pretrainrl_jax.planning.work import Work

ENDS = ("shortest", "middle", "longest")  # of an estimate
SPARE = 0.10  # of a chip's memory that is to be free
FEW_UPDATES = 100  # fewer teach little, whatever the hardware
LITTLE = 2048  # tokens of a chip's rows below which its matrix unit waits for weights


@dataclass(frozen=True)
class Figures:
    """Of one program on a slice; bytes are those of one chip."""

    program: Program
    topology: Topology
    temporary: float  # all that the program makes for itself, cache and saved activations included
    held: float  # at once, at most, beside what is resident
    work: Work | None  # None: it does not fit, and its memory alone is known
    compiled: float | None = None  # seconds it took to compile; None: not compiled, from shapes alone
    unknown_loops: tuple[str, ...] = ()  # whose trips the compiled program does not tell: counted once

    @property
    def peak(self) -> float:
        """Bytes held at once, at most."""
        return self.held + self.program.resident

    @property
    def free(self) -> float:
        """Share of the chip's memory that is free; below 0 it does not fit."""
        return 1 - self.peak / self.topology.chip.hbm

    @property
    def memory(self) -> dict[str, float]:
        """Bytes by kind; resident are other models, and what else stays beside the program."""
        load, hand = self.program.load, self.program.hand
        return {
            "parameters": self.program.parameters,
            "optimizer": self.program.moments,
            "resident": self.program.resident,
            "cache": load.cache(hand) if isinstance(load, Decoding) else 0.0,
            "saved": load.saved(hand) if isinstance(load, Step) else 0.0,  # for the backward pass, at least
            "temporary": self.temporary,
            "peak": self.peak,
            "hbm": self.topology.chip.hbm,
        }

    @cached_property
    def time(self) -> Estimate | None:
        """Of one execution."""
        shares = EFFICIENCIES[self.topology.chip.name]
        return estimate(self.work, self.topology, shares) if self.work else None

    def mfu(self, seconds: float) -> float:
        """Of the counted FLOPs, nothing recomputed, causal attention halved, at the chip's published peak."""
        return self.program.counted / (self.topology.count * self.topology.chip.flops * seconds)

    def run(self, end: str) -> float:
        """Seconds of the whole run at that end of the estimate: 0 of a program whose share is not known.

        Infinite of one that does not fit: it never ends.
        """
        return (self.program.executions or 0.0) * getattr(self.time, end) if self.time else math.inf


def warnings(every: Sequence[Figures], topology: Topology) -> list[str]:
    """What a user must know before renting."""
    said = []
    steps = [one.program for one in every if one.program.trains]
    if few := {program.name: n for program in steps if (n := program.updates) and n < FEW_UPDATES}:
        said.append(
            f"{named(list(few))}: {min(few.values()):,.0f} updates are few to learn from: give more passes "
            "or steps, or less in each update"
        )
    chips = topology.count
    if chips > 1 and (idle := {one.name: one.tokens for one in steps if one.tokens / chips < LITTLE}):
        tokens = max(idle.values())
        said.append(
            f"{named(list(idle))}: up to {tokens:,.0f} tokens an update, {tokens / chips:,.0f} a chip, "
            f"and {max(1, tokens // LITTLE):,.0f} of {chips} would be busy with them: more chips buy memory "
            "here, not speed"
        )
    if unknown := [one.program.name for one in every if one.program.executions is None]:
        said.append(
            f"{named(unknown)}: how many steps its texts are is not known before they are read, and not in "
            "the run's hours: with documents give pretrain.steps"
        )
    return said


def named(programs: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    first, *others = programs
    return f"{first} and {len(others)} more" if others else first


def remedies(one: Figures) -> list[str]:
    """What would make a program fit, the most telling first."""
    program, hand, limit = one.program, one.program.hand, one.topology.chip.hbm * (1 - SPARE)
    load, cut = program.load, hand.cut
    state = program.parameters + program.moments + program.resident
    said = []
    if isinstance(load, Decoding) and hand.copy:
        said.append("--platform.decoding_memory=0")
    if cut.data > 1:
        said.append(f"--mesh.data=1 --mesh.fsdp={cut.data * cut.fsdp}")
    if state > limit:
        chips = math.ceil(cut.fsdp * cut.expert * cut.tensor * state / (0.6 * limit))
        return said or [f"a slice of {1 << (chips - 1).bit_length()} chips or more"]
    parts = 1 << (math.ceil((one.peak - state) / max(limit - state, GIB / 8)) - 1).bit_length()
    if isinstance(load, Step) and hand.shape.remat != "full":
        said.append("--model.remat=full")
    microsteps = 1 if isinstance(load, Decoding) else load.microsteps
    if program.setting and hand.share(load.rows / microsteps) > 1:  # one row cannot be cut
        fewer = max(1, load.rows // parts) if isinstance(load, Decoding) else microsteps * parts
        said.append(f"--{program.setting}={fewer}")
    return said or ["a larger slice"]


def of_weights(planned: Planned) -> str:
    """What decoding reads weights from, a line for each model whose weights are not read as they lie."""
    decoding = [program for program in planned.programs if isinstance(program.load, Decoding)]
    hands = dict.fromkeys((program.hand, not program.learned and " (the rewriter)") for program in decoding)
    lines = ((told(hand.shape, hand.cut, hand.room), whose) for hand, whose in hands)
    return "\n".join(f"{line}{whose or ''}" for line, whose in lines if line)


def as_json(one: Figures) -> dict[str, Any]:
    """Plain values, seconds and bytes; for scripts."""
    program, load, work, time = one.program, one.program.load, one.work, one.time
    names = "name", "tokens", "counted", "executions", "updates", "trains"
    told: dict[str, Any] = {name: getattr(program, name) for name in names}
    told |= {
        "rows": load.rows,
        "time": load.time,
        "memory": one.memory | {"free": one.free},
        "compiled_seconds": one.compiled,
        "unknown_loops": list(one.unknown_loops),
    }
    if work is None or time is None:
        return told
    return told | {
        "flops": work.flops,
        "hbm_bytes": work.bytes,
        "sent_bytes": work.crossing,
        "collectives": [sent._asdict() for sent in work.sent],
        "seconds": time._asdict() | {"bound": time.bound},
        "mfu": {end: one.mfu(getattr(time, end)) for end in ENDS},
    }
