"""A world that is learnt in seconds, and the command line on it: what tests of whole runs share."""

import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.main import main
from pretrainrl_jax.training.metrics import MetricsWriter

CONFIG = '''"""Sixty facts, two systems."""

from pretrainrl_jax.config import (
    Config,
    CorpusConfig,
    EvaluateConfig,
    MineConfig,
    ModelConfig,
    PretrainConfig,
    TokenizerConfig,
    TrainConfig,
    WorldConfig,
)

config = Config(
    name="tiny world",
    world=WorldConfig(facts=60, relations=2, answers=8),
    corpus=CorpusConfig(statements=400, filler=60),
    tokenizer=TokenizerConfig(vocabulary=600),
    model=ModelConfig(d_model=32, layers=1, heads=2, kv_heads=1, head_dim=16, d_ff=48),
    pretrain=PretrainConfig(epochs=2, learning_rate=1e-2, row_length=64, rows=8),
    mine=MineConfig(beams=4, max_new_tokens=6, batch=64, negatives=3),
    train=TrainConfig(systems=("ntp_answer", "pretrainrl"), passes=2, questions=16, row_length=64),
    evaluate=EvaluateConfig(beams=4, max_new_tokens=6, batch=64, bins=2),
)
'''
SYSTEMS = ("ntp_answer", "pretrainrl")
STAGES = ("pretrain", *(f"train/{system}" for system in SYSTEMS))
# What no two runs share.
TIMES = (
    "seconds",
    "device_seconds",
    "ended",
    "questions_per_second",
    "tokens_per_second",
    "host_peak_bytes",
    "device_peak_bytes",
)


class Ran(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Ran:
    """The command line within this process. Reports are drawn by `report` alone: of a run they are empty."""
    out, err = io.StringIO(), io.StringIO()
    drawn = contextlib.nullcontext() if arguments[:1] == ("report",) else undrawn()
    with drawn, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def undrawn():
    """Within it pictures of a page are empty: they take half the time of a run this small."""
    from matplotlib.figure import Figure

    draw = Figure.savefig
    empty = {"svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "png": b"\x89PNG\r\n\x1a\n"}

    def savefig(self, file, **how):
        file.write(empty[how["format"]])

    Figure.savefig = savefig
    try:
        yield
    finally:
        Figure.savefig = draw


def python(*arguments: str | Path, text: str | None = None, **environment: str) -> Ran:
    """Python in a process of its own, on one CPU device."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=1800,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


class Signalled(MetricsWriter):
    """Writes as the other does; when `when` is reached a real signal arrives."""

    number, when = signal.SIGTERM, ("", 0)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        super().write(step, metrics)
        if (self.stage, step) == type(self).when:
            assert callable(signal.getsignal(self.number))  # or this process would be gone
            signal.raise_signal(self.number)


def command(*arguments: str | Path) -> str:
    """A command line as messages quote it."""
    return shlex.join(["python", "-m", "pretrainrl_jax.main", *map(str, arguments)])


def complaint(ran: Ran) -> str:
    """The one line of a refused command, without "error: "."""
    assert ran.code == 2, ran
    assert ran.err.startswith("error: "), ran.err
    assert ran.err.endswith("\n"), ran.err
    assert len(ran.err.splitlines()) == 1, ran.err
    return ran.err.removeprefix("error: ").strip()


def files(workdir: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file of a workdir, by its path within."""
    return {
        path.relative_to(workdir).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in workdir.rglob("*")
        if path.is_file()
    }


def parameters(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """A stage's last parameters as Orbax reads them, none of our code in between."""
    import orbax.checkpoint as ocp

    steps = (p for p in (workdir / "checkpoints" / stage).iterdir() if p.name.isdigit())
    step = max(steps, key=lambda p: int(p.name))
    with warnings.catch_warnings(action="ignore"):  # it reads where arrays lay from the files: on one device
        tree = ocp.PyTreeCheckpointer().restore((step / "params").absolute())
    return {"/".join(path): np.asarray(leaf) for path, leaf in _leaves(tree)}


def _leaves(tree: Any, path: tuple[str, ...] = ()):
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, branch in tree.items():
        yield from _leaves(branch, (*path, name))


def assert_same_parameters(one: Path, other: Path, stage: str) -> None:
    """Bit for bit."""
    params, second = parameters(one, stage), parameters(other, stage)
    assert params.keys() == second.keys()
    for name, value in params.items():
        assert value.tobytes() == second[name].tobytes(), name


def fill(path: Path, leave: int) -> None:
    """A file that takes all room of its disk but `leave` bytes."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - leave)


def items(step: Path) -> set[str]:
    """What a checkpoint is made of."""
    return {p.name for p in step.iterdir() if p.is_dir()}


def metrics(workdir: Path, stage: str) -> list[dict[str, Any]]:
    """A stage's lines of metrics.jsonl."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def repeatable(values: Any) -> Any:
    """The same without the times."""
    if isinstance(values, dict):
        return {k: repeatable(v) for k, v in values.items() if k not in TIMES}
    return [repeatable(v) for v in values] if isinstance(values, list) else values


def summary(workdir: Path) -> dict[str, Any]:
    """report/summary.json."""
    return json.loads((workdir / "report" / "summary.json").read_text())


def unfinish(workdir: Path, wanted: Callable[[str], bool], checkpoints: bool = True) -> None:
    """Take the mark of some stages away, and what they trained."""
    marks = json.loads((workdir / "finished.json").read_text())
    for stage in filter(wanted, marks):
        if checkpoints:
            shutil.rmtree(workdir / "checkpoints" / stage, ignore_errors=True)
            shutil.rmtree(workdir / "tensorboard" / stage, ignore_errors=True)
    kept = {stage: notes for stage, notes in marks.items() if not wanted(stage)}
    (workdir / "finished.json").write_text(json.dumps(kept))
