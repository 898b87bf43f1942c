"""Peak memory is a stage's own: what was taken and given back before does not count."""

import sys

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
