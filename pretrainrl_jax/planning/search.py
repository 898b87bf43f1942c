"""Which mesh, remat policy and microsteps run a configuration the fastest: candidates, rank, choice.

Nothing is compiled here: that is asked of a function that is given. The blocks of the vocabulary are not
searched: their size follows from the model's width (`model.vocabulary.block_size`) and is no setting.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

from jax.sharding import AbstractMesh, Mesh

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.mesh import AXES, check_model, divisors
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.efficiency import efficiencies
from pretrainrl_jax.planning.estimate import Estimate, estimate, on_chip
from pretrainrl_jax.planning.figures import SPARE
from pretrainrl_jax.planning.programs import DOCUMENT, Program
from pretrainrl_jax.planning.work import BFLOAT16, FLOAT32, Again, Cut, Operation, Sent, Work, training_work

LANES = 128  # entries of an array's last axis that a TPU keeps together
REMATS: tuple[Policy, ...] = get_args(Policy)
STATE = 4 * FLOAT32  # bytes of a parameter in training: itself, both moments, its gradient


class Candidate(NamedTuple):
    """Settings to try."""

    data: int
    fsdp: int
    tensor: int
    remat: Policy
    microsteps: int  # of the searched section; 1 where nothing is trained

    @property
    def cut(self) -> Cut:
        """How it cuts a model and its batch."""
        return Cut(self.data, self.fsdp, self.tensor)

    def settings(self, section: str) -> dict[str, Any]:
        """By dotted names; `section` has the microsteps, "" where none is searched."""
        named: dict[str, Any] = {f"mesh.{axis}": size for axis, size in zip(AXES, self.cut, strict=True)}
        named["model.remat"] = self.remat
        return named | ({f"{section}.grad_accum_steps": self.microsteps} if section else {})

    def flags(self, section: str) -> str:
        """The same for a command line."""
        return " ".join(f"--{name}={value}" for name, value in self.settings(section).items())


@dataclass(frozen=True)
class Case:
    """What every candidate has in common."""

    shape: ModelShape
    programs: Sequence[Program]  # as one of the meshes has them
    cut: Cut  # that mesh
    topology: Topology
    grad_accum_steps: Mapping[str, int]  # by section, as configured

    @property
    def trained(self) -> Program | None:
        """The largest training program: the microsteps of its section are searched."""
        steps = [program for program in self.programs if program.updates]
        return max(steps, key=lambda program: program.executions * program.counted, default=None)

    @property
    def section(self) -> str:
        """That section; "" where nothing is trained."""
        return self.trained.section if self.trained else ""


class ByHand(NamedTuple):
    """What is known of a candidate before it is compiled."""

    candidate: Candidate
    seconds: float  # of the whole run, expected
    shortest: float  # of the whole run, at least
    state: float  # bytes a chip of a training: parameters, moments, gradients, other models
    saved: float  # bytes a chip of activations that its backward pass reads
    decoding: float  # bytes a chip of parameters and caches, where it decodes

    def memory(self, scale: float = 1.0) -> float:
        """Bytes a chip; `scale`: what a step took beside its state, as a multiple of `saved`."""
        return max(self.state + scale * self.saved, self.decoding)


class Result(NamedTuple):
    """What a compiled candidate takes. Times are infinite where a program does not fit: none is known."""

    peak: float  # bytes of a chip, of the program that takes the most
    free: float  # share of a chip's memory, of that program
    shortest: float  # seconds of the whole run
    middle: float
    longest: float
    step: float  # seconds of a step of the largest training program
    step_peak: float  # bytes of a chip, of that program
    refused: str = ""  # why it could not be compiled

    @property
    def fits(self) -> bool:
        """With what is to be spare."""
        return self.free >= SPARE and math.isfinite(self.middle)


REFUSED = Result(math.inf, -math.inf, *[math.inf] * 4, step_peak=math.inf)


class Found(NamedTuple):
    """A candidate that was compiled."""

    hand: ByHand
    result: Result

    @property
    def candidate(self) -> Candidate:
        """Its settings."""
        return self.hand.candidate


def meshes(shape: ModelShape, chips: int) -> list[Cut]:
    """Every mesh of so many chips that divides the model."""
    every = (
        Cut(data, fsdp, chips // data // fsdp) for data in divisors(chips) for fsdp in divisors(chips // data)
    )
    return [cut for cut in every if _divides(shape, cut)]


def _divides(shape: ModelShape, cut: Cut) -> bool:
    try:
        check_model(shape, cast(Mesh, AbstractMesh(tuple(cut), AXES)))  # of which the sizes alone are read
    except InputError:
        return False
    return True


def candidates(case: Case, remats: Sequence[Policy]) -> list[Candidate]:
    """Every one whose mesh divides the model and the rows of pretraining."""
    others = [p for p in case.programs if p.section == "pretrain" and p.section != case.section]
    every = []
    for cut in meshes(case.shape, case.topology.count):
        shards = cut.data * cut.fsdp
        if any((p.rows // case.grad_accum_steps.get("pretrain", 1)) % shards for p in others):
            continue
        steps = microsteps(case.trained, shards) if case.trained else [1]
        every += [Candidate(*cut, remat, count) for remat in remats for count in steps]
    return every


def microsteps(step: Program, shards: int) -> list[int]:
    """Powers of two that a step's rows may be cut into.

    Rows of pretraining are a setting, which must divide. Others are packed and padded: any number will do
    that leaves a row for each part of the mesh.
    """
    if step.section == "pretrain":
        a_part, rest = divmod(step.rows, shards)
        return [] if rest else [n for n in divisors(a_part) if n & (n - 1) == 0]
    return [1 << power for power in range((-(-step.rows // shards)).bit_length())]


def by_hand(case: Case, candidate: Candidate) -> ByHand:
    """Time and memory of a candidate from the model's shape alone."""
    shape, cut = case.shape, candidate.cut
    seconds = shortest = saved = resident = cache = 0.0
    parts, before = cut.fsdp * cut.tensor, case.cut.fsdp * case.cut.tensor
    for program in case.programs:
        resident = max(resident, program.resident * before / parts)
        if program.updates:
            steps = case.grad_accum_steps.get(program.section, 1)
            steps = candidate.microsteps if program.section == case.section else steps
            tokens = _rows(program, cut, steps) * program.time
            width = _saved(shape, candidate.remat, cut.tensor)
            saved = max(saved, float(tokens) * shape.layers * width)
            middle, least = _step_time(case, candidate, program, tokens, steps)
        else:
            cache = max(cache, program.cache * case.cut.chips / cut.chips)
            middle, least = _decoding_time(case, candidate, program)
        seconds += program.executions * middle
        shortest += program.executions * least
    count = parameters(shape).total / parts
    state = count * (STATE if case.trained else FLOAT32) + resident
    return ByHand(candidate, seconds, shortest, state, saved, FLOAT32 * count + cache)


def _rows(program: Program, cut: Cut, steps: int) -> int:
    """Of a chip, a microstep."""
    return max(1, math.ceil(program.rows / steps / (cut.data * cut.fsdp)))


def _step_time(
    case: Case, candidate: Candidate, program: Program, tokens: int, steps: int
) -> tuple[float, float]:
    """Seconds of a training step: expected, and at least."""
    shape = case.shape
    matrices = shape.layers * shape.d_model * (2 * (shape.heads + shape.kv_heads) * shape.head_dim
                                               + 3 * shape.d_ff)  # fmt: skip
    head = 2 * shape.vocabulary * shape.d_model
    # Hidden states that meet the vocabulary, from the FLOPs that the program counts.
    share = (program.counted / 3 / program.tokens - 2 * matrices) / head
    sources = min(1.0, max(0.0, share)) * program.tokens / (candidate.data * candidate.fsdp) / steps
    work = training_work(
        shape, candidate.cut, tokens, min(DOCUMENT, program.time) / 2, sources,
        _again(shape, candidate.remat), microsteps=steps,
    )  # fmt: skip
    # At least: what is read and written may stay in fast memory (of small models it does).
    least = Work(tuple(op._replace(bytes=0.0) for op in work.operations), work.sent)
    # XLA sums gradients over data in each microstep (seen on v5e:2x2: 9 sums in two, 5 in one).
    summed = (s._replace(times=float(steps)) if s.name == "gradients" else s for s in work.sent)
    expected = _expected(case, candidate, work._replace(sent=tuple(summed)))
    return expected.middle, _time(case, least).shortest


def _decoding_time(case: Case, candidate: Candidate, program: Program) -> tuple[float, float]:
    """Seconds of what trains nothing, an execution on the case's mesh: expected, and at least.

    Each turn of a decoding loop is expected to gather and read all weights; a small model's may stay in fast
    memory, so at least the counted FLOPs take their time.
    """
    shape, cut = case.shape, candidate.cut
    shards = cut.data * cut.fsdp
    more = math.ceil(program.rows / shards) * shards / program.rows  # prompts, where there are more chips
    turns = program.turns / more
    weights = BFLOAT16 * parameters(shape).total / cut.tensor
    stream = BFLOAT16 * program.tokens / shards * shape.d_model
    sent = []
    if cut.fsdp > 1:
        sent.append(Sent("all-gather", weights, cut.fsdp, turns, "weights"))
    if cut.tensor > 1:
        sent.append(Sent("all-reduce", stream, cut.tensor, 2.0 * shape.layers, "activations", waited=True))
    products = Operation(program.counted / cut.chips, 0.0)
    a_turn = Operation(products.flops / turns, weights, turns)
    work = Work((a_turn,), tuple(sent))
    least = on_chip(Work((products,), ()), case.topology, efficiencies(case.topology.chip).high)
    return _expected(case, candidate, work).middle, least


def _time(case: Case, work: Work) -> Estimate:
    return estimate(work, case.topology, efficiencies(case.topology.chip))


def _expected(case: Case, candidate: Candidate, work: Work) -> Estimate:
    """Of shards that are no multiple of a TPU's lanes XLA makes no all-gather.

    Each chip puts its shard into zeros, and all are summed: an all-reduce, which sends twice as much (seen
    of a width of 5,120 over 64 chips, 80 entries each).
    """
    if case.topology.chip.kind == "tpu" and (case.shape.d_model // candidate.fsdp) % LANES:
        summed = (s._replace(kind="all-reduce") if s.kind == "all-gather" else s for s in work.sent)
        work = work._replace(sent=tuple(summed))
    return _time(case, work)


def _again(shape: ModelShape, remat: Policy) -> Again:
    """What the backward pass computes again."""
    if remat == "full":
        return Again(1.0, 1.0)
    if remat == "attention":  # keeps attention's own: an MLP's first products are recomputed
        gated = 3 * shape.d_ff
        return Again(2 / 3 * gated / (2 * (shape.heads + shape.kv_heads) * shape.head_dim + gated), 0.0)
    return Again()


def _saved(shape: ModelShape, remat: Policy, tensor: int) -> float:
    """Bytes of a token that a layer saves for its backward pass, about."""
    s = shape
    heads, mlp = (s.heads + s.kv_heads) * s.head_dim / tensor, s.d_ff / tensor
    kept = float(s.d_model)  # its input
    if remat != "full":
        kept += s.d_model + 2 * heads  # queries, keys, values, what is mixed of them, its product
        if remat != "attention":
            kept += 2 * mlp
            if remat != "products":
                kept += 2 * s.d_model + heads + 2 * mlp  # norms, rotated heads, gates
    return kept * (BFLOAT16 if s.dtype == "bfloat16" else FLOAT32)


def search(
    ranked: Sequence[ByHand], judge: Callable[[Candidate], Result], most: int, hbm: float
) -> Iterator[Found]:
    """Judge the most promising candidates, one after another, and give each as soon as it is judged.

    First come those that fit by hand, the fastest first. What a step really took beside its state corrects
    what is expected of the others with the same remat. Those that cannot be faster than the best that was
    found are left out.

    Args:
        ranked: candidates.
        judge: compiles one.
        most: how many are judged at most.
        hbm: bytes of a chip's memory.
    """
    found: list[Found] = []
    scales: dict[bool | str, float] = {}

    def rank(hand: ByHand) -> tuple[bool, float, float, float]:
        memory = hand.memory(scales.get(hand.candidate.remat, 1.0))
        over = memory > (1 - SPARE) * hbm
        steps = hand.candidate.microsteps
        return (over, memory, hand.seconds, steps) if over else (over, hand.seconds, steps, memory)

    while len(found) < most and (rest := promising(ranked, found)):
        hand = min(rest, key=rank)
        result = judge(hand.candidate)
        if hand.saved and math.isfinite(result.step_peak):
            scales[hand.candidate.remat] = max(0.0, result.step_peak - hand.state) / hand.saved
        found.append(Found(hand, result))
        yield found[-1]


def promising(ranked: Sequence[ByHand], found: Sequence[Found]) -> list[ByHand]:
    """Those not yet found that may be faster than the best that was: their least time is less.

    By hand it is an estimate, too: where a candidate took less than its own, the others' are lowered alike.
    """
    best = one.result.middle if (one := fastest(found)) else math.inf
    shares = (one.result.middle / one.hand.shortest for one in found if one.hand.shortest)
    trust = min(1.0, *shares, 1.0)
    judged = {one.candidate for one in found}
    return [h for h in ranked if h.candidate not in judged and h.shortest * trust < best]


def fastest(every: Sequence[Found]) -> Found | None:
    """Of those that fit with memory to spare, the one whose run takes the least; none where none does."""
    return min((one for one in every if one.result.fits), key=lambda one: one.result.middle, default=None)


def closest(every: Sequence[Found]) -> Found | None:
    """The one that leaves the most memory free, of those that could be compiled at all."""
    could = [one for one in every if not one.result.refused]
    return max(could, key=lambda one: one.result.free, default=None)
