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
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.compiled import Compiled, OutOfMemory, compile_program, keep, kept
from pretrainrl_jax.planning.efficiency import efficiencies
from pretrainrl_jax.planning.figures import SPARE, Figures, as_json, figures, remedies, warnings
from pretrainrl_jax.planning.page import page
from pretrainrl_jax.planning.program import read_program
from pretrainrl_jax.planning.programs import Planned, Program, largest_part
from pretrainrl_jax.planning.target import planned_for, versions
from pretrainrl_jax.planning.typical import questions
from pretrainrl_jax.planning.work import Operation, Sent, Work
from pretrainrl_jax.progress import Screen


@dataclass(frozen=True)
class Plan:
    """A configuration on a slice."""

    title: str
    topology: Topology
    planned: Planned
    figures: tuple[Figures, ...]
    source: str  # of the number of questions

    @property
    def fits(self) -> bool:
        """Every program does."""
        return all(one.fits for one in self.figures)


def plan(config: Config, topology: Topology, screen: Screen, price: float | None, as_script: bool) -> None:
    """Say what every program of the configuration takes on the slice, for which TPUs' are compiled.

    Raises:
        InputError: for a mesh, a model or a slice that cannot be.
        MemoryError: if a program does not fit.
    """
    show(plan_of(config, topology, screen), topology, screen, price, as_script)


def show(
    made: Plan,
    topology: Topology,
    screen: Screen,
    price: float | None,
    as_script: bool,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Print a plan; `beside`: what a script is told beside it. Raises MemoryError as `plan`."""
    remarks = warnings(made.figures, topology)
    tight = [one for one in made.figures if one.memory.free < SPARE]
    if as_script:
        told = {
            "topology": topology.name,
            "chips": topology.count,
            "mesh": dict(made.planned.mesh.shape),
            "fits": made.fits,
            "compiled": made.topology.chip.kind == "tpu",
            "judge": {"verdicts": made.planned.verdicts, "tokens": made.planned.verdict_tokens},
            "host_bytes": largest_part(made.planned),
            "programs": as_json(made.figures, topology),
            "warnings": remarks,
        }
        print(json.dumps(told | dict(beside), indent=1))
    else:
        print(page(made.title, made.planned, made.figures, topology, price), end="")
        for line in (*lines(made), *(f"! {remark}" for remark in remarks)):
            print(line)
    for one in tight:
        advice = " or ".join(remedies(one, made.planned, topology))
        screen.warn(f"! {one.program.name} leaves {one.memory.free:.0%} of a chip's memory free: {advice}")
    if not made.fits:
        raise MemoryError(f"{made.title} does not fit in {topology.name}; see above what would make it fit")


def plan_of(config: Config, topology: Topology, screen: Screen) -> Plan:
    """The figures of every program."""
    whole = planned_for(config, topology)
    title = ", ".join(filter(None, (config.name, Path(config.model.path).name)))
    told = compiled_figures if topology.chip.kind == "tpu" else figures_by_hand
    return Plan(
        title, topology, whole, tuple(told(config, whole, topology, screen)), questions(config).source
    )


def figures_by_hand(config: Config, whole: Planned, topology: Topology, screen: Screen) -> Iterator[Figures]:
    """Of GPUs, for which nothing compiles here: from shapes."""
    shares = efficiencies(topology.chip)
    for program in whole.programs:
        working = program.working()
        held = whole.parameters + (whole.optimizer if program.updates else 0.0)
        yield figures(whole, program, program.by_hand(), working, held + working, topology, shares)


def compiled_figures(config: Config, whole: Planned, topology: Topology, screen: Screen) -> Iterator[Figures]:
    """Of programs that are lowered here and compiled in processes of their own, one a processor."""
    about = json.dumps([topology.name, *versions()])
    keys = [
        hashlib.sha256((about + program.lower().as_text()).encode()).hexdigest()[:32]
        for program in whole.programs
    ]

    def compiled_one(program: Program, key: str) -> Compiled | OutOfMemory:
        if found := kept(key):
            return found
        try:
            made = compile_program(config, topology, program.name)
        except OutOfMemory as error:
            made = error
        keep(key, made)
        return made

    with (
        screen.track("plan", len(keys), "programs") as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for program, compiled in zip(
            whole.programs, pool.map(compiled_one, whole.programs, keys), strict=True
        ):
            yield of_program(whole, program, compiled, topology)
            bar.advance()


def of_program(
    whole: Planned, program: Program, compiled: Compiled | OutOfMemory, topology: Topology
) -> Figures:
    """What was compiled, read; of a program that does not fit its memory alone is known."""
    shares = efficiencies(topology.chip)
    if isinstance(compiled, OutOfMemory):
        nothing = Work((), ())
        return figures(whole, program, nothing, compiled.used, compiled.used, topology, shares)
    read = read_program(compiled.text, program.turns)
    tensor = whole.mesh.shape["tensor"]
    work = Work(
        tuple(Operation(op.flops, op.bytes, op.trips, op.op_name) for op in read.operations)
        + program.kernels,
        tuple(
            Sent(c.kind, c.bytes, c.size, c.trips, c.op_name, tensor > 1 and c.size == tensor)
            for c in read.collectives
        ),
    )
    return figures(
        whole,
        program,
        work,
        float(compiled.temporary),
        float(compiled.peak),
        topology,
        shares,
        compiled.seconds,
        [loop.name for loop in read.unknown_loops] if program.turns == 1 else [],
    )


def lines(made: Plan) -> Iterator[str]:
    """What no table has."""
    if made.topology.chip.kind != "tpu":
        yield "work and memory are by hand, from shapes: nothing was compiled for these chips"
    yield f"questions: {made.source}; lengths as PopQA's have"
    held = largest_part(made.planned)
    yield f"loading takes {held / GIB:.1f} GiB of a host's memory beside what is on its chips"
    if made.planned.verdicts:
        yield (
            f"the judge is asked {made.planned.verdicts:,} times and reads about "
            f"{made.planned.verdict_tokens / 1e9:,.1f}B tokens: its time is not in the tables"
        )
    for one in made.figures:
        for name in one.unknown_loops:
            yield f"! {one.program.name}: how often {name} turns is not known: counted once"
