"""`transformers serve` in a process of its own, a model it serves in seconds, and a bad line to it."""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from helpers.chat import CHATML, chat_tokenizer
from helpers.model_server import listening

STARTS = 120.0  # seconds at most
PROMPTS = {  # short, and every verdict is one letter: what a model of hardly any skill may say
    "quality": "Which text is better?\n\nA: {first}\n\nB: {second}\n\nThe better one is:\nverdicts: A | B\n",
    "safety": "Is this text safe?\n\n{suffix}\n\nA: safe\n\nB: unsafe\n\nIt is:\nverdicts: A | B\n",
    "answer_at_once": "{prompt}\nAnswer with one letter alone, {verdicts}.\n",
    "rewrite": "Write again, word for word:\n\n{words}{suffix}\n\nAgain:\n",
}


def missing() -> str:
    """Why no server can be started here; "" where one can."""
    wanted = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
    if _program() is None:
        wanted.append("the command `transformers`")
    return f"transformers serve needs {', '.join(wanted)}" if wanted else ""


def _program() -> str | None:
    """Of this environment, whatever PATH says."""
    return shutil.which("transformers", path=str(Path(sys.executable).parent))


def write_prompts(folder: Path) -> Path:
    """The prompts as files of one's own."""
    folder.mkdir()
    for name, text in PROMPTS.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def write_model(folder: Path) -> Path:
    """A random Llama with a chat template whose every token is A or B, by what it has read."""
    import torch
    from helpers.transformers_models import peer

    tokenizer = chat_tokenizer(folder, CHATML)
    model = peer("llama2", vocab_size=len(tokenizer.backend), max_position_embeddings=8192)
    first, second = (tokenizer.encode(letter)[0] for letter in "AB")
    with torch.no_grad():
        rows = model.lm_head.weight
        rows.mul_(0.01)
        rows[first] *= 1000
        rows[second] = -rows[first]
    model.save_pretrained(folder)
    return folder


@dataclass
class RealServer:
    """`transformers serve`, which may be killed and started again on its port."""

    model: Path
    log: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """As settings have it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> int:
        """Questions that it answered, by its own log."""
        return self.log.read_text(errors="replace").count('"POST /v1/chat/completions HTTP/1.1" 200')

    def start(self) -> None:
        """Return when it can be asked."""
        program = _program()
        assert program
        command = [program, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        with self.log.open("ab") as log:
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        until = time.monotonic() + STARTS
        while not self._healthy():
            said = self.log.read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < until, f"not there after {STARTS:.0f} s: {said}"
            time.sleep(0.2)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """SIGKILL: what it was answering is never answered."""
        if self.process:
            self.process.kill()
            self.process.wait(30)


@contextmanager
def real_server(model: Path, log: Path) -> Iterator[RealServer]:
    """The server, there until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = RealServer(model, log, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Ill(NamedTuple):
    """What comes in the place of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


ILLS: tuple[Ill | None, ...] = (  # None: half of the answer, and the connection ends
    None,
    Ill(429, {"Retry-After": "1"}, b'{"error": {"message": "slow down"}}'),
    Ill(500, {}, b"oh"),
    Ill(200, {}, b"<html>hello</html>"),
)


@dataclass
class BadLine:
    """A proxy: every answer is late, and in the place of every n-th comes one ill after another."""

    port: int  # of the server behind it
    delay: float  # seconds
    every: int
    url: str = ""
    whole: list[bytes] = field(default_factory=list)  # requests whose answers came through
    ruined: list[bytes] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def kept(self, request: bytes) -> tuple[bool, Ill | None]:
        """Whether the answer to a request comes through, and what comes else."""
        with self.lock:
            ruined, number = self.ruined, len(self.whole) + len(self.ruined) + 1
            whole = number % self.every != 0
            (self.whole if whole else ruined).append(request)
            return whole, None if whole else ILLS[(len(ruined) - 1) % len(ILLS)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: BadLine

    def do_POST(self) -> None:
        owner, request = self.owner, self.rfile.read(int(self.headers["Content-Length"]))
        behind = http.client.HTTPConnection("127.0.0.1", owner.port, timeout=120)
        try:
            behind.request("POST", self.path, request, {"Content-Type": "application/json"})
            answer = behind.getresponse()
            given = Ill(answer.status, {}, answer.read())
        finally:
            behind.close()
        time.sleep(owner.delay)
        whole, ill = owner.kept(request)
        status, headers, body = ill or given
        self.send_response(status)
        about = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (about | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = not whole and ill is None
        self.wfile.write(body[: len(body) // 2] if self.close_connection else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def bad_line(port: int, delay: float, every: int) -> Iterator[BadLine]:
    """The proxy, at its `url`, to the server at a port."""
    owner = BadLine(port, delay, every)
    with listening(_Handler, owner) as owner.url:
        yield owner
