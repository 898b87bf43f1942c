"""The search for a mesh, a remat policy and microsteps: what is tried, in which order, and what is chosen."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from pretrainrl_jax.planning.figures import SPARE, Figures, Memory
from pretrainrl_jax.planning.planned import Decoding, Other, Program, Step
from pretrainrl_jax.planning.search import (
    REFUSED,
    REMATS,
    Candidate,
    Case,
    Found,
    Ranked,
    Result,
    candidates,
    closest,
    fastest,
    meshes,
    microsteps,
    promising,
    rank,
    search,
)
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages import search_plan
from pretrainrl_jax.verbs import VERBS

SHAPE = ModelShape("qwen3", 2048, 256, 2, 4, 2, 128, 512, 1e4, 1e-6, True, "bfloat16")
PLACE = topology("v5e:2x4")
ROOM = 16.0 * GIB


def step(rows: int = 8, time: int = 512, section: str = "pretrain", microsteps: int = 1) -> Program:
    load = Step((Packed(rows, time, time, sequences=True),), microsteps)
    return Program(
        "step", f"{section}.grad_accum_steps", lambda: None, load, float(rows * time), 3e10, 200.0, 200.0
    )


STEP = step()
MINING = Program("mining", "mine.batch", lambda: None, Decoding(128, 32, 4, 8, False), 8192.0, 1e12, 10.0)


def case(*programs: Program, shape: ModelShape = SHAPE) -> Case:
    return Case(ByHand(shape, Cut(1, 1, PLACE.count), "splash"), programs, PLACE)


def result(middle: float, free: float = 0.5) -> Result:
    peak = (1 - free) * ROOM
    return Result(peak, free, 0.9 * middle, middle, 1.5 * middle, middle / 200)


def hand(number: int, seconds: float, shortest: float = 0.0, memory: float = 0.0) -> Ranked:
    return Ranked(Candidate(number, 1, 1, "none", 1), seconds, shortest, memory)


def test_candidates_are_all_that_divide() -> None:
    """Of 8 chips: by trying every mesh and every number of microsteps."""
    expected = set()
    policies: tuple[Policy, ...] = "none", "full"
    for data, fsdp, tensor, count in product(*[range(1, 9)] * 3, (1, 2, 4, 8, 16)):
        divides = 256 % fsdp == 0 and all(size % tensor == 0 for size in (4, 2, 512, 2048))
        if data * fsdp * tensor == 8 and divides and 8 % (count * data * fsdp) == 0:
            expected |= {Candidate(data, fsdp, tensor, remat, count) for remat in policies}
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
    assert all((8 // 2) % (one.data * one.fsdp) == 0 for one in candidates(both, ["none"]))
    assert case(MINING).section == ""
    assert {one.microsteps for one in candidates(case(MINING), ["none"])} == {1}


def test_every_policy_of_remat_is_a_setting() -> None:
    assert REMATS == ("none", "products", "up", "attention", "full")
    for value in REMATS:
        assert changed(Config(), {"model.remat": value}).model.remat == value


def test_settings_and_flags_are_read_back() -> None:
    """By the command line that they are for."""
    one = Candidate(2, 4, 1, REMATS[-1], 2)
    command = parse(["plan", "--topology=v5e:2x4", "--pretrain.rows=16", *one.flags("pretrain").split()])
    mesh, model = command.config.mesh, command.config.model
    assert (mesh.data, mesh.fsdp, mesh.tensor, model.remat) == one[:4]
    assert command.config.pretrain.grad_accum_steps == 2
    assert "grad_accum" not in one.flags("")


def test_by_hand_knows_what_recomputing_and_cutting_cost() -> None:
    large = case(step(64, 4096), shape=replace(KNOWN["Qwen3-4B-Base"], dtype="bfloat16"))
    known = {one: rank(large, one) for one in candidates(large, ["none", "full"])}
    kept, again = (known[Candidate(1, 8, 1, remat, 1)] for remat in ("none", "full"))
    assert kept.seconds < again.seconds
    assert kept.memory > 2 * again.memory
    assert again.memory > 16 * 4.02e9 / 8  # parameters, moments and gradients
    assert known[Candidate(8, 1, 1, "full", 1)].memory > 16 * 4.02e9
    half, whole = (known[Candidate(1, 4, 2, "none", count)] for count in (2, 1))
    assert half.memory < whole.memory
    assert all(one.shortest <= one.seconds for one in known.values())


def test_shards_narrower_than_the_lanes_are_gathered_at_twice_the_cost() -> None:
    """640 entries over 8 chips are 80 each; 2,560 are 320. The least time does not know of it."""
    narrow, wide = (replace(SHAPE, d_model=size, dtype="bfloat16") for size in (640, 2560))

    def networks(shape: ModelShape) -> float:
        busy = case(step(8, 8), shape=shape)  # few tokens: bound by the network
        known = rank(busy, Candidate(1, 8, 1, "none", 1))
        return known.seconds / known.shortest

    assert networks(narrow) > 1.3 * networks(wide)


def test_what_fits_leaves_memory_to_spare() -> None:
    assert result(1.0, SPARE).fits
    assert not result(1.0, SPARE - 0.01).fits
    assert not result(math.inf, 0.5).fits
    assert not REFUSED.fits


def test_the_fastest_that_fits_is_chosen() -> None:
    times = {1: result(3.0), 2: result(2.0), 3: result(1.0, 0.05), 4: result(5.0)} | {
        5: REFUSED._replace(refused="why")
    }
    ranked = [hand(number, number) for number in times]
    found = list(search(ranked, lambda one: times[one.data], 9, ROOM))
    assert [one.candidate.data for one in found] == [1, 2, 3, 4, 5]
    best, near = fastest(found), closest(found[2:])
    assert best is not None
    assert best.candidate.data == 2
    assert near is not None
    assert near.candidate.data == 4
    assert fastest(found[2:3]) is None
    assert closest(found[4:]) is None


def test_another_model_is_cut_as_the_candidate_cuts() -> None:
    """Ranked by its own shape: half of its bytes where twice as many devices share it."""
    small = ByHand(replace(SHAPE, layers=1), Cut(1, 1, PLACE.count), "splash")
    rewriting = replace(MINING, name="rewriting", other=Other(small, 2.0 * GIB))
    whole = case(rewriting)
    for fsdp, tensor in ((4, 2), (4, 1), (8, 1)):
        candidate = Candidate(8 // fsdp // tensor, fsdp, tensor, "none", 1)
        hand = replace(small, cut=candidate.cut)
        own = small.parameters / hand.parameters
        memory = rank(whole, candidate).memory
        assert memory == pytest.approx(2.0 * GIB / own + MINING.load.working(hand))


def test_the_model_itself_with_adapters_recomputes_as_the_candidate_says() -> None:
    adapted = ByHand(replace(SHAPE, remat="none", lora=Lora(2, 4.0, ("query",))), Cut(1, 1, 8), "splash")
    program = replace(STEP, other=Other(adapted, 2.0 * GIB, 0.1 * GIB))
    none, full = (rank(case(program), Candidate(1, 8, 1, remat, 1)) for remat in ("none", "full"))
    assert full.seconds > none.seconds
    assert full.memory < none.memory


def test_no_more_are_judged_than_asked_for_and_none_that_cannot_be_faster() -> None:
    ranked = [hand(1, 1.0, 0.5), hand(2, 2.0, 1.5), hand(3, 3.0, 0.8), hand(4, 4.0, 0.1)]
    found = list(search(ranked, lambda one: result(1.2), 3, ROOM))
    assert [one.candidate.data for one in found] == [1, 3, 4]
    assert len(list(search(ranked, lambda one: result(1.2), 2, ROOM))) == 2


def test_what_does_not_fit_by_hand_comes_last_and_a_result_corrects_what_is_expected() -> None:
    ranked = [hand(1, 1.0, memory=20 * GIB), hand(2, 2.0, memory=8 * GIB), hand(3, 3.0, memory=6 * GIB)]

    def order(free: float) -> list[int]:
        return [one.candidate.data for one in search(ranked, lambda one: result(9.0, free), 3, ROOM)]

    assert order(free=0.5) == [2, 3, 1]  # the second took what was expected
    assert order(free=0.75) == [2, 1, 3]  # it took half of that: so may the first, which then fits


def test_a_least_time_that_was_not_one_is_trusted_less() -> None:
    """The first took half of its least time: so may the third, which may then be faster."""
    ranked = [hand(1, 1.0, 4.0), hand(2, 2.0, 6.0), hand(3, 3.0, 3.9)]
    found = list(search(ranked[:1], lambda one: result(2.0), 1, ROOM))
    assert [one.candidate.data for one in promising(ranked, found)] == [3]


@given(
    st.lists(
        st.tuples(st.floats(0.1, 9), st.floats(0, 1), st.floats(0, 9), st.floats(-0.5, 1), st.floats(0, 20)),
        min_size=1,
        max_size=12,
    )
)
def test_leaving_candidates_out_never_loses_the_fastest(
    drawn: list[tuple[float, float, float, float, float]],
) -> None:
    """Whatever is expected of time and memory, where the least times are at least that."""
    results = {number: result(middle, free) for number, (middle, _, _, free, _) in enumerate(drawn)}
    ranked = [
        hand(number, expected, middle * share, memory * GIB)
        for number, (middle, share, expected, _, memory) in enumerate(drawn)
    ]
    best = fastest(list(search(ranked, lambda one: results[one.data], len(drawn), ROOM)))
    fitting = [one.middle for one in results.values() if one.fits]
    assert (best.result.middle if best else None) == min(fitting, default=None)


def stopping(after: int) -> Callable[[Candidate], Result]:
    judged: list[Candidate] = []

    def judge(one: Candidate) -> Result:
        if len(judged) == after:
            raise KeyboardInterrupt
        judged.append(one)
        return result(3.0 - len(judged))

    return judge


def test_ctrl_c_keeps_what_was_found() -> None:
    found: list[Found] = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(search([hand(n, n) for n in range(5)], stopping(2), 5, ROOM))
    assert [one.candidate.data for one in found] == [0, 1]


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

    monkeypatch.setattr(search_plan, "plan_of", plan_of)
    monkeypatch.setattr(search_plan, "result_of", lambda one: one)
    monkeypatch.setattr(search_plan, "case_of", lambda *_: case(STEP))
    monkeypatch.setattr(search_plan, "material", lambda _: None)
    monkeypatch.setattr(search_plan, "show", lambda *_: print("the page"))
    return results


def searched(results: int, as_script: bool = False) -> None:
    search_plan.search_plan(CONFIG, PLACE, SILENT, None, as_script, results)


def test_the_table_marks_the_best_and_ends_with_its_flags(
    judged: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [result(7200.0), CompilerFailed("the compiler ended"), result(3600.0)]
    searched(3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the page"
    (flags,) = (line for line in lines if line.startswith("the fastest: "))
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
    assert "the fastest so far: --mesh.data=" in out
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


def test_what_cannot_be_faster_is_told_apart_from_what_was_not_looked_at() -> None:
    every = [hand(0, 1.0, 0.5), hand(1, 9.0, 8.0), hand(2, 1.5, 1.0)]
    found = [Found(every[0], result(2.0))]
    assert search_plan.counts(search_plan.Searched("train", every, found)) == (
        "1 of 3 candidates compiled; 1 cannot be faster; "
        "1 ranked lower are not looked at: --search=2 looks at more"
    )
    found += [Found(every[2], result(3.0))]
    said = search_plan.counts(search_plan.Searched("train", every, found))
    assert said == "2 of 3 candidates compiled; 1 cannot be faster"


def test_a_candidate_takes_the_memory_of_one_program_and_the_time_of_all() -> None:
    def of(program: Program, peak: float, seconds: float | None) -> Figures:
        time = Estimate(0, 0, 0, 0.9 * seconds, seconds, 2 * seconds) if seconds else None
        return Figures(program, Memory(0, 0, 0, 0, 0, 0, peak, ROOM), None, time)

    small = replace(STEP, executions=9.0, counted=1e9)
    unknown = replace(MINING, executions=None)
    every = [of(STEP, 6 * GIB, 2.0), of(small, 1 * GIB, 1.0), of(MINING, 8 * GIB, 3.0), of(unknown, 0, 5.0)]
    assert search_plan.result_of(every) == (
        8 * GIB, 0.5, pytest.approx(0.9 * 439), 200 * 2 + 9 * 1 + 10 * 3, 2 * 439, 2.0, ""
    )  # fmt: skip
    one = search_plan.result_of([*every[2:], of(STEP, 20 * GIB, None)])
    assert (one.peak, one.middle, one.step, one.fits) == (20 * GIB, math.inf, math.inf, False)


def test_what_would_make_the_largest_program_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_plan, "remedies", lambda one, *_: [f"less of {one.program.name}", "more"])
    every = [
        Figures(program, Memory(0, 0, 0, 0, 0, 0, peak, ROOM), None, None)
        for program, peak in ((STEP, 20 * GIB), (MINING, 30 * GIB))
    ]
    made: Any = SimpleNamespace(figures=every, planned=None)
    assert search_plan.advice_of(made, PLACE) == "mining: less of mining or more"


def test_a_model_that_no_mesh_divides_is_refused(judged: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_plan, "case_of", lambda *_: case(step(7)))
    with pytest.raises(InputError, match=r"no mesh of v5e:2x4 divides both the model and pretrain\.rows"):
        searched(2)
    assert not judged


def test_where_nothing_fits_the_closest_is_named(
    judged: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged += [result(1.0, -0.5), result(1.0, 0.06), result(1.0, -0.1)]
    monkeypatch.setattr(search_plan, "advice_of", lambda plan, place: "step: more chips")
    with pytest.raises(MemoryError, match=r"none of 3 .* the closest, --mesh.* leaves 6% free; step: more"):
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
    monkeypatch.setattr(search_plan, "case_of", lambda *_: case(MINING, replace(STEP, executions=None)))
    with pytest.raises(InputError, match=r"how many steps step takes is not known .*--pretrain\.steps"):
        searched(2)
    assert not judged
