"""What a configuration runs: its compiled programs, each with how much of a run it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax.sharding import Mesh

from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.planning.by_hand import ByHand
from pretrainrl_jax.planning.loads import Load, Step
from pretrainrl_jax.planning.typical import Material


class Other(NamedTuple):
    """A model beside the base model: one that rewrites, or the base model with adapters that learn."""

    hand: ByHand  # on a chip
    parameters: float  # bytes a chip, in the dtype that it is stored in
    learned: float = 0.0  # bytes a chip, float32, of what learns of them


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
    other: Other | None = None  # the model it runs, where that is not the base model, or what it becomes

    @property
    def section(self) -> str:
        """Of that setting."""
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
    parameters: float  # bytes a chip: float32 masters
    largest: float  # bytes of a chip's part of the largest one
    verdicts: int = 0  # asked of a judging model
    verdict_tokens: int = 0  # that it reads, about
    uncounted: tuple[str, ...] = ()  # settings by which a run does what no program here has

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
        return self.hand.shape

    def hand_of(self, program: Program) -> ByHand:
        """The model that a program runs, on a chip."""
        return program.other.hand if program.other else self.hand

    def parameters_of(self, program: Program) -> float:
        """Bytes a chip of that model's parameters."""
        return program.other.parameters if program.other else self.parameters

    def moments_of(self, program: Program) -> float:
        """Bytes a chip of both moments of what learns: nothing of a program that trains nothing."""
        learned = program.other.learned if program.other else self.parameters
        return 2 * learned if program.trains else 0.0
