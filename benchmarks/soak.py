"""A run that is killed again and again, against one that is left alone.

    python benchmarks/soak.py --workdir DIR [--kills 20] [--seed 0] [--config FILE.py] [--section.key=value …]

`run` goes through once in DIR/uninterrupted. In DIR/killed-1 it is killed (SIGKILL mostly, SIGTERM and SIGINT
sometimes) at random moments spread over all stages, and started again, until `--kills` signals were sent,
then left to end; where it ends sooner, DIR/killed-2 follows, and so on. Then all parameters, mined trees,
evaluations and figures must be the same to the last bit, and what no interruption may leave behind must not
be there. After a kill a stage must go on from the last checkpoint that was finished when the process died.

Prints what happened; the exit code is 1 where anything differs.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIGNALS = {signal.SIGKILL: 7, signal.SIGTERM: 2, signal.SIGINT: 1}  # how often each is sent
AT_START = 0.1  # share of signals sent within START_SECONDS of the start of a process
START_SECONDS = 4.0
POLL_SECONDS = 0.02
DEFAULTS = ("--checkpoint.every_steps=5", "--checkpoint.shard_questions=16")
TIMES = ("seconds", "device_seconds", "ended", "questions_per_second", "tokens_per_second")
MEMORY = ("host_peak_bytes", "device_peak_bytes")
LEFTOVERS = ("*.partial", "*.orbax-checkpoint-tmp*", "*.parts", "*.damaged", "training", "nonfinite.json")


@dataclass(frozen=True)
class Kill:
    """When a process is to be sent which signal."""

    number: signal.Signals
    stage: str = ""  # wait until this stage is at work; empty: count from the start of the process
    seconds: float = 0.0  # and then so long


@dataclass
class Life:
    """One process: what was sent, when, and what it had done by then."""

    number: signal.Signals | None = None
    stage: str = ""  # the first one that was not finished when it ended
    updates: int = 0  # of that stage, in metrics.jsonl
    saved: int = 0  # update of its last finished checkpoint
    code: int = 0
    out: str = ""
    err: str = ""
    starting: bool = False  # the signal was sent before it said which devices it has


@dataclass
class Found:
    """All lives of all workdirs, and what is wrong."""

    lives: list[Life] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)  # updates that were made again after each kill
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Run, kill, compare; 1 where something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of all workdirs; must not exist")
    parser.add_argument("--kills", type=int, default=20, help="signals to send")
    parser.add_argument("--seed", type=int, default=0, help="of signals and moments")
    options, settings = parser.parse_known_args()
    if options.workdir.exists():
        parser.error(f"{options.workdir} exists already")
    options.workdir.mkdir(parents=True)
    environment = compiled_once(options.workdir / "compiled")
    command = [sys.executable, "-m", "pretrainrl_jax.main", "run", *DEFAULTS, *settings]

    reference, began = options.workdir / "uninterrupted", time.monotonic()
    uninterrupted = live([*command, "--workdir", str(reference)], environment, reference, [])
    if uninterrupted.code:
        print(f"the uninterrupted run failed: {uninterrupted.err.strip()}")
        return 1
    took = {stage: notes["seconds"] for stage, notes in marks(reference).items()}
    print(f"uninterrupted: {len(took)} stages, {time.monotonic() - began:.0f} s", flush=True)

    chance, findings, began, number = random.Random(options.seed), Found(), time.monotonic(), 0
    while (left := options.kills - sum(life.number is not None for life in findings.lives)) > 0:
        number += 1
        workdir = options.workdir / f"killed-{number}"
        planned = kills(took, left, chance)
        outcome = until_finished(
            [*command, "--workdir", str(workdir)], environment, workdir, list(took), planned
        )
        findings.lives += outcome.lives
        findings.lost += outcome.lost
        findings.wrong += [
            f"{workdir.name}: {text}" for text in [*outcome.wrong, *differences(reference, workdir)]
        ]
    report(findings, number, time.monotonic() - began)
    return bool(findings.wrong)


def compiled_once(folder: Path) -> dict[str, str]:
    """An environment in which JAX keeps what it compiles, so that starting again is short."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return settings | dict(os.environ)


def kills(took: dict[str, float], number: int, chance: random.Random) -> list[Kill]:
    """So many kills, in the order of the stages, each within the seconds that its stage took."""
    planned, stages = [], list(took)
    for place in range(number):
        (sent,) = chance.choices(list(SIGNALS), list(SIGNALS.values()))
        stage = stages[int((place + chance.random()) * len(stages) / number)]
        if chance.random() < AT_START:
            planned.append(Kill(sent, "", chance.uniform(0, START_SECONDS)))
        else:
            planned.append(Kill(sent, stage, chance.uniform(0, took[stage])))
    return planned


def until_finished(
    command: list[str], environment: dict[str, str], workdir: Path, stages: list[str], planned: list[Kill]
) -> Found:
    """Start the command until it ends by itself, with one of the planned kills for each process."""
    findings, waiting = Found(), iter(planned)
    pending: Life | None = None  # killed in training, and nothing was said of where that goes on
    while True:
        life = live(command, environment, workdir, stages, next(waiting, None))
        life.stage = at_work(workdir, stages)
        life.updates, life.saved = updates(workdir, life.stage), last_step(workdir, life.stage)
        findings.lives.append(life)
        findings.wrong += list(misbehaviour(life))
        if pending:
            said = re.search(rf"^{re.escape(pending.stage)}: goes on after step (\d+)", life.out, re.M)
            if said or pending.stage in marks(workdir):
                went_on = int(said[1]) if said else 0
                findings.lost.append(max(0, pending.updates - went_on))
                if went_on < pending.saved:
                    findings.wrong.append(
                        f"{pending.stage} went on after {went_on}, {pending.saved} was saved"
                    )
                pending = None
            elif life.saved < pending.saved:
                findings.wrong.append(f"{pending.stage}: the checkpoint of update {pending.saved} is gone")
        if life.number is None:
            return findings
        if life.updates or life.saved:
            pending = life


def live(
    command: list[str],
    environment: dict[str, str],
    workdir: Path,
    stages: list[str],
    kill: Kill | None = None,
) -> Life:
    """One process, and what it did; `kill` is left out where it ends before."""
    out: list[str] = []
    sent = None

    def too_soon(kill: Kill) -> bool:
        now = at_work(workdir, stages)
        return not out or (now in stages and stages.index(now) < stages.index(kill.stage))

    with (workdir.parent / f"{workdir.name}.stderr").open("w+") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
        reader = threading.Thread(target=out.extend, args=(process.stdout,))
        reader.start()
        while kill and kill.stage and process.poll() is None and too_soon(kill):
            time.sleep(POLL_SECONDS)
        try:
            process.wait(timeout=kill.seconds if kill else None)
        except subprocess.TimeoutExpired:
            assert kill
            sent = kill.number
            process.send_signal(sent)
        starting = not out
        code = process.wait()
        reader.join()
        err.seek(0)
        return Life(sent, code=code, out="".join(out), err=err.read(), starting=starting)


def misbehaviour(life: Life) -> Iterator[str]:
    """What a process should not have done."""
    expected = {
        None: (0,),
        signal.SIGKILL: (-signal.SIGKILL,),
        # While Python starts nobody handles signals; one may also come when all is done.
        signal.SIGTERM: (130, 0, -signal.SIGTERM) if life.starting else (130, 0),
        signal.SIGINT: (130, 0, 1, -signal.SIGINT) if life.starting else (130, 0),
    }[life.number]
    if life.code not in expected:
        name = life.number.name if life.number else "no signal"
        yield f"exit code {life.code} after {name} in {life.stage}: {life.err[-300:]!r}"
    if "Traceback" in life.err and not life.starting:
        yield f"a traceback in {life.stage}: {life.err[-2000:]}"
    if life.code == 130 and "Go on with: " not in life.err:
        yield f"{life.stage}: no command to go on with: {life.err[-300:]!r}"


def marks(workdir: Path) -> dict[str, Any]:
    """The finished stages of a workdir, in order."""
    path = workdir / "finished.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def at_work(workdir: Path, stages: list[str]) -> str:
    """The first stage that is not finished."""
    done = marks(workdir)
    return next((stage for stage in stages if stage not in done), "report")


def last_step(workdir: Path, stage: str) -> int:
    """The update of a stage's last finished checkpoint; 0 without one."""
    return max(
        (int(p.name) for p in (workdir / "checkpoints" / stage).glob("*") if p.name.isdigit()), default=0
    )


def lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, without a half line at its end."""
    path = workdir / "metrics.jsonl"
    text = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in text if line.endswith("\n")]


def updates(workdir: Path, stage: str) -> int:
    """The last update of a stage that metrics.jsonl has."""
    return max((line["step"] for line in lines(workdir) if line["stage"] == stage), default=0)


def differences(one: Path, other: Path) -> Iterator[str]:
    """What two finished workdirs do not share, and what should not be in the second."""
    import jax
    import numpy as np

    from pretrainrl_jax.training.loading import load
    from pretrainrl_jax.trees.records import read_trees, to_json

    if untimed(marks(one)) != untimed(marks(other)):
        yield f"finished.json: {untimed(marks(one))} and {untimed(marks(other))}"
    for path in sorted((one / "checkpoints").rglob("model.json")):
        stage = path.parent.relative_to(one)
        if last_step(one, stage.relative_to("checkpoints")) != last_step(
            other, stage.relative_to("checkpoints")
        ):
            yield f"{stage}: other updates"
        pairs = zip(*(jax.tree.leaves(load(workdir / stage).params) for workdir in (one, other)), strict=True)
        if apart := sum(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in pairs):
            yield f"{stage}: {apart} arrays differ"
    for path in sorted((one / "mined").rglob("*.array_record")):
        trees = [list(map(to_json, read_trees(workdir / path.relative_to(one)))) for workdir in (one, other)]
        if json.dumps(trees[0]) != json.dumps(trees[1]):
            yield f"{path.relative_to(one)}: other trees"
    for path in sorted([*(one / "evaluations").glob("*.json"), one / "mined" / "statistics.json"]):
        results = [
            untimed(json.loads((workdir / path.relative_to(one)).read_text())) for workdir in (one, other)
        ]
        if results[0] != results[1]:
            yield f"{path.relative_to(one)}: other results"
    figures = [sorted(map(json.dumps, untimed(lines(workdir)))) for workdir in (one, other)]
    if figures[0] != figures[1]:
        yield f"metrics.jsonl: {len({*figures[0]} ^ {*figures[1]})} lines differ"
    for pattern in LEFTOVERS:
        yield from (f"{path.relative_to(other)} was left" for path in other.rglob(pattern))


def untimed(values: Any) -> Any:
    """The same without what no two runs share."""
    if isinstance(values, dict):
        return {name: untimed(value) for name, value in values.items() if name not in (*TIMES, *MEMORY)}
    return [untimed(value) for value in values] if isinstance(values, list) else values


def report(findings: Found, workdirs: int, seconds: float) -> None:
    """Print it all."""
    killed = [life for life in findings.lives if life.number]

    def counted(values: list[Any]) -> str:
        return ", ".join(f"{value} {n}" for value, n in Counter(values).items()) or "none"

    print(f"signals sent: {len(killed)} ({counted([life.number.name for life in killed if life.number])})")
    print(f"  while starting: {sum(life.starting for life in killed)}")
    print(f"  by the stage at work: {counted([life.stage for life in killed])}")
    print(f"exit codes: {counted([life.code for life in findings.lives])}")
    print(f"updates made again after a kill: {findings.lost}, at most {max(findings.lost, default=0)}")
    print(f"workdirs: {workdirs}; processes: {len(findings.lives)}; {seconds:.0f} s")
    for text in findings.wrong:
        print(f"WRONG: {text}")
    print("verdict: " + ("something differs" if findings.wrong else "all equal to the uninterrupted run"))


if __name__ == "__main__":
    sys.exit(main())
