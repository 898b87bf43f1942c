"""Work that goes on beside the main thread, which need not wait for it to end the run."""

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

    with Jobs(2) as jobs:
        job = jobs.submit(work)
        ...
        if jobs.wait(job, 30):
            result = job.result()

    What is not begun when the block ends never is, and what is under way is left alone. The threads are our
    own: Python would let the run end only when those of an executor have done all that they were given.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._inline: dict[Future[Any], Callable[[], Any]] = {}
        self._closed = False
        self._lock, self._running = threading.Lock(), 0
        self._since = self._busy = 0.0  # when the first of those that run began; seconds before that

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
        if self.workers:
            self._asked.put((job, work))
        else:
            self._inline[job] = work
        return job

    def wait(self, job: Future[Any], seconds: float, stops: Callable[[], bool] = lambda: False) -> bool:
        """Whether it is done, once it is, or after so many seconds, or when `stops` says so."""
        if work := self._inline.pop(job, None):
            self._do(job, work)
        until = time.monotonic() + seconds
        while not job.done() and not stops() and (left := until - time.monotonic()) > 0:
            futures.wait([job], min(left, LOOK_SECONDS))
        return job.done()

    def busy(self) -> float:
        """Seconds in which some work was under way, since this was last asked."""
        with self._lock:
            return self._count()

    def _count(self) -> float:
        now = time.perf_counter()
        busy = self._busy + (now - self._since if self._running else 0.0)
        self._since, self._busy = now, 0.0
        return busy

    def _work(self) -> None:
        while asked := self._asked.get():
            if not self._closed:
                self._do(*asked)

    def _do(self, job: Future[Any], work: Callable[[], Any]) -> None:
        with self._counted():
            try:
                result = work()
            except BaseException as error:
                job.set_exception(error)
                return
        job.set_result(result)

    @contextmanager
    def _counted(self) -> Generator[None]:
        with self._lock:
            self._busy = self._count()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy = self._count()
                self._running -= 1
