"""Each process says what it does, and ends with a reason where another one does not go on."""

import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NoReturn

from pretrainrl_jax.hosts import ending
from pretrainrl_jax.hosts.group import Group, Unreachable, current

STATES = "hosts/states"
GRACE_SECONDS = 1.0
LISTEN_SECONDS = 3600.0
LOOK_SECONDS = 0.5
# JAX waits so much longer than hosts.dead_seconds before it counts a process as dead: where that is process 0
# it aborts all others, and the watch is to be first.
MARGIN_SECONDS = 5
LINE_SECONDS = 60.0  # JAX's server hangs up on those that say nothing for two minutes

# Whether the main thread waits, at what, since when, and how many marks it is within.
_now: tuple[bool, str, float, int] = (False, "its start", time.monotonic(), 0)


@contextmanager
def waiting(what: str, waits: bool = True) -> Generator[None]:
    """Within it the main thread waits for the other processes or for the devices, at `what`.

    It sets a variable and nothing else. All processes must give the same text at the same place.
    """
    global _now
    before = _now
    _now = (waits, what, time.monotonic(), before[3] + 1)
    try:
        yield
    finally:
        waited, outer, _, depth = before
        # The clock starts anew: that this part came to its end means that all goes on.
        _now = (waited, outer if depth else f"work after {what}", time.monotonic(), depth)


def working(what: str) -> AbstractContextManager[None]:
    """Within it the main thread works at `what`: others that wait for this process name it."""
    return waiting(what, waits=False)


def explained(error: BaseException) -> None:
    """Leave the watch time to end this process, where the end of another one may explain this error.

    That is any error of JAX, or one that was raised because of it; of gloo it makes ValueErrors. Comes back
    where no other has ended.
    """
    group = current()
    if group is None:
        return
    from jax.errors import JaxRuntimeError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, JaxRuntimeError | Unreachable | ValueError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        time.sleep(group.settings.dead_seconds + 2 * MARGIN_SECONDS)


def start(group: Group, coordinator: tuple[str, int]) -> None:
    """Watch over the other processes from threads of their own, and tell them of this one.

    `coordinator` is where process 0 listens: host and port.
    """
    watch = _Watch(group, coordinator)
    works = [watch.report, watch.listen, watch.count, watch.look]
    if group.index:
        works.append(watch.hold)
    for work in works:
        threading.Thread(target=_quiet, args=(work,), name=f"hosts-{work.__name__}", daemon=True).start()


def _quiet(work: Callable[[], None]) -> None:
    """A thread's work; where process 0 cannot be reached the threads that do not call it find out why."""
    with suppress(Unreachable):
        work()


def some(names: Sequence[str]) -> list[str]:
    """The first of many, and how many more there are."""
    return [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]


class _Watch:
    """One thread for each of its methods without an underscore. All but `look` and `hold` call process 0."""

    def __init__(self, group: Group, coordinator: tuple[str, int]) -> None:
        self._group, self._coordinator = group, coordinator
        self._limit = group.settings.dead_seconds
        self._interval = min(2.0, self._limit / 6)  # seconds between two reports
        self._silence = f"nothing was heard of it for {self._limit:g} s (hosts.dead_seconds)"
        self._called: float | None = None  # when process 0 was called, while it has not answered

    def report(self) -> None:
        """Say what this process does."""
        group = self._group
        while True:
            waits, what, _, _ = _now
            state = json.dumps({"waits": waits, "at": what[:200], "point": group.point})
            self._called = time.monotonic()
            group.store.put(f"{STATES}/{group.index}", state)
            self._called = None
            time.sleep(self._interval)

    def listen(self) -> None:
        """End with the process that ends first."""
        group, verdict = self._group, None
        while verdict is None:
            verdict = group.store.get(ending.VERDICT, LISTEN_SECONDS)
        told = json.loads(verdict)
        if told["index"] == group.index:
            return  # another thread ends this process
        time.sleep(GRACE_SECONDS)  # the same may have happened here: then the main thread says so, and leaves
        ending.end(group, told["code"], told["line"], told=True)

    def count(self) -> None:
        """End when JAX counts a process as dead, or one was started anew."""
        group = self._group
        first = alive = group.store.alive(group.count)
        while len(alive) == group.count and alive == first:
            time.sleep(self._interval)
            alive = group.store.alive(group.count)
        if missing := [index for index in range(group.count) if index not in alive]:
            self._gone(missing, self._silence)
        self._gone([index for index in alive if alive[index] != first[index]], "it was started anew")

    def hold(self) -> None:
        """Hold a line to process 0, which breaks at once when it ends: JAX aborts this process soon after."""
        pause = 0.0
        while True:
            time.sleep(pause)
            try:
                with socket.create_connection(self._coordinator, self._limit) as line:
                    began = time.monotonic()
                    line.settimeout(LINE_SECONDS)
                    with suppress(OSError):
                        while line.recv(4096):
                            pass
                # A process that ends may take another line first; something between may always hang up.
                pause = 0.0 if time.monotonic() - began > 1.0 else min(1.0, 2 * pause + 0.01)
            except ConnectionError:  # the machine is there, and nobody listens
                self._gone([0], "the connection to it broke")
            except OSError:
                pause = 1.0

    def look(self) -> None:
        """Look whether process 0 says nothing, and for a wait that takes too long."""
        while True:
            time.sleep(min(LOOK_SECONDS, self._interval / 2))
            now, called = time.monotonic(), self._called
            if self._group.index and called and now - called > self._limit:
                self._gone([0], self._silence)
            waits, what, since, _ = _now
            # What the others do is known with a delay of up to two reports.
            if waits and now - since > self._group.settings.stall_seconds + 2 * self._interval:
                self._stalled(what)

    def _gone(self, dead: list[int], why: str) -> NoReturn:
        """End because others have."""
        group = self._group
        group.dead.update(dead)
        first, *rest = map(group.who, dead)
        more = f", nor of {', '.join(some(rest))}" if rest else ""
        line = f"failed: {first} is gone: {why}{more}; what is saved is kept. Go on with: {group.command}"
        ending.end(group, 1, line)

    def _stalled(self, what: str) -> NoReturn:
        group, limit = self._group, self._group.settings.stall_seconds
        states = {index: json.loads(text) for index, text in group.store.list(STATES).items()}
        here = {"waits": True, "at": what[:200], "point": group.point}
        others = [
            f"{group.who(index)} is at: {states[index]['at'] if index in states else 'its start'}"
            for index in range(group.count)
            if index != group.index and states.get(index) != here
        ]
        why = "; ".join(some(others)) or "all wait there: the communication between their devices hangs"
        line = (
            f"failed: {what} has waited {limit:g} s (hosts.stall_seconds): {why}; what is saved is kept. "
            f"Go on with: {group.command}"
        )
        ending.end(group, 1, line)
