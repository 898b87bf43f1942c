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
from pretrainrl_jax.planning.figures import Figures, as_json, figures, of_weights, remedies, warnings
from pretrainrl_jax.planning.page import page
from pretrainrl_jax.planning.planned import Decoding, Other, Planned, Program, Step
from pretrainrl_jax.planning.shapes import KNOWN
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.planning.work import Operation, Sent, Work
from pretrainrl_jax.stages.plan import Plan, lines

PLACE = topology("v5e:4x4")
STEP = Program(
    "step", "train.grad_accum_steps", lambda: None, Step((Packed(16, 512, 512),)), 8192.0, 1e15, 300.0, 300.0
)
DECODING = Decoding(128, 64, 20, 8, False)
MINING = Program("mining", "mine.batch", lambda: None, DECODING, 8192.0, 1e14, 10.0)
WORK = Work((Operation(197e12, 1e9),), (Sent("all-gather", 1e9, 16, 3.0),))


def planned(parameters: float, remat: Policy = "none", **sizes: int) -> Planned:
    cut = Cut(**({"data": 1, "fsdp": 16, "tensor": 1} | sizes))
    mesh: Any = SimpleNamespace(shape=cut._asdict())
    hand = ByHand(replace(KNOWN["Qwen3-4B-Base"], remat=remat), cut, "xla")
    return Planned(mesh, hand, Material(10, 10, 10, 10, 10, ""), (STEP, MINING), parameters * GIB, 0.0)


def of(program: Program, whole: Planned, peak: float) -> Figures:
    return figures(whole, program, WORK, 1.0 * GIB, peak * GIB, PLACE)


def test_a_step_keeps_an_optimizer_and_decoding_does_not() -> None:
    whole = planned(1.0)
    assert of(STEP, whole, 5.0).memory.optimizer == 2 * GIB
    assert of(MINING, whole, 5.0).memory.optimizer == 0


def test_what_is_resident_beside_a_program_counts() -> None:
    one = of(replace(MINING, resident=4.0 * GIB), planned(1.0), 5.0)
    assert one.memory.peak == 9 * GIB
    assert one.memory.free == pytest.approx(7 / 16)
    assert one.fits
    assert not of(MINING, planned(1.0), 16.5).fits


def test_what_no_table_has_is_said() -> None:
    whole = replace(
        planned(1.0), programs=(STEP,), verdicts=1000, verdict_tokens=2_500_000_000, uncounted=("a.b", "c.d")
    )
    one = replace(of(STEP, whole, 5.0), unknown_loops=("while.3",))
    assert list(lines(Plan("", PLACE, whole, (one,))))[2:] == [
        "the judge is asked 1,000 times and reads about 2.5B tokens: its time is not in the tables",
        "! not counted: what is asked for by a.b, c.d",
        "! step: how often while.3 turns is not known: counted once",
    ]
    mixture: Any = replace(whole, hand=ByHand(KNOWN["Mixtral-8x7B-v0.1"], Cut(1, 4, 1, expert=4), "xla"))
    by_hand, of_experts, *_ = lines(Plan("", topology("h100:16"), mixture, ()))
    assert by_hand == "work and memory are by hand, from shapes: nothing was compiled for these chips"
    assert of_experts.endswith("with those of all 2 that a device has")


def test_remedies() -> None:
    many = replace(STEP, load=Step((Packed(64, 512, 512),)))
    whole = planned(1.0)
    smaller = ["--model.remat=full", "--train.grad_accum_steps=2"]
    assert remedies(of(many, whole, 20.0), whole, PLACE) == smaller
    recomputed = planned(1.0, "full")
    assert remedies(of(many, recomputed, 40.0), recomputed, PLACE) == ["--train.grad_accum_steps=4"]
    assert remedies(of(STEP, recomputed, 40.0), recomputed, PLACE) == ["a larger slice"]  # a row a chip
    assert remedies(of(MINING, whole, 40.0), whole, PLACE) == ["--mine.batch=32"]
    large = planned(6.0)
    assert remedies(of(STEP, large, 40.0), large, PLACE) == ["a slice of 64 chips or more"]
    uncut = planned(6.0, data=2, fsdp=8)
    assert remedies(of(STEP, uncut, 40.0), uncut, PLACE) == ["--mesh.data=1 --mesh.fsdp=16"]
    uncut = planned(1.0, "full", data=2, fsdp=8)
    assert remedies(of(STEP, uncut, 17.0), uncut, PLACE) == ["--mesh.data=1 --mesh.fsdp=16"]


def test_what_decoding_reads_is_told() -> None:
    whole = planned(1.0)
    assert of_weights(whole) == ""  # no room is asked for
    whole = replace(whole, hand=replace(whole.hand, room=GIB))
    assert "! decoding gathers all weights at each token" in of_weights(whole)
    copying = replace(
        whole, hand=replace(whole.hand, room=1e12, shape=replace(whole.shape, dtype="bfloat16"))
    )
    assert f"a copy of the weights, {copying.hand.copy / GIB:.2f} GiB a device" in of_weights(copying)
    assert remedies(of(MINING, copying, 40.0), copying, PLACE)[0] == "--platform.decoding_memory=0"
    assert of_weights(replace(copying, programs=(STEP,))) == ""
    assert of_weights(replace(whole, hand=replace(whole.hand, cut=Cut(16, 1, 1)))) == ""


def test_a_program_of_another_model_has_that_models_figures() -> None:
    """Its parameters, its cache, and what would make it fit."""
    whole = planned(1.0)
    small = replace(whole.hand, shape=replace(KNOWN["SmolLM2-135M"], dtype="bfloat16"), room=1e12)
    rewriting = replace(MINING, name="rewriting", other=Other(small, 0.25 * GIB))
    both = replace(whole, programs=(MINING, rewriting))
    own, other = of(MINING, both, 5.0).memory, of(rewriting, both, 5.0).memory
    assert (own.parameters, other.parameters) == (1.0 * GIB, 0.25 * GIB)
    assert own.cache == DECODING.cache(whole.hand)
    assert other.cache == DECODING.cache(small)
    assert of_weights(both).endswith("GiB a device, made once a call (the rewriter)")
    assert "(the rewriter)" not in of_weights(replace(both, programs=(MINING,)))
    assert len(of_weights(replace(both, hand=replace(whole.hand, room=GIB))).splitlines()) == 2
    assert "--platform.decoding_memory=0" in remedies(of(rewriting, both, 40.0), both, PLACE)
    assert "--platform.decoding_memory=0" not in remedies(of(MINING, both, 40.0), both, PLACE)


def test_warnings_of_few_updates_and_of_idle_chips() -> None:
    whole = planned(1.0)
    assert warnings([of(replace(STEP, tokens=1e6), whole, 5.0)], PLACE) == []
    few, idle = warnings([of(replace(STEP, updates=80.0), whole, 5.0), of(MINING, whole, 5.0)], PLACE)
    assert few.startswith("step: 80 updates are few")
    assert "8,192 tokens an update, 512 a chip, and 4 of 16 would be busy" in idle


def test_steps_that_are_not_known_are_told_and_keep_an_optimizer() -> None:
    """Texts that are counted only when they are read: none is taken for no step."""
    uncounted = of(replace(STEP, executions=None, updates=None), planned(1.0), 5.0)
    assert uncounted.memory.optimizer == 2 * GIB
    (said,) = (line for line in warnings([uncounted], PLACE) if "not known" in line)
    assert said.startswith("step: how many steps")
    assert uncounted.run("middle") == 0


def test_what_does_not_fit_has_no_time_and_a_page_all_the_same() -> None:
    whole = planned(1.0)
    one = figures(whole, STEP, None, 20 * GIB, 20 * GIB, PLACE)
    assert not one.fits
    assert one.run("middle") == math.inf
    assert "20.00" in page("a title", whole, [one, of(MINING, whole, 5.0)], PLACE, None)
    told, _ = as_json([one, of(MINING, whole, 5.0)], PLACE)
    assert told["memory"]["free"] < 0
    assert "seconds" not in told


def test_mfu_counts_all_chips_at_the_published_peak() -> None:
    one = of(STEP, planned(1.0), 5.0)
    assert one.mfu(PLACE, 2.0) == pytest.approx(1e15 / (16 * 197e12 * 2))


def test_the_page_shows_every_program_and_the_whole_run() -> None:
    whole = planned(1.0)
    text = page("a title", whole, [of(STEP, whole, 5.0), of(MINING, whole, 5.0)], PLACE, 2.0)
    lines = text.splitlines()
    assert lines[0].startswith(
        "a title: 4.02B parameters on v5e:4x4, 16 chips of 4 hosts; mesh data 1 x fsdp 16"
    )
    assert len([line for line in lines if line.strip().startswith("step ")]) == 4
    assert any("an estimate" in line and "197 TFLOP/s" in line for line in lines)
    hours, again = (of(program, whole, 5.0).run("longest") / 3600 for program in (STEP, MINING))
    (run,) = [line for line in lines if line.strip().startswith("all ")]
    assert f"{hours + again:,.2f}" in run
    assert max(map(len, lines)) <= 175


def test_what_is_sent_is_added_up_and_next_to_nothing_left_out() -> None:
    whole = planned(1.0)
    sent = (Sent("all-gather", 1e9, 16, 3.0), Sent("all-gather", 2e9, 16), Sent("all-reduce", 1e6, 16, 9.0))
    one = figures(whole, STEP, Work(WORK.operations, sent), 1.0 * GIB, 5.0 * GIB, PLACE)
    lines = page("a title", whole, [one], PLACE, 2.0).splitlines()
    assert [line.split()[-5:] for line in lines if " all-" in line] == [["all-gather", "16", "4", "2", "5.0"]]
    few = figures(whole, STEP, Work(WORK.operations, sent[2:]), 1.0 * GIB, 5.0 * GIB, PLACE)
    assert " all-" not in page("a title", whole, [few], PLACE, 2.0).replace(" all ", "")


def test_json_has_plain_values() -> None:
    whole = planned(1.0)
    (told,) = as_json([of(STEP, whole, 5.0)], PLACE)
    assert told["name"] == "step"
    assert told["memory"]["peak"] == 5 * GIB
    assert told["collectives"][0]["kind"] == "all-gather"
    assert "lower" not in told


def test_what_is_not_known_or_does_not_fit_is_not_in_a_total_called_all() -> None:
    whole = planned(1.0)
    known = of(MINING, whole, 5.0)
    unknown = of(replace(STEP, executions=None, updates=None), whole, 5.0)
    assert "\n all " in page("a title", whole, [known], PLACE, None)
    told = page("a title", whole, [known, unknown], PLACE, None)
    assert "the 1 known of 2" in told
    assert "\n all " not in told
