"""What a session asks of a feed, where the loop makes its own batches: how far it is, and of what."""

import base64
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.training.feed import Holds

TOKEN = np.dtype("<i4")
LOGP = np.dtype("<f8")  # a log-probability is a Python float: 8 bytes keep it as it is


class Sampled(NamedTuple):
    """The documents of one step, continued."""

    after: int  # steps that had taught something when its policy sampled
    cuts: tuple[Cut, ...]
    rollouts: tuple[tuple[Rollout, ...], ...]  # of each cut


def packed(sampled: Sampled) -> dict[str, Any]:
    """The same as JSON holds it, to the bit.

    Arrays are compressed texts. A step of the paper's size (256 documents of 2,048 tokens, 16 rollouts of 128
    tokens each) takes up to 7 MB for a small vocabulary and 10 MB for a large one, in each checkpoint.
    """
    rollouts = [rollout for own in sampled.rollouts for rollout in own]
    stretches = [part for cut in sampled.cuts for part in (cut.document, cut.prefix, cut.suffix)]
    stretches += [rollout.tokens for rollout in rollouts]
    return {
        "after": sampled.after,
        "numbers": [cut.number for cut in sampled.cuts],
        "names": [cut.name for cut in sampled.cuts],
        "rollouts": [len(own) for own in sampled.rollouts],
        "lengths": _text(map(len, stretches), TOKEN),
        "tokens": _text(chain.from_iterable(stretches), TOKEN),
        "logps": _text(chain.from_iterable(rollout.logps for rollout in rollouts), LOGP),
    }


def unpacked(values: dict[str, Any]) -> Sampled:
    """What `packed` was given."""
    lengths = _numbers(values["lengths"], TOKEN)
    stretches = _stretches(_numbers(values["tokens"], TOKEN), lengths)
    named = list(zip(values["numbers"], values["names"], strict=True))
    cuts = [Cut(number, name, next(stretches), next(stretches), next(stretches)) for number, name in named]
    logps = _stretches(_numbers(values["logps"], LOGP), lengths[3 * len(cuts) :])
    rollouts = map(Rollout, stretches, logps)
    own = tuple(tuple(islice(rollouts, count)) for count in values["rollouts"])
    return Sampled(values["after"], tuple(cuts), own)


def _text(numbers: Any, kind: np.dtype) -> str:
    return base64.b64encode(zlib.compress(np.fromiter(numbers, kind).tobytes())).decode("ascii")


def _numbers(text: str, kind: np.dtype) -> list[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).tolist()


def _stretches(values: list[Any], lengths: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The values one after another, in stretches of these lengths."""
    return (tuple(values[begin:end]) for begin, end in pairwise(accumulate(lengths, initial=0)))


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

    def add(self, sampled: Sampled, stream: Stream) -> None:
        """Note the documents of a step that were just read and sampled."""
        self.queue.append(sampled)
        self.documents, self.dropped = stream.state, dict(stream.dropped)

    def take(self, judged: Sequence[Judged], stream: Stream) -> None:
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
