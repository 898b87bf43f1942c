"""`plan --search`: the mesh, remat policy and microsteps that run a configuration the fastest on a slice."""

import json
import math
from collections.abc import Sequence
from typing import Any

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.planning import search as searching
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.compiled import CompilerFailed
from pretrainrl_jax.planning.figures import ENDS, SPARE, Figures
from pretrainrl_jax.planning.page import HOUR, WIDTH
from pretrainrl_jax.planning.shapes import shape_for
from pretrainrl_jax.planning.target import planned_for
from pretrainrl_jax.planning.typical import Material, material
from pretrainrl_jax.progress import SILENT, Screen
from pretrainrl_jax.report.columns import grid, plain
from pretrainrl_jax.stages.plan import Plan, plan_of, show


def search_plan(
    config: Config, topology: Topology, screen: Screen, price: float | None, as_script: bool, most: int
) -> None:
    """Compile the most promising candidates, and plan the fastest that fits with memory to spare.

    Ctrl-C tells what was found until then; a later search goes on from what was compiled.

    Raises:
        InputError: for a model or a slice that cannot be, or if no candidate can be compiled.
        MemoryError: if none fits.
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
                    bar.show(best_hours=best.middle / HOUR)
                bar.advance()
    except KeyboardInterrupt:
        tell(found, len(ranked), case.section, as_script)
        raise
    best = searching.fastest(found)
    if best is None or not as_script:  # a script is told with the plan
        tell(found, len(ranked), case.section, as_script)
    if best is None:
        raise _nothing(found, case.section, topology)
    show(plans[best.candidate], screen, price, as_script, as_json(found, len(ranked), case.section))


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
        print(json.dumps(as_json(found, ranked, section), indent=1))
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


def as_json(found: Sequence[searching.Found], ranked: int, section: str) -> dict[str, Any]:
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


def _nothing(found: Sequence[searching.Found], section: str, topology: Topology) -> Exception:
    """Why nothing was found, with the closest candidate."""
    compiled = [one for one in found if not one.refused]
    if not compiled:
        return InputError(f"--search: no candidate can be compiled: {found[0].refused}")
    one = max(compiled, key=lambda one: one.free)
    flags = one.candidate.flags(section)
    return MemoryError(
        f"none of {len(found)} candidates leaves {SPARE:.0%} of a chip's memory free in {topology.name}; the "
        f"closest leaves {one.free:.0%} free: plan with {flags} says what would make it fit"
    )
