"""Whole runs of self-improvement that judge while the devices sample and train: order, stops, slow judges."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers.command_line import Ran, Signalled, assert_same_parameters, call, complaint
from helpers.command_line import metrics as lines_of
from helpers.selfimprove_runs import one_system, steps

from pretrainrl_jax.improvement.jobs import Jobs
from pretrainrl_jax.judging import compose
from pretrainrl_jax.judging.protocol import Case, JudgeError, Scores
from pretrainrl_jax.stages import selfimprove
from pretrainrl_jax.training import session
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.training.session import Session

STAGE = "selfimprove/dpo"
AHEAD = ("--methods.dpo.candidates=original,rewrite,rollout", "--selfimprove.staleness=2")


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is evaluated after training."""
    monkeypatch.setattr(selfimprove, "evaluate_improvement", lambda *arguments: None)
    monkeypatch.setattr(selfimprove, "report", lambda workdir: None)


@pytest.fixture(scope="module")
def alone(improving: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that is two steps ahead, which nothing stopped."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selfimprove, "evaluate_improvement", lambda *arguments: None)
        patch.setattr(selfimprove, "report", lambda workdir: None)
        words = ("selfimprove", "--config", improving, "--workdir", workdir, "--selfimprove.systems=dpo")
        ran = call(*words, *AHEAD)
    assert ran.code == 0, ran.err
    return workdir


def digest(params: Any) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(jax.device_get(params)))).hexdigest()


@pytest.mark.parametrize("ahead", [0, 1, 2, 9])
def test_who_samples_what_is_settled_by_the_setting_alone(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
):
    policies, sampled, numbers = [], [], []
    sample, learn = Loaded.rollouts, Session.step

    def sampling(self: Loaded, *arguments: Any, **settings: Any) -> Any:
        if settings["temperature"]:  # texts that are compared in the end are continued greedily
            sampled.append(digest(self.params))
            numbers.append(settings["numbers"])
        return sample(self, *arguments, **settings)

    def learning(self: Session, *arguments: Any) -> Any:
        policies.append(digest(self.state.params))
        return learn(self, *arguments)

    monkeypatch.setattr(Loaded, "rollouts", sampling)
    monkeypatch.setattr(Session, "step", learning)
    ran = one_system(improving, tmp_path / "run", alone, *AHEAD[:1], f"--selfimprove.staleness={ahead}")
    assert ran.code == 0, ran.err
    assert sampled == [policies[max(0, step - ahead)] for step in range(6)]
    assert [number for some in numbers for number in some] == sorted({n for some in numbers for n in some})
    lines = steps(tmp_path / "run", "dpo")
    assert [line["staleness"] for line in lines] == [min(step, ahead) for step in range(6)]
    assert lines[0] == steps(alone, "dpo")[0]  # sampled by the initial model, whatever the setting
    assert (lines == steps(alone, "dpo")) == (ahead == 2)


def test_stopped_between_steps_it_goes_on_bit_for_bit(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "MetricsWriter", Signalled)
    run = tmp_path / "run"
    monkeypatch.setattr(Signalled, "when", (STAGE, 1))
    assert one_system(improving, run, alone, *AHEAD).code == 130
    for step in (4, 5):
        monkeypatch.setattr(Signalled, "when", (STAGE, step))
        ran = go_on(improving, run)
        assert ran.code == 130, ran.err
        assert f"stopped after step {step} of 6 and saved" in ran.err
    monkeypatch.setattr(Signalled, "when", ("", 0))
    ran = go_on(improving, run)
    assert ran.code == 0, ran.err
    assert_same_run(run, alone)


def test_stopped_while_it_waits_for_the_judge_it_saves_at_once(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    release, asked, stopped = threading.Event(), [], []

    def blocks(cases: Sequence[Case], scores: Scores) -> Scores:
        asked.append(1)
        if len(asked) > 3:
            release.wait(60)
        return scores

    def stop() -> None:
        stopped.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    wait, waits = Jobs.wait, []

    def waiting(self: Jobs, *arguments: Any) -> bool:
        waits.append(1)
        if len(waits) == 4:
            threading.Timer(0.3, stop).start()
        return wait(self, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr("pretrainrl_jax.judging.compose.facts", answered(blocks))
            patch.setattr(Jobs, "wait", waiting)
            ran = one_system(improving, tmp_path / "run", alone, *AHEAD)
        assert ran.code == 130, ran.err
        assert "stopped after step 3 of 6 and saved" in ran.err
        assert time.monotonic() - stopped[0] < 20  # the job has not ended
    finally:
        release.set()
    ran = go_on(improving, tmp_path / "run")
    assert ran.code == 0, ran.err
    assert "goes on after step 3" in ran.out
    assert_same_run(tmp_path / "run", alone)


def test_a_slow_judge_is_waited_for_and_changes_nothing(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    began: list[float] = []

    def slow(cases: Sequence[Case], scores: Scores) -> Scores:
        began.append(time.monotonic())
        time.sleep(0.4 if len(began) % 2 else 0.8)  # a later one may be done before an earlier one
        return scores

    monkeypatch.setattr("pretrainrl_jax.judging.compose.facts", answered(slow))
    ran = one_system(improving, tmp_path / "run", alone, *AHEAD)
    assert ran.code == 0, ran.err
    assert_same_run(tmp_path / "run", alone)
    lines = lines_of(tmp_path / "run", STAGE)
    assert len(began) == 6
    assert sum(line["seconds_waiting"] for line in lines) > 0.4
    for line in lines:
        assert 0 <= line["device_share"] <= 1
        assert 0 <= line["judge_share"] <= 1
    assert max(line["judge_share"] for line in lines[1:]) > 0.8
    assert min(line["device_share"] for line in lines[1:]) < 0.5
    assert "waited s" in ran.err
    summary = json.loads((tmp_path / "run" / "selfimprove" / "dpo" / "summary.json").read_text())
    assert summary["documents"] == 48


def test_a_judge_that_fails_ends_the_run_with_its_own_words(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []

    def fails(cases: Sequence[Case], scores: Scores) -> Scores:
        asked.append(1)
        if len(asked) == 4:
            raise JudgeError("the judge is at lunch")
        return scores

    with monkeypatch.context() as patch:
        patch.setattr("pretrainrl_jax.judging.compose.facts", answered(fails))
        ran = one_system(improving, tmp_path / "run", alone, *AHEAD, "--checkpoint.every_steps=2", "--quiet")
    assert complaint(ran) == "the judge is at lunch"
    learned = [line["step"] for line in lines_of(tmp_path / "run", STAGE)]
    assert learned in ([1, 2], [1, 2, 3])  # of four that were judged one failed, and all is saved before
    ran = go_on(improving, tmp_path / "run")
    assert ran.code == 0, ran.err
    assert f"goes on after step {learned[-1]}" in ran.out
    assert_same_parameters(tmp_path / "run", alone, STAGE)


def test_what_is_outstanding_when_the_documents_end_is_learned(alone: Path, improving: Path, tmp_path: Path):
    words = ("--documents.epochs=1", "--documents.count=20")
    ran = one_system(improving, tmp_path / "run", alone, *AHEAD, *words)
    assert ran.code == 0, ran.err
    assert "the documents ended after 3 of 6 steps" in ran.out + ran.err
    assert [line["staleness"] for line in steps(tmp_path / "run", "dpo")] == [0, 1, 2]
    summary = json.loads((tmp_path / "run" / "selfimprove" / "dpo" / "summary.json").read_text())
    assert summary["documents"] == 20


def go_on(improving: Path, workdir: Path) -> Ran:
    words = ("selfimprove", "--config", improving, "--workdir", workdir, "--selfimprove.systems=dpo")
    return call(*words, *AHEAD)


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit, but for the times."""
    assert steps(one, "dpo") == steps(other, "dpo")
    assert_same_parameters(one, other, STAGE)


def answered(how: Callable[[Sequence[Case], Scores], Scores]) -> Any:
    """The part `facts`, whose answers pass through this."""
    facts = compose.facts

    def part(*arguments: Any) -> Any:
        judge = facts(*arguments)
        return lambda cases: how(cases, judge(cases))

    return part
