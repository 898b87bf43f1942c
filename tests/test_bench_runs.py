"""`judge --bench` from the command line: judges of folders and of servers on one file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call, complaint
from helpers.model_server import Ill, model_server

from pretrainrl_jax.judging import server as client

SECRET = "sk-very-secret-0123456789"
PAIRS = [
    {
        "part": "quality",
        "prefix": f"Text {n}.",
        "first": " good end.",
        "second": f" bad end {n}.",
        "label": "A",
    }
    for n in range(6)
]
SAFE = [{"part": "safety", "suffix": f" text {n}.", "label": ("safe", "unsafe")[n % 2]} for n in range(6)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("A_KEY", SECRET)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*PAIRS, *SAFE]))
    return path


def replies(text: str, number: int) -> str:
    """A judge that finds the good end, unless it is ordered otherwise, and knows nothing of safety."""
    if "Continuation A" in text:
        first = text.split("Continuation A:")[1].split("Continuation B:")[0]
        if ordered := re.search(r"reply with ([AB])\b", text):
            return ordered[1]
        return "A" if "good" in first else "Verdict: B"
    return "hm"


def numbers(workdir: Path) -> Any:
    return json.loads((workdir / "judges" / "judges.json").read_text())


def test_judges_of_a_folder_and_of_a_server_stand_in_one_table(labels: Path, finished: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    with model_server(replies) as there:
        words = (
            "judge", "--bench", labels, "--workdir", workdir, "--bench.orders=2",
            f"--bench.judges={finished},m@{there.url}#A_KEY",
            "--judge.server.price_in=1", "--judge.server.price_out=1",
        )  # fmt: skip
        ran = call(*words)
        assert ran.code == 0, ran.err
        asked = len(there.asked)
        assert set(there.keys) == {f"Bearer {SECRET}"}
        again = call(*words)
        assert len(there.asked) == asked  # all rows are kept
    assert again.code == 0, again.err
    told = numbers(workdir)
    rows = {(row["judge"], row["prompt"]): row for row in told["rows"]}
    names = ("quality", "quality_facts", "quality_short", "safety", "safety_lenient", "safety_strict")
    assert list(rows) == [(judge, name) for judge in (finished.name, "m") for name in names]
    served = rows["m", "quality"]
    assert (served["right"], served["kappa"], served["ranks"], served["first"]) == (1, 1, 1, 0.5)
    assert served["orders"]["asks"] == {"count": 4, "before": 4, "after": 0}
    assert served["orders"]["closes its block"] == {"count": 4, "before": 4, "after": 4}
    assert (served["replies"], served["cost"] > 0, served["seconds"] > 0) == (12 + 12 - 1, True, True)
    unread = rows["m", "safety"]
    assert (unread["right"], unread["undecided"], unread["kappa"]) == (0, 1, None)
    local = rows[finished.name, "quality"]
    assert local["undecided"] == 0
    assert local["replies"] == 0
    assert told["agreement"]["quality"][3][3] == 1
    assert "right" in ran.out
    for path in (*workdir.rglob("*"), *(tmp_path / "cache").rglob("*")):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert SECRET not in ran.out + ran.err


def test_a_budget_ends_it_and_nothing_is_paid_twice(labels: Path, tmp_path: Path):
    with model_server(replies) as there:
        words = (
            "judge", "--bench", labels, "--workdir", tmp_path / "run", "--bench.orders=0",
            f"--bench.judges=m@{there.url}", "--bench.prompts=quality",
        )  # fmt: skip
        short = call(*words, "--judge.server.max_requests=7", "--bench.batch=3")
        assert short.code == 1
        assert "judge.server.max_requests is 7" in short.err
        assert len(there.asked) == 7
        ran = call(*words)
        assert ran.code == 0, ran.err
        assert len(there.asked) == 12
    (row,) = numbers(tmp_path / "run")["rows"]
    assert row["right"] == 1


def test_a_prompt_of_ones_own_and_a_limit(labels: Path, tmp_path: Path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "quality_mine.txt").write_text("{first} or {second}? The\nverdicts: former | latter\n")
    (folder / "safety_three.txt").write_text("{suffix} is\nverdicts: safe | so-so | unsafe\n")
    with model_server(lambda text, number: "former") as there:
        words = (
            "judge", "--bench", labels, "--workdir", tmp_path / "run", f"--judge.prompts={folder}",
            f"--bench.judges=m@{there.url}", "--bench.limit=2", "--bench.orders=0",
        )  # fmt: skip
        ran = call(*words, "--bench.prompts=quality_mine")
        assert ran.code == 0, ran.err
        assert len(there.asked) == 4
        # Of the same text under another name nothing is asked again, and the table has that name.
        (folder / "quality_ours.txt").write_text((folder / "quality_mine.txt").read_text())
        assert call(*words, "--bench.prompts=quality_ours").code == 0
        assert [row["prompt"] for row in numbers(tmp_path / "run")["rows"]] == ["quality_ours"]
        assert len(there.asked) == 4
        told = call(*words, "--bench.prompts=safety_three")
        assert complaint(told).endswith(
            "safety_three has 3 verdicts, the texts have 2 labels: leave it out of bench.prompts"
        )
        every = call(*words)
        assert "safety_three has 3 verdicts, the texts have 2 labels: it is left out" in every.err
    (row,) = [row for row in numbers(tmp_path / "run")["rows"] if row["prompt"] == "quality_mine"]
    assert (row["right"], row["first"], row["orders_differ"]) == (0.5, 1, 1)


def test_what_is_wrong_is_told_in_one_line(labels: Path, tmp_path: Path, finished: Path):
    def told(*words: Any) -> str:
        return complaint(call("judge", "--workdir", tmp_path / "run", *words))

    bench = ("--bench", labels)
    assert "give --bench FILE" in told(f"--bench.judges={finished}")
    assert "no judge to ask" in told(*bench)
    assert "two judges are called" in told(*bench, f"--bench.judges={finished},{finished}/")
    assert "A_KEY_TOO is not set" in told(*bench, "--bench.judges=m@http://localhost:1/v1#A_KEY_TOO")
    assert "there are" in told(*bench, f"--bench.judges={finished}", "--bench.prompts=qualitty")
    assert "judge.samples=5 is for a judge on a server" in told(
        *bench, f"--bench.judges={finished}", "--judge.samples=5"
    )
    assert "bench.prompts has none for" in told(
        *bench, f"--bench.judges={finished}", "--bench.prompts=factuality"
    )
    assert "no model at" in told(*bench, f"--bench.judges={tmp_path / 'none'}")
    with model_server(lambda text, number: Ill(401, '{"error": {"message": "bad key"}}')) as there:
        assert "refuses what it is asked" in told(*bench, f"--bench.judges={finished},m@{there.url}")
        assert len(there.asked) == 1  # before the other judge is asked anything
