"""Work beside the main thread, which need not wait for it to end the run; and where a step's time goes."""

import threading
import time
from collections.abc import Callable, Generator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

LOOK_SECONDS = 0.2  # between two looks at whether a wait is to end


class Jobs:
    """Threads that do what is asked for, in that order; with none it is done by whoever waits for it.

    What is not begun when the block ends never is, and what is under way is left alone. The threads are our
    own: Python would let the run end only when those of an executor have done all that they were given.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False

    def __enter__(self) -> "Jobs":
        for _ in range(self.workers):
            threading.Thread(target=self._work, name="judging", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        for _ in range(self.workers):
            self._asked.put(None)

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Ask for some work; its error is raised where its result is asked for."""
        job: Future[Any] = Future()
        self._asked.put((job, work))
        return job

    def wait(self, job: Future[Any], seconds: float, stops: Callable[[], bool] = lambda: False) -> bool:
        """Whether it is done, once it is, or after so many seconds, or when `stops` says so."""
        while not self.workers and not job.done() and (asked := self._asked.get()):
            _do(*asked)
        until = time.monotonic() + seconds
        while not job.done() and not stops() and (left := until - time.monotonic()) > 0:
            futures.wait([job], min(left, LOOK_SECONDS))
        return job.done()

    def _work(self) -> None:
        while (asked := self._asked.get()) and not self._closed:
            _do(*asked)


def _do(job: Future[Any], work: Callable[[], Any]) -> None:
    try:
        job.set_result(work())
    except BaseException as error:
        job.set_exception(error)


class Seconds:
    """Adds up the time of a step; `metrics` gives it, and the next step begins.

    `on_devices`: a model judges there, so they are not idle meanwhile.
    """

    def __init__(self, on_devices: bool) -> None:
        self._on_devices = on_devices
        self._spent: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, what: str) -> Generator[None]:
        """What is done within it is added to `what`: of the names, "judging" and "waiting" are known here."""
        began = time.perf_counter()
        yield
        self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        """Seconds by name, those waited for a judge, and the share of the others in the time of the step."""
        now, spent = time.perf_counter(), self._spent
        wall = max(now - self._began, 1e-9)
        self._began, self._spent = now, {}
        spent.setdefault("waiting", 0.0 if self._on_devices else spent.get("judging", 0.0))
        seconds = {f"seconds_{what}": value for what, value in spent.items()}
        return seconds | {"device_share": 1 - spent["waiting"] / wall}
