"""In which order labelled texts are learned from, and where such a run stands."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.improvement.labels import Labelled
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.trees.packing import Capacity


class Turns:
    """The examples pass after pass, each shuffled anew: first those that show the form, then the others.

    Args:
        formed: examples that show the form of an output.
        examples: that are learned from.
        seed: of the order.
        size: prompts of a batch.
        format_steps, steps: batches of each.
        measure_every: batches between measurements.
        state: what an earlier run had saved; empty at the beginning.
    """

    def __init__(
        self,
        formed: Sequence[Labelled],
        examples: Sequence[Labelled],
        seed: int,
        size: int,
        format_steps: int,
        steps: int,
        measure_every: int,
        state: Mapping[str, Any],
    ) -> None:
        self._formed, self._examples, self._seed, self._size = formed, examples, seed, size
        self._format_steps, self._steps, self._every = format_steps, steps, measure_every
        self._orders: dict[tuple[int, int], np.ndarray] = {}  # the last two passes'
        self.batch = state.get("batch", 0)  # the next one's number
        self.measured: list[dict[str, Any]] = list(state.get("measured", ()))  # of what is held out
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))

    @property
    def row(self) -> int:
        """Prompts up to now."""
        return self.batch * self._size

    @property
    def shows_form(self) -> bool:
        """Whether the next batch shows the form of an output."""
        return self.batch < self._format_steps

    @property
    def ended(self) -> bool:
        """Whether no batch is left."""
        return self.batch >= self._format_steps + self._steps

    @property
    def is_to_be_measured(self) -> bool:
        """Whether what is held out is to be measured now: it is not yet, and its turn has come."""
        learned = self.batch - self._format_steps
        turn = learned >= 0 and bool(self._every) and learned % self._every == 0
        due = turn or self.ended or self.batch in (0, self._format_steps)
        return due and not (self.measured and self.measured[-1]["batch"] == self.batch)

    @property
    def state(self) -> dict[str, Any]:
        """JSON values."""
        holds = [self.holds.rows, *self.holds.capacity]
        return {"batch": self.batch, "measured": self.measured, "holds": holds}

    def take(self) -> tuple[range, list[Labelled]]:
        """The next batch's examples, and the numbers of these turns."""
        numbers = range(self.row, self.row + self._size)
        self.batch += 1
        return numbers, [self._of(number) for number in numbers]

    def names(self, row: int) -> list[str]:
        """Where the examples of the batch that ended before `row` stand."""
        return list(dict.fromkeys(self._of(number).where for number in range(row - self._size, row)))

    def _of(self, number: int) -> Labelled:
        shows = number < self._format_steps * self._size
        among = self._formed if shows else self._examples
        number -= 0 if shows else self._format_steps * self._size
        turn, place = divmod(number, len(among))
        return among[self._order(int(shows), turn, len(among))[place]]

    def _order(self, kind: int, turn: int, count: int) -> np.ndarray:
        if (kind, turn) not in self._orders:
            shuffled = np.random.default_rng([self._seed, kind, turn]).permutation(count)
            self._orders = {**dict(list(self._orders.items())[-1:]), (kind, turn): shuffled}
        return self._orders[kind, turn]
