"""The client of a model server, over real sockets: what it asks, pays, keeps, waits for and gives up."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.model_server import Ill, ModelServer, model_server

from pretrainrl_jax.config import JudgeServerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging import server as client
from pretrainrl_jax.judging.ledger import Ledger, Reply, Spent, key_of
from pretrainrl_jax.judging.server import Request, Server, ServerError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.1)


def echo(text: str, number: int) -> str:
    return f"said {text}"


class Asked:
    """Servers that are asked, closed in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.servers, self.told = folder, list[Server](), list[str]()

    def __call__(self, url: str, run: str = "run", environment: Any = None, **settings: Any) -> Server:
        given = {"url": url, "model": "m", "cache": str(self.folder / "replies.sqlite"), "patience": 5.0}
        made = Server(JudgeServerConfig(**given | settings), run, self.told.append, environment or {})
        self.servers.append(made)
        return made


@pytest.fixture
def ask(tmp_path: Path):
    asked = Asked(tmp_path)
    yield asked
    for server in asked.servers:
        server.close()


def texts(count: int) -> list[Request]:
    return [Request(f"text {number}") for number in range(count)]


def test_each_request_has_its_reply_and_is_paid_once(ask: Asked):
    def slowly(text: str, number: int) -> str:
        time.sleep(0.05)  # so that others come meanwhile, however busy the machine
        return echo(text, number)

    with model_server(slowly) as there:
        server = ask(there.url, concurrent=3)
        requests = [*texts(20), Request("text 3"), Request("text 3", sample=1), Request("text 3", attempt=1)]
        replies = server.ask(requests)
        assert [reply.text for reply in replies] == [f"said {request.text}" for request in requests]
        assert len(there.asked) == 22  # of two equal ones one
        assert 1 < there.most_at_once <= 3
        assert server.spent.requests == 22
        assert server.spent.tokens_in == sum(len(text) // 4 for text in there.texts)
        again = ask(there.url, run="another").ask(requests)
        assert again == replies
        assert len(there.asked) == 22  # another run has them from the file
        assert ask.servers[-1].spent == Spent(0, 0, 0)
        body = there.asked[0]
        assert {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens")} == {
            "model": "m", "temperature": 1.0, "top_p": 1.0, "max_tokens": 512,
        }  # fmt: skip
        assert {asked["seed"] for asked in there.asked} == {0, 1, 1000}


def test_what_is_under_way_is_waited_for(ask: Asked):
    def slowly(text: str, number: int) -> str:
        time.sleep(0.5)
        return echo(text, number)

    with model_server(slowly) as there, ThreadPoolExecutor(2) as pool:
        server = ask(there.url)
        first, second = pool.map(server.ask, [texts(2), texts(1)])
        assert [reply.text for reply in first] == ["said text 0", "said text 1"]
        assert second == first[:1]
        assert len(there.asked) == 2


def test_another_setting_is_another_reply(ask: Asked):
    with model_server(lambda text, number: str(number)) as there:
        kinds = [
            {},
            {"temperature": 0.5},
            {"model": "n"},
            {"tokens": 7},
            {"body": '{"seed": null, "x": [1]}'},
        ]
        said = [ask(there.url, **settings).ask([Request("a")])[0].text for settings in kinds]
        assert said == ["0", "1", "2", "3", "4"]
        assert "seed" not in there.asked[-1]
        assert there.asked[-1]["x"] == [1]
        assert ask(there.url, concurrent=1, timeout=9.0, max_requests=99).ask([Request("a")])[0].text == "0"


PASSING = {
    "429": Ill(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.05"}),
    "500": Ill(500, "oh"),
    "503": Ill(503, '{"error": {"message": "loading"}}'),
    "half an answer": Ill(body='{"choices": [{"index": 0, "message"', half=True),
    "nonsense": Ill(body="<html>hello</html>", headers={"Content-Type": "text/html"}),
    "other JSON": Ill(body='{"hello": 1}'),
    "no choice": Ill(body='{"id": "x", "choices": []}'),
    "not JSON": Ill(body="{"),
    "late": Ill(body="{}", hangs=0.7),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_fails_in_passing_is_asked_again(ask: Asked, kind: str):
    with model_server(lambda text, number: PASSING[kind] if number < 3 else echo(text, number)) as there:
        server = ask(there.url, timeout=0.5, concurrent=2)
        assert [reply.text for reply in server.ask(texts(4))] == [
            f"said text {number}" for number in range(4)
        ]
        assert len(there.asked) == 7
        assert server.spent.requests == 4
    assert len(ask.told) == 1
    assert "does not reply" in ask.told[0]


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        (Ill(401, '{"error": {"message": "wrong key"}}'), "wrong key"),
        (Ill(404, '{"error": {"message": "no model m"}}'), "no model m"),
        (Ill(400, '{"error": {"message": "prompt is too long"}}'), "too long"),
        (Ill(429, '{"error": {"message": "no money", "code": "insufficient_quota"}}'), "no money"),
    ],
)
def test_what_is_refused_ends_at_once_in_one_line(ask: Asked, ill: Ill, said: str):
    with model_server(lambda text, number: ill) as there:
        with pytest.raises(InputError, match=said) as refused:
            ask(there.url, concurrent=2).ask(texts(30))
        assert len(there.asked) <= 2
    assert "\n" not in str(refused.value)
    assert "judge.server.model" in str(refused.value)


def test_a_server_that_is_gone_is_waited_for_and_then_given_up(ask: Asked):
    with model_server(echo) as there:
        url = there.url
        ask(url).ask(texts(2))
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"no reply from .* are kept"):
        ask(url, patience=0.4).ask(texts(9))
    assert 0.4 <= time.monotonic() - began < 5
    assert [reply.text for reply in ask(url).ask(texts(2))] == ["said text 0", "said text 1"]  # paid before
    assert ask.told
    assert "Connect" in ask.told[0]


def test_killed_and_restarted_under_load_nothing_is_paid_twice(ask: Asked):
    first = model_server(lambda text, number: Ill(hangs=9.0) if number >= 10 else echo(text, number))
    there = first.__enter__()
    server, replies = ask(there.url, concurrent=4, timeout=0.5, patience=20.0), list[Reply]()
    thread = threading.Thread(target=lambda: replies.extend(server.ask(texts(40))))
    thread.start()
    while len(there.asked) < 12:
        time.sleep(0.01)
    first.__exit__(None, None, None)
    time.sleep(0.3)
    with model_server(echo, port=int(there.url.split(":")[2].split("/")[0])) as again:
        thread.join(30)
        assert [reply.text for reply in replies] == [f"said text {number}" for number in range(40)]
        assert len(again.asked) == 30
    assert server.spent.requests == 40


def test_limits_of_a_minute_and_of_a_run(ask: Asked, monkeypatch: pytest.MonkeyPatch):
    import aiolimiter

    made: list[tuple[float, float]] = []
    taken: dict[float, list[float]] = {}

    class Limiter(aiolimiter.AsyncLimiter):
        def __init__(self, rate: float, period: float) -> None:
            made.append((rate, period))
            super().__init__(rate, period / 600)  # a minute in 0.1 s

        async def acquire(self, amount: float = 1) -> None:
            taken.setdefault(self.max_rate, []).append(amount)
            await super().acquire(amount)

    monkeypatch.setattr(aiolimiter, "AsyncLimiter", Limiter)
    with model_server(echo) as there:
        began = time.monotonic()
        ask(there.url, requests_per_minute=5, tokens_per_minute=9999).ask(texts(20))
        assert made == [(5, 60), (9999, 60)]
        assert time.monotonic() - began >= 0.25  # 5 at once, 15 more at 50 a second
        assert taken[5] == [1] * 20
        assert len(taken[9999]) == 20
        assert min(taken[9999]) > 1  # tokens: of what is asked, and of the longest reply
        there.asked.clear()
        limited = ask(there.url, run="budget", max_requests=6, cache=str(ask.folder / "own.sqlite"))
        with pytest.raises(ServerError, match=r"gave 6 replies, .*max_requests is 6: raise it"):
            limited.ask(texts(20))
        assert len(there.asked) == 6
        with pytest.raises(ServerError, match="max_requests"):  # a run that goes on has spent it, too
            ask(there.url, run="budget", max_requests=6, cache=str(ask.folder / "own.sqlite")).ask(texts(20))
        assert len(there.asked) == 6
        more = ask(there.url, run="budget", max_requests=20, cache=str(ask.folder / "own.sqlite"))
        assert len(more.ask(texts(20))) == 20
        money = {"max_cost": 0.002, "price_in": 1.0, "price_out": 2.0, "tokens": 400, "concurrent": 1}
        with pytest.raises(ServerError, match="max_cost is"):
            ask(there.url, run="money", cache=str(ask.folder / "m.sqlite"), **money).ask(texts(500))
        paid = ask.servers[-1]
        assert 0 < paid.cost <= 0.002
        assert paid.cost == pytest.approx((paid.spent.tokens_in + 2 * paid.spent.tokens_out) / 1e6)


def test_killed_while_it_asks_it_has_every_reply_that_came(tmp_path: Path):
    """`kill -9` in the middle of outstanding requests: what was paid is not asked again."""

    def replies(text: str, number: int) -> "str | Ill":
        return echo(text, number) if number < 15 else Ill(hangs=5.0)

    code = """
        import sys
        from pretrainrl_jax.config import JudgeServerConfig
        from pretrainrl_jax.judging.server import Request, Server
        settings = JudgeServerConfig(url=sys.argv[1], model="m", cache=sys.argv[2], concurrent=4)
        Server(settings, "run", print).ask([Request(f"text {n}") for n in range(30)])
    """
    cache = tmp_path / "replies.sqlite"
    with model_server(replies) as there:
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), there.url, str(cache)])
        while len(there.asked) < 19:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        process.kill()
        process.wait()
    kept = Ledger(cache)
    assert kept.spent("run").requests == 15
    kept.close()
    with model_server(echo) as again:
        settings = JudgeServerConfig(url=there.url, model="m", cache=str(cache), concurrent=4)
        port = int(there.url.split(":")[2].split("/")[0])
    with model_server(echo, port=port) as again:
        server = Server(settings, "run", print, {})
        assert len(server.ask(texts(30))) == 30
        assert len(again.asked) == 15
        assert server.spent.requests == 30
        server.close()


SECRET = "sk-very-secret-0123456789"


def test_a_key_is_of_the_environment_and_nowhere_else(ask: Asked, tmp_path: Path):
    echoing = Ill(401, f'{{"error": {{"message": "Incorrect API key provided: {SECRET}"}}}}')
    with model_server(lambda text, number: echoing if text == "bad" else "good") as there:
        server = ask(there.url, key_variable="THE_KEY", environment={"THE_KEY": SECRET})
        server.ask([Request("a")])
        assert there.keys == [f"Bearer {SECRET}"]
        with pytest.raises(InputError, match="Incorrect API key provided: …") as refused:
            server.ask([Request("bad")])
        assert SECRET not in str(refused.value) + repr(refused.value) + repr(server)
        with pytest.raises(InputError, match="THE_KEY is not set"):
            ask(there.url, key_variable="THE_KEY")
        ask(there.url, model="n").ask([Request("a")])
        assert SECRET not in there.keys[-1]  # where none is named none is sent
    for path in tmp_path.rglob("*"):
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "localhost:8000", "model": "m"}, "http"),
        ({"url": f"http://me:{SECRET}@host/v1", "model": "m"}, "without user"),
        ({"url": f"http://host/v1?key={SECRET}", "model": "m"}, "without user"),
        ({"url": "http://host/v1"}, "model is empty"),
        ({"url": "http://host/v1", "model": "m", "key_variable": SECRET}, "NAME of an environment variable"),
        ({"url": "http://host/v1", "model": "m", "body": "[1]"}, "JSON object"),
        ({"url": "http://host/v1", "model": "m", "body": '{"messages": []}'}, "'messages'"),
        ({"url": "http://host/v1", "model": "m", "max_cost": 3.0}, "price_in"),
        ({"model": "m"}, "url is not"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_and_hold_no_secret(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said) as refused:
        JudgeServerConfig(**given)
    shown = str(refused.value.errors()[0]["ctx"]["error"])  # type: ignore[attr-defined]
    assert SECRET not in shown


def test_a_file_that_is_no_file_of_replies_is_refused(tmp_path: Path):
    path = tmp_path / "other"
    path.write_text("no database at all" * 100)
    with pytest.raises(InputError, match="cannot keep replies in"):
        Ledger(path)
    assert sqlite3.sqlite_version  # it is what Python has
    assert key_of(a=1, b="é") == key_of(b="é", a=1) != key_of(a=1, b="e")
    assert os.path.exists(path)


def test_a_file_of_replies_that_fails_later_is_told_in_one_line(tmp_path: Path):
    """As on a disk that is full: an OSError, before which a run saves its state."""
    ledger = Ledger(path := tmp_path / "replies.sqlite")
    with sqlite3.connect(path) as other:
        other.execute("drop table replies")
    for fails in (lambda: ledger.get("key"), lambda: ledger.put("key", "run", Reply("A", "stop", 1, 1))):
        with pytest.raises(OSError, match=r"replies\.sqlite, the file of paid replies, fails: no such table"):
            fails()
    ledger.close()


def test_closed_while_it_asks_it_ends(ask: Asked):
    with model_server(lambda text, number: Ill(hangs=3.0)) as there:
        server: Server = ask(there.url, timeout=9.0)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                server.ask(texts(3))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        owner: ModelServer = there
        while len(owner.asked) < 3:
            time.sleep(0.01)
        began = time.monotonic()
        server.close()
        thread.join(5)
        assert time.monotonic() - began < 3
        assert failed
