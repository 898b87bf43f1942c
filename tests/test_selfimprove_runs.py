"""Whole runs of self-improvement: the loop, what stops it, other meshes, and what it refuses."""

import json
import math
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import Signalled, assert_same_parameters, call, complaint, metrics, python
from helpers.process_runs import Together
from helpers.selfimprove_runs import one_system, steps

from pretrainrl_jax.config.stored import flat, from_flat, upgraded
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.judging import compose
from pretrainrl_jax.judging.compose import make_judge
from pretrainrl_jax.judging.protocol import Case
from pretrainrl_jax.training import session

Scores = Callable[[list[float]], list[float]]


@pytest.fixture(scope="module")
def alone(improving: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ran = call("selfimprove", "--config", improving, "--workdir", workdir)
    assert ran.code == 0, ran.err
    return workdir


def test_each_step_is_told(alone: Path):
    for system, term in (("dpo", "loss_dpo"), ("best", "loss_ntp"), ("plain", "loss_ntp")):
        lines = metrics(alone, f"selfimprove/{system}")
        assert [line["step"] for line in lines] == list(range(1, 7))
        assert all(math.isfinite(line[term]) for line in lines)
        assert all(line["seconds_training"] > 0 for line in lines)
    lines = steps(alone, "dpo")
    assert lines[0]["loss_dpo"] == pytest.approx(math.log(2), abs=2e-6)  # the reference is the policy
    assert abs(lines[-1]["loss_dpo"] - math.log(2)) > 1e-4
    assert lines[0]["learned"] + lines[0]["dropped_ties"] == 8
    for line in [*lines, *steps(alone, "best")]:
        kinds = ("original", "rewrite", "rollout")
        assert sum(line[f"chosen_{kind}"] for kind in kinds) == pytest.approx(1)
        assert 0 < line["rollout_tokens"] <= 8
        assert 0 < line["distinct_ngrams"] <= 1
    assert any(line["chosen_rollout"] for line in lines)
    assert any(line["rejected_rollout"] for line in lines)
    assert any(line["chosen_rewrite"] for line in steps(alone, "best"))


def test_sampler_and_trainer_agree(alone: Path):
    gaps = [line["logp_gap_max"] for system in ("dpo", "best") for line in steps(alone, system)]
    known = [gap for gap in gaps if gap is not None]
    assert len(known) > 6
    assert 0 < max(known) < 1e-4


def test_what_a_run_leaves(alone: Path):
    summary = json.loads((alone / "selfimprove" / "dpo" / "summary.json").read_text())
    assert (summary["steps"], summary["documents"], summary["rollouts"]) == (6, 48, 144)
    assert summary["ties"] == sum(line["dropped_ties"] for line in steps(alone, "dpo"))
    examples = json.loads((alone / "selfimprove" / "dpo" / "examples.json").read_text())
    assert {example["step"] for example in examples} == {1, 6}
    assert len(examples) == 10
    for example in examples:
        scores = [candidate["score"] for candidate in example["candidates"]]
        roles = {candidate["role"]: candidate["score"] for candidate in example["candidates"]}
        if min(scores) < max(scores):
            assert (roles["chosen"], roles["rejected"]) == (max(scores), min(scores))
    for system in ("base", "scratch", "dpo", "best", "plain"):
        result = json.loads((alone / "evaluations" / "selfimprove" / f"{system}.json").read_text())
        assert result["named"]
        assert result["free"]
        assert result["corrupted"]
        assert result["text_nll"]
    assert (alone / "report" / "index.html").is_file()
    table = json.loads((alone / "report" / "summary.json").read_text())["selfimprove"]["systems"]
    assert set(table) >= {"base", "dpo", "best", "plain"}


def test_wins_are_those_of_the_judge_on_what_was_kept(alone: Path):
    """By the exact judge, asked again about each pair of continuations that are not the same text."""
    stored = json.loads((alone / "config.json").read_text())
    config = from_flat(upgraded(flat(stored)))
    judge = make_judge(config.judge, Statements(read_facts(config).facts), None)

    def kept(system: str) -> dict:
        return json.loads((alone / "evaluations" / "selfimprove" / f"{system}.json").read_text())

    base = kept("base")["continued"]
    assert len(base) == min(config.selfimprove.compared, config.documents.held_out)
    assert "compared" not in kept("base")
    wins = set()
    for system in ("scratch", "dpo", "best", "plain"):
        own = kept(system)
        assert own["unjudged"] == 0
        for one, two, compared in zip(base, own["continued"], own["compared"], strict=True):
            assert one[:2] == two[:2]  # prefix and suffix
            case = Case(one[0], (one[2], two[2]), one[1], (one[3], two[3]))
            before, after = (0, 0) if one[2] == two[2] else judge([case]).scores[0]
            assert compared["won"] == (after > before) + 0.5 * (after == before)
            wins.add(compared["won"])
    assert wins == {0.0, 0.5, 1.0}


def test_a_win_rate_needs_what_the_base_model_wrote(alone: Path, improving: Path, tmp_path: Path):
    """Which a workdir of an older version has not."""
    workdir = Path(shutil.copytree(alone, tmp_path / "run"))
    base, own = (workdir / "evaluations" / "selfimprove" / f"{system}.json" for system in ("base", "dpo"))
    base.write_text(json.dumps({k: v for k, v in json.loads(base.read_text()).items() if k != "continued"}))
    before = json.loads(own.read_text())
    own.unlink()
    ran = call("selfimprove", "--config", improving, "--workdir", workdir)
    assert ran.code == 0, ran.err
    assert "evaluate/selfimprove/dpo: no win rate" in ran.err
    assert json.loads(own.read_text()) == {
        k: v for k, v in before.items() if k not in ("compared", "unjudged")
    }


def test_an_interrupted_run_goes_on_bit_for_bit(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "MetricsWriter", Signalled)
    monkeypatch.setattr(Signalled, "when", ("selfimprove/dpo", 3))
    words = ("selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo")
    ran = one_system(improving, tmp_path / "run", alone)
    assert ran.code == 130, ran.err
    assert "stopped after step 3 of 6 and saved" in ran.err
    monkeypatch.setattr(Signalled, "when", ("", 0))
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert "goes on after step 3" in ran.out + ran.err
    assert steps(tmp_path / "run", "dpo") == steps(alone, "dpo")
    assert_same_parameters(tmp_path / "run", alone, "selfimprove/dpo")


KILLED = """
import os, signal, sys
from pretrainrl_jax.training import loading

sample, calls = loading.Loaded.rollouts, []

def dying(*arguments, **settings):
    calls.append(1)
    if len(calls) == 5:
        def die(n):
            os.kill(os.getpid(), signal.SIGKILL)
        settings["advance"] = die
    return sample(*arguments, **settings)

loading.Loaded.rollouts = dying
from pretrainrl_jax.main import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_rollout_goes_on_bit_for_bit(
    alone: Path, improving: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    words = ("selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo")
    words = (*words, "--checkpoint.every_steps=2")
    ran = python("-c", KILLED, *words, **compiled_environment)
    assert ran.code == -signal.SIGKILL, ran.err
    ran = python("-m", "pretrainrl_jax.main", *words, **compiled_environment)
    assert ran.code == 0, ran.err
    assert re.search("goes on after step [24]", ran.out + ran.err)  # that of 4 was being written
    last = {line["step"]: line for line in steps(tmp_path / "run", "dpo")}  # the killed step may stand twice
    assert last[6]["loss"] == pytest.approx(steps(alone, "dpo")[-1]["loss"], rel=1e-5)
    again = python(
        "-m", "pretrainrl_jax.main", *words[:4], tmp_path / "once", *words[5:], **compiled_environment
    )
    assert again.code == 0, again.err
    assert_same_parameters(tmp_path / "run", tmp_path / "once", "selfimprove/dpo")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        (1, 8, ("--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2")),
        pytest.param(2, 1, (), marks=pytest.mark.slow),
        pytest.param(2, 1, ("--selfimprove.staleness=2",), marks=pytest.mark.slow),
    ],
    ids=["8 devices", "2 processes", "2 processes that sample ahead"],
)
def test_on_any_mesh_the_loop_is_the_same(
    alone: Path,
    improving: Path,
    tmp_path: Path,
    compiled_environment: dict[str, str],
    count: int,
    devices: int,
    mesh: tuple[str, ...],
):
    words = ["selfimprove", "--config", improving, "--workdir", tmp_path / "run", *mesh]
    words.append("--selfimprove.systems=dpo")
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    for ended in Together(tmp_path, count, tmp_path / "run", words, **compiled_environment, **flags).ended():
        assert ended.code == 0, ended.err
    one, other = steps(alone, "dpo")[0], steps(tmp_path / "run", "dpo")[0]
    for name in ("learned", "chosen_rollout", "rejected_rollout", "rollout_tokens", "distinct_ngrams"):
        assert other[name] == one[name]
    for name in ("loss", "grad_norm", "rollout_entropy", "score_rollout"):
        assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6)
    assert other["logp_gap_max"] < 1e-4


def test_a_reference_that_is_loaded_for_each_step_is_the_one_that_stays(
    alone: Path, improving: Path, tmp_path: Path
):
    ran = one_system(
        improving, tmp_path / "run", alone, "--selfimprove.reference=loaded", "--selfimprove.steps=2"
    )
    assert ran.code == 0, ran.err
    assert "reference" not in ran.out.partition("on the devices:")[2].partition("\n")[0]
    for one, other in zip(steps(alone, "dpo")[:2], steps(tmp_path / "run", "dpo"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)


def test_several_updates_a_step_may_have_the_policy_as_reference(
    alone: Path, improving: Path, tmp_path: Path
):
    words = ("--selfimprove.reference=policy", "--selfimprove.updates=2", "--selfimprove.steps=2")
    ran = one_system(improving, tmp_path / "run", alone, *words, "--methods.dpo.learning_rate=1e-2")
    assert ran.code == 0, ran.err
    lines = steps(tmp_path / "run", "dpo")
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:  # of the first update, whose policy is its reference
        assert line["loss_dpo"] == pytest.approx(math.log(2), abs=2e-6)
    refused = one_system(improving, tmp_path / "no", alone, "--selfimprove.reference=policy")
    assert "ln 2 for ever" in complaint(refused)


def test_few_programs_are_compiled(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shapes = set()
    monkeypatch.setattr(
        session, "compiled", lambda step, tree, leaves: shapes.add(leaves) or compile_(step, tree, leaves)
    )
    ran = one_system(improving, tmp_path / "run", alone, "--selfimprove.steps=12")
    assert ran.code == 0, ran.err
    of_this = {leaves for leaves in shapes if len(leaves) == max(map(len, shapes))}
    assert len(of_this) <= 4


compile_ = session.compiled


def spoiled(scores: Scores) -> Any:
    facts = compose.facts

    def part(*arguments: Any) -> Any:
        judge = facts(*arguments)
        return lambda cases: [scores(own) for own in judge(cases)]

    return part


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--selfimprove.suffix=4000", "--selfimprove.length=5000"), "too_short"),
        (("--judge.quality=1",), "give judge.path"),
        (("--selfimprove.row_length=50",), "takes up to 56"),
        (
            ("--methods.dpo.candidates=original,typo",),
            "it must be 'original', 'rewrite', 'rollout' or 'document'",
        ),
        (("--selfimprove.systems=dpoo",), "selfimprove.systems names 'dpoo'"),
        (("--documents.path=nowhere.jsonl",), "nowhere.jsonl"),
        (("--selfimprove.staleness=1", "--judge.path=x", "--judge.quality=1"), "on the run's own devices"),
        (("--methods.dpo.candidates=original",), "candidates equal"),
    ],
)
def test_what_cannot_be_is_one_line(
    alone: Path, improving: Path, tmp_path: Path, words: tuple[str, ...], told: str
):
    assert told in complaint(one_system(improving, tmp_path / "run", alone, "--quiet", *words))


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (lambda own: [math.nan, *own[1:]], "no finite number"),
        (lambda own: own[1:], "scores to"),
    ],
)
def test_a_judge_s_failure_is_no_score(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Scores, told: str
):
    monkeypatch.setattr("pretrainrl_jax.judging.compose.facts", spoiled(scores))
    said = complaint(one_system(improving, tmp_path / "run", alone, "--quiet"))
    assert told in said
    assert "part facts" in said


def test_a_stream_that_ends_ends_the_run(alone: Path, improving: Path, tmp_path: Path):
    words = ("--documents.epochs=1", "--documents.count=20", "--selfimprove.steps=6")
    ran = one_system(improving, tmp_path / "run", alone, *words)
    assert ran.code == 0, ran.err
    assert "the documents ended after 3 of 6 steps" in ran.out + ran.err
    assert [line["step"] for line in steps(tmp_path / "run", "dpo")] == [1, 2, 3]


def test_training_on_a_single_rollout_collapses_and_that_is_said(
    alone: Path, improving: Path, tmp_path: Path
):
    words = {"update": "next_token", "candidates": "rollout", "rollouts": "1", "learning_rate": "3e-2"}
    options = [f"--methods.dpo.{name}={value}" for name, value in words.items()]
    options += ["--rollouts.temperature=0.7", "--selfimprove.steps=40", "--selfimprove.documents=16"]
    ran = one_system(improving, tmp_path / "run", alone, *options)
    assert ran.code == 0, ran.err
    assert "collapse at step" in ran.out + ran.err
    summary = json.loads((tmp_path / "run" / "selfimprove" / "dpo" / "summary.json").read_text())
    told = summary["collapsed"]
    assert told
    lines = steps(tmp_path / "run", "dpo")
    entropy = [line["rollout_entropy"] for line in lines]
    assert sum(entropy[-5:]) < 0.5 * sum(entropy[:5])
    first = told[0]
    assert f"collapse at step {first['step']}" in ran.out + ran.err
    assert (alone / "selfimprove" / "dpo" / "summary.json").is_file()
    kept = json.loads((alone / "selfimprove" / "dpo" / "summary.json").read_text())
    assert not kept["collapsed"]
