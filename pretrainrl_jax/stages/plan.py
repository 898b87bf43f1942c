"""`plan`: before anything is rented, what a configuration takes on a slice: memory, communication, time.

And with `--search` the mesh, remat policy and microsteps that run it the fastest there.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.planning import search as searching
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.compiled import (
    Compiled,
    CompilerFailed,
    OutOfMemory,
    Request,
    compile_program,
    keep,
    kept,
)
from pretrainrl_jax.planning.figures import ENDS, SPARE, Figures, as_json, of_weights, remedies, warnings
from pretrainrl_jax.planning.page import HOUR, WIDTH, page
from pretrainrl_jax.planning.planned import Decoding, Planned, Program
from pretrainrl_jax.planning.program import Collective, read_program
from pretrainrl_jax.planning.shapes import shape_for
from pretrainrl_jax.planning.target import planned_for, versions
from pretrainrl_jax.planning.typical import Material, material
from pretrainrl_jax.planning.work import Sent, Work
from pretrainrl_jax.progress import SILENT, Screen
from pretrainrl_jax.report.columns import grid, plain


@dataclass(frozen=True)
class Plan:
    title: str
    topology: Topology
    planned: Planned
    figures: tuple[Figures, ...]

    @property
    def fits(self) -> bool:
        return all(one.free >= 0 for one in self.figures)


def plan(config: Config, topology: Topology, screen: Screen, price: float | None, as_script: bool) -> None:
    """Say what every program of the configuration takes on the slice, for which TPUs' are compiled.

    Raises InputError for a mesh, a model or a slice that cannot be, MemoryError if a program does not fit,
    OSError if the compiler fails.
    """
    show(plan_of(config, topology, material(config), screen), screen, price, as_script, {})


def show(made: Plan, screen: Screen, price: float | None, as_script: bool, beside: dict[str, Any]) -> None:
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
        print(json.dumps(told | beside, indent=1))
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
        yield Figures(program, topology, working, program.parameters + program.moments + working, work)


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


def search_plan(
    config: Config, topology: Topology, screen: Screen, price: float | None, as_script: bool, most: int
) -> None:
    """Compile the most promising candidates, and plan the fastest that fits with memory to spare.

    Ctrl-C tells what was found until then; a later search goes on from what was compiled.

    Raises InputError for a model or a slice that cannot be, or if no candidate can be compiled; MemoryError
    if none fits.
    """
    learned = material(config)
    case = case_of(config, topology, learned)
    if unknown := [program.name for program in case.programs if program.executions is None]:
        raise InputError(
            f"--search compares whole runs, and how many steps {unknown[0]} takes is not known before its "
            "texts are read: read documents (--pretrain.text=documents) and give --pretrain.steps"
        )
    remats = searching.REMATS if case.trained else (config.model.remat,)
    ranked = [searching.rank(case, candidate) for candidate in searching.candidates(case, remats)]
    if not ranked:
        raise InputError(f"--search: no mesh of {topology.name} divides both the model and pretrain.rows")
    plans: dict[searching.Candidate, Plan] = {}
    found: list[searching.Found] = []

    def judge(candidate: searching.Candidate) -> searching.Found:
        try:
            made = plan_of(changed(config, candidate.settings(case.section)), topology, learned, SILENT)
        except (InputError, CompilerFailed) as error:  # one that fails does not end the search
            why = " ".join(str(error).split()) or type(error).__name__
            screen.warn(f"! {candidate.flags(case.section)} cannot be compiled: {why}")
            return searching.Found(candidate, refused=why)
        plans[candidate] = made
        return found_of(candidate, made.figures)

    try:
        with screen.track("search", min(most, len(ranked)), "candidates") as bar:
            for one in searching.search(ranked, judge, most, topology.chip.hbm):
                found.append(one)
                if best := searching.fastest(found):
                    bar.advance(1, best_hours=best.middle / HOUR)
                else:
                    bar.advance()
    except KeyboardInterrupt:
        tell(found, len(ranked), case.section, as_script)
        raise
    best = searching.fastest(found)
    if best is None or not as_script:  # a script is told with the plan
        tell(found, len(ranked), case.section, as_script)
    if best is None:
        if not (compiled := [one for one in found if not one.refused]):
            raise InputError(f"--search: no candidate can be compiled: {found[0].refused}")
        one = max(compiled, key=lambda one: one.free)
        closest = f"the closest leaves {one.free:.0%} free: plan with {one.candidate.flags(case.section)}"
        raise MemoryError(
            f"none of {len(found)} candidates leaves {SPARE:.0%} of a chip's memory free in {topology.name}; "
            f"{closest} says what would make it fit"
        )
    show(plans[best.candidate], screen, price, as_script, found_as_json(found, len(ranked), case.section))


def case_of(config: Config, topology: Topology, learned: Material) -> searching.Case:
    """What is searched, as the mesh with the fewest parts of a batch runs it: no rows are padded there.

    Raises InputError if no mesh divides the model.
    """
    if not (every := searching.meshes(shape_for(config), topology.count)):
        raise InputError(f"--search: no mesh of {topology.count} chips divides the model")
    one = searching.Candidate(min(every, key=lambda cut: cut.rows), config.model.remat)
    whole = planned_for(changed(config, one.settings("")), topology, learned)
    return searching.Case(whole.hand, whole.programs, topology)


def found_of(candidate: searching.Candidate, every: Sequence[Figures]) -> searching.Found:
    """Of a candidate, from the figures of its programs."""
    largest = max(every, key=lambda one: one.peak)
    steps = [one for one in every if one.program.trains and one.time]
    step = max(steps, key=lambda one: (one.program.executions or 0.0) * one.program.counted, default=None)
    shortest, middle, longest = (sum(one.run(end) for one in every) for end in ENDS)
    taken = step.time.middle if step and step.time else math.inf
    return searching.Found(candidate, largest.peak, largest.free, shortest, middle, longest, taken)


def tell(found: Sequence[searching.Found], ranked: int, section: str, as_script: bool) -> None:
    """Print the candidates that were compiled, of so many, the fastest first, and its flags."""
    if as_script:
        print(json.dumps(found_as_json(found, ranked, section), indent=1))
        return
    best = searching.fastest(found)
    heads = ["microsteps", "peak, GiB", "free", "run, hours", "step", ""]
    rows = []
    for one in sorted(found, key=lambda one: (not one.fits, one.middle)):
        (data, fsdp, tensor, expert), remat, steps = one.candidate
        mesh = f"{data} x {fsdp} x {tensor}" + (f", expert {expert}" if expert > 1 else "")
        memory = ["–", "–"] if one.refused else [f"{one.peak / GIB:.2f}", f"{one.free:.0%}"]
        times = ["–", "–"]
        if math.isfinite(one.middle):
            times = [f"{one.shortest / HOUR:,.2f} to {one.longest / HOUR:,.2f}", f"{one.step * 1e3:,.1f} ms"]
        rows.append([mesh, remat, str(steps), *memory, *times, "best" if one is best else ""])
    said = [f"{len(found)} of {ranked} candidates compiled; --search=N compiles N"]
    said += [f"the fastest of them: {best.candidate.flags(section)}"] if best else []
    candidates = grid({"data x fsdp x tensor": None, "remat": None}, heads, rows)
    print(plain("candidates", candidates, *said, width=WIDTH), end="")


def found_as_json(found: Sequence[searching.Found], ranked: int, section: str) -> dict[str, Any]:
    """Plain values, seconds and bytes; what is not known is null."""
    best = searching.fastest(found)

    def row(one: searching.Found) -> dict[str, Any]:
        (cut, remat, steps), *values = one
        told = dict(zip(one._fields[1:], values, strict=True)) | {"fits": one.fits, "best": one is best}
        of = cut._asdict() | {"remat": remat, "microsteps": steps}
        return of | {n: None if v in (math.inf, -math.inf) else v for n, v in told.items()}

    return {
        "search": [row(one) for one in found],
        "candidates": ranked,
        "flags": best.candidate.flags(section) if best else "",
    }
