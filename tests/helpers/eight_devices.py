"""Scripts that simulate eight devices, each in a process of its own: JAX counts its devices once."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

# An older way to write machine code, which compiles small programs in half the time; and in one piece each.
SOONER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def results(module: ModuleType, file: Path, *words: str) -> Any:
    """What a helper run as a script writes to the file it is given, compiled with few optimisations."""
    from helpers import forked

    run = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    run += "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=False)"
    tests = Path(__file__).parents[1]
    ran = forked.python(run, tests, module.__name__, file, *words, JAX_DISABLE_MOST_OPTIMIZATIONS="true")
    assert ran.code == 0, ran.err[-4000:]
    return pickle.loads(file.read_bytes())


def asked_meshes(request: pytest.FixtureRequest, meshes: Iterable[str]) -> list[str]:
    """Those of the meshes that a test of the same file has as its parameter `mesh` in this run."""
    items = request.session.items
    tests = [item for item in items if isinstance(item, pytest.Function) and item.module is request.module]
    asked = {test.callspec.params.get("mesh") for test in tests if hasattr(test, "callspec")}
    return [mesh for mesh in meshes if mesh in asked]


def distance(one: Any, other: Any) -> float:
    """The largest relative difference of two trees' arrays, each by its norm."""
    import jax  # not where flags for it are yet to be set

    def of_array(one: np.ndarray, other: np.ndarray) -> float:
        other = np.asarray(other, np.float64)
        return float(np.linalg.norm(one - other) / np.linalg.norm(other))

    return max(jax.tree.leaves(jax.tree.map(of_array, one, other)))
