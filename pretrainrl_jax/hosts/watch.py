"""Each process says that it lives and what it does, and ends with a reason where another does not go on."""

import json
import re
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn

from pretrainrl_jax.hosts import ending
from pretrainrl_jax.hosts.aborts import aborting
from pretrainrl_jax.hosts.group import Group, Unreachable, current

HEARTBEATS = "hosts/heartbeats"
GRACE_SECONDS = 1.0
LISTEN_SECONDS = 3600.0
SLOW_SECONDS = 0.3  # a call of process 0 that takes so long may never come back
LOOK_SECONDS = 0.5
# What an error has in its text that the end of another process may have caused.
BROKEN = re.compile(
    r"UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|UNKNOWN|FAILED_PRECONDITION"
    r"|(?i:gloo|nccl|connection (reset|refused|closed)|socket closed|broken pipe|heartbeat|coordination)"
)
BROKE = "the connection to it broke"

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


def start(group: Group) -> None:
    """Watch over the other processes from threads of their own, and tell them of this one."""
    watch = _Watch(group)
    for work in (watch.heartbeat, watch.listen, watch.check):
        threading.Thread(target=work, name=f"hosts-{work.__name__}", daemon=True).start()


def explained(error: BaseException) -> bool:
    """Whether the end of another process explains this unexpected error of the main thread.

    Where it may, this waits until the watch has found that process (and has ended this one with the reason),
    or until it must have: so it comes back with False alone.
    """
    group = current()
    if group is None or not _may_come_from_a_peer(error):
        return False
    until = time.monotonic() + group.settings.dead_seconds + 3 * interval(group) + GRACE_SECONDS
    while time.monotonic() < until:
        time.sleep(0.1)
    return False


def interval(group: Group) -> float:
    """Seconds between two heartbeats."""
    return min(2.0, group.settings.dead_seconds / 6)


def some(names: Sequence[str]) -> list[str]:
    """The first of many, and how many more there are."""
    return [*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]


def _may_come_from_a_peer(error: BaseException | None) -> bool:
    if error is None:
        return False
    return bool(BROKEN.search(str(error))) or _may_come_from_a_peer(error.__cause__ or error.__context__)


class _Watch:
    """Three threads: one that calls process 0 and may hang, one that it wakes, and one that only looks on."""

    def __init__(self, group: Group) -> None:
        now = time.monotonic()
        self._group, self._interval = group, interval(group)
        self._others = [index for index in range(group.count) if index != group.index]
        self._heard = now  # when process 0 last answered
        self._called: float | None = None  # when it was called, while it has not answered
        self._changed = dict.fromkeys(self._others, now)  # when each heartbeat was last another one
        self._states: dict[int, dict[str, Any]] = {}
        self._left: set[int] = set()

    def heartbeat(self) -> None:
        """Say what this process does, and read what the others say."""
        group, number = self._group, 0
        while True:
            waits, what, _, _ = _now
            number += 1
            state = {"heartbeat": number, "waits": waits, "at": what[:200], "point": group.point}
            self._called = time.monotonic()
            try:
                group.store.put(f"{HEARTBEATS}/{group.index}", json.dumps(state))
                said = group.store.list(HEARTBEATS)
                self._left = set(group.store.list(ending.LEFT))
            except Unreachable:
                return  # `listen` or `check` finds out why
            self._called = None
            states, now = {index: json.loads(text) for index, text in said.items()}, time.monotonic()
            for index in self._others:
                if states.get(index, {}).get("heartbeat") != self._states.get(index, {}).get("heartbeat"):
                    self._changed[index] = now
            self._states, self._heard = states, now
            time.sleep(self._interval)

    def listen(self) -> None:
        """End with the process that ends first; a call that waits notices at once when process 0 is gone."""
        group, verdict = self._group, None
        while verdict is None:
            try:
                verdict = group.store.get(ending.VERDICT, LISTEN_SECONDS)
            except Unreachable:
                self._gone(0, BROKE)
        told = json.loads(verdict)
        if told["index"] == group.index:
            return  # another thread ends this process
        time.sleep(GRACE_SECONDS)  # the same may have happened here: then the main thread says so, and leaves
        self._end(told["code"], told["line"], says=group.index == 0, tells=False)

    def check(self) -> None:
        """Look for processes that say nothing, and for a wait that takes too long."""
        last = time.monotonic()
        while True:
            time.sleep(min(LOOK_SECONDS, self._interval / 2))
            before, last = last, time.monotonic()
            if last - before > self._group.settings.dead_seconds / 2:
                # It is this process that stood still (a stopped machine, a debugger): hear the others first.
                self._heard = last
                self._changed = dict.fromkeys(self._others, last)
                continue
            self._look_for_dead(last)
            self._look_for_stall(last)

    def _look_for_dead(self, now: float) -> None:
        group = self._group
        limit = group.settings.dead_seconds
        why = f"nothing was heard of it for {limit:g} s (hosts.dead_seconds)"
        # `listen` is not told that the connection broke where JAX is told before it, and aborts.
        if group.index and self._called and now - self._called > SLOW_SECONDS and aborting():
            self._gone(0, BROKE)
        if group.index and now - self._heard > limit:
            self._gone(0, why)
        others = [index for index in self._others if index not in self._left]
        silent = [index for index in others if self._heard - self._changed[index] > limit]
        if silent:
            group.dead.update(silent)
            more = f", nor of {', '.join(some([group.who(index) for index in silent[1:]]))}"
            self._gone(silent[0], why + more * (len(silent) > 1))

    def _gone(self, index: int, why: str) -> NoReturn:
        """End because another process has. For process 0 the lowest of those that live says so."""
        group = self._group
        group.dead.add(index)
        line = (
            f"failed: {group.who(index)} is gone: {why}; what is saved is kept. Go on with: {group.command}"
        )
        lower = range(1 if index == 0 else 0, group.index)
        says = all(self._heard - self._changed[other] > 3 * self._interval for other in lower)
        self._end(1, line, says=says, tells=index != 0)

    def _look_for_stall(self, now: float) -> None:
        group, limit = self._group, self._group.settings.stall_seconds
        waits, what, since, _ = _now
        # What the others do is known with a delay of up to two heartbeats.
        if not waits or now - since <= limit + 2 * self._interval:
            return
        others = [text for index in self._others if (text := self._elsewhere(index, what))]
        if others:
            said = f"{what} has waited {limit:g} s for {'; '.join(some(others))}"
        else:
            said = (
                f"all {group.count} processes have waited {limit:g} s at {what}: the communication between "
                "their devices hangs"
            )
        line = (
            f"failed: {said}; hosts.stall_seconds={limit:g} allows no longer wait, and what is saved is "
            f"kept. Go on with: {group.command}"
        )
        self._end(1, line, says=group.index == 0, tells=True)

    def _elsewhere(self, index: int, what: str) -> str:
        """A process that does not wait at the same point, and what it does; nothing for one that does."""
        state, who = self._states.get(index), self._group.who(index)
        if state is None:
            return f"{who}, which has said nothing yet"
        if (state["waits"], state["at"], state["point"]) == (True, what[:200], self._group.point):
            return ""
        return f"{who}, which {'waits' if state['waits'] else 'is'} at: {state['at']}"

    def _end(self, code: int, line: str, says: bool, tells: bool) -> NoReturn:
        if ending.claim_end():
            told = tells and ending.tell(self._group, code, line)
            if says or tells > told:
                ending.say(line)
            ending.finish(self._group, code)
        while True:  # the main thread ends the process
            time.sleep(60)
