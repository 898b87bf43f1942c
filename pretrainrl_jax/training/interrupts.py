"""Ctrl-C and SIGTERM: a stage stops after the step in hand and saves, or ends when its grace is over."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pretrainrl_jax.hosts.join import leave

AGAIN_SECONDS = 2.0
Handler = Callable[[int, FrameType | None], None]


class Interrupted(Exception):
    """A stage stopped early and saved what it had; the message says what (exit code 130)."""


@contextmanager
def stop_requested(grace: float = 0.0, command: str = "") -> Generator[Callable[[], bool]]:
    """Within this context the signals only set a flag; a second Ctrl-C stops at once.

    Yields a function that tells whether a stop was asked for. `grace` seconds after it was, the process ends
    with exit code 130 even if the context has not been left, and names `command`; 0 waits for ever.
    """
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with _handled(handle, grace, command):
        yield lambda: bool(asked)


@contextmanager
def termination_interrupts(grace: float = 0.0, command: str = "") -> Generator[None]:
    """Within this context SIGTERM is a KeyboardInterrupt as Ctrl-C is; otherwise as `stop_requested`."""
    again: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        # Python ignores what is raised within a callback of the garbage collector: then it is raised again.
        again.append(_later(AGAIN_SECONDS, os.kill, os.getpid(), number))
        raise KeyboardInterrupt

    def complain(ignored: "sys.UnraisableHookArgs") -> None:
        if not isinstance(ignored.exc_value, KeyboardInterrupt):
            before(ignored)

    before, sys.unraisablehook = sys.unraisablehook, complain
    try:
        with _handled(handle, grace, command):
            yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()


@contextmanager
def _handled(handle: Handler, grace: float, command: str) -> Generator[None]:
    clock: list[threading.Timer] = []

    def timed(number: int, frame: FrameType | None) -> None:
        if grace and not clock:
            clock.append(_later(grace, _end, grace, command))
        handle(number, frame)

    try:
        before = {number: signal.signal(number, timed) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's worker): signals are not ours to take
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for timer in clock:
            timer.cancel()


def _later(seconds: float, call: Callable[..., Any], *arguments: Any) -> threading.Timer:
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()
    return timer


def _end(grace: float, command: str) -> None:
    said = (
        f"interrupted: nothing more was saved within checkpoint.grace_seconds={grace:g}, and what was saved "
        f"before is kept. Go on with: {command}"
    )
    leave(130, said)  # the other processes, if there are any, end with this one
    print(said, file=sys.stderr, flush=True)
    os._exit(130)
