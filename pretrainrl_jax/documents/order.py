"""The order of records, as Grain iterators that can be saved and set anywhere.

Parts one after another are a pass; a pass is shuffled window by window, and followed by the next one; the
sources are mixed by their weights. Each state is JSON, and small: what a window holds is read again.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import grain
import numpy as np

from pretrainrl_jax.documents.reading import Part, Raw, Sequential, Source
from pretrainrl_jax.errors import InputError

READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=32)
State = dict[str, Any]


class OnePart(grain.DatasetIterator[Raw]):
    """The records of a part that is read from its beginning on."""

    def __init__(self, part: Sequential) -> None:
        super().__init__()
        self._part = part
        self.set_state({})

    def __next__(self) -> Raw:
        raw, self._position = next(self._records)
        return raw

    def get_state(self) -> State:
        return dict(self._position)

    def set_state(self, state: State) -> None:
        self._position = dict(state)
        self._records = self._part.read(self._position)


def records_of(part: Part) -> grain.DatasetIterator[Raw]:
    """The records of a part; those with an index are fetched ahead, in threads."""
    if isinstance(part, Sequential):
        return OnePart(part)
    return iter(grain.MapDataset.source(part).to_iter_dataset(READ))


class Pass(grain.DatasetIterator[Raw]):
    """The records of all parts of a source, one part after another."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._parts = source.parts
        self._part, self._records = 0, records_of(source.parts[0])

    def __next__(self) -> Raw:
        while True:
            try:
                return next(self._records)
            except StopIteration:
                if self._part + 1 >= len(self._parts):
                    raise
            self._open(self._part + 1)

    def _open(self, part: int) -> None:
        self._records.close()
        self._part, self._records = part, records_of(self._parts[part])

    def get_state(self) -> State:
        return {"part": self._part, "at": self._records.get_state()}

    def set_state(self, state: State) -> None:
        self._open(state["part"])
        self._records.set_state(state["at"])


class Passes(grain.DatasetIterator[Raw]):
    """Pass after pass over a source, each shuffled anew in windows of `size` records.

    Raises InputError where the source holds no records.
    """

    def __init__(self, source: Source, size: int, passes: int, seed: Sequence[int]) -> None:
        super().__init__()
        self._source, self._size, self._passes, self._seed = source, size, passes, seed
        self.number = self._window = self._taken = 0  # of the pass, of the window in it, of records given
        self._reader = Pass(source)
        self._start: State = self._reader.get_state()
        self._records: list[Raw] | None = None  # of the window, in the order they are given; None: not read

    def __next__(self) -> Raw:
        while self._passes == 0 or self.number < self._passes:
            if self._records is None:
                self._records = self._read()
            if self._taken < len(self._records):
                self._taken += 1
                return self._records[self._taken - 1]
            if self._records:
                self._window, self._start = self._window + 1, self._reader.get_state()
            elif not self._window:
                raise InputError(f"{self._source.name} holds no records: check documents.path")
            else:
                self._reader.close()
                self.number, self._window, self._reader = self.number + 1, 0, Pass(self._source)
                self._start = self._reader.get_state()
            self._taken, self._records = 0, None
        raise StopIteration

    def _read(self) -> list[Raw]:
        records = list(islice(self._reader, max(1, self._size)))
        rng = np.random.default_rng([*self._seed, self.number, self._window])
        return [records[i] for i in rng.permutation(len(records))]

    def get_state(self) -> State:
        return {"pass": self.number, "window": self._window, "start": self._start, "taken": self._taken}

    def set_state(self, state: State) -> None:
        self.number, self._window, self._taken = state["pass"], state["window"], state["taken"]
        self._start, self._records = state["start"], None
        self._reader.set_state(self._start)


class Mixture(grain.DatasetIterator[tuple[int, Raw]]):
    """Records of several sources with the source's number: each source has its share all along.

    A source that has ended is left out, and the others keep their proportions.
    """

    def __init__(self, sources: Sequence[grain.DatasetIterator[Raw]], weights: Sequence[float]) -> None:
        super().__init__(sources)
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
