"""Several processes as one run on this machine: what tests of them share."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from helpers import forked

# Runs the command line; what it writes and reads is noted, at once, since the process may end any way.
DRIVER = """
import json, os, signal, sys, time
from pathlib import Path

notes, workdir, arguments = Path(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:]
lines = notes.open("a")

def note(*what):
    lines.write(json.dumps(what) + "\\n")
    lines.flush()

def hook(event, of):
    if event == "open" and isinstance(of[0], str):
        path, mode, flags = of
        writes = isinstance(mode, str) and set(mode) & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes and os.path.abspath(path).startswith(workdir + os.sep):
            note("write", os.path.relpath(path, workdir))
    elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
        path = os.path.abspath(str(of[0]))
        if path.startswith(workdir + os.sep):
            note("write", os.path.relpath(path, workdir))

sys.addaudithook(hook)

from pretrainrl_jax.trees import dataset

read = dataset.ProcessShard.__getitem__

def noted(self, index):
    row = read(self, index)
    if os.environ.get("STALLS") in arguments and index == 40:
        time.sleep(3600)  # as a file system that does not answer
    microstep, at = divmod(index, len(self.places))
    if self.places[at] < self.source.rows // self.microsteps:
        place = microstep * (self.source.rows // self.microsteps) + self.places[at]
        planned = self.source.plan[place] if place < len(self.source.plan) else []
        note("row", getattr(self.source, "passes", 0), place, [self.source.trees[i].id for i in planned])
    return row

dataset.ProcessShard.__getitem__ = noted

# Of a process in whose command line WORD stands, a signal that does not wait for the one who looks on.
word, _, step = os.environ.get("STOPS", "@").partition("@")
if word in arguments:
    from pretrainrl_jax.training.session import Session

    write = Session._write

    def stopping(self, metrics):
        write(self, metrics)
        if self.global_step == int(step):
            os.kill(os.getpid(), signal.SIGTERM)

    Session._write = stopping

from pretrainrl_jax.main import main

sys.exit(main(arguments))
"""


# How a record of a C++ library begins, and one of Python's warnings of what is not ours.
LOGGED = re.compile(r"(WARNING\b|[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ .*\.(cc|h|cpp):\d+\]|\[Gloo\])", re.ASCII)
WARNED = re.compile(r"(?!.*pretrainrl_jax/)\S+:\d+: \w*Warning: ")
# How a line of ours begins, or of Python where something failed: what a library wrote before it has ended.
OURS = re.compile(
    r"(error|failed|interrupted|host \S+ \(process)\b|Traceback|Exception|Fatal Python|[a-z_]+(/\S+)?  \d"
)


def own_lines(err: str) -> list[str]:
    """The lines of stderr without those of JAX, gRPC, gloo and absl.

    These write there, in records of many lines, when a process ends or another one has gone: whether they
    come to it depends on which of the two the machine runs first.
    """
    own, foreign = [], False
    for line in err.splitlines():
        if OURS.match(line):
            foreign = False
        elif LOGGED.match(line) or WARNED.match(line):
            foreign = True
        if not foreign:
            own.append(line)
    return own


class Ended(NamedTuple):
    """How a process ended, and what it did."""

    code: int
    out: str
    err: str
    notes: list[list]  # ["write", path] and ["row", passes, place, ids]

    def said(self) -> list[str]:
        """What the process itself wrote to stderr."""
        return own_lines(self.err)

    def written(self) -> set[str]:
        """The files of the workdir that Python code of this process wrote, renamed or removed."""
        return {note[1] for note in self.notes if note[0] == "write"}


class Together:
    """A run of several processes, begun.

    In its environment STALLS=WORD stops the reading of rows for ever, and STOPS=WORD@STEP sends SIGTERM
    after that step: in each process in whose command line the word stands.
    """

    def __init__(
        self, folder: Path, count: int, workdir: Path, arguments: Sequence[str | Path], **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self._notes = [folder / f"notes{index}.jsonl" for index in range(count)]
        hosts = [f"--hosts.coordinator=localhost:{port}", f"--hosts.count={count}"] if count > 1 else []
        self._outs, self._errs = (
            [folder / f"{kind}{index}" for index in range(count)] for kind in ("out", "err")
        )
        self.started = [
            forked.start(
                DRIVER,
                [notes, workdir, *arguments, *hosts] + [f"--hosts.index={index}"] * (count > 1),
                out,
                err,
                os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | environment,
            )
            for index, (notes, out, err) in enumerate(zip(self._notes, self._outs, self._errs, strict=True))
        ]

    def wait_for(self, reached: Callable[[], bool], seconds: float = 1800) -> None:
        """Until something is reached; a run that ends before fails."""
        until = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < until, "it was not reached"
            assert all(process.poll() is None for process in self.started), self.ended()
            time.sleep(0.02)

    def send(self, index: int, number: signal.Signals) -> None:
        """A signal to one process."""
        os.kill(self.started[index].pid, number)

    def ended(self, seconds: float = 3600) -> list[Ended]:
        """All processes, once they have ended."""
        ended = []
        each = zip(self.started, self._notes, self._outs, self._errs, strict=True)
        for process, notes, *told in each:
            try:
                process.wait(seconds)
            finally:
                process.kill()
            out, err = (path.read_text() for path in told)
            lines = notes.read_text().splitlines() if notes.is_file() else []
            ended.append(Ended(process.returncode, out, err, [json.loads(line) for line in lines]))
        return ended


def lines_of(workdir: Path) -> int:
    """How many lines of metrics a run has written."""
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0
