"""Splash attention as meshes share it, and as libtpu compiles it."""

import importlib.util
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import splash_results, tpu_programs
from helpers.eight_devices import asked_meshes, results
from helpers.tpu_programs import ENVIRONMENT, HEADS, ROWS, TIME

SCORES = 4 * (ROWS // 2) * (HEADS // 2) * TIME**2  # bytes of a layer's, in float32, on one of 2 x 2 devices


@pytest.fixture(scope="module")
def on_meshes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    meshes = asked_meshes(request, splash_results.MESHES)
    return results(splash_results, tmp_path_factory.mktemp("splash") / "results", *meshes)


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(mesh, marks=pytest.mark.slow)
        if mesh == "1x8x1"
        else mesh  # others cut rows, and heads too
        for mesh in splash_results.MESHES
    ],
)
def test_devices_share_rows_and_heads(on_meshes: dict[str, Any], mesh: str) -> None:
    """In values and gradients it is what XLA computes on one device."""
    for one, other in zip(*map(jax.tree.leaves, on_meshes[mesh]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.slow  # minutes
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu compiles for TPUs")
def test_libtpu_compiles_a_step(tmp_path: Path) -> None:
    """Where libtpu is installed; no TPU need be there. Scores stand in no buffer."""
    file = tmp_path / "programs"
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    for _ in range(6):
        ran = subprocess.run(
            [sys.executable, "-m", tpu_programs.__name__, str(file)],
            capture_output=True,
            text=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
            timeout=3600,
        )
        if "libtpu_lockfile" not in ran.stderr:
            break
        time.sleep(10)
    else:
        pytest.skip("another process works with libtpu, which serves one at a time")
    assert ran.returncode == 0, ran.stderr[-4000:]
    compiled = pickle.loads(file.read_bytes())
    with_xla, none = compiled.pop("xla")
    assert none == set()
    for with_splash, kernels in compiled.values():  # of documents, and of trees
        assert {name.split("_")[2] for name in kernels} == {"fwd", "dkv"}
        assert with_splash < SCORES < with_xla
