"""Several processes as one run: they agree, end together, and say why when one of them does not go on."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pretrainrl_jax.config import Hosts
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts import agree, ending, join, maintenance, rollcall, watch

HOST = socket.gethostname()
ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, os, sys, threading, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
from pretrainrl_jax.config import Hosts
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import barrier, count, first, gather, index, once
from pretrainrl_jax.hosts.join import join, leave
from pretrainrl_jax.hosts.watch import explained, waiting, working

def say(value):
    print(json.dumps(value), flush=True)

settings = Hosts(**json.loads(sys.argv[1]))
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
        """Whether JAX aborted none of them."""
        return not any("Terminating process" in text for text in self.err)

    def lines(self) -> list[str]:
        """What the processes say of the end, on stderr."""
        return [line for text in self.err for line in text.splitlines()
                if line.startswith(("failed:", "error:", "interrupted"))]  # fmt: skip


class Processes:
    """A script in several processes, each of which counts as a host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: list[subprocess.Popen] = []
        self.port = free_port()

    def start(self, count: int, body: str, seconds: float = 60, **options: object) -> None:
        for index in range(count):
            self.start_one(body, seconds, **{"index": index, "count": count, **options})

    def start_one(self, body: str, seconds: float = 60, **options: object) -> None:
        settings = {"coordinator": f"localhost:{self.port}", "dead_seconds": 20.0, **options}
        text = SCRIPT.replace("BODY", "".join(f"    {line}\n" for line in body.splitlines()))
        number = len(self.running)
        with self._file(number, "out").open("w") as out, self._file(number, "err").open("w") as err:
            self.running.append(
                subprocess.Popen(
                    [sys.executable, "-c", text, json.dumps(settings), str(seconds)],
                    cwd=ROOT,
                    env={"JAX_PLATFORMS": "cpu", **os.environ, "PYTHONUNBUFFERED": ""},
                    stdout=out,
                    stderr=err,
                )
            )

    def _file(self, number: int, kind: str) -> Path:
        return self._folder / f"{number}.{kind}"

    def out(self, number: int) -> list:
        lines = self._file(number, "out").read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith("[Gloo]")]

    def wait_for(self, value: object) -> None:
        """Until all processes have said this."""
        until = time.monotonic() + 60
        while not all(value in self.out(number) for number in range(len(self.running))):
            assert time.monotonic() < until, [
                self._file(n, "err").read_text() for n in range(len(self.running))
            ]
            time.sleep(0.02)

    def end(self, seconds: float = 60, without: int | None = None) -> Ended:
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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


@pytest.fixture
def processes(tmp_path: Path):
    made = Processes(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_agree_and_leave_together(processes: Processes, count: int) -> None:
    processes.start(
        count,
        "say([index(), count(), first()])\n"
        "say(once(lambda: {'by': index(), 'pair': (1, 'é')}, 'work'))\n"
        "for n in range(60):\n"
        "    assert once(lambda: n, 'n') == n\n"
        "    assert gather([n, index()], 'all') == [[n, i] for i in range(count())]\n"
        "time.sleep(0.3 * index())\n"
        "start = time.time()\n"
        "barrier('here')\n"
        "say(time.time())\n"
        "say(len(once(lambda: 'x' * 5_000_000, 'much')))\n"
        "say([len(text) for text in gather('y' * (2_000_000 + index()), 'much from each')])\n"
        "time.sleep(0.2 * index())\n"
        "print(json.dumps('last'))",  # and does not flush it
    )  # fmt: skip
    ended = processes.end()
    assert ended.codes == [0] * count, ended.err
    assert ended.lines() == []
    assert ended.orderly()
    times = [out[3] for out in ended.out]
    assert max(times) - min(times) < 0.25  # though they came 0.3 s apart
    for index, out in enumerate(ended.out):
        assert out[0:3] == ["joined", [index, count, index == 0], {"by": 0, "pair": [1, "é"]}]
        assert out[4:] == [5_000_000, [2_000_000 + i for i in range(count)], "last"]


def test_keys_are_deleted(processes: Processes) -> None:
    processes.start(
        2,
        "from pretrainrl_jax.hosts.group import current\n"
        "for n in range(300):\n"
        "    once(lambda: n, 'n')\n"
        "    time.sleep(0.005)\n"
        "barrier('here')\n"
        "say(len(current().store._client.key_value_dir_get('hosts/points')))",
        dead_seconds=2.0,
    )
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err
    assert ended.out[0][1] < 10


def test_an_error_of_the_work_arrives_in_all(processes: Processes) -> None:
    processes.start(
        3,
        "def full(): raise OSError(28, 'No space left', '/a/b')\n"
        "def none(): raise FileNotFoundError(2, 'No such file', '/a/c')\n"
        "def bad(): raise InputError('facts.path=x: no such folder')\n"
        "for work in (full, none):\n"
        "    try: once(work, 'write')\n"
        "    except OSError as error: say([type(error).__name__, error.errno, error.filename])\n"
        "barrier('here')\n"
        "try: once(bad, 'read')\n"
        "finally: time.sleep(0 if index() else 0.5)",  # so that process 1 leaves before
    )
    ended = processes.end()
    assert ended.codes == [2, 2, 2]
    said = ["joined", ["OSError", 28, "/a/b"], ["FileNotFoundError", 2, "/a/c"]]
    assert ended.out == [said] * 3
    assert ended.lines() == ["error: facts.path=x: no such folder"]
    assert ended.lines()[0] in ended.err[0]
    assert ended.orderly()


def test_other_points_are_an_error(processes: Processes) -> None:
    processes.start(2, "barrier('left' if index() else 'right')")
    ended = processes.end()
    assert ended.codes == [1, 1]
    assert len(ended.lines()) == 1
    assert "'left'" in ended.lines()[0]
    assert "'right'" in ended.lines()[0]
    assert ended.seconds < 15  # no process is waited for that might explain it


WAITS = {
    "barrier": ("", "barrier('a point') if index() != {gone} else time.sleep(60)"),
    "collective": (
        COLLECTIVE,
        "if index() == {gone}: time.sleep(60)\nwith waiting('update 17 of train/dpo'): collective()",
    ),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("gone", [0, 1])
def test_a_killed_process_ends_the_others(processes: Processes, gone: int, wait: str) -> None:
    before, body = WAITS[wait]
    count = 3 if wait == "barrier" else 2
    body = f"{before}\nbarrier('here')\nsay('ready')\n{body.format(gone=gone)}"
    processes.start(count, body, dead_seconds=2.0 if gone else 20.0)
    processes.wait_for("ready")
    time.sleep(0.5)
    processes.running[gone].kill()
    ended = processes.end(20, without=gone)
    assert ended.codes == [1] * (count - 1), ended.err
    assert ended.seconds < 8
    why = "nothing was heard of it for 2 s (hosts.dead_seconds)" if gone else "the connection to it broke"
    line = f"failed: host {HOST} (process {gone}) is gone: {why}; what is saved is kept. Go on with: COMMAND"
    assert ended.lines() == [line], ended.err
    assert line in ended.err[0]  # of process 0, or of the lowest that lives


@pytest.mark.parametrize("gone", [0, 1])
def test_a_stopped_process_ends_the_others(processes: Processes, gone: int) -> None:
    count = 2 if gone else 3
    body = "say('ready')\nbarrier('a point') if index() != 1 else time.sleep(60)"
    processes.start(count, body, dead_seconds=2.0)
    processes.wait_for("ready")
    time.sleep(0.5)
    processes.running[gone].send_signal(signal.SIGSTOP)
    ended = processes.end(20, without=gone)
    assert ended.codes == [1] * (count - 1), ended.err
    assert ended.seconds < 10
    line = (
        f"failed: host {HOST} (process {gone}) is gone: nothing was heard of it for 2 s (hosts.dead_seconds)"
    )
    assert len(ended.lines()) == 1
    assert line in ended.err[0]
    # Once it goes on it finds itself alone.
    processes.running[gone].send_signal(signal.SIGCONT)
    assert processes.running[gone].wait(20) in (1, 143)


def test_machines_that_all_stood_still_go_on(processes: Processes) -> None:
    processes.start(
        2,
        "barrier('here')\nsay('ready')\nfor n in range(50): barrier('a step'); time.sleep(0.1)",
        dead_seconds=2.0,
    )
    processes.wait_for("ready")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes.running:
            process.send_signal(number)
        time.sleep(3)
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err


@pytest.mark.parametrize("slow", [0, 2])
def test_who_works_too_long_is_named(processes: Processes, slow: int) -> None:
    count = 3 if slow else 2
    processes.start(
        count,
        f"if index() == {slow}:\n"
        "    with working('reading rows'): time.sleep(60)\n"
        "with waiting('update 17 of train/dpo'): time.sleep(60)",
        stall_seconds=2.0,
        dead_seconds=3.0,
    )
    ended = processes.end()
    assert ended.codes == [1] * count, ended.err
    assert ended.seconds < 15
    assert ended.lines() == [
        f"failed: update 17 of train/dpo has waited 2 s for host {HOST} (process {slow}), which is at: "
        "reading rows; hosts.stall_seconds=2 allows no longer wait, and what is saved is kept. Go on with: "
        "COMMAND"
    ]
    assert ended.lines()[0] in ended.err[0]
    assert ended.orderly()


def test_a_wait_of_all_is_told_apart(processes: Processes) -> None:
    processes.start(2, "with waiting('update 17'): time.sleep(60)", stall_seconds=2.0, dead_seconds=3.0)
    ended = processes.end()
    assert ended.codes == [1, 1], ended.err
    assert len(ended.lines()) == 1
    assert ended.lines()[0].startswith(
        "failed: all 2 processes have waited 2 s at update 17: the communication"
    )


def test_waits_that_end_are_no_stall(processes: Processes) -> None:
    processes.start(
        2,
        "with waiting('a long loop'):\n"
        "    for n in range(5):\n"
        "        time.sleep(0.5)\n"
        "        barrier('a step')",
        stall_seconds=1.0,
        dead_seconds=2.0,
    )
    assert processes.end().codes == [0, 0]


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (2, "error: facts.path=x: gone", f"error: host {HOST} (process 1): facts.path=x: gone"),
        (1, "", f"failed: host {HOST} (process 1): it ended with exit code 1; what is saved is kept. Go on "
                "with: COMMAND"),
        (130, "", f"interrupted on host {HOST} (process 1); what is finished is kept. Go on with: COMMAND"),
    ],
)  # fmt: skip
def test_all_end_as_the_one_that_fails(processes: Processes, code: int, message: str, line: str) -> None:
    count = 3 if code == 2 else 2
    processes.start(
        count,
        f"if index() == 1: leave({code}, {message!r})\nif index() == 2: time.sleep(60)\nbarrier('a point')",
    )
    ended = processes.end()
    assert ended.codes == [code] * count, ended.err
    assert ended.orderly()
    assert ended.lines() == [line]
    assert line in ended.err[0]


def test_a_collective_that_breaks_is_explained(processes: Processes) -> None:
    """Process 0 gets an error from its devices, and says what happened to process 1."""
    processes.start(
        2,
        f"{COLLECTIVE}\n"
        "if index() == 1: leave(2, 'error: rows.path=x: not there')\n"
        "with waiting('update 17'): collective()",
    )
    ended = processes.end()
    assert ended.codes == [2, 2], ended.err
    assert ended.lines() == [f"error: host {HOST} (process 1): rows.path=x: not there"]
    assert "raised:" in ended.err[0]
    assert ended.seconds < 20


def test_an_interruption_that_all_planned(processes: Processes) -> None:
    processes.start(
        2,
        "from pretrainrl_jax.hosts import ending\n"
        "ending.LINGER_SECONDS = 0.3\n"
        "time.sleep(1.5 * index())\n"
        "leave(130, f'interrupted at update 3 ({index()})', planned=True)",
    )
    ended = processes.end()
    assert ended.codes == [130] * 2, ended.err
    assert ended.orderly()
    assert ended.lines() == ["interrupted at update 3 (0)"]


def test_ctrl_c_is_heard_in_a_wait(processes: Processes) -> None:
    processes.start(
        2,
        "try:\n"
        "    if index() == 0: time.sleep(60)\n"
        "    say('waits')\n"
        "    barrier('a point')\n"
        "except KeyboardInterrupt:\n"
        "    leave(130)",
    )
    until = time.monotonic() + 30
    while "waits" not in processes.out(1):
        assert time.monotonic() < until
        time.sleep(0.05)
    processes.running[1].send_signal(signal.SIGINT)
    ended = processes.end(10)
    assert ended.codes == [130, 130], ended.err
    assert ended.lines() == [
        f"interrupted on host {HOST} (process 1); what is finished is kept. Go on with: COMMAND"
    ]


def test_nobody_at_the_coordinator(processes: Processes) -> None:
    processes.start_one("", seconds=1, index=1, count=2)
    ended = processes.end()
    assert ended.codes == [2]
    assert len(ended.lines()) == 1
    assert f"hosts.coordinator=localhost:{processes.port}: process 0 did not answer" in ended.lines()[0]
    assert "Traceback" not in ended.err[0]


def meets(port: int, count: int, index: int, seconds: float = 3) -> Callable[[], str]:
    """Start a process's part in the roll call, as a thread; what it raised, in the end."""
    said: list[str] = []

    def work() -> None:
        try:
            rollcall.meet(f"localhost:{port}", count, index, seconds)
        except InputError as error:
            said.append(str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result() -> str:
        thread.join(20)
        assert not thread.is_alive()
        return said[0] if said else ""

    return result


def test_a_process_that_does_not_come() -> None:
    port = free_port()
    zero, two = meets(port, 3, 0, seconds=1.5), meets(port, 3, 2, seconds=20)
    said = (
        f"hosts.coordinator=localhost:{port}: of hosts.count=3 processes, number 1 did not come within 1.5 s"
    )
    assert said in zero()
    assert two() == zero()


def test_settings_that_contradict_each_other() -> None:
    port = free_port()
    zero, one = meets(port, 3, 0), meets(port, 3, 1)
    time.sleep(0.5)
    assert f"hosts.index=1: host {HOST} has a process with this number already" in meets(port, 3, 1)()
    assert "hosts.count=4: process 0, on host" in meets(port, 4, 2)()
    two = meets(port, 3, 2)
    assert [zero(), one(), two()] == ["", "", ""]


def test_a_process_that_went_may_come_again() -> None:
    port = free_port()
    zero = meets(port, 3, 0, seconds=10)
    time.sleep(0.3)
    with socket.create_connection(("localhost", port)) as other:
        other.sendall(
            json.dumps({"magic": rollcall.MAGIC, "index": 1, "count": 3, "host": "h"}).encode() + b"\n"
        )
        time.sleep(0.5)
    with socket.create_connection(("localhost", port)) as other:
        other.sendall(b"GET / HTTP/1.1\n\n")  # someone who looks for open ports
    one, two = meets(port, 3, 1, seconds=10), meets(port, 3, 2, seconds=10)
    assert [zero(), one(), two()] == ["", "", ""]


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall, "BUSY_SECONDS", 0.5)
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        said = meets(port, 2, 0)()
        assert f"hosts.coordinator=localhost:{port}: port {port} cannot be opened here" in said
        assert "hosts.index=0" in said


def test_another_program_at_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall, "BUSY_SECONDS", 0.5)
    server = http.server.ThreadingHTTPServer(("", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket):
        assert "another program has the port" in meets(server.server_port, 2, 1, seconds=5)()
        server.shutdown()


@pytest.mark.parametrize("coordinator", ["gpu-0", "gpu-0:", ":80", "gpu-0:x", "gpu-0:0", "gpu-0:65536"])
def test_a_coordinator_of_no_such_form(coordinator: str) -> None:
    with pytest.raises(InputError, match=r"hosts\.coordinator=.* give the host and a port"):
        rollcall.meet(coordinator, 2, 1, 1)


ONE = """
import sys, threading
from pretrainrl_jax.config import Hosts
from pretrainrl_jax.hosts import agree
from pretrainrl_jax.hosts.join import join, leave
from pretrainrl_jax.hosts.maintenance import watch_maintenance
from pretrainrl_jax.hosts.watch import explained, waiting
join(Hosts(), "COMMAND")
join(Hosts(coordinator="localhost:1", count=1), "COMMAND")
watch_maintenance(Hosts())
assert (agree.index(), agree.count(), agree.first()) == (0, 1, True)
assert agree.once(lambda: (1, 2), "w") == (1, 2) and agree.gather(3, "w") == [3]
agree.barrier("w")
assert leave(1, "x") is None and not explained(RuntimeError("Gloo"))
with waiting("w"): pass
assert threading.active_count() == 1, threading.enumerate()
assert "jax" not in sys.modules
"""


CLUSTERS = ("SLURM", "OMPI", "GCE", "TPU", "JAX_", "JOB_COMPLETION_INDEX")


def test_one_process_starts_nothing() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CLUSTERS)}
    # In a pod of Kubernetes that is no part of a job, too.
    environment = {**kept, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ONE], cwd=ROOT, env=environment, check=True, timeout=60)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "0",
         "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2"}  # fmt: skip
TPU = {"TPU_LIBRARY_PATH": "/lib/libtpu.so"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ("", 1)),
        (SLURM, ("Slurm", 2)),
        ({**SLURM, "SLURM_NTASKS": "1"}, ("Slurm", 1)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, ("Slurm", 1)),
        ({"SLURM_JOB_ID": "7"}, ("", 1)),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "4"}, ("Open MPI", 4)),
        ({**TPU, "TPU_WORKER_HOSTNAMES": "localhost"}, ("the TPU runtime", 1)),
        ({**TPU, "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, ("the TPU runtime", 4)),
        ({**TPU}, ("the TPU runtime", 0)),
        ({**TPU, "JAX_PLATFORMS": "cpu"}, ("", 1)),
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, ("JAX_COORDINATOR_ADDRESS", 0)),
        ({"KUBERNETES_SERVICE_HOST": "h"}, ("", 1)),
        ({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "0"}, ("Kubernetes", 0)),
    ],
)
def test_what_the_environment_announces(environment: dict[str, str], said: tuple[str, int]) -> None:
    assert join.announced(environment) == said


def test_slurm_is_joined(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `srun --ntasks=2` on two hosts of one name."""
    for name, value in {**SLURM, "SLURM_STEP_NODELIST": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(processes.port))
    for index in range(2):
        monkeypatch.setenv("SLURM_PROCID", str(index))
        processes.start_one("say([index(), count()])", coordinator="")
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err
    assert ended.out == [["joined", [0, 2]], ["joined", [1, 2]]]


def test_a_library_of_tpus_alone_is_no_cluster(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_LIBRARY_PATH", __file__)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    processes.start_one("say([index(), count()])", coordinator="")
    ended = processes.end()
    assert ended.out == [["joined", [0, 1]]], ended.err


def test_a_coordinator_without_a_cluster(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    processes.start_one("", coordinator="")
    ended = processes.end()
    assert ended.codes == [2]
    assert re.match(
        "error: JAX_COORDINATOR_ADDRESS does not say .*: give hosts.coordinator", ended.lines()[0]
    )


def test_waiting_is_cheap() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        for _ in range(10_000):
            with watch.waiting("w"):
                pass
        return (time.perf_counter() - start) / 10_000

    assert min(seconds() for _ in range(5)) < 5e-6


def test_a_message_names_its_host() -> None:
    assert ending.named("error: a: b", "host h (process 1)") == "error: host h (process 1): a: b"
    assert ending.named("interrupted; x", "host h (process 1)") == "interrupted on host h (process 1); x"
    assert ending.named("interrupted: x", "host h (process 1)") == "interrupted on host h (process 1): x"
    assert ending.named("what", "host h (process 1)") == "host h (process 1): what"


def test_many_names_are_cut_short() -> None:
    assert watch.some(["a", "b", "c"]) == ["a", "b", "c"]
    assert watch.some(["a", "b", "c", "d", "e"]) == ["a", "b", "c", "2 more"]


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google Cloud's metadata server: it holds a request until an entry is another than that of the tag."""

    values: dict[str, str]

    def do_GET(self) -> None:
        assert self.headers["Metadata-Flavor"] == "Google"
        path, _, query = self.path.partition("?")
        name, options = path.rpartition("/")[2], dict(part.split("=") for part in query.split("&"))
        until = time.monotonic() + min(0.5, float(options["timeout_sec"]))
        while str(hash(self.values[name])) == options["last_etag"] and time.monotonic() < until:
            time.sleep(0.02)
        value = self.values[name]
        self.send_response(200)
        self.send_header("ETag", str(hash(value)))
        self.end_headers()
        self.wfile.write(value.encode())

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch):
    Metadata.values = {"maintenance-event": "NONE", "preempted": "FALSE"}
    server = http.server.ThreadingHTTPServer(("localhost", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{server.server_port}")
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    yield Metadata.values
    server.shutdown()
    server.server_close()


MAINTAINED = """
import signal, time
from pretrainrl_jax.config import Hosts
from pretrainrl_jax.hosts.maintenance import watch_maintenance
def handle(number, frame): print("SIGTERM", flush=True)
signal.signal(signal.SIGTERM, handle)
watch_maintenance(Hosts())
print("ready", flush=True)
for _ in range(300): time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "notice of maintenance"),
     ("preempted", "TRUE", "notice of preemption")],
)  # fmt: skip
def test_a_notice_is_a_signal(metadata: dict[str, str], name: str, value: str, said: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAINTAINED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.8)  # a request comes back with nothing, and the next one is held
        assert process.poll() is None
        metadata[name] = value
        assert process.stdout.readline() == "SIGTERM\n"
        metadata.update({"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"})
        time.sleep(0.5)
    finally:
        process.kill()
    out, err = process.communicate()
    assert out == ""  # once
    assert err.count("\n") == 1
    assert said in err
    assert f"({name}: {value})" in err


def test_no_notice_is_looked_for_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[str] = []
    monkeypatch.setattr(maintenance.threading, "Thread", lambda **options: started.append(options["name"]))
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(maintenance, "PRODUCT", tmp_path / "name")
    maintenance.watch_maintenance(Hosts())
    (tmp_path / "name").write_text("Standard PC\n")
    maintenance.watch_maintenance(Hosts())
    monkeypatch.setenv("GCE_METADATA_HOST", "localhost:1")
    maintenance.watch_maintenance(Hosts(maintenance=False))
    assert started == []
    assert agree.count() == 1
