"""Peak memory is a stage's own: what was taken and given back before does not count."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pretrainrl_jax.memory import peak_memory

MEBIBYTE = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_each_call_tells_what_was_taken_since_the_last() -> None:
    peak_memory()
    before = peak_memory()["host_peak_bytes"]
    taken = np.ones(300 * MEBIBYTE, np.uint8)
    assert taken[-1] == 1
    del taken
    during = peak_memory()["host_peak_bytes"]
    assert 290 * MEBIBYTE < during - before < 400 * MEBIBYTE
    assert peak_memory()["host_peak_bytes"] < during - 200 * MEBIBYTE


def test_of_several_devices_the_fullest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}, {"bytes_in_use": 9}, None]
    devices = [SimpleNamespace(memory_stats=lambda own=own: own) for own in told]
    monkeypatch.setattr("jax.local_devices", lambda: devices)
    assert peak_memory()["device_peak_bytes"] == 7
