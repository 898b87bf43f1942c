"""A workdir belongs to one configuration and one process; what belongs together is told by what differs."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command_line import call, complaint, python

from pretrainrl_jax.config import OBJECTIVES, Config, EvaluateConfig, NtpConfig, ObjectiveConfig, WorldConfig
from pretrainrl_jax.config.stored import changed, shown_differences
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.workdir import LOCK, check_workdir, locked, prepare_workdir, read_workdir


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A workdir in which something was done."""
    prepare_workdir(tmp_path, Config(seed=3), create=True)
    (tmp_path / "metrics.jsonl").touch()
    return tmp_path


def test_a_configuration_comes_back(made: Path) -> None:
    config = replace(
        Config(), seed=3, world=WorldConfig(facts=61), sweep=replace(Config().sweep, beta=(0.1, 1.0))
    )
    prepare_workdir(made / "deep" / "other", config, create=True)
    assert read_workdir(made / "deep" / "other") == config
    assert read_workdir(made) == Config(seed=3)


@pytest.mark.parametrize("text", ["{", "[]", '"text"'])
def test_what_is_no_configuration_is_said(text: str, made: Path) -> None:
    (made / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not the JSON of a configuration"):
        read_workdir(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [("checkpoint.every_steps", 3), ("optimizer.nonfinite", "skip"), ("train.systems", ("dpo",))],
)
def test_what_no_result_depends_on_may_change(name: str, value: object, made: Path) -> None:
    assert check_workdir(made, changed(Config(seed=3), {name: value}), create=True) is False


def test_objectives_may_be_added_and_stay_known(made: Path) -> None:
    mine = ObjectiveConfig("Mine", ntp=NtpConfig(answer=0.5))
    more = Config(seed=3, objectives={"mine": mine, **OBJECTIVES})
    prepare_workdir(made, more, create=True)
    assert list(read_workdir(made).objectives) == ["mine", *OBJECTIVES]
    prepare_workdir(made, Config(seed=3), create=True)  # says nothing of it
    assert read_workdir(made) == more
    told = {**more.objectives, "mine": replace(mine, label="Ours", above=("ntp",))}
    prepare_workdir(made, replace(more, objectives=told), create=True)
    assert read_workdir(made).objectives["mine"].label == "Ours"


def test_an_objective_may_change_until_it_is_trained(made: Path) -> None:
    """As its defaults may from version to version; what is written then is what it is trained with."""
    now = {"objectives.ntp.learning_rate": 0.7, "anchor.tokens": 5}
    for create in (True, False):
        prepare_workdir(made, changed(Config(seed=3), now), create=create)
        assert read_workdir(made).objectives["ntp"].learning_rate == 0.7
        assert read_workdir(made).anchor.tokens == 5
        now = {"objectives.ntp.learning_rate": 0.7, "anchor.tokens": 5, "objectives.dpo.dpo.beta": 0.3}
    assert read_workdir(made).objectives["dpo"].dpo.beta == 0.3
    for name in ("ntp", "anchored"):
        (made / "checkpoints" / "train" / name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"objectives\.ntp\.learning_rate was 0\.7, now 0\.1\. Choose"):
        check_workdir(made, changed(read_workdir(made), {"objectives.ntp.learning_rate": 0.1}), create=True)
    with pytest.raises(InputError, match=r"anchor\.tokens was 5, now 6\. Choose"):
        check_workdir(made, changed(read_workdir(made), {"anchor.tokens": 6}), create=True)


def test_how_a_checkpoint_is_chosen_may_not_change(made: Path) -> None:
    sampled = replace(Config(seed=3), evaluate=EvaluateConfig(every_steps=5, sample=9))
    assert check_workdir(made, sampled, create=True) is False
    chosen = changed(sampled, {"evaluate.choose": "acc"})
    with pytest.raises(InputError, match=r"evaluate\.choose was 'last', now 'acc'"):
        check_workdir(made, chosen, create=True)
    prepare_workdir(made / "other", chosen, create=True)
    (made / "other" / "metrics.jsonl").touch()
    with pytest.raises(InputError, match=r"evaluate\.sample was 9, now 8"):
        check_workdir(made / "other", changed(chosen, {"evaluate.sample": 8}), create=True)


def test_the_first_differences_are_shown(made: Path) -> None:
    with pytest.raises(InputError, match=r"seed was 3, now 0; model\.d_model was \d+, now 8\. Choose"):
        check_workdir(made, changed(Config(), {"model.d_model": 8}), create=True)
    many = {str(n): n for n in range(6)}
    said = shown_differences(many, {})
    assert said == "0 was 0, now None; 1 was 1, now None; 2 was 2, now None; 3 was 3, now None; and 2 more"
    assert shown_differences(many, dict(many)) == ""


def test_a_workdir_in_which_nothing_was_done_is_taken_over(tmp_path: Path) -> None:
    prepare_workdir(tmp_path, Config(seed=3), create=True)
    with locked(tmp_path):
        prepare_workdir(tmp_path, Config(seed=4), create=True)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 4


def test_a_lock_ends_with_its_context(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        with (
            pytest.raises(InputError, match=rf"in use by process {os.getpid()} on "),
            locked(tmp_path / "new"),
        ):
            pass
        code = (
            "import sys, pathlib as p, pretrainrl_jax.workdir as w; w.locked(p.Path(sys.argv[1])).__enter__()"
        )
        assert f"in use by process {os.getpid()} on " in python("-c", code, tmp_path / "new").err
    with locked(tmp_path / "new"):
        pass


def test_a_folder_without_locks_is_told_of_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, "refused")

        monkeypatch.setattr("fcntl.flock", flock)

    refused(errno.ENOLCK)
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert capsys.readouterr().err == f"{tmp_path} knows no locks: see that no other process works there\n"
    refused(errno.EIO)
    with pytest.raises(OSError, match="refused"), locked(tmp_path):
        pass


def test_what_only_the_report_shows_may_change_at_any_time(workdir: Path) -> None:
    kept = (workdir / "evaluations" / "base.json").read_bytes()
    ran = call("report", "--workdir", workdir, "--evaluate.thresholds=0.2,0.6", "--evaluate.penalties=1,2")
    assert ran.code == 0, ran.err
    told = json.loads((workdir / "report" / "summary.json").read_text())["systems"]["base"]["knowledge"]
    assert [(t["threshold"], t["penalty"]) for t in told["trained"]["targets"]] == [(0.2, 1.0), (0.6, 2.0)]
    assert json.loads((workdir / "config.json").read_text())["evaluate"]["thresholds"] == [0.2, 0.6]
    assert call("evaluate", "--workdir", workdir, "--evaluate.forgetting=9").code == 0
    assert json.loads((workdir / "config.json").read_text())["evaluate"]["forgetting"] == 9
    assert (workdir / "evaluations" / "base.json").read_bytes() == kept
    said = complaint(call("report", "--workdir", workdir, "--evaluate.beams=3"))
    assert "belongs to another configuration: evaluate.beams was" in said
    said = complaint(call("report", "--compare", workdir, workdir, "--evaluate.thresholds=0.3"))
    assert "leave evaluate.thresholds out" in said
