"""How processes find each other, and what is said where they do not."""

import os
import re
import socket
import subprocess
import sys

import pytest
from helpers.host_processes import PATIENCE, ROOT, Processes

from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts import join


@pytest.mark.parametrize("there", [[1], [0, 2]], ids=str)
def test_processes_that_do_not_come(processes: Processes, there: list[int]) -> None:
    """The others say so in time, each once, and do not wait for JAX, which would abort them."""
    for index in there:
        processes.start_one("", seconds=3, index=index, count=3)
    ended = processes.end()
    assert ended.codes == [2] * len(there), ended.err
    said = f"error: hosts.coordinator=localhost:{processes.port}: they were not all connected within 3 s"
    assert [line.startswith(said) for line in ended.lines()] == [True] * len(there)
    assert not any("Traceback" in text for text in ended.err)


def test_a_port_in_use(processes: Processes) -> None:
    with socket.create_server(("", 0)) as other:
        processes.port = other.getsockname()[1]
        processes.start_one("", index=0, count=2)
        ended = processes.end()
    assert ended.codes == [2], ended.err
    (line,) = ended.lines()
    said = f"hosts.coordinator=localhost:{processes.port}: port {processes.port} cannot be opened here"
    assert said in line
    assert "hosts.index=0" in line


@pytest.mark.parametrize("coordinator", ["gpu-0", "gpu-0:", ":80", "gpu-0:x", "gpu-0:0", "gpu-0:65536"])
def test_a_coordinator_of_no_such_form(coordinator: str) -> None:
    with pytest.raises(InputError, match=r"hosts\.coordinator=.* give the host and a port"):
        join.join(HostsConfig(coordinator=coordinator, count=2, index=1), seconds=1)


ONE = """
import sys, threading
from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.hosts import agree
from pretrainrl_jax.hosts.join import join, leave
from pretrainrl_jax.hosts.maintenance import watch_maintenance
from pretrainrl_jax.hosts.watch import explained, waiting
join(HostsConfig(), "COMMAND")
join(HostsConfig(coordinator="localhost:1", count=1), "COMMAND")
watch_maintenance(HostsConfig())
assert (agree.process_index(), agree.process_count(), agree.is_process_0()) == (0, 1, True)
assert agree.run_on_process_0(lambda: (1, 2), "w") == (1, 2) and agree.gather(3, "w") == [3]
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
    subprocess.run([sys.executable, "-c", ONE], cwd=ROOT, env=environment, check=True, timeout=PATIENCE)


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
def test_what_the_environment_announces(
    environment: dict[str, str], said: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where libtpu is not installed; the extras install it on machines without TPUs, too."""
    monkeypatch.setattr(join, "find_spec", lambda name: None)
    assert join.announced(environment) == said


def test_an_installed_library_of_tpus_announces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "find_spec", lambda name: name == "libtpu")
    assert join.announced({}) == ("the TPU runtime", 0)
    assert join.announced({"JAX_PLATFORMS": "cpu"}) == ("", 1)


WHICH = "say([process_index(), process_count()])"


def test_slurm_is_joined(processes: Processes) -> None:
    """As `srun --ntasks=2` on two hosts of one name."""
    environment = {**SLURM, "SLURM_STEP_NODELIST": "localhost", "JAX_COORDINATOR_PORT": str(processes.port)}
    for index in range(2):
        environment["SLURM_PROCID"] = str(index)
        processes.start_one(
            "say([process_index(), process_count()])", environment=environment, coordinator=""
        )
    ended = processes.end()
    assert ended.codes == [0, 0], ended.err
    assert ended.out == [["joined", [0, 2]], ["joined", [1, 2]]]


def test_a_library_of_tpus_alone_is_no_cluster(processes: Processes) -> None:
    environment = {"TPU_LIBRARY_PATH": __file__, "JAX_PLATFORMS": "tpu,cpu"}
    processes.start_one("say([process_index(), process_count()])", environment=environment, coordinator="")
    ended = processes.end()
    assert ended.out == [["joined", [0, 1]]], ended.err


def test_a_coordinator_without_a_cluster(processes: Processes) -> None:
    processes.start_one("", environment={"JAX_COORDINATOR_ADDRESS": "localhost:1"}, coordinator="")
    ended = processes.end()
    assert ended.codes == [2]
    assert re.match(
        "error: JAX_COORDINATOR_ADDRESS does not say .*: give hosts.coordinator", ended.lines()[0]
    )
