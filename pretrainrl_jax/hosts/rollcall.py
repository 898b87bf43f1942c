"""All processes find each other before JAX connects them, since JAX aborts a process where that fails."""

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pretrainrl_jax.errors import InputError

MAGIC = "pretrainrl_jax"
BUSY_SECONDS = 6.0  # a run that has just ended may still hold the port
HELLO_SECONDS = 5.0
AGAIN_SECONDS = 0.3


def meet(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Come back when all processes are there. Process 0 listens at `coordinator`, until it comes back.

    Raises:
        InputError: if not all come within that time, or their settings contradict each other.
    """
    host, port = address(coordinator)
    if index == 0:
        _call(coordinator, _bound_port(port), count, seconds)
    else:
        _answer(coordinator, host, port, count, index, seconds)
        time.sleep(AGAIN_SECONDS)  # process 0 opens the port anew, for JAX


def address(coordinator: str) -> tuple[str, int]:
    """Host and port of hosts.coordinator.

    Raises:
        InputError: if it is not of that form.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"hosts.coordinator={coordinator}: give the host and a port of process 0, as gpu-0:8476"
        )
    return host.strip("[]"), int(port)


def _bound_port(port: int) -> int:
    """The port that process 0 opens: JAX's variable names another one where a network forwards it."""
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "").rpartition(":")[2]
    return int(bound) if bound.isdecimal() else port


def _call(coordinator: str, port: int, count: int, seconds: float) -> None:
    """Process 0: wait until every other process has said its name, and let them all go on."""
    until = time.monotonic() + seconds
    present: dict[int, tuple[socket.socket, str]] = {}
    with _listening(coordinator, port, count, seconds) as server:
        try:
            while len(present := _still_there(present)) < count - 1:
                missing = [str(index) for index in range(1, count) if index not in present]
                if time.monotonic() > until:
                    raise InputError(
                        f"hosts.coordinator={coordinator}: of hosts.count={count} processes, number "
                        f"{', '.join(missing)} did not come within {seconds:g} s: start each with its own "
                        "hosts.index, from 0, and all else the same"
                    )
                try:
                    connection = server.accept()[0]
                except TimeoutError:
                    continue
                _admit(connection, present, count)
        except InputError as error:
            _tell(present, {"error": str(error)})
            raise
        _tell(present, {"go": True})


@contextmanager
def _listening(coordinator: str, port: int, count: int, seconds: float) -> Iterator[socket.socket]:
    until = time.monotonic() + min(seconds, BUSY_SECONDS)
    server = None
    while server is None:
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", port), family=family, backlog=count, dualstack_ipv6=both)
        except OSError as error:
            if time.monotonic() > until:
                raise InputError(
                    f"hosts.coordinator={coordinator}: port {port} cannot be opened here ({error.strerror}); "
                    "give another one, or see that only one process has hosts.index=0"
                ) from None
            time.sleep(AGAIN_SECONDS)
    with server:
        server.settimeout(0.5)
        yield server


def _admit(connection: socket.socket, present: dict[int, tuple[socket.socket, str]], count: int) -> None:
    """Take a process into the roll, or tell it why not; anything else that connects is sent away."""
    said = _read(connection, HELLO_SECONDS)
    if not isinstance(said, dict) or said.get("magic") != MAGIC:
        connection.close()
        return
    index, host, own = said["index"], said["host"], said["count"]
    error = ""
    if own != count:
        error = f"hosts.count={own}: process 0, on host {socket.gethostname()}, has hosts.count={count}"
    elif index in present:
        error = f"hosts.index={index}: host {present[index][1]} has a process with this number already"
    if error:
        _tell({index: (connection, host)}, {"error": f"{error}; each process needs its own index, and all "
                                            "the same count"})  # fmt: skip
    else:
        present[index] = connection, host


def _still_there(present: dict[int, tuple[socket.socket, str]]) -> dict[int, tuple[socket.socket, str]]:
    """The roll without those that have hung up (and may come again)."""
    there = {}
    for index, (connection, host) in present.items():
        if select.select([connection], [], [], 0)[0]:  # they have nothing more to say but that
            connection.close()
        else:
            there[index] = connection, host
    return there


def _tell(present: dict[int, tuple[socket.socket, str]], what: dict[str, Any]) -> None:
    for connection, _ in present.values():
        with connection:
            try:
                connection.sendall(json.dumps(what).encode() + b"\n")
            except OSError:
                continue  # it has gone meanwhile


def _answer(coordinator: str, host: str, port: int, count: int, index: int, seconds: float) -> None:
    """Any other process: say its name to process 0, and wait until all have."""
    hello = {"magic": MAGIC, "index": index, "count": count, "host": socket.gethostname()}
    start = time.monotonic()
    left: Callable[[], float] = lambda: start + seconds - time.monotonic()  # noqa: E731
    why, strange = "", 0.0
    while left() > 0:
        try:
            with socket.create_connection((host, port), timeout=HELLO_SECONDS) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                said = _read(connection, left() + HELLO_SECONDS)
        except OSError as error:
            said, why = None, f" ({error.strerror or error})"
        if isinstance(said, dict) and "go" in said:
            return
        if isinstance(said, dict) and "error" in said:
            raise InputError(said["error"])
        strange = 0.0 if said is None else strange or time.monotonic()
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


def _read(connection: socket.socket, seconds: float) -> Any:
    """One line of JSON; "" for anything else, None where nothing came."""
    connection.settimeout(max(0.1, seconds))
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < 10000:
            more = connection.recv(4096)
            if not more:
                break
            data += more
        return json.loads(data) if data.endswith(b"\n") else ("" if data else None)
    except (OSError, ValueError):
        return "" if data else None
