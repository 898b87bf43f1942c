"""What a session asks of a feed, where the loop makes its own batches: how far it is, and of what."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pretrainrl_jax.documents.cut import Cuts
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.improvement.queue import Sampled, packed, unpacked
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.trees.packing import Capacity


class Experience:
    """Documents sampled, taken, dropped and tied up to now; `state` is all that a run which goes on needs.

    Args:
        state: what an earlier run had saved; empty at the beginning.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.row, self.ended = 0, False
        self.documents: dict[str, Any] = dict(state.get("documents", {}))  # the stream's own state
        self.collapse: dict[str, Any] = dict(state.get("collapse", {}))  # see `Collapse`, which changes it
        self.taken, self.ties = state.get("taken", 0), state.get("ties", 0)
        self.steps: int = state.get("steps", 0)  # that taught something
        self.queue = deque(map(unpacked, state.get("queue", ())))  # sampled and not taken, in order
        self.dropped: dict[str, int] = dict(state.get("dropped", {}))
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))  # what batches hold
        self._named: list[str] = []

    @property
    def state(self) -> dict[str, Any]:
        """JSON values."""
        names = ("documents", "collapse", "taken", "ties", "steps", "dropped")
        holds = [self.holds.rows, *self.holds.capacity]
        queue = [packed(sampled) for sampled in self.queue]
        return {name: getattr(self, name) for name in names} | {"holds": holds, "queue": queue}

    @property
    def behind(self) -> int:
        """How many steps the policy has learned from since it sampled the documents that are taken next."""
        return self.steps - self.queue[0].after

    def add(self, sampled: Sampled, stream: Cuts) -> None:
        """Note the documents of a step that were just read and sampled."""
        self.queue.append(sampled)
        self.documents, self.dropped = stream.state, dict(stream.dropped)

    def take(self, judged: Sequence[Judged], stream: Cuts) -> None:
        """Note that the documents of a step, the first in the queue, are judged and learned from."""
        self.queue.popleft()
        self.ended = stream.ended and not self.queue
        self.taken += len(judged)
        self.ties += sum(one.tree is None for one in judged)
        self.steps += any(one.tree for one in judged)
        self.row = self.taken
        self._named = [one.cut.name for one in judged if one.tree]

    def names(self, row: int) -> list[str]:
        """What the documents of the last step are called."""
        return self._named
