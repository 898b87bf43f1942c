"""Runs made to fail say so, while they train and in the report; a healthy one beside them is silent."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import Ran, Signalled, call, metrics, summary, unfinish

SYSTEMS = {
    "calm": ("ntp.answer=1", "learning_rate=1e-3"),
    "high": ("ntp.answer=1", "learning_rate=0.3"),  # far too high
    "dpo": ("learning_rate=0.02",),  # nothing raises the truth
}
SETTINGS = (
    "--pretrain.epochs=20",
    "--model.d_model=16",
    "--model.head_dim=8",
    "--model.d_ff=32",
    "--world.answers=6",
    "--train.passes=6",
    f"--train.systems={','.join(SYSTEMS)}",
    "--evaluate.every_steps=6",
    "--evaluate.sample=60",
    "--evaluate.samples=0",
    *(f"--objectives.{name}.{setting}" for name, own in SYSTEMS.items() for setting in own),
)
SHOWN = {
    "calm": set(),
    "high": {"swallowed category", "forgetting", "overconfidence"},
    "dpo": {"swallowed category", "forgetting", "saturation"},  # it ends without a word: no answer, not sure
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path) -> tuple[Path, Ran]:
    workdir = tmp_path_factory.mktemp("failing") / "run"
    ran = call("run", "--config", tiny_config, "--workdir", workdir, *SETTINGS)
    assert ran.code == 0, ran.err
    return workdir, ran


def signed(workdir: Path, system: str) -> list[tuple[str, int]]:
    """The signatures that were logged while a system trained, and after which step."""
    lines = metrics(workdir, f"train/{system}")
    return [(name, line["step"]) for line in lines for name in line if name.startswith("signature_")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_report_tells_each_system_that_fails(failing: tuple[Path, Ran], system: str) -> None:
    workdir, ran = failing
    told = {s["name"]: s for s in summary(workdir)["signatures"] if s["system"] == system}
    assert set(told) == SHOWN[system]
    assert all(s["evidence"] and s["remedy"] for s in told.values())
    label = {"dpo": "DPO alone"}.get(system, system)
    for name, signature in told.items():
        assert f"! {label}: {name}: {signature['evidence']}" in ran.out.splitlines()


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_is_said_once_while_training_and_logged(failing: tuple[Path, Ran], system: str) -> None:
    workdir, ran = failing
    logged = signed(workdir, system)
    names = [name for name, _ in logged]
    assert len(set(names)) == len(names)
    if system == "calm":
        assert not names
    else:
        assert {"signature_forgetting", "signature_swallowed_category"} <= set(names)
    said = [line for line in ran.out.splitlines() if line.startswith(f"! train/{system}: ")]
    assert [(f"signature_{line.split(': ')[2].replace(' ', '_')}") for line in said] == names
    assert [int(line.split("after step ")[1].split(",")[0]) for line in said] == [step for _, step in logged]


def test_the_base_models_look_is_kept_while_a_system_trains(failing: tuple[Path, Ran]) -> None:
    """Nothing of it stays."""
    assert not list(failing[0].rglob("first_look.json"))


def test_a_run_that_was_stopped_tells_the_rest(
    failing: tuple[Path, Ran], tmp_path: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signed(failing[0], "dpo")
    assert {step for _, step in before} == {6, 12}
    workdir = Path(shutil.copytree(failing[0], tmp_path / "run"))
    unfinish(workdir, lambda stage: stage == "train/dpo")
    monkeypatch.setattr(signalled, "when", ("train/dpo", 9))
    assert call("train", "--workdir", workdir).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call("train", "--workdir", workdir)
    assert ran.code == 0, ran.err
    assert signed(workdir, "dpo") == before
    assert {
        line.split("after step ")[1].split(",")[0] for line in ran.out.splitlines() if line[:2] == "! "
    } == {"12"}


def test_a_look_at_the_base_model_that_is_gone_is_said(
    failing: tuple[Path, Ran], tmp_path: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Path(shutil.copytree(failing[0], tmp_path / "run"))
    unfinish(workdir, lambda stage: stage == "train/high")
    monkeypatch.setattr(signalled, "when", ("train/high", 3))
    assert call("train", "--workdir", workdir).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    (first,) = workdir.rglob("first_look.json")
    first.unlink()
    ran = call("train", "--workdir", workdir)
    assert ran.code == 0, ran.err
    assert ran.out.count("signatures of failure are told by `report` alone") == 1
    assert signed(workdir, "high") == []


def test_mining_in_a_way_that_the_model_does_not_know(failing: tuple[Path, Ran], tmp_path: Path) -> None:
    """A base model that never saw a few-shot prompt gives answers that it does not believe."""
    workdir, ran = failing
    assert not [line for line in ran.out.splitlines() if line.startswith("! mine")]
    copy = Path(shutil.copytree(workdir, tmp_path / "run"))
    unfinish(copy, lambda stage: stage == "mine", checkpoints=False)
    config = json.loads((copy / "config.json").read_text())
    config["mine"]["template"] = "few_shot"
    (copy / "config.json").write_text(json.dumps(config))
    ran = call("mine", "--workdir", copy)
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if line.startswith("! ")]
    assert line.startswith("! mine: implausible negatives: in ")
    assert call("report", "--workdir", copy).code == 0
    assert ("implausible negatives", "base") in {
        (s["name"], s["system"]) for s in summary(copy)["signatures"]
    }
    page = (copy / "report" / "index.html").read_text()
    assert "Signatures of failure" in page
    assert "Implausible negatives" in page
