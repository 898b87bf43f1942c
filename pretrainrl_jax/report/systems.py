"""What the systems of a run are called, in which order they are told, and what each is trained to do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pretrainrl_jax.config import ObjectiveConfig


@dataclass(frozen=True)
class Systems:
    """The base model and the objectives of a run's configuration; a system of no objective keeps its name."""

    objectives: Mapping[str, ObjectiveConfig]

    def of(self, system: str) -> ObjectiveConfig:
        """What a system minimises; an objective without terms where that is not known."""
        return self.objectives.get(system, ObjectiveConfig())

    def label(self, system: str) -> str:
        """The name in tables and charts."""
        return self.of(system).label or system

    def words(self, system: str) -> str:
        """The name in sentences."""
        return "the base model" if system == "base" else self.of(system).words or self.label(system)

    def place(self, system: str) -> tuple[int, str]:
        """Orders systems as they are told: base, the objectives as they are configured, all others."""
        known = ["base", *self.objectives]
        return (known.index(system) if system in known else len(known), system)

    def method(self, among: Iterable[str]) -> str | None:
        """The one that the others are compared with: what is recommended, or what a paper reports above some.

        The last of several; None where there is none.
        """
        systems = sorted(among, key=self.place)
        above = [system for system in systems if self.of(system).above]
        return self.recommended(systems) or [None, *above][-1]

    def recommended(self, among: Iterable[str]) -> str | None:
        """The one that is recommended, the last of several; None where there is none."""
        systems = sorted(among, key=self.place)
        return [None, *(system for system in systems if self.of(system).recommended)][-1]

    def controls(self, system: str) -> list[str]:
        """The objectives without negatives that a claim about this one's negatives must stand beside.

        Those that a paper reports below it are spoken of already, and no controls where there are others.
        """
        without = [
            name
            for name, own in self.objectives.items()
            if own.coefficients and not own.contrasts and not own.reinforced
        ]
        return [name for name in without if name not in self.of(system).above] or without
