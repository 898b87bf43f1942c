"""What several files of tests share: a tiny configuration, and a workdir in which it has run."""

import contextlib
import fcntl
import gc
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from helpers import command_line, peer_measurements, selfimprove_runs
from helpers.bucket_server import Bucket, serving
from helpers.eight_devices import SOONER


def pytest_configure() -> None:
    """In all processes of a test run XLA optimises little, and writes machine code the sooner way.

    Operations do not carry where in the source they came from, which takes JAX a twentieth of such a run.
    XLA is asked for the sooner way where it still knows that: it ends a process that has a flag which it
    does not know, so another one tries. Examples of hypothesis may take long: a machine may be busy.
    """
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("patient")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    if "jax" in sys.modules:  # has read those already
        sys.modules["jax"].config.update("jax_disable_most_optimizations", True)
        sys.modules["jax"].config.update("jax_traceback_in_locations_limit", 0)
    given = os.environ.get("XLA_FLAGS", "")
    if SOONER in given:
        return
    tried = os.environ | {"XLA_FLAGS": f"{given} {SOONER}".strip(), "JAX_PLATFORMS": "cpu"}
    if not subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=tried, capture_output=True
    ).returncode:
        os.environ["XLA_FLAGS"] = tried["XLA_FLAGS"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured against peers, where any did."""
    reports = [r for rs in terminalreporter.stats.values() for r in rs if getattr(r, "when", "") == "call"]
    measured = [
        value for r in reports for name, value in r.user_properties if name == peer_measurements.PROPERTY
    ]
    if measured:
        terminalreporter.section("parity")
        for line in (*peer_measurements.table(measured), "", peer_measurements.versions()):
            terminalreporter.write_line(line)


def pytest_collection_finish() -> None:
    """Python looks for cycles less often, and not among the millions of objects that have been imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def pytest_sessionfinish() -> None:
    """Pytest looks for cycles five times before it ends: of what is left there are seconds each time."""
    gc.freeze()


MOST_MAPS = 30_000  # of a process's memory: Linux allows 65,530, and a compiled program has about 14
LOOKS = itertools.count(1)


def pytest_runtest_logfinish() -> None:
    """Forget compiled programs before there are too many: XLA aborts where no more may be mapped.

    To look takes as long as a short test: it is done after every tenth.
    """
    maps = Path("/proc/self/maps")
    if next(LOOKS) % 10 or "jax" not in sys.modules or not maps.is_file():
        return
    if maps.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(shared: Path) -> Iterator[None]:
    """What is kept between runs is kept between those of tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(scope="session")
def tiny_config(shared: Path) -> Path:
    """A configuration file of a run of seconds."""
    return _written(shared / "tiny.py", command_line.CONFIG)


@pytest.fixture(scope="session")
def improving(shared: Path) -> Path:
    """A configuration file of self-improvement in seconds."""
    return _written(shared / "improving.py", selfimprove_runs.CONFIG)


def _written(path: Path, text: str) -> Path:
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    return partial.replace(path)  # another process never sees half of it


KEPT_DAYS = 7  # programs of older runs are compiled anew: the folder does not grow for ever


@pytest.fixture(scope="session", autouse=True)
def compiled(pytestconfig: pytest.Config, shared: Path) -> Iterator[Path]:
    """A folder that keeps what all tests compile: runs of one configuration, and the next `pytest`, need not.

    Where tests count compilations they count what XLA is asked for, whether it is kept or not.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)  # none with -p no:cacheprovider
    folder = cache.mkdir("programs") if cache else shared / "compiled"
    for program in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # the other worker looks, too
            if program.stat().st_mtime < time.time() - KEPT_DAYS * 24 * 3600:
                program.unlink()
    with pytest.MonkeyPatch.context() as patch:  # for processes that tests start, too
        for name, value in cache_settings(folder).items():
            jax.config.update(name.lower(), value)
            patch.setenv(name, str(value))
        compilation_cache.reset_cache()
        yield folder


def cache_settings(folder: Path) -> dict[str, str | int]:
    """JAX's settings to keep every program in `folder`."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }


@pytest.fixture(scope="session")
def compiled_environment(compiled: Path) -> dict[str, str]:
    """The same folder for a process of its own."""
    values = {name: str(value) for name, value in cache_settings(compiled).items()}
    return values | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


@pytest.fixture(scope="session")
def finished_run(shared: Path, tiny_config: Path, compiled: Path) -> tuple[Path, command_line.Ran]:
    """A workdir in which `run` has done everything, and what it printed. Not to be changed."""
    workdir, printed = shared / "finished", shared / "printed.json"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            ran = command_line.call("run", "--config", tiny_config, "--workdir", workdir)
            assert ran.code == 0, ran.err
            printed.write_text(json.dumps(ran))
    return workdir, command_line.Ran(*json.loads(printed.read_text()))


@pytest.fixture(scope="session")
def finished(finished_run: tuple[Path, command_line.Ran]) -> Path:
    """A workdir in which `run` has done everything. Not to be changed."""
    return finished_run[0]


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "workdir"))


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> type[command_line.Signalled]:
    """The class whose `number` and `when` say which signal arrives after which update."""
    from pretrainrl_jax.training import session

    monkeypatch.setattr(session, "MetricsWriter", command_line.Signalled)
    return command_line.Signalled


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """An empty bucket, gs://bucket, which this process and those that it starts find."""
    with pytest.MonkeyPatch.context() as patch, serving(Bucket()) as served:
        for name, value in served.environment().items():
            patch.setenv(name, value)
        yield served


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own of one megabyte; skips the test where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
