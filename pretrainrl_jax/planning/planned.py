"""What a configuration runs: its compiled programs, how much of a run each is, and what one is given.

Of that, all chips' together, each load says what one chip of any mesh does and holds, by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax.sharding import Mesh

from pretrainrl_jax.decoding.best_tokens import BLOCK, GROUP
from pretrainrl_jax.planning.by_hand import ByHand, Packed
from pretrainrl_jax.planning.typical import Material
from pretrainrl_jax.planning.work import FLOAT32, Work, together

SAMPLER = 4  # float32 arrays of a step's logits that drawing from a truncated distribution holds


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
        first, *others = (hand.training(part, self.microsteps) for part in self._own(hand))
        for one in others:  # each gathers weights and sums gradients for itself; parameters are updated once
            passes = tuple(op for op in one.operations if op.name != "optimizer")
            first = together(first, Work(passes, one.sent))
        return first

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself."""
        gradients = hand.learned * (1 if self.microsteps == 1 else 2)
        return gradients + self.saved(hand) + max(map(hand.backward, self._own(hand)))

    def saved(self, hand: ByHand) -> float:
        """Bytes of a chip's activations that the backward pass reads."""
        return sum(map(hand.saved, self._own(hand)))


class Scoring(NamedTuple):
    """Forward passes over packed rows."""

    rows: int  # of an execution
    time: int  # tokens of a row
    sources: int  # hidden states of a row that meet the vocabulary
    microsteps: int = 1

    def work(self, hand: ByHand) -> Work:
        """Of a chip."""
        rows, time = hand.share(self.rows / self.microsteps), self.time
        return hand.forward(rows * time, time, rows * self.sources, self.microsteps, hand.flash(time))

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself."""
        rows, time = hand.share(self.rows / self.microsteps), self.time
        in_layers = hand.working(rows * time, time, hand.flash(time)) + hand.held(2)
        return hand.head() + max(in_layers, hand.fold(rows * self.sources))


class Decoding(NamedTuple):
    """Prompts, and what is written after them: beams, which share a cache, or samples, each with its own."""

    rows: int  # prompts
    time: int  # tokens that a prompt is padded to
    branches: int  # of a prompt
    new: int  # tokens of a branch
    sampled: bool = False

    @property
    def turns(self) -> int:
        """Of the loop, which may end earlier: a beam search's first tokens come from the prompt."""
        return self.new if self.sampled else self.new - 1

    def work(self, hand: ByHand) -> Work:
        """Of a chip: prompts are read, then the tokens of all branches."""
        copied, reading = hand.copied()
        rows, time, branches, new, sampled = self._replace(rows=hand.share(self.rows))
        read = reading.forward(rows * time, time, 0 if sampled else rows, flash=hand.flash(time, masked=True))
        seen, tokens = time + (new if sampled else branches * new) + branches, rows * branches
        written = reading.forward(tokens, seen, tokens, self.turns, cache=self.cache(hand))
        return together(copied, read, written)

    def working(self, hand: ByHand) -> float:
        """Bytes that a chip makes for itself. A sampler holds logits of all the vocabulary."""
        rows, time, branches, new, sampled = self._replace(rows=hand.share(self.rows))
        read = hand.working(rows * time, time, hand.flash(time, masked=True))
        seen = time + (new if sampled else branches * new) + branches
        written = hand.working(rows * branches, seen, False)
        vocabulary = hand.shape.vocabulary / hand.cut.tensor
        held = SAMPLER * vocabulary if sampled else 3 * min(BLOCK, vocabulary) + 2 * vocabulary / GROUP
        logits = FLOAT32 * rows * branches * held
        if hand.copy:
            return self.cache(hand) + hand.copy + max(read, written, logits)
        block = hand.item * max(min(BLOCK, vocabulary), rows * branches * GROUP) * hand.shape.d_model
        in_layers = max(read, written) + hand.held(2)
        return self.cache(hand) + hand.head() + max(in_layers, logits + block)

    def cache(self, hand: ByHand) -> float:
        """Bytes of a chip's keys and values."""
        return hand.cache(hand.share(self.rows), self.time + self.branches * self.new)


Load = Step | Scoring | Decoding


@dataclass(frozen=True)
class Program:
    """One compiled program, and how much of it a run is."""

    name: str
    setting: str  # that says how much it computes at a time; "" where none does
    lower: Callable[[], Any]  # gives what XLA is to compile
    load: Load
    tokens: float  # of an execution, without padding
    counted: float  # FLOPs of the model an execution, all chips, causal attention halved, nothing twice
    executions: float | None  # of the whole run; None: its data must be counted first
    updates: float | None = None  # of a system, where it is a training step and that is known
    resident: float = 0.0  # bytes a chip has beside the program's own arguments
    hand: ByHand = field(kw_only=True)  # the model it runs, on a chip
    parameters: float = field(kw_only=True)  # bytes a chip of that model's, as they are stored
    learned: float = field(kw_only=True)  # bytes a chip, float32, of what learns of them

    @property
    def moments(self) -> float:
        """Bytes a chip of both moments of what learns: nothing of a program that trains nothing."""
        return 2 * self.learned if self.trains else 0.0

    @property
    def section(self) -> str:
        return self.setting.partition(".")[0]

    @property
    def trains(self) -> bool:
        """It has an optimizer's state."""
        return isinstance(self.load, Step)


@dataclass(frozen=True)
class Planned:
    """What a configuration runs on a mesh."""

    mesh: Mesh
    hand: ByHand  # the model on a chip
    material: Material
    programs: tuple[Program, ...]
    verdicts: int = 0  # asked of a judging model
    verdict_tokens: int = 0  # that it reads, about
    uncounted: tuple[str, ...] = ()  # settings by which a run does what no program here has
