"""The most memory a stage took: of this process on its host, and of its devices where they say."""

import re
from contextlib import suppress
from pathlib import Path

import jax


def peak_memory() -> dict[str, int]:
    """Bytes at most: "host_peak_bytes" since the last call, "device_peak_bytes" of one device so far.

    What the system does not tell is left out: the host's without Linux, a CPU's as a device.
    """
    peaks: dict[str, int] = {}
    process = Path("/proc/self")
    with suppress(OSError):
        # Of Linux: the most that lay in memory since the last reset.
        found = re.search(r"^VmHWM:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
        (process / "clear_refs").write_text("5")  # begins anew
        if found:
            peaks["host_peak_bytes"] = int(found[1]) * 1024
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if of_devices := [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]:
        peaks["device_peak_bytes"] = max(of_devices)
    return peaks
