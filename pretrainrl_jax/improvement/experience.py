"""What a session asks of a feed, where the loop makes its own batches: how far it is, and of what."""

import base64
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.decoding.rollouts import Rollout
from pretrainrl_jax.documents.cut import Cut, Cuts
from pretrainrl_jax.improvement.labels import Labelled
from pretrainrl_jax.improvement.metrics import Judged
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.trees.packing import Capacity

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


class Turns:
    """The examples pass after pass, each shuffled anew: first those that show the form, then the others.

    Args:
        formed, examples: those that show the form of an output, and those that are learned from.
        size: prompts of a batch; there are `format_steps` batches of the ones, `steps` of the others.
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
        return among[_order(self._seed, int(shows), turn, len(among))[place]]


@lru_cache(maxsize=2)  # the last two passes
def _order(seed: int, kind: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, kind, turn]).permutation(count)
