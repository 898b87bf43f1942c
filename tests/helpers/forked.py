"""New processes of Python in which JAX and the package are imported already: forks of one that has done it.

What it imports takes seconds of processor time, which each process of its own would need again. It has run
nothing else, and has made no backend of JAX: a fork is as a Python that has begun.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from helpers.command_line import Ran

# Reads requests, a line each; writes "started NUMBER PID", and "ended PID CODE" when that one has.
SERVER = """
import gc, importlib, json, os, selectors, signal, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
gc.collect()
gc.freeze()
import jax

began = dict(os.environ)
read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(write, warn_on_full_buffer=False)
looks = selectors.DefaultSelector()
looks.register(read, selectors.EVENT_READ)
looks.register(0, selectors.EVENT_READ)
code, left = "", b""

def told():
    # What JAX would have read from the environment when it was imported.
    for name, value in os.environ.items():
        known = name.lower()
        if name.startswith("JAX_") and value != began.get(name) and known in jax.config.values:
            was = jax.config.values[known]
            if isinstance(was, bool):
                value = value.lower() in ("1", "y", "yes", "true", "on")
            elif isinstance(was, int | float):
                value = type(was)(value)
            jax.config.update(known, value or None if was is None else value)

def become(asked):
    global code
    looks.close()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.close(read)
    os.close(write)
    for at, path in enumerate((os.devnull, asked["out"], asked["err"])):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if at else os.O_RDONLY, 0o666)
        os.dup2(opened, at)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["environment"])
    if asked["folder"]:
        os.chdir(asked["folder"])
    told()
    sys.argv = ["-c", *asked["arguments"]]
    code = asked["code"]

print("ready", flush=True)
while not code:
    for key, _ in looks.select():
        if key.fileobj == read:
            os.read(read, 4096)
            continue
        more = os.read(0, 1 << 20)
        if not more:
            os._exit(0)
        *lines, left = (left + more).split(b"\\n")
        for line in lines:
            asked = json.loads(line)
            pid = os.fork()
            if pid == 0:
                become(asked)
                break
            print("started", asked["number"], pid, flush=True)
        if code:
            break
    while not code:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)
exec(compile(code, "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
"""
IMPORTED = (
    "jax",
    "jax.experimental.multihost_utils",
    "orbax.checkpoint",
    "pretrainrl_jax.hosts.join",
    "pretrainrl_jax.main",
    *(
        f"pretrainrl_jax.stages.{name}"
        for name in ("start", "pretrain", "mine", "train", "evaluate", "report")
    ),
)


class Process:
    """A process that was forked, as far as subprocess.Popen is that."""

    def __init__(self, pid: int, changed: threading.Condition) -> None:
        self.pid, self.returncode, self.changed = pid, None, changed

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        with self.changed:
            if not self.changed.wait_for(lambda: self.returncode is not None, timeout):
                raise subprocess.TimeoutExpired(["a fork"], timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *IMPORTED],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._changed, self._started, self._running = threading.Condition(), {}, {}
        assert self._process.stdout.readline() == "ready\n"
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self._end)

    def _end(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _listen(self) -> None:
        for line in self._process.stdout:
            what, one, other = line.split()
            with self._changed:
                if what == "started":
                    self._started[int(one)] = self._running[int(other)] = Process(int(other), self._changed)
                else:
                    self._running.pop(int(one)).returncode = int(other)
                self._changed.notify_all()

    def start(self, **request: Any) -> Process:
        with self._changed:
            number = len(self._started)
            self._process.stdin.write(json.dumps(request | {"number": number}) + "\n")
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: number in self._started, 300)
            return self._started[number]


_starting = threading.Lock()


@cache
def _server() -> _Server:
    return _Server()


def start(
    code: str,
    arguments: Sequence[object],
    out: Path,
    err: Path,
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> Process:
    """`python -c CODE ARGUMENTS`, whose output goes to files."""
    for path in (out, err):
        path.write_bytes(b"")  # who looks before it has begun finds nothing in it
    with _starting:  # one server, whoever asks first
        server = _server()
        return server.start(
            code=code,
            arguments=[str(word) for word in arguments],
            out=str(out),
            err=str(err),
            environment=dict(environment),
            folder=str(folder) if folder else "",
        )


def python(code: str, *arguments: object, **environment: str) -> Ran:
    """What `python -c CODE ARGUMENTS` does, on one CPU device."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(code, arguments, out, err, os.environ | {"JAX_PLATFORMS": "cpu"} | environment)
        try:
            return Ran(process.wait(1800), out.read_text(), err.read_text())
        finally:
            process.kill()
