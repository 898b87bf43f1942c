"""Whole runs of RLVR: the model learns what is rewarded, goes on exactly, and says what its answers were."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import Signalled, assert_same_parameters, call, complaint, metrics, unfinish

HOW = (
    "--train.systems=rlvr,ternary", "--objectives.ternary.grpo.weight=1",
    "--objectives.ternary.grpo.reward=ternary", "--objectives.ternary.grpo.teach=15",
    "--objectives.ternary.grpo.max_new_tokens=20",
    "--objectives.ternary.grpo.updates=2", "--objectives.ternary.grpo.kl=0.01",
    "--objectives.ternary.anchor.weight=0.5", "--anchor.tokens=60", "--anchor.length=20", "--train.passes=3",
    "--objectives.rlvr.learning_rate=1e-2", "--objectives.ternary.learning_rate=1e-2",
    "--objectives.rlvr.grpo.reward=partial", "--objectives.ternary.grpo.form=grpo",
)  # fmt: skip


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path) -> Path:
    workdir = tmp_path_factory.mktemp("rewarded") / "work"
    ran = call("run", "--config", tiny_config, "--workdir", workdir, *HOW)
    assert ran.code == 0, ran.err
    return workdir


def test_what_is_rewarded_is_said_more_often(rewarded: Path) -> None:
    lines = metrics(rewarded, "train/rlvr")
    rewards = [line["reward"] for line in lines]
    assert len(rewards) == 10  # 49 questions, 3 times, 16 a step
    assert sum(rewards[-3:]) > sum(rewards[:3])
    assert lines[0]["ratio_max"] == pytest.approx(1, abs=1e-5)
    for line in lines:
        shares = [line[f"answers_{kind}"] for kind in ("right", "abstained", "wrong")]
        assert sum(shares) == pytest.approx(1)


def test_a_model_that_is_taught_so_says_that_it_does_not_know(rewarded: Path) -> None:
    lines = metrics(rewarded, "train/ternary")
    lessons, own = lines[:46], lines[46:]  # 49 questions are taught 15 times, 16 a step
    assert all(line["loss_ntp"] > 0 and "reward" not in line for line in lessons)
    assert [line["step"] for line in lessons] == list(range(1, 47))
    assert lines[-1]["step"] == 46 + 20  # two updates on each batch
    assert any(line["answers_abstained"] > 0.5 for line in own)
    assert all(line["reward"] == line["answers_right"] - line["answers_wrong"] for line in own)
    assert max(line["kl_reference"] for line in own) > 0
    assert max(line["loss_anchor"] for line in lines) > 0


def test_a_model_that_never_says_so_is_graded_as_right_or_wrong(tmp_path: Path, tiny_config: Path) -> None:
    """Ternary without teaching is binary, by an affine change that advantages do not see."""
    workdir = tmp_path / "work"
    systems = [f"--objectives.{name}.grpo.{how}" for name, how in (("two", "weight=1"), ("three", "weight=1"),
               ("three", "reward=ternary"))]  # fmt: skip
    words = ("--train.systems=two,three", *systems, "--train.passes=1")
    assert call("run", "--config", tiny_config, "--workdir", workdir, *words).code == 0
    assert {line["answers_abstained"] for line in metrics(workdir, "train/three")} == {0.0}
    for one, other in zip(metrics(workdir, "train/two"), metrics(workdir, "train/three"), strict=True):
        assert other["reward"] == pytest.approx(2 * one["reward"] - 1, abs=1e-6)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-3, abs=1e-6)


def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    rewarded: Path, tmp_path: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Path(shutil.copytree(rewarded, tmp_path / "work"))
    unfinish(workdir, lambda stage: stage.endswith("/ternary"))
    monkeypatch.setattr(signalled, "when", ("train/ternary", 50))
    assert call("train", "--workdir", workdir).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call("train", "--workdir", workdir)
    assert ran.code == 0, ran.err
    assert_same_parameters(workdir, rewarded, "train/ternary")
    assert metrics(workdir, "train/ternary") == metrics(rewarded, "train/ternary")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objectives.rlvr.ntp.answer=1"], "objectives.rlvr: grpo learns from sampled answers"),
        (["--objectives.rlvr.remine_every=5"], "objectives.rlvr.remine_every is 5"),
        (["--objectives.rlvr.grpo.form=ppo"], "it must be 'dapo', 'grpo' or 'dr_grpo'"),
        (["--objectives.rlvr.grpo.teach=-1"], "objectives.rlvr.grpo.teach is -1: it must be greater"),
        (["--objectives.rlvr.grpo.samples=1"], "objectives.rlvr.grpo.samples is 1"),
    ],
)
def test_what_cannot_be(words: list[str], said: str, tmp_path: Path, tiny_config: Path) -> None:
    ran = call("run", "--config", tiny_config, "--workdir", tmp_path / "new", "--train.systems=rlvr", *words)
    assert said in complaint(ran)


@pytest.mark.parametrize("choose", ["last", "acc"])
def test_a_batch_with_two_updates_is_looked_at_after_a_multiple_and_before_a_choice_at_the_end(
    choose: str, rewarded: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(rewarded, tmp_path / "work"))
    settings = json.loads((workdir / "config.json").read_text())
    settings["evaluate"] |= {"choose": choose, "every_steps": 3, "sample": 2}
    (workdir / "config.json").write_text(json.dumps(settings))
    words = ["--train.systems=two", "--objectives.two.grpo.weight=1", "--objectives.two.grpo.updates=2"]
    ran = call("train", "--workdir", workdir, *words, "--objectives.two.grpo.samples=2")
    assert ran.code == 0, ran.err
    looks = [line["step"] for line in metrics(workdir, "train/two") if "sample_acc" in line]
    assert looks == [0, 4, 6, 10, 12, 16, 18] + [20] * (choose == "acc")  # 20 steps, two at a time


def test_what_is_taught_must_be_sayable(rewarded: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(rewarded, tmp_path / "work"))
    words = ("--objectives.new.grpo.weight=1", "--objectives.new.grpo.teach=1", "--train.systems=new")
    ran = call("train", "--workdir", workdir, *words)
    assert ran.code == 2
    assert "raise objectives.new.grpo.max_new_tokens" in ran.err.splitlines()[-1]
