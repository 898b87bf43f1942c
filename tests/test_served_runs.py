"""Whole runs of self-improvement whose judge and rewriter are on a server."""

import json
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.command_line import assert_same_parameters, call, complaint
from helpers.command_line import metrics as lines_of
from helpers.model_server import Ill, ModelServer, model_server
from helpers.process_runs import Together
from helpers.selfimprove_runs import one_system, steps

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging import server as client
from pretrainrl_jax.judging.prompts import read_prompt
from pretrainrl_jax.stages import selfimprove
from pretrainrl_jax.stages.improvement import Improvement

STAGE = "selfimprove/dpo"
SECRET = "sk-very-secret-0123456789"


def replies(text: str, number: int) -> str:
    """A judge that likes few letters e; a rewriter that shortens every second suffix."""
    blocks = [block.split("\n>>>")[0] for block in text.split("<<<\n")[1:]]
    if "Continuation A" in text:
        return "A" if blocks[1].count("e") <= blocks[2].count("e") else "Verdict: B"
    if "piece of text" in text:
        return "safe" if len(blocks[0]) % 3 else "unsafe"
    passage = blocks[-1]
    return passage if len(passage) % 2 else passage[:-4]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selfimprove, "evaluate_improvement", lambda *arguments: None)
    monkeypatch.setattr(selfimprove, "report", lambda workdir: None)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def words(there: ModelServer, *more: str) -> tuple[str, ...]:
    """Of a run that this server judges, and whose rewrites are its own."""
    at = [
        f"--{who}.server.{name}" for who in ("judge", "rewriter") for name in (f"url={there.url}", "model=m")
    ]
    parts = ("--judge.facts=0", "--judge.repetition=0", "--judge.quality=1", "--judge.safety=1")
    return (*at, *parts, "--methods.dpo.candidates=original,rewrite,rollout", *more)


def failure(err: str) -> str:
    """The line that a run failed with."""
    *_, last = err.splitlines()
    assert last.startswith("failed: "), err
    return last


@pytest.fixture(scope="module")
def alone(improving: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing stopped, and whose server never failed."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch, model_server(replies) as there:
        patch.setattr(selfimprove, "evaluate_improvement", lambda *arguments: None)
        patch.setattr(selfimprove, "report", lambda workdir: None)
        patch.setenv("XDG_CACHE_HOME", str(workdir.parent / "cache"))
        ran = call(
            "selfimprove",
            "--config",
            improving,
            "--workdir",
            workdir,
            "--selfimprove.systems=dpo",
            *words(there),
        )
    assert ran.code == 0, ran.err
    return workdir


def test_what_the_judge_is_like_stands_in_the_metrics(alone: Path):
    lines = lines_of(alone, STAGE)
    assert len(lines) == 6
    for line in lines:
        assert line["verdicts"] > 0
        assert line["malformed"] == line["unreadable"] == 0
        assert 0.5 <= line["first_wins"] <= 1  # of equal ones the first
        assert 0 <= line["longer_wins"] < 0.5
        assert 0 <= line["orders_differ"] <= 1
        assert 0 <= line["rewrites_used"] <= 1
        assert 0 <= line["safe_copied"] <= 1
        assert line["left_out"] >= 0
    assert any(
        line["safe_copied"] < 1 and line["left_out"] > 0 for line in lines
    )  # a rewrite of what was safe


def test_a_key_is_sent_and_is_in_nothing_that_is_left(
    alone: Path, improving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("THE_KEY", SECRET)
    with model_server(replies) as there:
        key = ("--judge.server.key_variable=THE_KEY", "--selfimprove.steps=2", "--verbose")
        ran = one_system(improving, tmp_path / "run", alone, *words(there, *key))
        assert ran.code == 0, ran.err
        assert {f"Bearer {SECRET}"} < {*there.keys}  # the rewriter's server is sent none
    assert SECRET not in ran.out + ran.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("ahead", ["0", "2"])
def test_a_server_that_goes_away_and_comes_back(alone: Path, improving: Path, tmp_path: Path, ahead: str):
    """The state is saved, nothing is paid twice, and the end is that of a run that nothing stopped."""
    settings = (
        "--judge.server.patience=0.3",
        "--rewriter.server.patience=0.3",
        "--selfimprove.documents=4",  # fewer replies: each takes a request
        f"--selfimprove.staleness={ahead}",
    )
    uninterrupted = tmp_path / "whole"
    with model_server(replies) as there:
        cache = str(tmp_path / "replies.sqlite")
        caches = (f"--judge.server.cache={cache}", f"--rewriter.server.cache={cache}")
        assert one_system(improving, uninterrupted, alone, *words(there, *settings)).code == 0
        paid = len({json.dumps(body, sort_keys=True) for body in there.asked})
        assert len(there.asked) == paid
    failing = paid * 2 // 3  # of six steps three are asked about at a time: one at least is judged
    with model_server(lambda text, number: replies(text, number) if number < failing else Ill(503)) as there:
        ran = one_system(improving, tmp_path / "run", alone, *words(there, *settings, *caches))
        assert ran.code == 1
        assert "no reply from" in failure(ran.err)
        done = lines_of(tmp_path / "run", STAGE)
    assert 0 < len(done) < 6
    port = int(there.url.split(":")[2].split("/")[0])
    with model_server(replies, port=port) as again:
        ran = call(
            "selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo",
            *words(again, *settings, *caches),
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert f"goes on after step {done[-1]['step']}" in ran.out
        assert len(again.asked) == paid - failing  # nothing was paid twice
    assert_same_parameters(tmp_path / "run", uninterrupted, STAGE)
    assert steps(tmp_path / "run", "dpo") == steps(uninterrupted, "dpo")


def test_a_budget_ends_the_run_and_may_be_raised(alone: Path, improving: Path, tmp_path: Path):
    with model_server(replies) as there:
        ran = one_system(improving, tmp_path / "run", alone, *words(there, "--judge.server.max_requests=300"))
        assert ran.code == 1
        assert "300 replies" in failure(ran.err)
        judged = [text for text in there.texts if "The passage again" not in text]
        assert len(judged) == 300
        ran = call(
            "selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo",
            *words(there, "--judge.server.max_requests=300"),
        )  # fmt: skip
        assert ran.code == 1
        assert "300 replies" in failure(ran.err)  # of the judge: what the rewriter wrote is not counted
        ran = call(
            "selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo",
            *words(there, "--judge.server.max_requests=99999"),
        )  # fmt: skip
        assert ran.code == 0, ran.err
    assert_same_parameters(tmp_path / "run", alone, STAGE)


def test_a_wrong_key_is_known_before_anything_is_trained(improving: Path, tmp_path: Path):
    with model_server(lambda text, number: Ill(401, '{"error": {"message": "who are you"}}')) as there:
        ran = call(
            "selfimprove", "--config", improving, "--workdir", tmp_path / "run", "--selfimprove.systems=dpo",
            *words(there),
        )  # fmt: skip
    assert ran.code == 2
    assert "who are you" in complaint(ran)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_a_model_that_writes_it_is_said():
    context: Any = SimpleNamespace(config=Config(), mesh=None, chosen=None)
    improvement = Improvement(context, ExitStack())
    with pytest.raises(InputError, match=r"no model writes: give rewriter\.path or rewriter\.server\.url"):
        improvement.writer(read_prompt("rewrite"))


@pytest.mark.slow
def test_a_judge_that_never_gives_a_verdict_is_told(alone: Path, improving: Path, tmp_path: Path):
    with model_server(lambda text, number: "Well, well.") as there:
        ran = one_system(improving, tmp_path / "run", alone, *words(there))
    assert ran.code == 2
    assert "finds all candidates equal" in ran.err


@pytest.mark.slow
def test_process_0_alone_asks_and_all_learn_the_same(
    alone: Path, improving: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    environment = {**compiled_environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with model_server(replies) as there:
        run = [
            "selfimprove",
            "--config",
            improving,
            "--workdir",
            tmp_path / "run",
            "--selfimprove.systems=dpo",
        ]
        for ended in Together(tmp_path, 2, tmp_path / "run", [*run, *words(there)], **environment).ended():
            assert ended.code == 0, ended.err
        assert len(there.asked) == len({json.dumps(body, sort_keys=True) for body in there.asked})
    one, other = steps(alone, "dpo")[0], steps(tmp_path / "run", "dpo")[0]
    for name in ("verdicts", "first_wins", "learned", "rewrites_used", "left_out"):
        assert other[name] == one[name]
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
