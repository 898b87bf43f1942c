"""The most memory a stage took: of this process on its host, and of its devices where they say."""

import re
from pathlib import Path

import jax

PEAK = "VmHWM"  # of Linux, kB: the most that lay in memory since the last reset


def peak_memory() -> dict[str, int]:
    """Bytes at most: "host_peak_bytes" since the last call, "device_peak_bytes" of one device so far.

    What the system does not tell is left out: the host's without Linux, a CPU's as a device.
    """
    peaks: dict[str, int] = {}
    if (bytes_of_host := _of_host()) is not None:
        peaks["host_peak_bytes"] = bytes_of_host
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if of_devices := [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]:
        peaks["device_peak_bytes"] = max(of_devices)
    return peaks


def _of_host() -> int | None:
    """The most since the last call, which then begins anew."""
    process = Path("/proc/self")
    try:
        found = re.search(rf"^{PEAK}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
        (process / "clear_refs").write_text("5")  # begins anew
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
