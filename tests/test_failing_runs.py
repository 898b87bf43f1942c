"""Runs made to fail say so in the report; a healthy one beside them is silent."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command_line import Ran, call, summary, unfinish

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


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_report_tells_each_system_that_fails(failing: tuple[Path, Ran], system: str) -> None:
    workdir, ran = failing
    told = {s["name"]: s for s in summary(workdir)["signatures"] if s["system"] == system}
    assert set(told) == SHOWN[system]
    assert all(s["evidence"] and s["remedy"] for s in told.values())
    label = {"dpo": "DPO alone"}.get(system, system)
    for name, signature in told.items():
        assert f"! {label}: {name}: {signature['evidence']}" in ran.out.splitlines()


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
