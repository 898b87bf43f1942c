"""Where the time of a step goes: by what the main thread does, and whether devices and judge had work."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from pretrainrl_jax.improvement.jobs import Jobs
from pretrainrl_jax.improvement.metrics import Metrics


class Seconds:
    """Adds up the time of a step; `metrics` gives it, and the next step begins.

    Args:
        jobs: the judge's.
        on_devices: a model judges there, so they are not idle meanwhile.
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

    def metrics(self) -> Metrics:
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


def utilisation(metrics: Metrics) -> dict[str, float]:
    """Those of a step that a progress bar shows, in % and seconds."""
    names = ("device_share", "judge_share", "seconds_waiting")
    device, judge, waited = (metrics[name] or 0.0 for name in names)
    return {"device %": 100 * device, "judge %": 100 * judge, "waited s": waited}
