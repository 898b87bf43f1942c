"""Processes that end with their test; the tests of a file that mostly wait do so beside each other."""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.host_processes import Processes

TOGETHER = 6  # tests: more have the processes wait for a processor


@pytest.fixture
def processes() -> None:
    """Each test has its own: see `begun`."""


def _run(test: Callable[..., None], folder: Path, values: dict[str, object]) -> None:
    processes = Processes(folder)
    try:
        test(processes=processes, **values)
    finally:
        processes.kill()


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """The tests of this module that have processes and values of theirs alone, by name: all are begun."""
    tests: dict[str, Future[None]] = {}
    pool = ThreadPoolExecutor(TOGETHER)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module and _alone(item):
            values = item.callspec.params if hasattr(item, "callspec") else {}
            folder = tmp_path_factory.mktemp("beside")
            tests[item.nodeid] = pool.submit(_run, item.obj, folder, values)
    yield tests
    pool.shutdown(cancel_futures=True)


def _alone(item: pytest.Function) -> bool:
    values = set(item.callspec.params) if hasattr(item, "callspec") else set()
    return set(inspect.signature(item.obj).parameters) - values == {"processes"}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """The test has run, or does, beside others: whether it passes."""
    if not _alone(pyfuncitem):
        return None
    pyfuncitem._request.getfixturevalue("begun")[pyfuncitem.nodeid].result()
    return True
