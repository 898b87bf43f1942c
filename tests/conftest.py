"""What several files of tests share: a tiny configuration, and a workdir in which it has run."""

import shutil
from pathlib import Path

import pytest
import tiny
from hypothesis import HealthCheck, settings

# A first draw builds Hypothesis's tables and a first call compiles: neither is what a test measures.
settings.register_profile("slow machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slow machine")


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of a run of seconds."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(tiny.CONFIG)
    return path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that keeps what is compiled, in use from now on: runs of one configuration compile once."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = tmp_path_factory.mktemp("compiled")
    for name, value in cache_settings(folder).items():
        jax.config.update(name.lower(), value)
    compilation_cache.reset_cache()
    return folder


def cache_settings(folder: Path) -> dict[str, str | int]:
    """JAX's settings to keep every program in `folder`."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }


@pytest.fixture(scope="module")
def compiled_fast(compiled: Path):
    """The same, and XLA optimises little."""
    with tiny.compiled_fast():
        yield


@pytest.fixture(scope="session")
def compiled_environment(compiled: Path) -> dict[str, str]:
    """The same folder for a process of its own."""
    values = {name: str(value) for name, value in cache_settings(compiled).items()}
    return values | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path
) -> tuple[Path, tiny.Ran]:
    """A workdir in which `run` has done everything, and what it printed. Not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    ran = tiny.call("run", "--config", tiny_config, "--workdir", workdir)
    assert ran.code == 0, ran.err
    return workdir, ran


@pytest.fixture(scope="session")
def finished(finished_run: tuple[Path, tiny.Ran]) -> Path:
    """A workdir in which `run` has done everything. Not to be changed."""
    return finished_run[0]


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "workdir"))
