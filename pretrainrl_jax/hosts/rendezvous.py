"""All processes find each other before JAX connects them, since JAX aborts a process where that fails."""

import json
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pretrainrl_jax.errors import InputError

MAGIC = "pretrainrl_jax"
BUSY_SECONDS = 6.0  # a run that has just ended may still hold the port
HELLO_SECONDS = 5.0
AGAIN_SECONDS = 0.3

Present = dict[int, tuple[socket.socket, str]]  # connection and host of each process that has come, by index


def meet(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Come back when all processes are there. Process 0 listens at `coordinator`, until it comes back.

    Raises InputError if not all come within that time, or their settings contradict each other.
    """
    host, port = address(coordinator)
    if index == 0:
        # JAX's variable names another port where a network forwards it.
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "").rpartition(":")[2]
        _listen(coordinator, int(bound) if bound.isdecimal() else port, count, seconds)
    else:
        _register(coordinator, host, port, count, index, seconds)
        time.sleep(AGAIN_SECONDS)  # process 0 opens the port anew, for JAX


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of hosts.coordinator; raises InputError if it is not of that form."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"hosts.coordinator={coordinator}: give the host and a port of process 0, as gpu-0:8476"
        )
    return host.strip("[]"), int(port)


def _listen(coordinator: str, port: int, count: int, seconds: float) -> None:
    """Process 0: wait until every other process has said its name, and let them all go on."""
    until = time.monotonic() + seconds
    present: Present = {}
    with _server(coordinator, port, count, seconds) as server:
        while len(present := dict(filter(_still_there, present.items()))) < count - 1:
            missing = [str(index) for index in range(1, count) if index not in present]
            if time.monotonic() > until:
                error = (
                    f"hosts.coordinator={coordinator}: of hosts.count={count} processes, number "
                    f"{', '.join(missing)} did not come within {seconds:g} s: start each with its own "
                    "hosts.index, from 0, and all else the same"
                )
                _answer([connection for connection, _ in present.values()], error)
                raise InputError(error)
            with suppress(TimeoutError):
                _admit(server.accept()[0], present, count)
        _answer([connection for connection, _ in present.values()])


def _server(coordinator: str, port: int, count: int, seconds: float) -> socket.socket:
    until = time.monotonic() + min(seconds, BUSY_SECONDS)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            server = socket.create_server(("", port), family=family, backlog=count, dualstack_ipv6=both)
        except OSError as error:
            if time.monotonic() > until:
                raise InputError(
                    f"hosts.coordinator={coordinator}: port {port} cannot be opened here ({error.strerror}); "
                    "give another one, or see that only one process has hosts.index=0"
                ) from None
            time.sleep(AGAIN_SECONDS)
        else:
            server.settimeout(0.5)
            return server


def _admit(connection: socket.socket, present: Present, count: int) -> None:
    """Note a process as present, or tell it why not; anything else that connects is sent away."""
    hello = _read(connection, HELLO_SECONDS)
    if not hello:
        connection.close()
        return
    index, own, error = hello["index"], hello["count"], ""
    if own != count:
        error = f"hosts.count={own}: process 0, on host {socket.gethostname()}, has hosts.count={count}"
    elif index in present:
        error = f"hosts.index={index}: host {present[index][1]} has a process with this number already"
    if error:
        _answer([connection], f"{error}; each process needs its own index, and all the same count")
    else:
        present[index] = connection, hello["host"]


def _still_there(item: tuple[int, tuple[socket.socket, str]]) -> bool:
    """Whether a process has not hung up (it may come again): it has nothing more to say but that."""
    connection = item[1][0]
    if gone := bool(select.select([connection], [], [], 0)[0]):
        connection.close()
    return not gone


def _answer(connections: Sequence[socket.socket], error: str = "") -> None:
    for connection in connections:
        with connection, suppress(OSError):  # it may have gone meanwhile
            _write(connection, error=error)


def _register(coordinator: str, host: str, port: int, count: int, index: int, seconds: float) -> None:
    """Any other process: say its name to process 0, and wait until all have."""
    until, why, strange = time.monotonic() + seconds, "", 0.0
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=HELLO_SECONDS) as connection:
                _write(connection, index=index, count=count, host=socket.gethostname())
                answer = _read(connection, left + HELLO_SECONDS)
        except OSError as error:
            answer, why = None, f" ({error.strerror or error})"
        if answer and answer["error"]:
            raise InputError(answer["error"])
        if answer:
            return
        strange = 0.0 if answer is None else strange or time.monotonic()
        if strange and time.monotonic() - strange > min(seconds, BUSY_SECONDS):
            raise InputError(
                f"hosts.coordinator={coordinator}: what answers there is not waiting for this process "
                f"(hosts.index={index}): its run has begun already, or another program has the port"
            )
        time.sleep(AGAIN_SECONDS)
    raise InputError(
        f"hosts.coordinator={coordinator}: process 0 did not answer this one (hosts.index={index}) within "
        f"{seconds:g} s{why}: is it running there, with hosts.index=0, and is the port open?"
    )


def _write(connection: socket.socket, **values: Any) -> None:
    connection.sendall(json.dumps({"magic": MAGIC, **values}).encode() + b"\n")


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """What `_write` wrote at the other end; {} for anything else, None where nothing came."""
    connection.settimeout(seconds)
    line = b""
    with suppress(OSError, ValueError), connection.makefile("rb") as file:
        line = file.readline(10000)
        values = json.loads(line)
        return values if isinstance(values, dict) and values.get("magic") == MAGIC else {}
    return {} if line else None
