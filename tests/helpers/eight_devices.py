"""Scripts that simulate eight devices, each in a process of its own: JAX counts its devices once."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# An older way to write machine code, which compiles small programs in half the time.
SOONER = "--xla_cpu_use_fusion_emitters=false"


def results(module: ModuleType, file: Path, *words: str) -> Any:
    """What a helper run as a script writes to the file it is given, compiled with few optimisations."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    given = os.environ.get("XLA_FLAGS", "")
    for flags in (f"{given} {SOONER}", given):
        ran = subprocess.run(
            [sys.executable, "-m", module.__name__, str(file), *words],
            capture_output=True,
            text=True,
            env=environment | {"XLA_FLAGS": flags},
            timeout=3600,
        )
        if "Unknown flag" not in ran.stderr:  # which XLA says at once
            break
    assert ran.returncode == 0, ran.stderr[-4000:]
    return pickle.loads(file.read_bytes())
