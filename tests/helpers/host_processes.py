"""A script in several processes, each of which counts as a host."""

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from helpers import forked

HOST = socket.gethostname()
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds, for what takes a few on a machine with nothing else to do

SCRIPT = """
import json, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts import ending
from pretrainrl_jax.hosts.agree import barrier, gather, is_process_0
from pretrainrl_jax.hosts.agree import process_count, process_index, run_on_process_0
from pretrainrl_jax.hosts.group import Store
from pretrainrl_jax.hosts.join import join, leave
from pretrainrl_jax.hosts.watch import explained, waiting, working
from pretrainrl_jax.hosts import join as joining

def say(value):
    print(json.dumps(value), flush=True)

ending.LINGER_SECONDS = 30.0  # a process on a busy machine may need it
joining.LAST_SECONDS = 6.0  # instead of 15
put = Store.put

def noted(self, key, value):
    if key.startswith(ending.LEFT):
        os.write(2, b"leaves\\n")
    put(self, key, value)

Store.put = noted
settings = HostsConfig(**json.loads(sys.argv[1]))
try:
    join(settings, "COMMAND", seconds=float(sys.argv[2]))
    say("joined")
BODY
    leave(0)
except InputError as error:
    leave(2, f"error: {error}")
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
except OSError as error:
    leave(1, f"failed: {error}")
except Exception as error:
    print("raised:", type(error).__name__, str(error)[:200], file=sys.stderr, flush=True)
    explained(error)
    leave(1, f"failed: {type(error).__name__}: {error}")
"""

# A sum over the devices of all processes, as a training step does one.
COLLECTIVE = """
import jax, numpy
from jax.experimental import multihost_utils
def collective():
    return int(multihost_utils.process_allgather(numpy.ones(1)).sum())
say(collective())
"""


class Ended(NamedTuple):
    codes: list[int]
    out: list[list]
    err: list[str]
    seconds: float

    def orderly(self) -> bool:
        """Whether process 0 was there as long as any other needed it, or JAX would have begun an abort.

        Between its farewell and its end no process needs it: what JAX writes then depends on the scheduler.
        """
        return not any("Terminating process" in text.partition("leaves\n")[0] for text in self.err)

    def lines(self) -> list[str]:
        """What the processes say of the end, on stderr."""
        return [line for text in self.err for line in text.splitlines()
                if line.startswith(("failed:", "error:", "interrupted", f"host {HOST} "))]  # fmt: skip


class Processes:
    """A script in several processes, each of which counts as a host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[forked.Process] = []
        self.port = free_port()

    def start(self, count: int, body: str, seconds: float = PATIENCE, **options: object) -> None:
        for index in range(count):
            self.start_one(body, seconds, **{"index": index, "count": count, **options})

    def start_one(
        self,
        body: str,
        seconds: float = PATIENCE,
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        settings = {"coordinator": f"localhost:{self.port}", "dead_seconds": 20.0, **options}
        text = SCRIPT.replace("BODY", "".join(f"    {line}\n" for line in body.splitlines()))
        number = len(self.running)
        self.running.append(
            forked.start(
                text,
                [json.dumps(settings), seconds],
                self._file(number, "out"),
                self._file(number, "err"),
                {"JAX_PLATFORMS": "cpu", **os.environ, **(environment or {})},
                ROOT,
            )
        )

    def _file(self, number: int, kind: str) -> Path:
        return self._folder / f"{number}.{kind}"

    def out(self, number: int) -> list:
        lines = self._file(number, "out").read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith("[Gloo]")]

    def wait_for(self, value: object, process: int | None = None) -> None:
        """Until this process, or all, have said this."""
        until = time.monotonic() + PATIENCE
        numbers = range(len(self.running)) if process is None else [process]
        while not all(value in self.out(number) for number in numbers):
            assert time.monotonic() < until, [
                self._file(n, "err").read_text() for n in range(len(self.running))
            ]
            time.sleep(0.02)

    def end(self, seconds: float = PATIENCE, without: int | None = None) -> Ended:
        """When all (but one) have ended, or too much time has passed."""
        start = time.monotonic()
        numbers = [number for number in range(len(self.running)) if number != without]
        for number in numbers:
            self.running[number].wait(max(0.1, start + seconds - time.monotonic()))
        took = time.monotonic() - start
        return Ended(
            [self.running[number].returncode for number in numbers],
            [self.out(number) for number in numbers],
            [self._file(number, "err").read_text() for number in numbers],
            took,
        )

    def kill(self) -> None:
        """Those that still run."""
        for process in self.running:
            process.kill()
            process.wait()


_given: set[int] = set()
_giving = threading.Lock()


def free_port() -> int:
    """A port that nobody listens on, and that was not given before: groups of processes begin at once."""
    with _giving:
        while True:
            with socket.socket() as free:
                free.bind(("", 0))
                port = free.getsockname()[1]
            if port not in _given:
                _given.add(port)
                return port
