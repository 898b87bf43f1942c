"""Ctrl-C and SIGTERM ask a stage to stop after the update in hand, so that it can save."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A stage stopped early and saved what it had; the message says how to go on (exit code 130)."""


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Within this context the signals only set a flag; a second Ctrl-C stops at once.

    Yields a function that tells whether a stop was asked for.
    """
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's worker): signals are not ours to take
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Within this context SIGTERM is a KeyboardInterrupt, as Ctrl-C is, so that both end in exit code 130."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
