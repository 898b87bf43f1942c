"""Work beside the main thread, which need not wait for it to end the run; and where a step's time goes."""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
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

    def _count(self, more: int = 0) -> float:
        """The same, with the lock held; from now on so many more are under way."""
        now = time.perf_counter()
        busy = self._busy + (now - self._since if self._running else 0.0)
        self._since, self._busy = now, 0.0
        self._running += more
        return busy

    def _work(self) -> None:
        while asked := self._asked.get():
            if not self._closed:
                self._do(*asked)

    def _do(self, job: Future[Any], work: Callable[[], Any]) -> None:
        with self._lock:
            self._busy = self._count(+1)
        try:
            finish = partial(job.set_result, work())
        except BaseException as error:
            finish = partial(job.set_exception, error)
        with self._lock:
            self._busy = self._count(-1)
        finish()


class Seconds:
    """Adds up the time of a step; `metrics` gives it, and the next step begins.

    `jobs` are the judge's; `on_devices`: a model judges there, so they are not idle meanwhile.
    """

    def __init__(self, jobs: Jobs, on_devices: bool) -> None:
        self._jobs, self._on_devices = jobs, on_devices
        self._spent: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, what: str) -> Generator[None]:
        """What is done within it is added to `what`: of the names, "judging" and "waiting" are known here."""
        began = time.perf_counter()
        yield
        self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        """Seconds by name, those waited for a judge, and the shares of the time since the last step.

        `device_share` is of the time in which the main thread did not stand at the judge, `judge_share` of
        that in which one job of the judge's or more was under way.
        """
        now, busy, spent = time.perf_counter(), self._jobs.busy(), self._spent
        wall = max(now - self._began, 1e-9)
        self._began, self._spent = now, {}
        spent.setdefault("waiting", 0.0 if self._on_devices else spent.get("judging", 0.0))
        shares = {"device_share": 1 - spent["waiting"] / wall, "judge_share": min(busy / wall, 1.0)}
        return {**{f"seconds_{what}": value for what, value in spent.items()}, **shares}


def utilisation(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of a step that a progress bar shows, in % and seconds."""
    shares = {"device %": metrics["device_share"], "judge %": metrics["judge_share"]}
    return {name: 100 * share for name, share in shares.items()} | {"waited s": metrics["seconds_waiting"]}
