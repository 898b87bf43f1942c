"""`plan --search`: the mesh, remat policy and microsteps that run a configuration the fastest on a slice."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.planning import search as searching
from pretrainrl_jax.planning.chips import GIB, Topology
from pretrainrl_jax.planning.compiled import CompilerFailed
from pretrainrl_jax.planning.figures import ENDS, SPARE, Figures, remedies
from pretrainrl_jax.planning.page import HOUR, WIDTH
from pretrainrl_jax.planning.shapes import shape_for
from pretrainrl_jax.planning.target import planned_for
from pretrainrl_jax.planning.typical import Material, material
from pretrainrl_jax.progress import SILENT, Screen
from pretrainrl_jax.report.columns import grid, plain
from pretrainrl_jax.stages.plan import Plan, plan_of, show


class Searched(NamedTuple):
    """What was found, and among how many."""

    section: str  # whose microsteps were searched
    ranked: Sequence[searching.Ranked]
    found: Sequence[searching.Found]

    @property
    def best(self) -> searching.Found | None:
        """The fastest that fits; none where none does."""
        return searching.fastest(self.found)


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
    searched = Searched(case.section, ranked, found)

    def judge(candidate: searching.Candidate) -> searching.Result:
        try:
            made = plan_of(changed(config, candidate.settings(case.section)), topology, learned, SILENT)
        except (InputError, CompilerFailed) as error:  # one that fails does not end the search
            return searching.REFUSED._replace(refused=" ".join(str(error).split()) or type(error).__name__)
        plans[candidate] = made
        return result_of(made.figures)

    try:
        with screen.track("search", min(most, len(ranked)), "candidates") as bar:
            for one in searching.search(ranked, judge, most, topology.chip.hbm):
                found.append(one)
                if not as_script:
                    screen.say(line(one))
                if best := searched.best:
                    bar.show(best_hours=best.result.middle / HOUR)
                bar.advance()
    except KeyboardInterrupt:
        tell(searched, as_script, whole=False)
        raise
    best = searched.best
    if best is None:
        tell(searched, as_script, whole=False)
        raise _nothing(searched, plans, topology)
    if not as_script:
        tell(searched, as_script)
    show(plans[best.candidate], screen, price, as_script, as_json(searched))


def case_of(config: Config, topology: Topology, learned: Material) -> searching.Case:
    """What is searched, as the mesh with the fewest parts of a batch runs it: no rows are padded there.

    Raises InputError if no mesh divides the model.
    """
    if not (every := searching.meshes(shape_for(config), topology.count)):
        raise InputError(f"--search: no mesh of {topology.count} chips divides the model")
    one = searching.of_cut(min(every, key=lambda cut: cut.rows), config.model.remat, 1)
    whole = planned_for(changed(config, one.settings("")), topology, learned)
    return searching.Case(whole.hand, whole.programs, topology)


def result_of(every: Sequence[Figures]) -> searching.Result:
    """Of a candidate, from the figures of its programs."""
    largest = max(every, key=lambda one: one.memory.peak)
    steps = [one for one in every if one.program.trains and one.time]
    step = max(steps, key=lambda one: (one.program.executions or 0.0) * one.program.counted, default=None)
    shortest, middle, longest = (sum(one.run(end) for one in every) for end in ENDS)
    taken = step.time.middle if step and step.time else math.inf
    return searching.Result(largest.memory.peak, largest.memory.free, shortest, middle, longest, taken)


def cells(one: searching.Found) -> list[str]:
    """A row of the table."""
    candidate, result = one.candidate, one.result
    mesh = f"{candidate.data} x {candidate.fsdp} x {candidate.tensor}"
    mesh += f", expert {candidate.expert}" if candidate.expert > 1 else ""
    head = [mesh, candidate.remat, str(candidate.microsteps)]
    if result.refused:
        return [*head, "–", "–", "–", "–"]
    hours = f"{result.shortest / HOUR:,.2f} to {result.longest / HOUR:,.2f}"
    return [
        *head,
        f"{result.peak / GIB:.2f}",
        f"{result.free:.0%}",
        hours if math.isfinite(result.middle) else "–",
        f"{result.step * 1e3:,.1f} ms" if math.isfinite(result.step) else "–",
    ]


def line(one: searching.Found) -> str:
    """What is said as soon as a candidate is compiled."""
    mesh, remat, steps, peak, free, hours, step = cells(one)
    said = f"mesh {mesh}, remat {remat}, microsteps {steps}: "
    if one.result.refused:
        return f"{said}cannot be compiled: {one.result.refused}"
    return f"{said}peak {peak} GiB, {free} free, run {hours} hours, step {step}"


def tell(searched: Searched, as_script: bool, whole: bool = True) -> None:
    """Print what was found: a table, and the flags of the best; `whole`: the search came to its end."""
    best = searched.best
    if as_script:
        print(json.dumps(as_json(searched), indent=1))
        return
    if searched.found:
        heads = ["microsteps", "peak, GiB", "free", "run, hours", "step", ""]
        ordered = sorted(searched.found, key=lambda one: (not one.result.fits, one.result.middle))
        rows = [[*cells(one), "best" if one is best else ""] for one in ordered]
        table = grid({"data x fsdp x tensor": None, "remat": None}, heads, rows)
        print(plain("candidates", table, width=WIDTH), end="")
    print(counts(searched))
    if best:
        print(f"{'the fastest' if whole else 'the fastest so far'}: {best.candidate.flags(searched.section)}")


def counts(searched: Searched) -> str:
    """How many were compiled, and what is with the others."""
    compiled, every = len(searched.found), len(searched.ranked)
    open_ones = len(searching.promising(searched.ranked, searched.found))
    said = f"{compiled} of {every} candidates compiled"
    if slower := every - compiled - open_ones:
        said += f"; {slower} cannot be faster"
    if open_ones:
        said += f"; {open_ones} ranked lower are not looked at: --search={2 * compiled or 1} looks at more"
    return said


def as_json(searched: Searched) -> dict[str, Any]:
    """Plain values, seconds and bytes; what is not known is null."""

    def row(one: searching.Found) -> dict[str, Any]:
        told = {name: None if value in (math.inf, -math.inf) else value
                for name, value in one.result._asdict().items()}  # fmt: skip
        hand = {"by_hand": one.ranked.seconds, "by_hand_shortest": one.ranked.shortest}
        return one.candidate._asdict() | told | hand | {"fits": one.result.fits, "best": one is searched.best}

    best = searched.best
    return {
        "search": [row(one) for one in searched.found],
        "candidates": len(searched.ranked),
        "flags": best.candidate.flags(searched.section) if best else "",
    }


def _nothing(searched: Searched, plans: dict[searching.Candidate, Plan], topology: Topology) -> Exception:
    """Why nothing was found, with the closest candidate and what would make it fit."""
    one = searching.closest(searched.found)
    if one is None:
        return InputError(f"--search: no candidate can be compiled: {searched.found[0].result.refused}")
    flags = one.candidate.flags(searched.section)
    return MemoryError(
        f"none of {len(searched.found)} candidates leaves {SPARE:.0%} of a chip's memory free in "
        f"{topology.name}; the closest, {flags}, leaves {one.result.free:.0%} free; "
        f"{advice_of(plans[one.candidate], topology)}"
    )


def advice_of(made: Plan, topology: Topology) -> str:
    """What would make the program fit that takes the most."""
    tightest = max(made.figures, key=lambda one: one.memory.peak)
    return f"{tightest.program.name}: {' or '.join(remedies(tightest, made.planned, topology))}"
