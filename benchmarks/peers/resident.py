"""The resident memory of this process, for programs of every environment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def _megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def now() -> float:
    """MiB."""
    return _megabytes("VmRSS")


def peak(work: Callable[[], Any]) -> float:
    """MiB at the peak of a call. Linux forgets the peak before when told to."""
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _megabytes("VmHWM")
