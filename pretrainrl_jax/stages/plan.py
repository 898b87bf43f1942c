"""`plan`: before anything is rented, what a configuration takes on a slice: memory, communication, time."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.compiled import (
    Compiled,
    OutOfMemory,
    Request,
    compile_program,
    keep,
    kept,
)
from pretrainrl_jax.planning.figures import SPARE, Figures, as_json, of_weights, remedies, warnings
from pretrainrl_jax.planning.page import page
from pretrainrl_jax.planning.planned import Decoding, Planned, Program
from pretrainrl_jax.planning.program import Collective, read_program
from pretrainrl_jax.planning.target import planned_for, versions
from pretrainrl_jax.planning.typical import Material, material
from pretrainrl_jax.planning.work import Sent, Work
from pretrainrl_jax.progress import Screen


@dataclass(frozen=True)
class Plan:
    """A configuration on a slice."""

    title: str
    topology: Topology
    planned: Planned
    figures: tuple[Figures, ...]

    @property
    def fits(self) -> bool:
        """Every program does."""
        return all(one.free >= 0 for one in self.figures)


def plan(config: Config, topology: Topology, screen: Screen, price: float | None, as_script: bool) -> None:
    """Say what every program of the configuration takes on the slice, for which TPUs' are compiled.

    Raises:
        InputError: for a mesh, a model or a slice that cannot be.
        MemoryError: if a program does not fit.
        OSError: if the compiler fails.
    """
    show(plan_of(config, topology, material(config), screen), screen, price, as_script)


def show(
    made: Plan,
    screen: Screen,
    price: float | None,
    as_script: bool,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print a plan; `beside`: what a script is told beside it. Raises MemoryError as `plan`."""
    topology, remarks = made.topology, warnings(made.figures, made.topology)
    tight = [one for one in made.figures if one.free < SPARE]
    if as_script:
        told = {
            "topology": topology.name,
            "chips": topology.count,
            "mesh": dict(made.planned.mesh.shape),
            "fits": made.fits,
            "compiled": topology.chip.kind == "tpu",
            "judge": {"verdicts": made.planned.verdicts, "tokens": made.planned.verdict_tokens},
            "programs": [as_json(one) for one in made.figures],
            "decoding": of_weights(made.planned),
            "uncounted": list(made.planned.uncounted),
            "warnings": remarks,
        }
        print(json.dumps(told | dict(beside), indent=1))
    else:
        print(page(made.title, made.planned, made.figures, topology, price), end="")
        for line in (*lines(made), *(f"! {remark}" for remark in remarks)):
            print(line)
    for one in tight:
        advice = " or ".join(remedies(one))
        screen.warn(f"! {one.program.name} leaves {one.free:.0%} of a chip's memory free: {advice}")
    if not made.fits:
        raise MemoryError(f"{made.title} does not fit in {topology.name}; see above what would make it fit")


def plan_of(config: Config, topology: Topology, material: Material, screen: Screen) -> Plan:
    """The figures of every program."""
    whole = planned_for(config, topology, material)
    title = ", ".join(filter(None, (config.name, Path(config.model.path).name))) or "a model made here"
    told = compiled_figures if topology.chip.kind == "tpu" else figures_by_hand
    return Plan(title, topology, whole, tuple(told(config, whole, topology, screen)))


def figures_by_hand(config: Config, whole: Planned, topology: Topology, screen: Screen) -> Iterator[Figures]:
    """Of GPUs, for which nothing compiles here: from shapes."""
    for program in whole.programs:
        working, work = program.load.working(program.hand), program.load.work(program.hand)
        held = program.parameters + program.moments
        yield Figures(program, topology, working, held + working, work)


def compiled_figures(config: Config, whole: Planned, topology: Topology, screen: Screen) -> Iterator[Figures]:
    """Of programs that are lowered here and compiled in processes of their own, one a processor."""
    about = json.dumps([topology.name, *versions()])

    def key(program: Program) -> str:
        return hashlib.sha256((about + program.lower().as_text()).encode()).hexdigest()[:32]

    def compiled_one(program: Program, key: str) -> Compiled | OutOfMemory:
        if found := kept(key):
            return found
        try:
            made = compile_program(Request(config, topology, whole.material, program.name))
        except OutOfMemory as error:
            made = error
        keep(key, made)
        return made

    keys = [key(program) for program in whole.programs]
    with screen.track("plan", len(keys), "programs") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        # Two stages may have the same program: it is compiled once.
        one_of_each = dict(zip(keys, whole.programs, strict=True))
        begun = {key: pool.submit(compiled_one, program, key) for key, program in one_of_each.items()}
        try:
            for program, own in zip(whole.programs, keys, strict=True):
                yield of_program(program, begun[own].result(), topology)
                bar.advance()
        except BaseException:  # Ctrl-C among them: what has not begun is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def of_program(program: Program, compiled: Compiled | OutOfMemory, topology: Topology) -> Figures:
    """What was compiled, read; of a program that does not fit its memory alone is known."""
    if isinstance(compiled, OutOfMemory):
        return Figures(program, topology, compiled.used, compiled.used, None)
    turns = program.load.turns if isinstance(program.load, Decoding) else 0
    read = read_program(compiled.text, turns or 1)
    # Of a kernel the text has what it reads and writes; what it computes is known by hand.
    by_hand = program.load.work(program.hand).operations
    kernels = (op._replace(bytes=0.0) for op in by_hand if op.head_dim or op.kernel)
    work = Work((*read.operations, *kernels), tuple(_sent(one, program.hand.cut) for one in read.collectives))
    unknown = () if turns else tuple(loop.name for loop in read.unknown_loops)
    sizes = float(compiled.temporary), float(compiled.peak)
    return Figures(program, topology, *sizes, work, compiled.seconds, unknown)


def _sent(one: Collective, cut: Cut) -> Sent:
    stride = one.group[1] - one.group[0] if one.size > 1 else 1
    waited = cut.tensor > 1 and (one.size, stride) == (cut.tensor, 1)  # neighbours are the tensor axis's
    if one.kind != "all-reduce" and cut.expert > 1:  # which sums gradients there
        waited = waited or (one.size, stride) == (cut.expert, cut.tensor)
    return Sent(one.kind, one.bytes, one.size, one.trips, one.op_name, waited, stride)


def lines(made: Plan) -> Iterator[str]:
    """What no table has."""
    if made.topology.chip.kind != "tpu":
        yield "work and memory are by hand, from shapes: nothing was compiled for these chips"
        if experts := made.planned.hand.shape.experts // made.planned.hand.cut.expert:
            yield (
                "! rows of a mixture are planned with their own experts' matrices; on GPUs XLA multiplies "
                f"them, by default, with those of all {experts} that a device has"
            )
    yield made.planned.material.source
    if made.planned.verdicts:
        yield (
            f"the judge is asked {made.planned.verdicts:,} times and reads about "
            f"{made.planned.verdict_tokens / 1e9:,.1f}B tokens: its time is not in the tables"
        )
    if weights := of_weights(made.planned):
        yield weights
    if made.planned.uncounted:
        yield f"! not counted: what is asked for by {', '.join(made.planned.uncounted)}"
    for one in made.figures:
        for name in one.unknown_loops:
            yield f"! {one.program.name}: how often {name} turns is not known: counted once"
