"""Which mesh, remat policy and microsteps run a configuration the fastest: candidates, rank, choice.

Nothing is compiled here: that is asked of a function that is given. The blocks of the vocabulary are not
searched: their size follows from the model's width (`model.vocabulary.block_size`) and is no setting.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast, get_args

from jax.sharding import AbstractMesh, Mesh

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import AXES, Cut, check_model, divisors
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.by_hand import ByHand
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.estimate import EFFICIENCIES, estimate
from pretrainrl_jax.planning.figures import SPARE
from pretrainrl_jax.planning.planned import Program, Step

REMATS: tuple[Policy, ...] = get_args(Policy)


class Candidate(NamedTuple):
    """Settings to try."""

    cut: Cut  # of the model and its batch
    remat: Policy
    microsteps: int = 1  # of the searched section; 1 where nothing is trained

    def settings(self, section: str) -> dict[str, Any]:
        """By dotted names; `section` has the microsteps, "" where none is searched."""
        named: dict[str, Any] = {f"mesh.{axis}": getattr(self.cut, axis) for axis in AXES}
        named["model.remat"] = self.remat
        return named | ({f"{section}.grad_accum_steps": self.microsteps} if section else {})

    def flags(self, section: str) -> str:
        return " ".join(f"--{name}={value}" for name, value in self.settings(section).items())


@dataclass(frozen=True)
class Case:
    """What every candidate has in common."""

    hand: ByHand  # the model on a chip of one of the meshes
    programs: Sequence[Program]  # as that mesh has them
    topology: Topology

    @property
    def trained(self) -> Program | None:
        """The largest training program: the microsteps of its section are searched."""
        steps = [program for program in self.programs if program.trains]
        return max(steps, key=lambda program: (program.executions or 0.0) * program.counted, default=None)

    @property
    def section(self) -> str:
        """Whose; "" where nothing is trained."""
        return self.trained.section if self.trained else ""


class Ranked(NamedTuple):
    """What is known of a candidate before it is compiled."""

    candidate: Candidate
    seconds: float  # of the whole run, expected
    memory: float  # bytes a chip, of the program that takes the most


class Found(NamedTuple):
    """What a compiled candidate takes. Times are infinite where a program does not fit: none is known."""

    candidate: Candidate
    peak: float = math.inf  # bytes of a chip, of the program that takes the most
    free: float = -math.inf  # share of a chip's memory, of that program
    shortest: float = math.inf  # seconds of the whole run
    middle: float = math.inf
    longest: float = math.inf
    step: float = math.inf  # seconds of a step of the largest training program
    refused: str = ""  # why it could not be compiled

    @property
    def fits(self) -> bool:
        """With what is to be spare."""
        return self.free >= SPARE and math.isfinite(self.middle)


def meshes(shape: ModelShape, chips: int) -> list[Cut]:
    """Every mesh of so many chips that divides the model."""
    every = (
        Cut(data, fsdp, chips // data // fsdp // expert, expert)
        for data in divisors(chips)
        for fsdp in divisors(chips // data)
        for expert in (divisors(chips // data // fsdp) if shape.experts else (1,))
    )
    return [cut for cut in every if _divides(shape, cut)]


def _divides(shape: ModelShape, cut: Cut) -> bool:
    try:
        sizes = tuple(getattr(cut, axis) for axis in AXES)
        check_model(shape, cast(Mesh, AbstractMesh(sizes, AXES)))  # of which the sizes alone are read
    except InputError:
        return False
    return True


def candidates(case: Case, remats: Sequence[Policy]) -> list[Candidate]:
    """Every one whose mesh divides the model and the rows of pretraining."""
    loads = [(p.section, p.load) for p in case.programs if isinstance(p.load, Step)]
    others = [load for section, load in loads if section == "pretrain" != case.section]
    every = []
    for cut in meshes(case.hand.shape, case.topology.count):
        if any((load.rows // load.microsteps) % cut.rows for load in others):
            continue
        steps = microsteps(case.trained, cut.rows) if case.trained else [1]
        every += [Candidate(cut, remat, count) for remat in remats for count in steps]
    return every


def microsteps(step: Program, shards: int) -> list[int]:
    """Powers of two that a step's rows may be cut into.

    Rows of pretraining are a setting, which must divide. Others are packed and padded: any number will do
    that leaves a row for each part of the mesh.
    """
    if step.section == "pretrain":
        a_part, rest = divmod(step.load.rows, shards)
        return [] if rest else [n for n in divisors(a_part) if n & (n - 1) == 0]
    return [1 << power for power in range((-(-step.load.rows // shards)).bit_length())]


def rank(case: Case, candidate: Candidate) -> Ranked:
    """Time and memory of a candidate by hand."""
    parts = replace(case.hand, cut=candidate.cut).parameters / case.hand.parameters  # of all models
    seconds, memory, shares = 0.0, 0.0, EFFICIENCIES[case.topology.chip.name]
    for program in case.programs:
        load, hand = program.load, replace(program.hand, cut=candidate.cut)
        if program.learned:
            hand = replace(hand, shape=replace(hand.shape, remat=candidate.remat))
        if isinstance(load, Step) and program.section == case.section:
            load = load._replace(microsteps=candidate.microsteps)
        seconds += (program.executions or 0.0) * estimate(load.work(hand), case.topology, shares).middle
        held = parts * (program.parameters + program.moments + program.resident)
        memory = max(memory, held + load.working(hand))
    return Ranked(candidate, seconds, memory)


def search(
    ranked: Sequence[Ranked], judge: Callable[[Candidate], Found], most: int, hbm: float
) -> Iterator[Found]:
    """Judge the most promising candidates, `most` of them, and give each as soon as it is judged.

    First come those that fit by hand in `hbm` bytes, the fastest first. What one really took corrects what is
    expected of the others with the same remat. `judge` compiles one.
    """
    scales: dict[Policy, float] = {}

    def order(one: Ranked) -> tuple[bool, float, float, float]:
        memory = one.memory * scales.get(one.candidate.remat, 1.0)
        over = memory > (1 - SPARE) * hbm
        steps = one.candidate.microsteps
        return (over, memory, one.seconds, steps) if over else (over, one.seconds, steps, memory)

    rest = list(ranked)
    while rest and len(ranked) - len(rest) < most:
        rest.remove(one := min(rest, key=order))
        found = judge(one.candidate)
        if one.memory and math.isfinite(found.peak):
            scales[one.candidate.remat] = found.peak / one.memory
        yield found


def fastest(every: Sequence[Found]) -> Found | None:
    """Of those that fit with memory to spare, the one whose run takes the least; none where none does."""
    return min((one for one in every if one.fits), key=lambda one: one.middle, default=None)
