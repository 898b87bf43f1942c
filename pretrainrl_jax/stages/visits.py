"""In which order questions are asked whose answers are sampled, and where such a run stands."""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.trees.dataset import turn
from pretrainrl_jax.trees.packing import Capacity


class Visits:
    """The questions in the order they are asked: those that are taught first, then pass after pass.

    Each pass is shuffled anew. `row` is the number of questions that were asked or taught.

    Args:
        facts: that are asked.
        seed: of the order.
        taught: passes over them that teach "I don't know"; a fraction is a share of them.
        passes: likewise, that ask.
        size: of a batch.
        state: what an earlier run had saved; empty at the beginning.
        worded: a fact in all its wordings, which passes ask in turn.
    """

    def __init__(
        self,
        facts: Sequence[Fact],
        seed: int,
        taught: float,
        passes: float,
        size: int,
        state: dict[str, Any],
        worded: Callable[[Fact], Sequence[Fact]],
    ) -> None:
        wordings = [worded(fact) for fact in facts]

        def order(kind: int, passes: float) -> list[Fact]:
            every: list[Fact] = []
            for number in range(math.ceil(passes)):
                shuffled = np.random.default_rng([seed, kind, number]).permutation(len(facts))
                every += [wordings[i][turn(facts[i].id, number, len(wordings[i]))] for i in shuffled]
            return every[: round(passes * len(facts))]

        lessons, asked = order(0, taught), order(1, passes) or list(facts[:1])
        self._order = [*lessons, *asked]
        self._starts = [*range(0, len(lessons), size), *range(len(lessons), len(self._order), size)]
        self.taught, self.row = len(lessons), 0
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))

    @property
    def counts(self) -> list[int]:
        """Questions of each batch."""
        return [int(n) for n in np.diff([*self._starts, len(self._order)])]

    @property
    def batch(self) -> int:
        """The number of the next batch."""
        return bisect.bisect_left(self._starts, self.row)

    def steps(self, updates: int) -> int:
        """Of all batches together, with so many on each whose answers are sampled."""
        taught = bisect.bisect_left(self._starts, self.taught)
        return taught + updates * (len(self._starts) - taught)

    @property
    def teaches(self) -> bool:
        """Whether the next batch is taught."""
        return self.row < self.taught

    @property
    def ended(self) -> bool:
        """Whether no question is left."""
        return self.row >= len(self._order)

    @property
    def state(self) -> dict[str, Any]:
        """What of its position the row does not tell: the sizes that batches are compiled for."""
        return {"holds": [self.holds.rows, *self.holds.capacity]}

    def take(self) -> tuple[range, list[Fact]]:
        """The next batch's questions, and the numbers of these visits."""
        numbers = range(self.row, self.row + self.counts[self.batch])
        self.row = numbers.stop
        return numbers, [self._order[n] for n in numbers]

    def names(self, row: int) -> list[str]:
        """What the batch that ended before `row` asks."""
        start = self._starts[bisect.bisect_left(self._starts, row) - 1]
        return list(dict.fromkeys(fact.question for fact in self._order[start:row]))
