"""`evaluate --harness`: every system of a workdir once, a table, a part of the report; or one model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.command_line import call, complaint, files, python, summary
from helpers.harness_models import TASKS, twins, write_tasks

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation import tasks as harness_tasks
from pretrainrl_jax.evaluation.tasks import load_tasks, task_names
from pretrainrl_jax.workdir import read_workdir

NAMES = ("base", "ntp_answer", "pretrainrl")
pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of every kind, with local data."""
    torch.set_num_threads(1)
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def evaluated(finished: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A workdir whose systems did every task, and what that printed. Not to be changed."""
    workdir = Path(shutil.copytree(finished, tmp_path_factory.mktemp("evaluated") / "workdir"))
    ran = evaluate(workdir, folder, ",".join(TASKS), "--harness.limit=4")
    assert ran.code == 0, ran.err
    return workdir, ran


def evaluate(workdir: Path, folder: Path, tasks: str, *more: str) -> Any:
    words = ("evaluate", "--workdir", workdir, "--harness", tasks, f"--harness.path={folder}")
    return call(*words, *more)


def table(ran: Any) -> list[str]:
    """The table at the end of what was printed."""
    lines = ran.out.rstrip().splitlines()
    start = next(n for n, line in enumerate(lines) if line.lstrip().startswith("system"))
    return lines[start - 1 :]


def record(workdir: Path, system: str) -> Any:
    return json.loads((workdir / "evaluations" / "harness" / f"{system}.json").read_text())


def test_every_system_does_every_task(evaluated: tuple[Path, Any], finished: Path) -> None:
    workdir, ran = evaluated
    for system in NAMES:
        results = record(workdir, system)
        assert results["system"] == system
        assert list(results["tasks"]) == list(TASKS)
        for name, done in results["tasks"].items():
            assert done["made_with"]["limit"] == 4
            assert done["shown"] == [name]
            assert done["results"][name]["questions"] == 4
            assert all(m["value"] is not None for m in done["results"][name]["metrics"].values())
    perplexities = [
        record(workdir, s)["tasks"]["rolled"]["results"]["rolled"]["metrics"]["bits_per_byte"]["value"]
        for s in NAMES
    ]
    assert len(set(perplexities)) == 3  # each is its own model
    head, metrics, _, *rows = table(ran)
    assert head.split() == list(TASKS)
    shown = ["system", "acc,", "%", "exact_match,strict,", "%", "word_perplexity", "perplexity"]
    assert metrics.split() == shown
    assert [row.strip().split("  ")[0] for row in rows] == ["base", "NTP (answers only)", "PretrainRL"]
    capitals = record(workdir, "base")["tasks"]["capitals"]["results"]["capitals"]["metrics"]["acc"]
    assert f"{100 * capitals['value']:.1f} ± {100 * capitals['stderr']:.1f}" in rows[0]
    assert "harness/base/capitals  " in ran.err
    before, after = files(finished), files(workdir)
    added = {path for path in after if path not in before}
    assert added == {f"evaluations/harness/{system}.json" for system in NAMES}
    assert {path for path in before if before[path][0] != after[path][0]} <= {"lock"}


def test_what_is_done_is_not_done_again(evaluated: tuple[Path, Any], folder: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(evaluated[0], tmp_path / "workdir"))
    before = files(workdir / "evaluations")
    again = evaluate(workdir, folder, ",".join(TASKS), "--harness.limit=4")
    assert again.code == 0, again.err
    assert files(workdir / "evaluations") == before
    assert again.out.count("finished, skipped") == 3
    assert table(again) == table(evaluated[1])

    (workdir / "evaluations" / "harness" / "base.json").unlink()
    fewer = evaluate(workdir, folder, "capitals", "--harness.limit=3")
    assert fewer.code == 0, fewer.err
    assert "finished, skipped" not in fewer.out
    assert list(record(workdir, "base")["tasks"]) == ["capitals"]
    tasks = record(workdir, "pretrainrl")["tasks"]
    assert tasks["capitals"]["results"]["capitals"]["questions"] == 3
    assert tasks["rolled"]["results"]["rolled"]["questions"] == 4
    assert table(fewer)[0].split() == ["capitals"]
    assert table(fewer)[1].split() == ["system", "acc,", "%"]

    # A system that was trained again is evaluated again.
    marks = json.loads((workdir / "finished.json").read_text())
    marks["train/pretrainrl"]["ended"] = "2001-01-01T00:00:00+00:00"
    (workdir / "finished.json").write_text(json.dumps(marks))
    third = evaluate(workdir, folder, "capitals", "--harness.limit=3")
    assert third.out.count("finished, skipped") == 2, third.err


def test_the_report_shows_it(evaluated: tuple[Path, Any], tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(evaluated[0], tmp_path / "workdir"))
    assert "harness" not in summary(workdir)["systems"]["base"]
    assert call("report", "--workdir", workdir).code == 0
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("<h2>General ability</h2>") == 1
    for system in NAMES:
        shown = summary(workdir)["systems"][system]["harness"]
        acc = record(workdir, system)["tasks"]["capitals"]["results"]["capitals"]["metrics"]["acc"]
        assert shown["capitals"] == {"metric": "acc", "questions": 4, "shots": 1, **acc}
        assert shown["written"]["metric"] == "exact_match,strict"
        assert shown["rolled"]["higher_is_better"] is False
        assert f"{100 * acc['value']:.1f} ± {100 * acc['stderr']:.1f}" in page

    # What was asked otherwise than the base model was does not stand beside it.
    path = workdir / "evaluations" / "harness" / "pretrainrl.json"
    changed = json.loads(path.read_text())
    changed["tasks"]["completed"]["made_with"]["limit"] = 9
    value = 98765.4321
    changed["tasks"]["completed"]["results"]["completed"]["metrics"]["perplexity"]["value"] = value
    path.write_text(json.dumps(changed))
    assert call("report", "--workdir", workdir).code == 0
    assert "98,765" not in (workdir / "report" / "index.html").read_text()
    path.write_text("{}")
    assert "pretrainrl.json holds no results" in complaint(call("report", "--workdir", workdir))


def test_a_report_without_it_has_no_such_part(finished: Path) -> None:
    assert "General ability" not in (finished / "report" / "index.html").read_text()


def test_systems_that_are_not_trained_are_left_out(workdir: Path, folder: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "train" / "ntp_answer")
    ran = evaluate(workdir, folder, "capitals", "--harness.limit=2", "--train.systems=ntp_answer")
    assert ran.code == 0, ran.err
    assert {p.stem for p in (workdir / "evaluations" / "harness").iterdir()} == {"base"}


@pytest.mark.slow
def test_one_model(tmp_path: Path, folder: Path, evaluated: tuple[Path, Any]) -> None:
    twin = twins(tmp_path / "Qwen2.5-tiny", "qwen3")
    more = (f"--model.path={twin.folder}", "--harness.limit=4")
    ran = evaluate(tmp_path / "results", folder, "capitals,written", *more)
    assert ran.code == 0, ran.err
    results = record(tmp_path / "results", "Qwen2.5-tiny")
    assert results["tasks"]["capitals"]["made_with"]["model"] == str(twin.folder)
    assert any(line.startswith(" Qwen2.5-tiny ") for line in ran.out.splitlines())
    assert ran.out.splitlines()[-1].endswith("evaluations/harness/Qwen2.5-tiny.json")

    # A workdir's checkpoint gives what the workdir's own evaluation gave.
    checkpoint = evaluated[0] / "checkpoints" / "pretrain"
    more = (f"--model.path={checkpoint}", "--harness.limit=4")
    assert evaluate(tmp_path / "results", folder, "capitals", *more).code == 0
    alone = record(tmp_path / "results", "pretrain")["tasks"]["capitals"]["results"]
    assert alone == record(evaluated[0], "base")["tasks"]["capitals"]["results"]

    refused = complaint(evaluate(evaluated[0], folder, "capitals", *more))
    assert "is the workdir of a run" in refused
    assert "--model.path" in refused


def test_bad_input_is_one_line(folder: Path, workdir: Path, tmp_path: Path) -> None:
    none = tmp_path / "none"
    refused = complaint(evaluate(workdir, folder, "written", f"--model.path={none}"))
    assert f"--model.path={none}: no such folder" in refused
    refused = complaint(evaluate(workdir, folder, "absent"))
    assert refused.startswith("--harness=absent: task or data cannot be read: ")
    assert "none.jsonl" in refused
    assert not none.exists()
    assert not (workdir / "evaluations" / "harness").exists()
    assert "unknown setting --harness" in complaint(call("report", "--harness=written"))


def test_a_task_the_harness_does_not_know_is_said_with_like_ones(folder: Path) -> None:
    with pytest.raises(InputError, match=r"names 'capitls', which is no task.*, did you mean capitals"):
        load_tasks(["capitls"], folder)


@pytest.mark.parametrize(
    ("has", "said"),
    [
        ("UNSAFE_CODE", "--harness=humaneval runs code that the model writes: that is not done here"),
        ("MULTIMODAL", "--harness=humaneval shows pictures, which this model does not see"),
    ],
)
def test_a_task_that_is_not_done_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, has: str, said: str
) -> None:
    tasks = {"humaneval": SimpleNamespace(**{has: True})}
    manager = SimpleNamespace(all_tasks=["humaneval"], load=lambda names: {"tasks": tasks})
    monkeypatch.setattr(harness_tasks, "_manager", lambda *_: manager)
    with pytest.raises(InputError) as refused:
        load_tasks(["humaneval"])
    assert str(refused.value) == said


def test_without_the_harness_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(harness_tasks.importlib, "import_module", missing)
    refused = complaint(call("evaluate", "--workdir", workdir, "--harness=gsm8k"))
    assert "pip install 'pretrainrl_jax[eval]'" in refused


def test_names() -> None:
    assert task_names(" mmlu, gsm8k,,bbh ") == ["mmlu", "gsm8k", "bbh"]


def test_a_workdir_older_than_these_settings_is_read(workdir: Path) -> None:
    path = workdir / "config.json"
    stored = json.loads(path.read_text())
    del stored["harness"]
    path.write_text(json.dumps(stored))
    assert read_workdir(workdir).harness == Config().harness


@pytest.mark.slow
def test_nothing_but_its_own_progress_is_shown(folder: Path, workdir: Path) -> None:
    words = ("evaluate", "--workdir", workdir, "--harness", ",".join(TASKS), f"--harness.path={folder}")
    ran = python("-m", "pretrainrl_jax.main", *words, "--harness.limit=2", HF_HUB_OFFLINE="1")
    assert ran.code == 0, ran.err
    assert all(line.startswith("harness/") for line in ran.err.splitlines()), ran.err
    assert ran.out.splitlines()[0].startswith("backend cpu")
    assert ran.out.splitlines()[1:] == [*table(ran), ""]


@pytest.mark.slow
def test_without_a_network_a_known_task_ends_in_one_line(workdir: Path, tmp_path: Path) -> None:
    words = ("-m", "pretrainrl_jax.main", "evaluate", "--workdir", workdir, "--harness=gsm8k")
    ran = python(*words, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "--harness=gsm8k: task or data cannot be read: " in complaint(ran)
