"""Several processes become one run, and end as one."""

import math
import os
import socket
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pretrainrl_jax.config import HostsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts import ending, watch
from pretrainrl_jax.hosts.agree import barrier, gather
from pretrainrl_jax.hosts.group import Group, Store, current, enter

JOIN_SECONDS = 300.0
LAST_SECONDS = 15.0
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
GIVE = "give hosts.coordinator, hosts.count and hosts.index"


def join(settings: HostsConfig, command: str = "", seconds: float = JOIN_SECONDS) -> None:
    """Become one run with the other processes, if there are any, and watch over them from now on.

    To be called before JAX makes its backend. `command` is what a message says to go on with. In a run of one
    process nothing is started. Raises InputError if the others are not found in time, or contradict this one.
    """
    if settings.coordinator:
        if settings.count < 2:
            return
        _, port = address(settings.coordinator)
        # JAX's variable names another port where a network forwards it.
        if settings.index == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
            _check_free(settings.coordinator, port)
        _initialize(
            f"hosts.coordinator={settings.coordinator}",
            settings,
            seconds,
            coordinator_address=settings.coordinator,
            num_processes=settings.count,
            process_id=settings.index,
            cluster_detection_method="deactivate",
        )
    else:
        source, number = announced(os.environ)
        if not source or number == 1 or not _initialize_as_announced(source, settings, seconds):
            return
    # JAX tells none of this in public without making its backend; Orbax takes it from the same place.
    from jax._src.distributed import global_state as joined

    if joined.num_processes == 1:  # a TPU machine by itself
        joined.shutdown()
        return
    group = Group(joined.process_id, joined.num_processes, Store(joined.client), settings, command)
    enter(group)
    watch.start(group, address(joined.coordinator_address or ""))
    group.hosts = gather(socket.gethostname(), "joining")


def leave(code: int, message: str = "", planned: bool = False) -> None:
    """End this process as one of several, with this exit code; comes back only in a run of one process.

    With code 0, or where it is `planned` by all processes, all end together. Otherwise the others are ended
    with the same code. Process 0 prints its own message on stderr, or the one of the process that failed.
    Nothing that is registered to run at exit does: all must be saved and closed before.
    """
    group = current()
    if group is None:
        return
    if code == 0 or planned:
        barrier("the end of the run")
    if code and not message:
        failed = f"failed: it ended with exit code {code}; what is saved"
        said = "interrupted; what is finished" if code == 130 else failed
        message = f"{said} is kept. Go on with: {group.command}"
    if message and group.index:
        message = f"{group.who(group.index)}: {message}"
    ending.end(group, code, message, told=code == 0 or planned)


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of hosts.coordinator; raises InputError if it is not of that form."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"hosts.coordinator={coordinator}: give the host and a port of process 0, as gpu-0:8476"
        )
    return host.strip("[]"), int(port)


def _check_free(coordinator: str, port: int) -> None:
    """Raises InputError if process 0 cannot listen there: JAX may crash where it cannot."""
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise InputError(
            f"hosts.coordinator={coordinator}: port {port} cannot be opened here ({error.strerror}); "
            "give another one, or see that only one process has hosts.index=0"
        ) from None


def announced(environment: Mapping[str, str]) -> tuple[str, int]:
    """Who says that there may be other processes, and how many there are with this one (0: it says not).

    These are the clusters that JAX finds by itself, in its order.
    """
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI", _number(environment, "OMPI_COMM_WORLD_SIZE")
    if all(name in environment for name in SLURM):
        # The shell that salloc opens is a step of one task, whatever the allocation has.
        step = _number(environment, "SLURM_STEP_NUM_TASKS")
        return "Slurm", 1 if step == 1 else _number(environment, "SLURM_NTASKS")
    names = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    slices = _number(environment, "MEGASCALE_NUM_SLICES") or 1
    platforms = environment.get("JAX_PLATFORMS", "")
    tpu = (not platforms or "tpu" in platforms) and ("TPU_LIBRARY_PATH" in environment or find_spec("libtpu"))
    if tpu and names is not None:
        return "the TPU runtime", len(names.split(",")) * slices
    if "JAX_COORDINATOR_ADDRESS" in environment:
        return "JAX_COORDINATOR_ADDRESS", 0
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes", 0
    return ("the TPU runtime", 0) if tpu else ("", 1)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0


def _initialize_as_announced(source: str, settings: HostsConfig, seconds: float) -> bool:
    """Whether there was a cluster to join."""
    # JAX gives each process of Slurm and Open MPI the one device of its number on the host. A process that is
    # alone there takes them all, and one that sees a single device takes that, whatever its number.
    nodes = _number(os.environ, "SLURM_STEP_NUM_NODES")
    alone = source == "Slurm" and nodes == _number(os.environ, "SLURM_NTASKS")
    alone |= source == "Open MPI" and _number(os.environ, "OMPI_COMM_WORLD_LOCAL_SIZE") == 1
    alone |= os.environ.get("CUDA_VISIBLE_DEVICES", "").isdecimal()
    alone &= "JAX_LOCAL_DEVICE_IDS" not in os.environ
    options: dict[str, Any] = {"local_device_ids": []} if alone else {}
    try:
        _initialize(f"the processes that {source} announces", settings, seconds, **options)
    except OSError:  # no metadata server: a TPU, but not one of a pod of Google's
        if source == "the TPU runtime":
            return False
        raise
    except ValueError as error:
        if "coordinator_address should be defined" in str(error):
            return False
        raise InputError(f"{source} does not say which processes the run has ({error}): {GIVE}") from None
    return True


def _initialize(what: str, settings: HostsConfig, seconds: float, **options: Any) -> None:
    """Connect through JAX, in a thread, since the call cannot be interrupted and aborts at its own limit."""
    import jax

    # Its preemption service takes SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    # Else it aborts all when one is dead: the watch is to end them, with a reason.
    jax.config.update("jax_enable_recoverability", True)
    failed: list[Exception] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(
                initialization_timeout=int(seconds) + 60,
                heartbeat_timeout_seconds=math.ceil(settings.dead_seconds) + watch.MARGIN_SECONDS,
                **options,
            )
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=connect, name="hosts-join", daemon=True)
    thread.start()
    # Process 0 waits the longest: its end aborts the others, which are to say this, too.
    thread.join(seconds + (LAST_SECONDS if settings.coordinator and settings.index == 0 else 0.0))
    if thread.is_alive():
        raise InputError(
            f"{what}: they were not all connected within {seconds:g} s: start each with its own hosts.index, "
            f"from 0, and all else the same, see that process 0 can be reached, or {GIVE}"
        )
    for error in failed:
        if isinstance(error, OSError | ValueError) or "must be called before" in str(error):
            raise error  # the last is a mistake of ours
        text = " ".join(str(error).split())[:500]
        raise InputError(f"{what}: cannot be connected ({type(error).__name__}: {text})")
