"""How far a loop is: a bar on a terminal, an occasional plain line in a log file or a notebook."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Metrics = Callable[[], dict[str, float]]
Draw = Callable[[int, str], None]  # how much is done, and what there is to say

LINE_SECONDS = 10.0
BAR_SECONDS = 0.5
TEXT = 61  # columns left for "353/353 steps  6.13/s  0:56 taken  true -7.06  false -8.24"


@dataclass(frozen=True)
class Screen:
    """How much of a run's progress is shown; its results are printed in any case."""

    quiet: bool = False  # only results and errors
    verbose: bool = False  # what took how long, which files were written
    mute: bool = False  # nothing at all: another process of the run says it
    began: float = field(default_factory=time.monotonic)  # when the command was given
    clock: Callable[[], float] = time.monotonic

    def say(self, text: str) -> None:
        """One line on standard output of what a stage does."""
        if not self.quiet and not self.mute:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """One line on stderr of what the user must know, however quiet the run is."""
        if not self.mute:
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """One line that only --verbose shows."""
        if self.verbose and not self.mute:
            print(text, flush=True)

    @contextmanager
    def track(self, label: str, total: int, unit: str, console: Console | None = None) -> Generator["Track"]:
        """Show the progress of `total` units of work on stderr while the block runs.

        On a terminal this is a bar; elsewhere plain lines, one about every ten seconds and one at the end.
        """
        console = console or Console(stderr=True, quiet=self.quiet or self.mute)
        is_bar = console.is_terminal and not console.is_dumb_terminal

        def line(done: int, text: str) -> None:
            console.print(f"{label}  {text}", markup=False, highlight=False, soft_wrap=True)

        with _bar(label, total, console) if is_bar else nullcontext(line) as draw:
            tracked = Track(total, unit, draw, BAR_SECONDS if is_bar else LINE_SECONDS, self.clock)
            try:
                yield tracked
            except BaseException:
                tracked.finish(failed=True)
                raise
            tracked.finish()


NORMAL = Screen()
SILENT = Screen(quiet=True)


class Track:
    """Counts finished work and draws it at most once an interval. Made by `Screen.track`."""

    def __init__(
        self, total: int, unit: str, draw: Draw, interval: float, clock: Callable[[], float]
    ) -> None:
        self._total, self._unit = total, unit
        self._draw, self._interval, self._clock = draw, interval, clock
        self._metrics: Metrics = dict
        self._done = self._skipped = 0
        self._started = self._drawn = clock()
        self._warm: tuple[float, int] | None = None

    def advance(self, n: int = 1, metrics: Metrics | None = None, **values: float) -> None:
        """Count `n` more; show `values`, or what `metrics()` returns.

        `metrics` is called only when a line is really drawn, so that values which live on a device are
        not waited for at every step.
        """
        self._done += n
        now = self._clock()
        if self._warm is None:
            self._warm = (now, self._done)
        if metrics is not None or values:
            self._metrics = lambda: {**(metrics() if metrics is not None else {}), **values}
        if now - self._drawn >= self._interval:
            self._drawn = now
            self._redraw(now, "", self._metrics())

    def skip(self, n: int) -> None:
        """Count `n` as done before: they say nothing of the rate."""
        self._done += n
        if self._warm is not None:
            self._warm = (self._warm[0], self._warm[1] + n)
        self._skipped += n

    def finish(self, failed: bool = False) -> None:
        """Draw the last state. After a failure device values may not exist, so they are not asked for."""
        now = self._clock()
        ending = f"{duration(now - self._started)} {'until stopped' if failed else 'taken'}"
        self._redraw(now, ending, {} if failed else self._metrics())

    def _redraw(self, now: float, ending: str, metrics: dict[str, float]) -> None:
        """Draw the count, the units a second, the ending or the time that is left, and the metrics."""
        since, before = self._started, self._skipped
        if self._warm is not None and self._done > self._warm[1]:  # the first step compiles
            since, before = self._warm
        parts = [f"{self._done}/{self._total} {self._unit}"]
        if self._done > before and now > since:
            rate = (self._done - before) / (now - since)
            parts.append(f"{short(rate)}/s")
            ending = ending or f"{duration(max(0, self._total - self._done) / rate)} left"
        parts += [ending] if ending else []
        parts += [f"{name.replace('_', ' ')} {short(value)}" for name, value in metrics.items()]
        self._draw(self._done, "  ".join(parts))


def short(value: float) -> str:
    """A number in about three digits, without an exponent where people would not write one."""
    value = float(value)
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def _bar(label: str, total: int, console: Console) -> Generator[Draw]:
    """A bar that is drawn only when told to: no thread of its own, so nothing runs beside the loop."""
    width = min(32, console.width - len(label) - TEXT)
    columns = [
        TextColumn("{task.description}", markup=False),
        *([BarColumn(width)] if width >= 6 else []),  # the metrics need the room more
        TextColumn("{task.fields[text]}", markup=False),
    ]
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        # A bar of nothing counts as full; rich would otherwise show it pulsing for ever.
        task = bar.add_task(label, total=max(total, 1), completed=0 if total else 1, text="")
        bar.refresh()

        def draw(done: int, text: str) -> None:
            bar.update(task, completed=done if total else 1, text=text, refresh=True)

        yield draw
