"""What a session asks of a feed, where the loop makes its own batches: how far it is, and of what."""

import base64
import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.decoding.rollouts import Rollout
from pretrainrl_jax.documents.cut import Cut, Cuts
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.training.feed import Holds


class Sampled(NamedTuple):
    """The documents of one step, continued."""

    after: int  # steps that had taught something when its policy sampled
    cuts: tuple[Cut, ...]
    rollouts: tuple[tuple[Rollout, ...], ...]  # of each cut


def packed(sampled: Sampled) -> str:
    """The same as a text, to the bit: compressed JSON, of a step of the paper's size up to 13 MB."""
    return base64.b64encode(zlib.compress(json.dumps(sampled, default=vars).encode())).decode("ascii")


def unpacked(text: Any) -> Sampled:
    """What `packed` was given. Raises InputError for what a version before it kept."""
    if not isinstance(text, str):
        raise InputError("what was sampled and not learned yet is of an older version: go on with that one")
    after, cuts, rollouts = json.loads(zlib.decompress(base64.b64decode(text)))
    fields = (cut.values() for cut in cuts)  # in the order of `Cut`
    return Sampled(
        after,
        tuple(Cut(number, name, *map(tuple, tokens)) for number, name, *tokens in fields),
        tuple(tuple(Rollout(*map(tuple, one)) for one in own) for own in rollouts),
    )


class Experience:
    """Documents sampled, taken, dropped and tied up to now; `state` is all that a run which goes on needs."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.row, self.ended = 0, False
        self.documents: dict[str, Any] = dict(state.get("documents", {}))  # the stream's own state
        self.collapse: dict[str, Any] = dict(state.get("collapse", {}))  # see `Collapse`, which changes it
        self.taken, self.ties = state.get("taken", 0), state.get("ties", 0)
        self.steps: int = state.get("steps", 0)  # that taught something
        self.queue = deque(map(unpacked, state.get("queue", ())))  # sampled and not taken, in order
        self.dropped: dict[str, int] = dict(state.get("dropped", {}))
        self.holds = Holds.of(state)  # what batches hold
        self._named: list[str] = []

    @property
    def state(self) -> dict[str, Any]:
        """JSON values."""
        names = ("documents", "collapse", "taken", "ties", "steps", "dropped")
        queue = [packed(sampled) for sampled in self.queue]
        return {name: getattr(self, name) for name in names} | {"holds": self.holds.listed, "queue": queue}

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
