"""launch/slurm.sbatch: what it runs and when it goes on, by stand-ins, and on a real Slurm of one node."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import command_line
from helpers.command_line import metrics
from helpers.process_runs import lines_of

import pretrainrl_jax as prl

SCRIPT = Path(__file__).parents[1] / "launch" / "slurm.sbatch"

# Writes its own words to a file, and ends as it is told.
RECORDS = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
sys.exit(int(os.environ.get(os.path.basename(sys.argv[0]).upper() + "_ENDS", 0)))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, str, list[list[str]]]]:
    """Runs the script where `srun`, `scontrol` and `sleep` only write down what they are given."""
    for name in ("srun", "scontrol", "sleep"):
        (tmp_path / name).write_text(RECORDS.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)

    def run(*words: str, **environment: str) -> tuple[int, str, list[list[str]]]:
        record = tmp_path / "record"
        record.write_text("")
        given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record), "SLURM_JOB_ID": "7"}
        ran = subprocess.run(
            ["bash", str(SCRIPT), *words], env=given | environment, capture_output=True, text=True, timeout=60
        )
        assert ran.stderr == ""
        return ran.returncode, ran.stdout, [json.loads(line) for line in record.read_text().splitlines()]

    return run


def test_words_reach_every_process_as_they_are(run: Callable[..., Any]) -> None:
    words = [
        "--config",
        "my configs/a.py",
        '--facts.path=it\'s "here" $HOME *',
        "",
        "--workdir",
        "/shared/a b",
    ]
    code, _, ran = run(*words, PYTHON="/venv of mine/bin/python")
    start = ["srun", "--kill-on-bad-exit=0", "/venv of mine/bin/python", "-m", "pretrainrl_jax.main"]
    assert (code, ran) == (0, [[*start, *words]])


@pytest.mark.parametrize("ends", [130, 137, 143])
def test_what_was_stopped_or_killed_is_started_again(run: Callable[..., Any], ends: int) -> None:
    code, said, ran = run(SRUN_ENDS=str(ends), SLURM_RESTART_COUNT="3")
    assert code == ends  # Slurm ends the script while it waits; this one does not
    assert [words[0] for words in ran] == ["srun", "scontrol", "sleep"]
    assert ran[1][1:] == ["requeue", "7"]
    assert f"ended with {ends}" in said
    assert "scancel 7" in said


def test_where_slurm_does_not_take_a_job_back_it_is_said(run: Callable[..., Any]) -> None:
    code, said, ran = run(SRUN_ENDS="130", SCONTROL_ENDS="1")
    assert code == 130
    assert [words[0] for words in ran] == ["srun", "scontrol"]
    assert said.splitlines()[-1].endswith("sbatch it again to go on")


@pytest.mark.parametrize(("ends", "environment"), [
    (0, {}), (1, {}), (2, {}), (130, {"SLURM_RESTART_COUNT": "20"}), (130, {"REQUEUES": "0"}),
])  # fmt: skip
def test_what_is_done_failed_or_was_refused_is_not(
    run: Callable[..., Any], ends: int, environment: dict[str, str]
) -> None:
    code, said, ran = run(SRUN_ENDS=str(ends), **environment)
    assert code == ends
    assert [words[0] for words in ran] == ["srun"]
    assert ("sbatch it again" in said) == (ends == 130)


def test_the_script_says_to_slurm_what_it_counts_on() -> None:
    asked = set(re.findall(r"^#SBATCH (--[a-z-]+)", SCRIPT.read_text(), re.MULTILINE))
    assert {"--requeue", "--signal", "--open-mode", "--ntasks-per-node"} <= asked


# A Slurm of this machine's own.

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4
"""


def free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("", 0))
        two.bind(("", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Callable[..., str]]:
    """Commands of a Slurm of one node, which ends with the module."""
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "runuser"))):
        pytest.skip("needs root, and Slurm and munge installed")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (folder / "munge", key):
        shutil.chown(path, "munge", "munge")
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    # Processors that Slurm is told of but that are not there would keep the node from coming up.
    processors = os.cpu_count()
    conf.write_text(CONF.format(host=host, ports=free_ports(), folder=folder, processors=processors))
    environment = os.environ | {"SLURM_CONF": str(conf)}
    files = {f"--{name}-file": folder / "munge" / name for name in ("key", "pid", "log", "seed")}
    munged = ["munged", "--foreground", f"--socket={folder}/munge/socket"]
    munged += [f"{name}={path}" for name, path in files.items()]
    servers = [subprocess.Popen(["runuser", "-u", "munge", "--", *munged])]
    while not (folder / "munge" / "socket").exists():
        assert servers[0].poll() is None
        time.sleep(0.1)
    servers += [subprocess.Popen([name, "-D"], env=environment) for name in ("slurmctld", "slurmd")]

    def ask(*words: str, **more: str) -> str:
        ran = subprocess.run(words, env=environment | more, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    try:
        until = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], env=environment, capture_output=True, text=True).stdout:
            assert time.monotonic() < until, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield ask
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment)  # else tasks of a failed test would stay
        for server in reversed(servers):
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        shutil.rmtree(folder)


def tasks_of(workdir: Path) -> list[int]:
    """Processes on this machine that run the command line with that workdir."""
    listed = subprocess.run(
        ["pgrep", "-f", rf"pretrainrl_jax\.main .*{workdir}"], capture_output=True, text=True
    )
    found = map(int, listed.stdout.split())
    return [pid for pid in found if Path(f"/proc/{pid}/exe").resolve().name.startswith("python")]


@pytest.mark.slow
def test_a_job_whose_task_is_killed_is_requeued_and_ends_the_same(
    slurm: Callable[..., str], tmp_path: Path, compiled_environment: dict[str, str]
) -> None:
    """Two tasks; one is killed with SIGKILL, later the job is told to end: it goes on each time."""
    config = tmp_path / "tiny.py"
    config.write_text(command_line.CONFIG.replace("epochs=2", "epochs=30"))
    given = {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"} | compiled_environment

    def submit(name: str) -> str:
        words = ["pretrain", "--config", str(config), "--workdir", str(tmp_path / name)]
        words += ["--checkpoint.every_steps=5", "--hosts.dead_seconds=6"]
        options = ["--ntasks=2", "--ntasks-per-node=2", "--parsable", f"--output={tmp_path / name}.log"]
        return slurm("sbatch", *options, str(SCRIPT), *words, **given).strip()

    def told(job: str, what: str) -> str:
        return re.findall(rf"{what}=(\S+)", slurm("scontrol", "show", "job", job))[0]

    def wait(reached: Callable[[], bool], name: str, seconds: float = 900) -> None:
        until = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < until, (tmp_path / f"{name}.log").read_text()[-3000:]
            time.sleep(0.5)

    def finished(job: str) -> bool:
        return told(job, "JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    alone = submit("alone")
    wait(lambda: finished(alone), "alone")
    assert told(alone, "JobState") == "COMPLETED", (tmp_path / "alone.log").read_text()[-3000:]

    job, workdir = submit("stopped"), tmp_path / "stopped"
    wait(lambda: lines_of(workdir) >= 8, "stopped")
    os.kill(tasks_of(workdir)[-1], signal.SIGKILL)
    wait(lambda: told(job, "Restarts") == "1", "stopped")
    # Slurm holds a job back for a while that was put into the queue again.
    wait(lambda: len(tasks_of(workdir)) == 2, "stopped")
    before = lines_of(workdir)
    wait(lambda: lines_of(workdir) >= before + 4 or finished(job), "stopped")
    slurm("scancel", "--signal=TERM", job)  # as before a preemption: to its tasks
    wait(lambda: told(job, "Restarts") == "2" or finished(job), "stopped")
    wait(lambda: finished(job), "stopped")
    log = (tmp_path / "stopped.log").read_text()
    assert told(job, "JobState") == "COMPLETED", log[-3000:]
    assert told(job, "Restarts") == "2", log[-3000:]
    assert log.count(f"job {job} on") == 3
    expected, found = (prl.load(tmp_path / name)[1] for name in ("alone", "stopped"))
    assert [line["step"] for line in metrics(workdir, "pretrain")] == [
        line["step"] for line in metrics(tmp_path / "alone", "pretrain")
    ]
    for one, other in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_array_equal(one, other)
