"""Whole runs whose judge and rewriter are a model behind `transformers serve`, over real sockets.

A tiny random model is always served, and the one in the folder that PRETRAINRL_MODEL names where it is set.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.command_line import Ran, assert_same_parameters, call, metrics
from helpers.real_server import ILLS, RealServer, bad_line, missing, real_server, write_model, write_prompts
from helpers.selfimprove_runs import one_system, steps

from pretrainrl_jax.judging import server as client

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")]
STAGE = "selfimprove/dpo"
STEPS = 3
AWAY = 3.0  # seconds between a server's end and its next start


class Row(NamedTuple):
    """A reply in the file of replies; `place` is a new one where a reply is paid again."""

    place: int
    key: str
    run: str
    text: str
    finish: str
    tokens_in: int
    tokens_out: int

    @property
    def said(self) -> tuple[str | int, ...]:
        """What does not depend on the server's address, which is part of the key."""
        return self[3:]


class Undisturbed(NamedTuple):
    """A run whose server was always there, and what it left."""

    server: RealServer
    prompts: Path
    ran: Ran
    workdir: Path
    paid: list[Row]
    answered: int  # by the server's own log

    def settings(self, url: str, cache: Path) -> tuple[str, ...]:
        """Of a run that is the same, but for the way to the server."""
        given = {"url": url, "model": self.server.model, "temperature": 0, "concurrent": 4, "cache": cache}
        at = [
            f"--{who}.server.{name}={value}" for who in ("judge", "rewriter") for name, value in given.items()
        ]
        return (
            *at, "--judge.server.tokens=1", "--rewriter.server.tokens=24", f"--judge.prompts={self.prompts}",
            f"--rewriter.prompts={self.prompts}", "--judge.facts=0", "--judge.quality=1", "--judge.safety=1",
            "--judge.ngram=1", "--methods.dpo.candidates=original,rewrite,rollout", "--rollouts.count=2",
            f"--selfimprove.steps={STEPS}", "--selfimprove.documents=2",
        )  # fmt: skip

    def assert_same(self, workdir: Path, paid: list[Row]) -> None:
        """That another run learned, measured and paid the same."""
        assert_same_parameters(workdir, self.workdir, STAGE)
        assert steps(workdir, "dpo") == steps(self.workdir, "dpo")
        assert sorted(row.said for row in paid) == sorted(row.said for row in self.paid)


def rows(cache: Path) -> list[Row]:
    """All replies that were paid, in their order."""
    with sqlite3.connect(cache, timeout=60) as database:
        return [Row(*row) for row in database.execute("select rowid, * from replies order by rowid")]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "LONGEST_PAUSE", 2.0)
        yield


@pytest.fixture(scope="module", params=["tiny", "PRETRAINRL_MODEL"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model that is served."""
    if request.param == "tiny":
        return write_model(tmp_path_factory.mktemp("served") / "tiny")
    folder = Path(os.environ.get(request.param, "nowhere")).absolute()
    if not (folder / "config.json").is_file():
        pytest.skip(f"{request.param} names no Hugging Face folder")
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, improving: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed]:
    """The server, and a run that it answered."""
    folder = tmp_path_factory.mktemp("undisturbed")
    workdir, cache = folder / "run", folder / "replies.sqlite"
    with real_server(model, folder / "serve.log") as server:
        before = Undisturbed(server, write_prompts(folder / "prompts"), Ran(0, "", ""), workdir, [], 0)
        settings = before.settings(server.url, cache)
        ran = call(
            "selfimprove", "--config", improving, "--workdir", workdir, "--selfimprove.systems=dpo", *settings
        )  # fmt: skip
        assert ran.code == 0, ran.err
        yield before._replace(ran=ran, paid=rows(cache), answered=server.answered)


def test_a_run_from_end_to_end(undisturbed: Undisturbed):
    """Every answer of the server is paid once; what its verdicts say stands in the metrics."""
    workdir, paid = undisturbed.workdir, undisturbed.paid
    assert (workdir / "report" / "index.html").is_file()
    lines = metrics(workdir, STAGE)
    assert len(lines) == STEPS
    most = 2 * (4 * 3 + 4)  # of two documents: each pair of four candidates in both orders, and each alone
    for line in lines:
        assert 0 < line["verdicts"] <= most
        assert 0 <= line["first_wins"] <= 1
        assert line["unreadable"] <= line["malformed"] <= line["verdicts"]
        assert 0 <= line["rewrites_used"] <= 1
    assert len(paid) == undisturbed.answered
    assert sum(line["verdicts"] for line in lines) < len(paid)
    assert {row.run.partition("/")[2] for row in paid} == {"judge.server", "rewriter.server"}
    assert {row.text for row in paid if row.run.endswith("/judge.server")} >= {"A"}


def test_a_server_that_is_killed_under_load_and_comes_back(
    undisturbed: Undisturbed, improving: Path, tmp_path: Path
):
    """The run waits for it, asks for nothing again that was paid, and ends as if nothing had been."""
    server, cache, kept = undisturbed.server, tmp_path / "replies.sqlite", list[Row]()
    ended = threading.Event()

    def kill_and_restart() -> None:
        while not cache.exists() or len(rows(cache)) < len(undisturbed.paid) // 2:
            if ended.wait(0.05):
                return
        server.kill()
        time.sleep(AWAY)
        kept.extend(rows(cache))
        server.start()

    thread = threading.Thread(target=kill_and_restart, daemon=True)
    thread.start()
    try:
        ran = one_system(
            improving, tmp_path / "run", undisturbed.workdir, *undisturbed.settings(server.url, cache)
        )
    finally:
        ended.set()
        thread.join()  # or it would start a server that nobody ends
    assert ran.code == 0, ran.err
    assert "does not reply" in ran.err
    paid = rows(cache)
    assert len(undisturbed.paid) // 2 <= len(kept) < len(paid)
    assert paid[: len(kept)] == kept
    assert {row.key for row in paid} == {row.key for row in undisturbed.paid}
    undisturbed.assert_same(tmp_path / "run", paid)


def test_a_slow_line_that_breaks(undisturbed: Undisturbed, improving: Path, tmp_path: Path):
    """Half answers, 429, 500 and nonsense among late answers: each is asked for until it has come."""
    cache = tmp_path / "replies.sqlite"
    with bad_line(undisturbed.server.port, delay=1.0, every=5) as line:
        ran = one_system(
            improving, tmp_path / "run", undisturbed.workdir, *undisturbed.settings(line.url, cache)
        )
        assert ran.code == 0, ran.err
    paid = rows(cache)
    assert len(line.ruined) >= len(ILLS)
    assert {*line.ruined} <= {*line.whole}
    assert len({*line.whole}) == len(line.whole) == len(paid)
    undisturbed.assert_same(tmp_path / "run", paid)
