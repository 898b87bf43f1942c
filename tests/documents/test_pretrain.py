"""`pretrain` on a stream of documents: a run that goes on is the uninterrupted one, and what is refused."""

import json
from pathlib import Path

import pytest
from helpers import command_line
from helpers.command_line import Signalled, assert_same_parameters, call, complaint, metrics, repeatable
from helpers.process_runs import Together

from pretrainrl_jax.config import Config, DocumentsConfig, PretrainConfig
from pretrainrl_jax.config.stored import matters, settings_of
from pretrainrl_jax.training import session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents")
    texts = [f"The river {n} lies in the valley of the {'north ' * (n % 9)}lake." for n in range(200)]
    lines = [json.dumps({"text": text} if n % 10 else {"text": ""}) for n, text in enumerate(texts)]
    (path / "texts.jsonl").write_text("\n".join(lines))
    (path / "tiny.py").write_text(command_line.CONFIG.replace("epochs=2", "epochs=1"))
    return path


def words(folder: Path, workdir: Path, *more: str) -> list[str | Path]:
    return [
        "pretrain", "--config", folder / "tiny.py", "--workdir", workdir, "--pretrain.text=documents",
        f"--documents.path={folder / 'texts.jsonl'}", "--documents.shuffle=50", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "run"
    ran = call(*words(folder, workdir, "--documents.epochs=2"))
    assert ran.code == 0, ran.err
    assert "reads all documents once" in ran.out
    assert "40 times blank" in ran.out
    return workdir


def test_a_run_over_a_finite_stream_ends_with_it(uninterrupted: Path) -> None:
    notes = json.loads((uninterrupted / "finished.json").read_text())["pretrain"]
    lines = metrics(uninterrupted, "pretrain")
    assert notes["dropped"] == {"blank": 40}
    assert lines[-1]["step"] == notes["updates"] > 10
    assert lines[-1]["learning_rate"] < 0.2 * max(line["learning_rate"] for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1


@pytest.mark.parametrize("step", [1, 9])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    uninterrupted: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    command = words(folder, tmp_path / "run", "--documents.epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr(Signalled, "when", ("pretrain", step))
        patch.setattr(session, "MetricsWriter", Signalled)
        ran = call(*command)
        assert ran.code == 130, ran.err
    ran = call(*command)
    assert ran.code == 0, ran.err
    assert "goes on after step" in ran.out
    assert_same_parameters(uninterrupted, tmp_path / "run", "pretrain")
    alone, resumed = (repeatable(metrics(path, "pretrain")) for path in (uninterrupted, tmp_path / "run"))
    assert [line["loss"] for line in resumed] == [line["loss"] for line in alone]


@pytest.mark.slow
def test_two_processes_train_on_the_same_batches(
    uninterrupted: Path, folder: Path, tmp_path: Path, compiled_environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    command = words(folder, workdir, "--documents.epochs=2", "--model.kv_heads=1")
    ended = Together(tmp_path, 2, workdir, command, **compiled_environment).ended()
    assert [process.code for process in ended] == [0, 0], ended[0].err
    alone, together = metrics(uninterrupted, "pretrain"), metrics(workdir, "pretrain")
    assert [line["step"] for line in together] == [line["step"] for line in alone]
    for one, other in zip(alone, together, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-3)


def test_other_documents_are_not_gone_on_with(uninterrupted: Path, folder: Path) -> None:
    ran = call(*words(folder, uninterrupted, "--documents.epochs=2", "--documents.shuffle=3"))
    assert "belongs to another configuration: documents.shuffle was 50, now 3" in complaint(ran)


def test_without_a_path_documents_are_made_of_the_facts(folder: Path, tmp_path: Path) -> None:
    more = ("--documents.path=", "--documents.count=40", "--pretrain.steps=3", "--documents.false_share=0")
    ran = call(*words(folder, tmp_path / "run", *more))
    assert ran.code == 0, ran.err
    assert "documents of texts made of the facts, 3 steps" in ran.out


def test_how_long_must_be_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    def says(*more: str) -> str:
        return complaint(call(*words(folder, tmp_path / "run", *more)))

    assert "pretrain.text=documents has no end: give pretrain.steps, or documents.epochs" in says()
    assert "pretrain.steps is 3" in says("--pretrain.steps=3", "--pretrain.text=corpus")
    assert "documents.epochs counts" in says("--pretrain.steps=3", "--pretrain.epochs=2")
    assert "documents.path" in says("--pretrain.steps=3", "--documents.path=nowhere.txt")
    assert not (tmp_path / "run" / "finished.json").exists()


def test_checkpoints_depend_on_documents_where_they_are_of_them() -> None:
    corpus, streamed = Config(), Config(pretrain=PretrainConfig(text="documents", steps=3))
    for stage in ("pretrain", "mine", "train/pretrainrl"):
        assert "documents.path" not in settings_of(corpus, stage)
        assert "documents.path" in settings_of(streamed, stage)
        assert settings_of(corpus, stage)["pretrain.text"] == "corpus"
    assert not matters(("documents",), corpus)
    assert matters(DocumentsConfig.results, corpus)  # of selfimprove
