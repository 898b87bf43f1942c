"""The order of records: parts one after another, shuffled in windows, pass after pass, mixed by weights.

Iterators that can be saved and set anywhere. A state is JSON, and small: what a window holds is read again.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from pretrainrl_jax.documents.reading import Part, Raw, Source
from pretrainrl_jax.errors import InputError

State = dict[str, Any]
BEGINNING: State = {"part": 0, "at": {}}


def records(parts: Sequence[Part], state: State) -> Iterator[tuple[Raw, State]]:
    """The records of parts, one after another, from a state on, each with the state after it."""
    at = state["at"]
    for number in range(state["part"], len(parts)):
        for raw, behind in parts[number].read(at):
            yield raw, {"part": number, "at": behind}
        at = {}


class Passes:
    """Pass after pass over a source, each shuffled anew in windows of `size` records.

    Raises InputError where the source holds no records.
    """

    def __init__(self, source: Source, size: int, passes: int, seed: Sequence[int]) -> None:
        self._source, self._size, self._passes, self._seed = source, size, passes, seed
        self.number = self._window = self._taken = 0  # of the pass, of the window in it, of records given
        self._records: list[Raw] | None = None  # of the window, in the order they are given; None: not read
        self._open(BEGINNING)

    def _open(self, state: State) -> None:
        self._start = self._end = state  # of the window that is read next, and after it
        self._unread = records(self._source.parts, state)

    def __next__(self) -> Raw:
        while self._passes == 0 or self.number < self._passes:
            if self._records is None:
                self._records = self._read()
            if self._taken < len(self._records):
                self._taken += 1
                return self._records[self._taken - 1]
            if self._records:
                self._window, self._start = self._window + 1, self._end
            elif not self._window:
                raise InputError(f"{self._source.name} holds no records: check documents.path")
            else:
                self.number, self._window = self.number + 1, 0
                self._open(BEGINNING)
            self._taken, self._records = 0, None
        raise StopIteration

    def _read(self) -> list[Raw]:
        read = list(islice(self._unread, max(1, self._size)))
        self._end = read[-1][1] if read else self._end
        rng = np.random.default_rng([*self._seed, self.number, self._window])
        return [read[i][0] for i in rng.permutation(len(read))]

    def get_state(self) -> State:
        return {"pass": self.number, "window": self._window, "start": self._start, "taken": self._taken}

    def set_state(self, state: State) -> None:
        self.number, self._window, self._taken = state["pass"], state["window"], state["taken"]
        self._records = None
        self._open(state["start"])


class Mixture:
    """Records of several sources with the source's number: each source has its share all along.

    A source that has ended is left out, and the others keep their proportions.
    """

    def __init__(self, sources: Sequence[Passes], weights: Sequence[float]) -> None:
        self._sources = sources
        self._weights = weights or [1.0] * len(sources)
        self.drawn = [0] * len(sources)
        self._ended = [False] * len(sources)

    def __next__(self) -> tuple[int, Raw]:
        while not all(self._ended):
            going = [number for number, ended in enumerate(self._ended) if not ended]
            number = min(going, key=lambda n: ((self.drawn[n] + 1) / self._weights[n], n))
            try:
                raw = next(self._sources[number])
            except StopIteration:
                self._ended[number] = True
            else:
                self.drawn[number] += 1
                return number, raw
        raise StopIteration

    def get_state(self) -> State:
        states = [source.get_state() for source in self._sources]
        return {"sources": states, "drawn": list(self.drawn), "ended": list(self._ended)}

    def set_state(self, state: State) -> None:
        for source, at in zip(self._sources, state["sources"], strict=True):
            source.set_state(at)
        self.drawn, self._ended = list(state["drawn"]), list(state["ended"])
