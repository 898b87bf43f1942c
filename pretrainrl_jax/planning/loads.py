"""What programs are given, all chips together, and what that is on one chip of any mesh, by hand."""

from typing import NamedTuple

from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.work import Work


class Step(NamedTuple):
    """A training step: rows of several kinds, each of which has a forward and a backward pass."""

    packed: tuple[Packed, ...]  # of an update; the first ones are those that learn
    microsteps: int = 1

    @property
    def rows(self) -> int:
        """Of an update."""
        return self.packed[0].rows

    @property
    def time(self) -> int:
        """Tokens of a row."""
        return self.packed[0].time

    def _own(self, hand: ByHand) -> list[Packed]:
        """Rows of a chip, a microstep."""
        return [part._replace(rows=hand.share(part.rows / self.microsteps)) for part in self.packed]

    def work(self, hand: ByHand) -> Work:
        """Of a chip."""
        return hand.step(self._own(hand), self.microsteps)

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself."""
        return hand.step_memory(self._own(hand), self.microsteps)

    def saved(self, hand: ByHand) -> float:
        """Bytes of a chip's activations that the backward pass reads."""
        return hand.saved(self._own(hand))


class Scoring(NamedTuple):
    """Forward passes over packed rows."""

    rows: int  # of an execution
    time: int  # tokens of a row
    sources: int  # hidden states of a row that meet the vocabulary
    microsteps: int = 1

    def work(self, hand: ByHand) -> Work:
        """Of a chip."""
        rows = hand.share(self.rows / self.microsteps)
        return hand.scoring(rows, self.time, self.sources, self.microsteps)

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself."""
        return hand.scoring_memory(hand.share(self.rows / self.microsteps), self.time, self.sources)


class Decoding(NamedTuple):
    """Prompts, and what is written after them: beams, which share a cache, or samples, each with its own."""

    rows: int  # prompts
    time: int  # tokens that a prompt is padded to
    branches: int  # of a prompt
    new: int  # tokens of a branch
    sampled: bool

    @property
    def turns(self) -> int:
        """Of the loop, which may end earlier: a beam search's first tokens come from the prompt."""
        return self.new if self.sampled else self.new - 1

    def work(self, hand: ByHand) -> Work:
        """Of a chip."""
        return hand.decoding(hand.share(self.rows), self.time, self.branches, self.new, self.sampled)

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself."""
        rows = hand.share(self.rows)
        return hand.decoding_memory(rows, self.time, self.branches, self.new, self.sampled)

    def cache(self, hand: ByHand) -> float:
        """Bytes of a chip's keys and values."""
        return hand.cache(hand.share(self.rows), self.time + self.branches * self.new)


Load = Step | Scoring | Decoding
