"""What a loop that makes its own batches takes turns in: what is taught first, then what is tried."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Generic, TypeVar

import numpy as np

from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.feed import Holds

Item = TypeVar("Item")


def shuffled(number: int, size: int, seed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """So many turns among `size` things, pass after pass, each shuffled anew: pass and place."""
    orders = (np.random.default_rng([*seed, number]).permutation(size) for number in count())
    every = ((number, int(place)) for number, order in enumerate(orders) for place in order)
    return islice(every, number)


class Turns(Generic[Item]):
    """What is taught in the beginning, then what is tried and learned from, so many a batch.

    `row` is the number of turns up to now.

    Args:
        taught, tried: in the order of their turns; no batch has both.
        size: turns of a batch; the last one of either may have fewer.
        name: what an item is called in messages.
        progress: of an earlier run.
    """

    def __init__(
        self,
        taught: Sequence[Item],
        tried: Sequence[Item],
        size: int,
        name: Callable[[Item], str],
        progress: Progress,
    ) -> None:
        self._items, self._name, self.row = [*taught, *tried], name, progress.row
        self.taught = len(taught)
        self._starts = [*range(0, self.taught, size), *range(self.taught, len(self._items), size)]
        self.holds = Holds.of(progress.stream)
        self.measured: list[Any] = list(progress.stream.get("measured", ()))  # on the way, by the loop

    @property
    def counts(self) -> list[int]:
        """Turns of each batch."""
        return [int(n) for n in np.diff([*self._starts, len(self._items)])]

    @property
    def batch(self) -> int:
        return bisect.bisect_left(self._starts, self.row)

    def steps(self, updates: int) -> int:
        """Of all batches together: one on each that is taught, so many on each that is tried."""
        lessons = bisect.bisect_left(self._starts, self.taught)
        return lessons + updates * (len(self._starts) - lessons)

    @property
    def teaches(self) -> bool:
        return self.row < self.taught

    @property
    def ended(self) -> bool:
        return self.row >= len(self._items)

    @property
    def state(self) -> dict[str, Any]:
        """What the row does not tell, as JSON."""
        return {"holds": self.holds.listed, "measured": self.measured}

    def names(self, row: int) -> list[str]:
        """What is in the batch that ended before `row`."""
        start = self._starts[bisect.bisect_left(self._starts, row) - 1]
        return list(dict.fromkeys(map(self._name, self._items[start:row])))

    def take(self) -> tuple[range, list[Item]]:
        """The next batch, and the numbers of its turns."""
        numbers = range(self.row, self.row + self.counts[self.batch])
        self.row = numbers.stop
        return numbers, [self._items[number] for number in numbers]
