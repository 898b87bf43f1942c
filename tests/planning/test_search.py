"""The search for a mesh, a remat policy and microsteps: what is tried, in which order, and what is chosen."""

import json
import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from pretrainrl_jax.command_line import parse
from pretrainrl_jax.config import Config, MeshConfig, ModelConfig, PretrainConfig
from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.lora import Lora
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.chips import GIB, topology
from pretrainrl_jax.planning.compiled import CompilerFailed
from pretrainrl_jax.planning.estimate import Estimate
from pretrainrl_jax.planning.figures import SPARE, Figures
from pretrainrl_jax.planning.planned import Decoding, Program, Step
from pretrainrl_jax.planning.search import (
    REMATS,
    Candidate,
    Case,
    Found,
    Ranked,
    candidates,
    fastest,
    meshes,
    microsteps,
    rank,
    search,
)
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages import plan
from pretrainrl_jax.verbs import VERBS

SHAPE = ModelShape("qwen3", 2048, 256, 2, 4, 2, 128, 512, 1e4, 1e-6, True, "bfloat16")
PLACE = topology("v5e:2x4")
HAND = ByHand(SHAPE, Cut(1, 1, PLACE.count), "splash")
ROOM = 16.0 * GIB


def step(rows: int = 8, time: int = 512, section: str = "pretrain", microsteps: int = 1) -> Program:
    load = Step((Packed(rows, time, time, sequences=True),), microsteps)
    return Program(
        "step", f"{section}.grad_accum_steps", lambda: None, load, float(rows * time), 3e10, 200.0, 200.0,
        hand=HAND, parameters=HAND.parameters, learned=HAND.parameters,
    )  # fmt: skip


STEP = step()
MINING = replace(
    STEP, name="mining", setting="mine.batch", load=Decoding(128, 32, 4, 8, False), counted=1e12,
    executions=10.0, updates=None,
)  # fmt: skip


def case(*programs: Program, shape: ModelShape = SHAPE) -> Case:
    """Of programs of a model of this shape, where they are of no other."""
    hand = replace(HAND, shape=shape)
    size = hand.parameters
    own = [
        replace(one, hand=hand, parameters=size, learned=size) if one.hand is HAND else one
        for one in programs
    ]
    return Case(hand, own, PLACE)


ANY = Candidate(Cut(), "none")


def result(middle: float, free: float = 0.5, candidate: Candidate = ANY) -> Found:
    peak = (1 - free) * ROOM
    return Found(candidate, peak, free, 0.9 * middle, middle, 1.5 * middle, middle / 200)


def hand(number: int, seconds: float, memory: float = 0.0) -> Ranked:
    return Ranked(ANY._replace(cut=Cut(number)), seconds, memory)


def test_candidates_are_all_that_divide() -> None:
    """Of 8 chips: by trying every mesh and every number of microsteps."""
    expected = set()
    policies: tuple[Policy, ...] = "none", "full"
    for data, fsdp, tensor, count in product(*[range(1, 9)] * 3, (1, 2, 4, 8, 16)):
        divides = 256 % fsdp == 0 and all(size % tensor == 0 for size in (4, 2, 512, 2048))
        if data * fsdp * tensor == 8 and divides and 8 % (count * data * fsdp) == 0:
            expected |= {Candidate(Cut(data, fsdp, tensor), remat, count) for remat in policies}
    found = candidates(case(STEP), ["none", "full"])
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert {cut.tensor for cut in meshes(SHAPE, 8)} == {1, 2}  # two heads of keys


def test_rows_of_pretraining_must_divide_and_packed_ones_are_padded() -> None:
    assert microsteps(step(24), 2) == [1, 2, 4]
    assert microsteps(step(24), 16) == []
    packed = step(27, section="train")
    assert microsteps(packed, 4) == [1, 2, 4]
    assert microsteps(packed, 64) == [1]


def test_the_microsteps_of_the_largest_training_program_are_searched() -> None:
    small = replace(step(microsteps=2), executions=1.0)
    both = case(small, step(32, section="train"), MINING)
    assert both.section == "train"
    assert all((8 // 2) % (one.cut.rows) == 0 for one in candidates(both, ["none"]))
    assert case(MINING).section == ""
    assert {one.microsteps for one in candidates(case(MINING), ["none"])} == {1}


def test_every_policy_of_remat_is_a_setting() -> None:
    assert REMATS == ("none", "products", "up", "attention", "full")
    for value in REMATS:
        assert changed(Config(), {"model.remat": value}).model.remat == value


def test_settings_and_flags_are_read_back() -> None:
    """By the command line that they are for."""
    one = Candidate(Cut(2, 4, 1), REMATS[-1], 2)
    command = parse(["plan", "--topology=v5e:2x4", "--pretrain.rows=16", *one.flags("pretrain").split()])
    mesh, model = command.config.mesh, command.config.model
    assert ((mesh.data, mesh.fsdp, mesh.tensor), model.remat) == (one.cut[:3], one.remat)
    assert command.config.pretrain.grad_accum_steps == 2
    assert "grad_accum" not in one.flags("")


def test_by_hand_knows_what_recomputing_and_cutting_cost() -> None:
    large = case(step(64, 4096), shape=replace(KNOWN["Qwen3-4B-Base"], dtype="bfloat16"))
    known = {one: rank(large, one) for one in candidates(large, ["none", "full"])}
    kept, again = (known[Candidate(Cut(1, 8, 1), remat, 1)] for remat in ("none", "full"))
    assert kept.seconds < again.seconds
    assert kept.memory > 2 * again.memory
    assert again.memory > 16 * 4.02e9 / 8  # parameters, moments and gradients
    assert known[Candidate(Cut(8, 1, 1), "full", 1)].memory > 16 * 4.02e9
    half, whole = (known[Candidate(Cut(1, 4, 2), "none", count)] for count in (2, 1))
    assert half.memory < whole.memory


def test_what_fits_leaves_memory_to_spare() -> None:
    assert result(1.0, SPARE).fits
    assert not result(1.0, SPARE - 0.01).fits
    assert not result(math.inf, 0.5).fits
    assert not Found(ANY, refused="why").fits


def test_the_fastest_that_fits_is_chosen() -> None:
    times = {1: result(3.0), 2: result(2.0), 3: result(1.0, 0.05), 4: result(5.0)} | {
        5: Found(ANY, refused="why")
    }
    ranked = [hand(number, number) for number in times]
    found = list(search(ranked, lambda one: times[one.cut.data]._replace(candidate=one), 9, ROOM))
    assert [one.candidate.cut.data for one in found] == [1, 2, 3, 4, 5]
    best = fastest(found)
    assert best is not None
    assert best.candidate.cut.data == 2
    assert fastest(found[2:3]) is None


def test_another_model_is_cut_as_the_candidate_cuts() -> None:
    """Ranked by its own shape: half of its bytes where twice as many devices share it."""
    small = ByHand(replace(SHAPE, layers=1), Cut(1, 1, PLACE.count), "splash")
    rewriting = replace(MINING, name="rewriting", hand=small, parameters=2.0 * GIB, learned=0.0)
    whole = case(rewriting)
    for fsdp, tensor in ((4, 2), (4, 1), (8, 1)):
        candidate = Candidate(Cut(8 // fsdp // tensor, fsdp, tensor), "none")
        hand = replace(small, cut=candidate.cut)
        parts = hand.parameters / small.parameters
        memory = rank(whole, candidate).memory
        assert memory == pytest.approx(2.0 * GIB * parts + MINING.load.working(hand))


def test_the_model_itself_with_adapters_recomputes_as_the_candidate_says() -> None:
    adapted = ByHand(replace(SHAPE, remat="none", lora=Lora(2, 4.0, ("query",))), Cut(1, 1, 8), "splash")
    program = replace(STEP, hand=adapted, parameters=2.0 * GIB, learned=0.1 * GIB)
    none, full = (rank(case(program), Candidate(Cut(1, 8, 1), remat, 1)) for remat in ("none", "full"))
    assert full.seconds > none.seconds
    assert full.memory < none.memory


def test_no_more_are_judged_than_asked_for() -> None:
    ranked = [hand(1, 1.0), hand(2, 3.0), hand(3, 2.0)]
    for most, expected in ((2, [1, 3]), (9, [1, 3, 2])):
        found = search(ranked, lambda one: result(1.2, candidate=one), most, ROOM)
        assert [one.candidate.cut.data for one in found] == expected


def test_what_does_not_fit_by_hand_comes_last_and_a_result_corrects_what_is_expected() -> None:
    ranked = [hand(1, 1.0, memory=20 * GIB), hand(2, 2.0, memory=8 * GIB), hand(3, 3.0, memory=6 * GIB)]

    def order(free: float) -> list[int]:
        found = search(ranked, lambda one: result(9.0, free, one), 3, ROOM)
        return [one.candidate.cut.data for one in found]

    assert order(free=0.5) == [2, 3, 1]  # the second took what was expected
    assert order(free=0.75) == [2, 1, 3]  # it took half of that: so may the first, which then fits


CONFIG = Config(
    mesh=MeshConfig(data=1, fsdp=-1),
    model=ModelConfig(d_model=256, heads=2, kv_heads=1, head_dim=128, dtype="bfloat16"),
    pretrain=PretrainConfig(text="documents", steps=200, rows=8),
)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stage finds, one after another, in the place of what compilers say; an exception is raised."""
    results: list[Any] = []

    def plan_of(config: Config, *_: Any) -> Any:
        one = results.pop(0)
        if isinstance(one, BaseException):
            raise one
        return SimpleNamespace(figures=one)

    monkeypatch.setattr(plan, "plan_of", plan_of)
    monkeypatch.setattr(plan, "found_of", lambda one, made: made._replace(candidate=one))
    monkeypatch.setattr(plan, "case_of", lambda *_: case(STEP))
    monkeypatch.setattr(plan, "material", lambda _: None)
    monkeypatch.setattr(plan, "show", lambda *_: print("the page"))
    return results


def searched(results: int, as_script: bool = False) -> None:
    plan.search_plan(CONFIG, PLACE, SILENT, None, as_script, results)


def test_the_table_marks_the_best_and_ends_with_its_flags(
    judged: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [result(7200.0), CompilerFailed("the compiler ended"), result(3600.0)]
    searched(3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the page"
    (flags,) = (line for line in lines if line.startswith("the fastest of them: "))
    assert all(f"--{name}=" in flags for name in ("mesh.data", "model.remat", "pretrain.grad_accum_steps"))
    (best,) = (line for line in lines if line.endswith("best"))
    assert "0.90 to 1.50" in best
    assert len([line for line in lines if " x " in line and "fsdp" not in line]) == 3


def test_ctrl_c_prints_what_was_found(judged: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    judged += [result(7200.0), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        searched(3)
    out = capsys.readouterr().out
    assert "1.80 to 3.00" in out
    assert "the fastest of them: --mesh.data=" in out
    assert "the page" not in out


def test_a_script_is_told_in_json_what_was_found(
    judged: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [result(7200.0), result(3600.0, -0.5), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        searched(3, as_script=True)
    told = json.loads(capsys.readouterr().out)
    assert told["flags"].startswith("--mesh.data=")
    assert [(one["middle"], one["fits"], one["best"]) for one in told["search"]] == [
        (7200.0, True, True), (3600.0, False, False),
    ]  # fmt: skip
    judged += [result(3600.0)]
    searched(1, as_script=True)
    assert capsys.readouterr().out == "the page\n"


def test_a_candidate_takes_the_memory_of_one_program_and_the_time_of_all() -> None:
    def of(program: Program, peak: float, seconds: float | None) -> Figures:
        one: Any = Figures(program, PLACE, 0.0, peak, None)
        vars(one)["time"] = Estimate(0, 0, 0, 0.9 * seconds, seconds, 2 * seconds) if seconds else None
        return one

    small = replace(STEP, executions=9.0, counted=1e9)
    unknown = replace(MINING, executions=None)
    every = [of(STEP, 6 * GIB, 2.0), of(small, 1 * GIB, 1.0), of(MINING, 8 * GIB, 3.0), of(unknown, 0, 5.0)]
    assert plan.found_of(ANY, every) == (
        ANY, 8 * GIB, 0.5, pytest.approx(0.9 * 439), 200 * 2 + 9 * 1 + 10 * 3, 2 * 439, 2.0, ""
    )  # fmt: skip
    one = plan.found_of(ANY, [*every[2:], of(STEP, 20 * GIB, None)])
    assert (one.peak, one.middle, one.step, one.fits) == (20 * GIB, math.inf, math.inf, False)


def test_a_model_that_no_mesh_divides_is_refused(judged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "case_of", lambda *_: case(step(7)))
    with pytest.raises(InputError, match=r"no mesh of v5e:2x4 divides both the model and pretrain\.rows"):
        searched(2)
    assert not judged


def test_where_nothing_fits_the_closest_is_named(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [result(1.0, -0.5), result(1.0, 0.06), result(1.0, -0.1)]
    with pytest.raises(MemoryError, match=r"none of 3 .* the closest leaves 6% free: plan with --mesh"):
        searched(3)
    assert "best" not in capsys.readouterr().out
    judged += [CompilerFailed("no such kernel")] * 2
    with pytest.raises(InputError, match="no such kernel"):
        searched(2)


@pytest.mark.parametrize(
    ("words", "number"),
    [([], None), (["--search"], 8), (["--search", "3"], 3), (["--search=3"], 3), (["--search", "--json"], 8)],
)
def test_the_command_line(words: list[str], number: int | None) -> None:
    command = parse(["plan", "--topology", "v5e:2x2", *words, "--pretrain.rows=4"])
    assert command.options.search == number
    assert command.config.pretrain.rows == 4


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="--search=0"):
        VERBS["plan"].run(parse(["plan", "--topology=v5e:2x2", "--search=0"]))
    with pytest.raises(InputError, match="search"):
        parse(["plan", "--topology=v5e:2x2", "--search=few"])


def test_steps_that_are_not_known_cannot_be_compared(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "case_of", lambda *_: case(MINING, replace(STEP, executions=None)))
    with pytest.raises(InputError, match=r"how many steps step takes is not known .*--pretrain\.steps"):
        searched(2)
    assert not judged
