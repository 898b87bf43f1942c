"""What the compiler says of programs: asked in processes of their own, and kept.

Such a process, `python -m pretrainrl_jax.planning.compiled < request.pickle`, compiles one program of a
configuration for a slice. It is ended from outside as soon as the optimised program is written: machine code,
which nobody here can run, takes ten times as long.
"""

import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import Config
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.target import planned_for, prepare_target
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.storage import user_cache

OPTIMISED = ".after_optimizations.txt"
BUFFERS = ".after_optimizations-buffer-assignment.txt"
LAST = ".after_optimizations_after_buffer_assignment.txt"  # is written after the others
POLL = 0.5  # seconds


class Request(NamedTuple):
    """What is to be compiled."""

    config: Config
    topology: Topology
    material: Material
    program: str  # its name
    folder: str = ""  # for what it becomes


@dataclass(frozen=True)
class Compiled:
    """What the compiler said of a program: its text, and bytes of one chip."""

    text: str  # the optimised program
    arguments: int
    outputs: int  # beside those that take the place of arguments
    temporary: int
    seconds: float  # that the compiler took for it

    @property
    def peak(self) -> int:
        """Held at once, at most; machine code comes on top, some ten megabytes."""
        return self.arguments + self.outputs + self.temporary


class OutOfMemory(Exception):
    """A program that the compiler could not fit into a chip's memory: `used` is what it would take, bytes."""

    def __init__(self, used: float) -> None:
        super().__init__(used)
        self.used = used


class CompilerFailed(OSError):
    """A compiler that ended without a program: an error of its process."""


def compile_program(request: Request) -> Compiled:
    """Compile one program of a configuration in a process of its own; the request's folder is set here.

    Raises OutOfMemory if it does not fit, CompilerFailed if the compiler fails otherwise.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "pretrainrl_jax.planning.compiled"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            try:
                assert process.stdin
                process.stdin.write(pickle.dumps(request._replace(folder=folder)))
                process.stdin.close()
                while process.poll() is None and not _written(Path(folder)):
                    time.sleep(POLL)
                seconds = time.perf_counter() - began
            finally:
                process.kill()
        if _main_module(Path(folder), LAST) is None:
            said.seek(0)
            raise _failure(said.read())
        return read_dump(Path(folder), seconds)


def _failure(said: str) -> Exception:
    """Of a compiler that wrote no program, from what it printed."""
    for pattern in (r"Used ([\d.]+)([KMGT]) of", r"required for HLO temporaries \(([\d.]+)([KMGT])\)"):
        if told := re.search(pattern, said):
            return OutOfMemory(float(told[1]) * 1024 ** " KMGT".index(told[2]))
    lines = [line for line in said.splitlines() if line.strip()]
    return CompilerFailed(f"the compiler ended: {lines[-1] if lines else 'it said nothing'}")


def _main_module(folder: Path, ending: str) -> Path | None:
    """The file of the program itself; smaller ones are of parts of it."""
    with contextlib.suppress(OSError):
        files = [path for path in folder.iterdir() if path.name.endswith(ending) and ".jit_" in path.name]
        return max(files, key=lambda path: path.stat().st_size, default=None)
    return None


def _written(folder: Path) -> bool:
    """Whether the optimised program is there, and no longer grows."""
    path = _main_module(folder, LAST)
    return path is not None and time.time() - path.stat().st_mtime > 2 * POLL


def read_dump(folder: Path, seconds: float) -> Compiled:
    """What a compiler left in a folder. Main memory alone: a TPU's others are its own."""
    texts = [_main_module(folder, ending) for ending in (OPTIMISED, BUFFERS)]
    text, buffers = (path.read_text(encoding="utf-8") if path else "" for path in texts)
    sizes = {"arguments": 0, "outputs": 0, "temporary": 0}
    for size, rest in re.findall(r"^allocation \d+: size (\d+),(.*)$", buffers, re.MULTILINE):
        kinds = {" parameter ": "arguments", " preallocated-temp": "temporary", " maybe-live-out": "outputs"}
        kind = next((kinds[word] for word in kinds if word in rest), None)
        if kind and not re.search(r" color [1-9]", rest):
            sizes[kind] += int(size)
    return Compiled(text, **sizes, seconds=seconds)


def _kept_at(key: str) -> Path:
    return user_cache() / "plan" / f"{key}.json"


def kept(key: str) -> Compiled | OutOfMemory | None:
    """What an earlier plan compiled under a key, or that it did not fit."""
    if not _kept_at(key).is_file():
        return None
    values = json.loads(_kept_at(key).read_text(encoding="utf-8"))
    return OutOfMemory(values["used"]) if "used" in values else Compiled(**values)


def keep(key: str, compiled: Compiled | OutOfMemory) -> None:
    """For later plans; where the cache cannot be written they compile anew."""
    values = {"used": compiled.used} if isinstance(compiled, OutOfMemory) else asdict(compiled)
    own = _kept_at(f"{key}.{os.getpid()}")  # another plan may keep the same at this moment
    with contextlib.suppress(OSError):
        write_json(own, values)
        own.replace(_kept_at(key))


def main() -> None:
    """Compile what our own parent process asks for."""
    request: Request = pickle.load(sys.stdin.buffer)
    prepare_target(request.topology)
    whole = planned_for(request.config, request.topology, request.material)
    (program,) = (one for one in whole.programs if one.name == request.program)
    options = {"xla_dump_to": request.folder, "xla_dump_hlo_as_text": True}
    program.lower().compile(compiler_options=options)


if __name__ == "__main__":
    main()
