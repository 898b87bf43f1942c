"""What a session asks of a feed, where the loop makes its own batches: how far it is, and of what."""

from collections.abc import Mapping, Sequence
from typing import Any

from pretrainrl_jax.documents.cut import Cuts
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.trees.packing import Capacity


class Experience:
    """Documents taken, dropped and tied up to now; `state` is all that a run which goes on needs.

    Args:
        state: what an earlier run had saved; empty at the beginning.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.row, self.ended = 0, False
        self.documents: dict[str, Any] = dict(state.get("documents", {}))  # the stream's own state
        self.collapse: dict[str, Any] = dict(state.get("collapse", {}))  # see `Collapse`, which changes it
        self.taken, self.ties = state.get("taken", 0), state.get("ties", 0)
        self.dropped: dict[str, int] = dict(state.get("dropped", {}))
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        self.holds = Holds(rows, Capacity(*sizes))  # what batches hold
        self._named: list[str] = []

    @property
    def state(self) -> dict[str, Any]:
        """JSON values."""
        names = ("documents", "collapse", "taken", "ties", "dropped")
        holds = [self.holds.rows, *self.holds.capacity]
        return {name: getattr(self, name) for name in names} | {"holds": holds}

    def take(self, judged: Sequence[Judged], stream: Cuts) -> None:
        """Note the documents of a step."""
        self.documents, self.ended, self.dropped = stream.state, stream.ended, dict(stream.dropped)
        self.taken += len(judged)
        self.ties += sum(one.tree is None for one in judged)
        self.row = self.taken
        self._named = [one.cut.name for one in judged if one.tree]

    def names(self, row: int) -> list[str]:
        """What the documents of the last step are called."""
        return self._named
