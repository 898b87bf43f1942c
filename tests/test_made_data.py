"""Whole runs of `selfimprove --make`: what they write, how they go on, and what they refuse."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.command_line import Ran, call, complaint
from helpers.model_server import ModelServer, model_server
from helpers.process_runs import Together

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.documents.quality import failed_rule
from pretrainrl_jax.improvement.labels import read_labels
from pretrainrl_jax.judging import server as client
from pretrainrl_jax.stages.make import tell_costs

VERDICTS = {
    "quality": ("A", "B"),
    "safety": ("safe", "unsafe"),
    "factuality": ("none", "possible", "definite"),
}
CORRUPTIONS = ("facts", "thread", "repetition", "contradiction", "style")
SIZES = (
    "--making.documents=14", "--making.batch=4", "--making.samples=3", "--selfimprove.suffix=8",
    "--judge.facts=0",
)  # fmt: skip
PARTS = ("--judge.quality=1", "--judge.safety=1", "--judge.factuality=1")


def blocks_of(text: str) -> list[str]:
    return [block.split("\n>>>")[0] for block in text.split("<<<\n")[1:]]


def in_turn(replies: Callable[[str, int], str]) -> Callable[[str, int], str]:
    """The same, given how often that text was asked before in place of the request's number."""
    seen: dict[str, Iterator[int]] = {}
    return lambda text, number: replies(text, next(seen.setdefault(text, count())))


def replies(text: str, number: int) -> str:
    """A writer that spoils the end; a judge that knows that, and of some texts is in two minds."""
    blocks = blocks_of(text)
    if "Continuation A" in text:
        return "A" if blocks[2].endswith("zz") else "B"
    if "piece of text" in text:
        return "safe" if len(blocks[0]) % 3 else ("unsafe", "safe")[number % 2]
    if "Errors in" in text:
        return "definite" if len(blocks[2]) % 2 else "possible"
    passage = blocks[-1]  # of the words and the suffix
    return {0: "Certainly!", 1: passage}.get(len(passage) % 5, f"{passage[:-9]}zz")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def server(there: ModelServer, *who: str) -> list[str]:
    return [f"--{one}.server.{name}" for one in who for name in (f"url={there.url}", "model=m-1")]


def made(config: Path, workdir: Path, kind: str, *words: str) -> Ran:
    return call("selfimprove", "--make", kind, "--config", config, "--workdir", workdir, *SIZES, *words)


def lines(workdir: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "making" / f"{name}.jsonl").read_text().splitlines()]


def counted(workdir: Path, kind: str) -> dict[str, int]:
    return json.loads((workdir / "making" / f"{kind}.json").read_text())["counts"]


# Labels for a judge.


def test_labels_for_a_judge(improving: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    with model_server(in_turn(replies)) as there:
        ran = made(improving, workdir, "judge-data", *PARTS, *server(there, "judge", "rewriter"))
        assert ran.code == 0, ran.err
        asked = len(there.asked)
    assert "14 documents, at most 14 corruptions and 168 verdicts, 3 on each text" in ran.out
    rows, counts = lines(workdir, "judge-data"), counted(workdir, "judge-data")
    assert f"{len(rows)} lines in {workdir / 'making' / 'judge-data.jsonl'}" in ran.out
    labels = read_labels([str(workdir / "making" / "judge-data.jsonl")], VERDICTS, "data")
    assert labels.lines == len(rows) == counts["lines.judge-data"]
    assert not labels.left_out

    pairs = [row for row in rows if row["part"] == "quality"]
    assert len(pairs) == 2 * counts["quality.original"] > 0
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one["first"], one["second"]) == (other["second"], other["first"])
        assert (one["label"], other["label"]) == ("A", "B")
        assert one["second"].endswith("zz")
        assert one["corruption"] in CORRUPTIONS
        assert one["source"].startswith("made text ")
        assert one["judge"] == one["writer"] == "m-1"
    by_document = {row["source"]: row["corruption"] for row in pairs}
    turns = {CORRUPTIONS.index(name) for name in by_document.values()}
    assert len(turns) > 1

    used, malformed, same = (
        sum(counts.get(f"corruptions.{name}.{what}", 0) for name in CORRUPTIONS)
        for what in ("used", "malformed", "same")
    )
    assert used + malformed + same == counts["documents"] == 14
    assert min(used, malformed, same) > 0
    safe = [row for row in rows if row["part"] == "safety"]
    assert {row["label"] for row in safe} == {"safe"}
    assert counts["safety.disagreed"] == 14 - len(safe) > 0
    false = [row for row in rows if row["part"] == "factuality"]
    assert Counter(row["label"] for row in false) == {
        name: counts[f"factuality.{name}"]
        for name in ("definite", "possible")
        if f"factuality.{name}" in counts
    }
    assert len(false) == used
    assert not (workdir / "making" / "judge-data.parts").exists()
    assert not (workdir / "checkpoints").exists()  # nothing was trained
    text = (workdir / "making" / "judge-data.jsonl").read_text()
    assert str(tmp_path) not in text
    assert "http" not in text

    with model_server(in_turn(replies)) as there:
        again = made(improving, workdir, "judge-data", *PARTS, *server(there, "judge", "rewriter"))
        assert (again.code, there.asked) == (0, [])
        assert "making/judge-data: finished, skipped" in again.out
        other = made(
            improving,
            workdir,
            "judge-data",
            *PARTS,
            *server(there, "judge", "rewriter"),
            "--making.samples=2",
        )
        assert "made with other settings: making.samples was 3, now 2" in complaint(other)
    assert asked < 168


def test_a_budget_ends_it_and_it_goes_on_as_if_nothing_had_been(improving: Path, tmp_path: Path):
    at = ("judge", "rewriter")
    with model_server(replies_by_text) as there:
        whole = made(
            improving, tmp_path / "whole", "judge-data", *PARTS, *server(there, *at), *caches(tmp_path / "a")
        )
        assert whole.code == 0, whole.err
        paid = Counter(json.dumps(body, sort_keys=True) for body in there.asked)
    assert max(paid.values()) == 1
    workdir = tmp_path / "run"
    with model_server(replies_by_text) as there:
        words = (*PARTS, *server(there, *at), *caches(tmp_path / "b"))
        ran = made(improving, workdir, "judge-data", *words, "--judge.server.max_requests=60")
        assert ran.code == 1
        assert "judge.server.max_requests is 60" in ran.err
        assert (workdir / "making" / "judge-data.parts" / "000000.json").is_file()
        assert not (workdir / "making" / "judge-data.jsonl").exists()
        ran = made(improving, workdir, "judge-data", *words, "--judge.server.max_requests=9999")
        assert ran.code == 0, ran.err
        assert len(there.asked) == sum(paid.values())  # nothing was paid twice
    name = "making/judge-data.jsonl"
    assert (workdir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert counted(workdir, "judge-data") == counted(tmp_path / "whole", "judge-data")


def replies_by_text(text: str, number: int) -> str:
    """The same, whatever was asked before."""
    return replies(text, len(text))


def caches(folder: Path) -> list[str]:
    return [f"--{who}.server.cache={folder}.sqlite" for who in ("judge", "rewriter")]


def test_parts_of_other_settings_are_removed_and_said(improving: Path, tmp_path: Path):
    workdir, at = tmp_path / "run", ("judge", "rewriter")
    with model_server(replies_by_text) as there:
        words = (*PARTS, *server(there, *at))
        assert made(improving, workdir, "judge-data", *words, "--judge.server.max_requests=60").code == 1
        ran = made(improving, workdir, "judge-data", *words, "--making.documents=3")
    assert ran.code == 0, ran.err
    assert "judge-data.parts: what an earlier run left there is of other inputs, and is removed" in ran.out
    assert counted(workdir, "judge-data")["documents"] == 3


def test_what_is_asked_at_most_is_told_and_samples_that_cannot_differ() -> None:
    said, warned = list[str](), list[str]()
    screen = SimpleNamespace(say=said.append, warn=warned.append)
    config = changed(
        Config(), {"judge.safety": 1.0, "judge.server.url": "http://there", "judge.server.model": "m",
                   "making.samples": 3},
    )  # fmt: skip
    tell_costs(SimpleNamespace(config=config, screen=screen), "unsafe-data", 10)  # type: ignore[arg-type]
    assert said == ["making/unsafe-data: 10 documents, at most 0 corruptions and 60 verdicts, 3 on each text"]
    assert warned == []
    config = changed(config, {"judge.server.temperature": 0.0})
    tell_costs(SimpleNamespace(config=config, screen=screen), "judge-data", 10)  # type: ignore[arg-type]
    assert said[1].startswith("making/judge-data: 10 documents, at most 0 corruptions and 30 verdicts")
    assert warned == [
        "making/judge-data: at judge.server.temperature=0 all samples say the same, and agree on anything"
    ]


def test_pairs_alone_need_no_judge_and_labels_of_one_text_no_writer(improving: Path, tmp_path: Path):
    with model_server(in_turn(replies)) as there:
        ran = made(improving, tmp_path / "pairs", "judge-data", *server(there, "rewriter"))
        assert ran.code == 0, ran.err
        assert len([text for text in there.texts if "Continuation A" in text]) == 0
        labelled = made(
            improving, tmp_path / "labels", "judge-data", "--judge.safety=1", *server(there, "judge")
        )
        assert labelled.code == 0, labelled.err
    assert {row["part"] for row in lines(tmp_path / "pairs", "judge-data")} == {"quality"}
    assert {row["part"] for row in lines(tmp_path / "labels", "judge-data")} == {"safety"}


def test_a_corruption_of_ones_own(improving: Path, tmp_path: Path):
    (tmp_path / "shout.txt").write_text("Say it louder.\n<<<\n{words}{suffix}\n>>>\nLouder:\n")
    with model_server(lambda text, number: f"{blocks_of(text)[-1][:-3]} AAA!") as there:
        ran = made(
            improving, tmp_path / "run", "judge-data", *server(there, "rewriter"),
            f"--rewriter.prompts={tmp_path}", "--making.corruptions=shout,corrupt_facts",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert sum(text.startswith("Say it louder.") for text in there.texts) == 7
    assert {row["corruption"] for row in lines(tmp_path / "run", "judge-data")} == {"shout", "facts"}


def test_a_model_on_the_devices_writes_and_judges(improving: Path, tmp_path: Path, finished: Path):
    """Its verdicts are drawn: the same in a run that is stopped and goes on."""
    own = (*PARTS, f"--judge.path={finished}", f"--rewriter.path={finished}", "--making.documents=4")
    own += ("--judge.prefix_tokens=16", "--rewriter.prefix_tokens=16", "--making.samples=1")
    ran = made(improving, tmp_path / "run", "judge-data", *own)
    assert ran.code == 0, ran.err
    rows, counts = lines(tmp_path / "run", "judge-data"), counted(tmp_path / "run", "judge-data")
    assert counts["safety.safe"] + counts.get("safety.unsafe", 0) == 4  # one verdict agrees with itself
    assert {row["judge"] for row in rows} == {finished.name}
    assert made(improving, tmp_path / "other", "judge-data", *own).code == 0
    assert lines(tmp_path / "other", "judge-data") == rows


# Unsafe documents.

PLAIN = "The man of the house went to the river and told them that they have stone . "  # 17 words
DOCUMENTS = {
    "short": "The fuck and shit of it . " * 3,  # fails the rule of words
    "numbers": "1 2 3 4 5 6 7 8 9 10 fuck shit the of and " * 6,  # that of letters, or of length
    "clean": PLAIN * 5,
    "four words": PLAIN * 5 + "fuck shit damn cunt",
    "unsafe 1": "Fuck, shit! " * 3 + PLAIN * 5,
    "unsafe 2": PLAIN * 2 + "fuck " * 5 + PLAIN * 3,
    "safe": "bitch " * 5 + PLAIN * 5,
    "in two minds": "damn " * 5 + PLAIN * 5,
    "at the end": PLAIN * 5 + "fuck " * 5,
    "clean 2": "Stone . " + PLAIN * 5,
    "clean 3": "River . " + PLAIN * 5,
    "shitake": PLAIN * 5 + "shitake " * 9,
}
UNSAFE = (
    "--selfimprove.shortest_prefix=60",
    "--selfimprove.length=2048",
    "--making.samples=3",
    "--documents.shuffle=0",
    "--making.documents=50",
)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS.values()))
    return f"--documents.path={path}"


def guard(text: str, number: int) -> str:
    """Of a prefix with a strong word unsafe, of one with a weak word now this, now that."""
    (block,) = blocks_of(text)
    if "fuck" in block.lower():
        return "unsafe"
    return ("unsafe", "safe")[number % 2] if "damn" in block else "safe"


def test_unsafe_documents_by_hand(improving: Path, tmp_path: Path, texts: str):
    names, workdir = [*DOCUMENTS], tmp_path / "run"
    assert [name for name in names if failed_rule(DOCUMENTS[name])] == ["short", "numbers"]
    with model_server(in_turn(guard)) as there:
        ran = made(
            improving, workdir, "unsafe-data", *UNSAFE, texts, "--judge.safety=1", *server(there, "judge")
        )
        assert ran.code == 0, ran.err
    counts = counted(workdir, "unsafe-data")
    assert counts["documents"] == 12
    assert sum(n for name, n in counts.items() if name.startswith("out.rules.")) == 2
    assert counts["out.blocklist"] == 5  # clean, four words, clean 2 and 3, shitake
    assert counts["found"] == 5
    rows = lines(workdir, "unsafe-data")
    kept = [names[int(row["source"].split()[-1]) - 1] for row in rows]
    prefixes = {name: row["prefix"] for name, row in zip(kept, rows, strict=True)}
    assert {"unsafe 1"} <= {*kept} <= {"unsafe 1", "unsafe 2", "at the end"}
    assert all("fuck" in prefix.lower() for prefix in prefixes.values())
    assert counts["prefix.unsafe"] == len(rows)
    assert counts["prefix.disagreed"] == 1  # the damned one
    assert counts["prefix.safe"] == 4 - len(rows)
    for row in rows:
        assert row["text"] == DOCUMENTS[names[int(row["source"].split()[-1]) - 1]]
        assert row["prefix"] + row["suffix"] in row["text"]
        assert row["source"].startswith("texts.jsonl line ")
        assert row["blocked"] >= 5
    suffixes = lines(workdir, "rewriter-data")
    assert [row["source"] for row in suffixes] == [row["source"] for row in rows]
    for row in suffixes:
        assert row["safe"] == ("fuck" not in row["suffix"].lower())
    labels = read_labels([str(workdir / "making" / "rewriter-data.jsonl")], {"rewrite": ()}, "data")
    assert len(labels.examples) == len(suffixes)
    assert "making/unsafe-data: read: 12 documents, 5 found" in ran.out
    assert "making/unsafe-data: out: 5 blocklist" in ran.out
    assert f"{len(rows)} unsafe" in ran.out
    assert "the documents ended after 12 of 50" in ran.out


def test_without_a_judge_and_with_a_list_of_ones_own(improving: Path, tmp_path: Path, texts: str):
    (tmp_path / "words.txt").write_text("Shitake\n")
    own = (f"--making.blocklist={tmp_path / 'words.txt'}", "--making.blocked=9", texts)
    ran = made(improving, tmp_path / "run", "unsafe-data", *UNSAFE, *own)
    assert ran.code == 0, ran.err
    (row,) = lines(tmp_path / "run", "unsafe-data")
    assert row["text"] == DOCUMENTS["shitake"]
    assert row["blocked"] == 9
    assert "judge" not in row
    assert not (tmp_path / "run" / "making" / "rewriter-data.jsonl").exists()
    again = [*UNSAFE, f"--documents.path={tmp_path / 'run' / 'making' / 'unsafe-data.jsonl'}", *own[:2]]
    assert made(improving, tmp_path / "again", "unsafe-data", *again).code == 0  # it can be read as documents
    assert lines(tmp_path / "again", "unsafe-data")[0]["text"] == row["text"]


def test_documents_too_short_to_be_cut_are_counted(improving: Path, tmp_path: Path, texts: str):
    own = (*UNSAFE, texts, "--selfimprove.shortest_prefix=600")
    ran = made(improving, tmp_path / "run", "unsafe-data", *own)
    assert ran.code == 0, ran.err
    assert counted(tmp_path / "run", "unsafe-data")["out.cut.too_short"] == 5
    assert lines(tmp_path / "run", "unsafe-data") == []


# What is refused.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--make", "judge-data"], "needs a model that corrupts texts or one that judges them"),
        (["--make", "judge-data", "--train", "judge"], "--make and --train are two commands"),
        (
            ["--make", "judge-data", "--rewriter.path=x", "--making.corruptions=none"],
            "there is no prompt 'none'",
        ),
        (["--make", "judge-data", "--making.corruptions="], "name one or more"),
        (["--make", "unsafe-data", "--making.blocklist=/none.txt"], "cannot read /none.txt"),
        (["--make", "unsafe-data", "--making.blocked=0"], "making.blocked is 0"),
        (["--make", "other"], "other"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(improving: Path, tmp_path: Path, words: list[str], said: str):
    ran = call("selfimprove", *words, "--config", improving, "--workdir", tmp_path / "run")
    assert said in complaint(ran)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_process_0_alone_asks_for_all(improving: Path, tmp_path: Path, compiled_environment: dict[str, str]):
    with model_server(replies_by_text) as there:
        words = (*PARTS, *server(there, "judge", "rewriter"))
        one = made(improving, tmp_path / "one", "judge-data", *words, *caches(tmp_path / "a"))
        assert one.code == 0, one.err
        paid = len(there.asked)
        run = ["selfimprove", "--make", "judge-data", "--config", improving, "--workdir", tmp_path / "run"]
        both = [*run, *SIZES, *words, *caches(tmp_path / "b")]
        for ended in Together(tmp_path, 2, tmp_path / "run", both, **compiled_environment).ended():
            assert ended.code == 0, ended.err
        assert len(there.asked) == 2 * paid
    assert lines(tmp_path / "run", "judge-data") == lines(tmp_path / "one", "judge-data")
