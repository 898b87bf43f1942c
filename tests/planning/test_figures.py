"""What a plan says of figures that are given: what fits, what would make it fit, what to be warned of."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.model.mesh import Cut
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.chips import GIB, topology
from pretrainrl_jax.planning.figures import Figures, as_json, of_weights, remedies, warnings
from pretrainrl_jax.planning.page import page
from pretrainrl_jax.planning.planned import Decoding, Planned, Program, Step
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.planning.work import Operation, Sent, Work
from pretrainrl_jax.stages.plan import Plan, lines

PLACE = topology("v5e:4x4")
LOAD, DECODING = Step((Packed(16, 512, 512),)), Decoding(128, 64, 20, 8, False)
WORK = Work((Operation(197e12, 1e9),), (Sent("all-gather", 1e9, 16, 3.0),))


def hand(remat: Policy = "none", **sizes: int) -> ByHand:
    cut = Cut(**({"data": 1, "fsdp": 16, "tensor": 1} | sizes))
    return ByHand(replace(KNOWN["Qwen3-4B-Base"], remat=remat), cut, "xla")


def program(load: Step | Decoding, parameters: float = 1.0, of: ByHand | None = None) -> Program:
    """A step, or mining, of a model with so many GiB of parameters."""
    told = ("step", "train.grad_accum_steps", 1e15, 300.0, 300.0)
    if isinstance(load, Decoding):
        told = ("mining", "mine.batch", 1e14, 10.0, None)
    name, setting, counted, executions, updates = told
    size = parameters * GIB
    return Program(
        name, setting, lambda: None, load, 8192.0, counted, executions, updates, hand=of or hand(),
        parameters=size, learned=size,
    )  # fmt: skip


STEP, MINING = program(LOAD), program(DECODING)


def planned(*programs: Program) -> Planned:
    first, *_ = programs or (STEP, MINING)
    mesh: Any = SimpleNamespace(shape=first.hand.cut._asdict())
    return Planned(mesh, first.hand, Material(10, 10, 10, 10, 10, ""), programs or (STEP, MINING))


def of(program: Program, peak: float) -> Figures:
    return Figures(program, PLACE, 1.0 * GIB, peak * GIB, WORK)


def test_a_step_keeps_an_optimizer_and_decoding_does_not() -> None:
    assert of(STEP, 5.0).memory["optimizer"] == 2 * GIB
    assert of(MINING, 5.0).memory["optimizer"] == 0


def test_what_is_resident_beside_a_program_counts() -> None:
    one = of(replace(MINING, resident=4.0 * GIB), 5.0)
    assert one.peak == 9 * GIB
    assert one.free == pytest.approx(7 / 16)
    assert of(MINING, 16.5).free < 0


def test_what_no_table_has_is_said() -> None:
    whole = replace(planned(STEP), verdicts=1000, verdict_tokens=2_500_000_000, uncounted=("a.b", "c.d"))
    one = replace(of(STEP, 5.0), unknown_loops=("while.3",))
    assert list(lines(Plan("", PLACE, whole, (one,))))[1:] == [
        "the judge is asked 1,000 times and reads about 2.5B tokens: its time is not in the tables",
        "! not counted: what is asked for by a.b, c.d",
        "! step: how often while.3 turns is not known: counted once",
    ]
    mixture: Any = replace(whole, hand=ByHand(KNOWN["Mixtral-8x7B-v0.1"], Cut(1, 4, 1, expert=4), "xla"))
    by_hand, of_experts, *_ = lines(Plan("", topology("h100:16"), mixture, ()))
    assert by_hand == "work and memory are by hand, from shapes: nothing was compiled for these chips"
    assert of_experts.endswith("with those of all 2 that a device has")


def test_remedies() -> None:
    def of_step(parameters: float, peak: float, rows: int = 16, **about: Any) -> list[str]:
        one = program(Step((Packed(rows, 512, 512),)), parameters, hand(**about))
        return remedies(of(one, peak))

    assert of_step(1.0, 20.0, 64) == ["--model.remat=full", "--train.grad_accum_steps=2"]
    assert of_step(1.0, 40.0, 64, remat="full") == ["--train.grad_accum_steps=4"]
    assert of_step(1.0, 40.0, remat="full") == ["a larger slice"]  # a row a chip
    assert remedies(of(MINING, 40.0)) == ["--mine.batch=32"]
    assert of_step(6.0, 40.0) == ["a slice of 64 chips or more"]
    assert of_step(6.0, 40.0, data=2, fsdp=8) == ["--mesh.data=1 --mesh.fsdp=16"]
    assert of_step(1.0, 17.0, remat="full", data=2, fsdp=8) == ["--mesh.data=1 --mesh.fsdp=16"]


def test_what_decoding_reads_is_told() -> None:
    def mining(load: Step | Decoding = DECODING, **about: Any) -> Program:
        return program(load, of=replace(hand(), **about))

    assert of_weights(planned(MINING)) == ""  # no room is asked for
    assert "! decoding gathers all weights at each token" in of_weights(planned(mining(room=GIB)))
    about: dict[str, Any] = {"room": 1e12, "shape": replace(hand().shape, dtype="bfloat16")}
    copying = mining(**about)
    assert f"a copy of the weights, {copying.hand.copy / GIB:.2f} GiB a device" in of_weights(
        planned(copying)
    )
    assert remedies(of(copying, 40.0))[0] == "--platform.decoding_memory=0"
    assert of_weights(planned(mining(LOAD, **about))) == ""
    assert of_weights(planned(mining(room=GIB, cut=Cut(16, 1, 1)))) == ""


def test_a_program_of_another_model_has_that_models_figures() -> None:
    """Its parameters, its cache, and what would make it fit."""
    small = replace(hand(), shape=replace(KNOWN["SmolLM2-135M"], dtype="bfloat16"), room=1e12)
    rewriting = replace(MINING, name="rewriting", hand=small, parameters=0.25 * GIB, learned=0.0)
    own, other = of(MINING, 5.0).memory, of(rewriting, 5.0).memory
    assert (own["parameters"], other["parameters"]) == (1.0 * GIB, 0.25 * GIB)
    assert own["cache"] == DECODING.cache(hand())
    assert other["cache"] == DECODING.cache(small)
    assert of_weights(planned(MINING, rewriting)).endswith("GiB a device, made once a call (the rewriter)")
    assert "(the rewriter)" not in of_weights(planned(MINING))
    roomy = replace(MINING, hand=replace(hand(), room=GIB))
    assert len(of_weights(planned(roomy, rewriting)).splitlines()) == 2
    assert "--platform.decoding_memory=0" in remedies(of(rewriting, 40.0))
    assert "--platform.decoding_memory=0" not in remedies(of(MINING, 40.0))


def test_warnings_of_few_updates_and_of_idle_chips() -> None:
    assert warnings([of(replace(STEP, tokens=1e6), 5.0)], PLACE) == []
    few, idle = warnings([of(replace(STEP, updates=80.0), 5.0), of(MINING, 5.0)], PLACE)
    assert few.startswith("step: 80 updates are few")
    assert "8,192 tokens an update, 512 a chip, and 4 of 16 would be busy" in idle


def test_steps_that_are_not_known_are_told_and_keep_an_optimizer() -> None:
    """Texts that are counted only when they are read: none is taken for no step."""
    uncounted = of(replace(STEP, executions=None, updates=None), 5.0)
    assert uncounted.memory["optimizer"] == 2 * GIB
    (said,) = (line for line in warnings([uncounted], PLACE) if "not known" in line)
    assert said.startswith("step: how many steps")
    assert uncounted.run("middle") == 0


def test_what_does_not_fit_has_no_time_and_a_page_all_the_same() -> None:
    one = Figures(STEP, PLACE, 20 * GIB, 20 * GIB, None)
    assert one.free < 0
    assert one.run("middle") == math.inf
    assert "20.00" in page("a title", planned(), [one, of(MINING, 5.0)], PLACE, None)
    told = as_json(one)
    assert told["memory"]["free"] < 0
    assert "seconds" not in told


def test_mfu_counts_all_chips_at_the_published_peak() -> None:
    one = of(STEP, 5.0)
    assert one.mfu(2.0) == pytest.approx(1e15 / (16 * 197e12 * 2))


def test_the_page_shows_every_program_and_the_whole_run() -> None:
    text = page("a title", planned(), [of(STEP, 5.0), of(MINING, 5.0)], PLACE, 2.0)
    lines = text.splitlines()
    assert lines[0].startswith(
        "a title: 4.02B parameters on v5e:4x4, 16 chips of 4 hosts; mesh data 1 x fsdp 16"
    )
    assert len([line for line in lines if line.strip().startswith("step ")]) == 4
    assert any("an estimate" in line and "197 TFLOP/s" in line for line in lines)
    hours, again = (of(program, 5.0).run("longest") / 3600 for program in (STEP, MINING))
    (run,) = [line for line in lines if line.strip().startswith("all ")]
    assert f"{hours + again:,.2f}" in run
    assert max(map(len, lines)) <= 175


def test_what_is_sent_is_added_up_and_next_to_nothing_left_out() -> None:
    sent = (Sent("all-gather", 1e9, 16, 3.0), Sent("all-gather", 2e9, 16), Sent("all-reduce", 1e6, 16, 9.0))
    one = Figures(STEP, PLACE, 1.0 * GIB, 5.0 * GIB, Work(WORK.operations, sent))
    lines = page("a title", planned(), [one], PLACE, 2.0).splitlines()
    assert [line.split()[-5:] for line in lines if " all-" in line] == [["all-gather", "16", "4", "2", "5.0"]]
    few = Figures(STEP, PLACE, 1.0 * GIB, 5.0 * GIB, Work(WORK.operations, sent[2:]))
    assert " all-" not in page("a title", planned(), [few], PLACE, 2.0).replace(" all ", "")


def test_json_has_plain_values() -> None:
    told = as_json(of(STEP, 5.0))
    assert told["name"] == "step"
    assert told["memory"]["peak"] == 5 * GIB
    assert told["collectives"][0]["kind"] == "all-gather"
    assert "lower" not in told


def test_what_is_not_known_or_does_not_fit_is_not_in_a_total_called_all() -> None:
    known = of(MINING, 5.0)
    unknown = of(replace(STEP, executions=None, updates=None), 5.0)
    assert "\n all " in page("a title", planned(), [known], PLACE, None)
    told = page("a title", planned(), [known, unknown], PLACE, None)
    assert "the 1 known of 2" in told
    assert "\n all " not in told
