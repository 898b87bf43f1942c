"""The cells of a sweep: a configuration for every combination of the values of `config.sweep`."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pretrainrl_jax.config import Config, ObjectiveConfig, SweepConfig
from pretrainrl_jax.config.stored import changed, every_setting, settings_of
from pretrainrl_jax.errors import InputError


@dataclass(frozen=True)
class Cell:
    """One combination of the values."""

    values: dict[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """Its folder."""
        texts = {axis: re.sub(r"[^\w.+-]", "_", shown(value)) for axis, value in self.values.items()}
        return ",".join(f"{axis}={text}" for axis, text in texts.items())


def shown(value: Any) -> str:
    """A value as people write it, every digit of it."""
    if isinstance(value, list | tuple):
        return "+".join(map(shown, value))
    return str(value).removesuffix(".0")


def cells(config: Config) -> list[Cell]:
    """Every combination of the values of `config.sweep`, seeds outermost; none where nothing is swept.

    Raises InputError if there is no such setting, or none that matters, or two cells would share a folder;
    ValidationError if a value is none of its setting.
    """
    axes = config.sweep.axes
    if not axes:
        return []
    if all(len(axes.get(axis, ())) > 1 for axis in ("seed", "train.order")):
        raise InputError("sweep.seed and sweep.train.order: orders of one seed are no seeds, sweep one")
    known = {setting.name for setting in every_setting(config)}
    for axis, _ in config.sweep.over:
        if axis not in known or axis.startswith("sweep."):
            raise InputError(f"sweep.{axis}: there is no setting {axis} to sweep")
    made, alone = [], replace(config, sweep=SweepConfig())
    for values in itertools.product(*axes.values()):
        named = dict(zip(axes, values, strict=True))
        of_axes = {axis: _changes(config.objectives, axis, value) for axis, value in named.items()}
        together = {name: value for changes in of_axes.values() for name, value in changes.items()}
        of_cell = changed(alone, together)
        for axis, value in named.items():  # of the cell, in which another axis may weigh a term
            wanted = _changes(of_cell.objectives, axis, value).items()
            if axis != "ntp_weight" and not wanted <= together.items():  # which is a factor
                raise InputError(f"sweep.{axis}: another axis of the sweep sets the same, leave one out")
        made.append(Cell(named, of_cell))
    for axis, values in axes.items():
        if len(values) > 1 and not _tells(made, axis):
            raise InputError(f"sweep.{axis}: no result of these runs depends on it, leave it out")
        if axes.get("ntp_weight") and re.fullmatch(r"objectives\..*\.ntp\..*", axis):
            raise InputError(f"sweep.{axis}: sweep.ntp_weight changes the same, leave one out")
    names = [cell.name for cell in made]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        told = f"two cells would be called {twice}"
        raise InputError(f"sweep: {told}: name values that differ in their letters")
    return made


def _tells(made: Sequence[Cell], axis: str) -> bool:
    """Whether cells that differ along an axis alone differ in what any stage depends on."""
    config = made[0].config
    if axis == "train.passes" and config.train.device_seconds:
        return False
    if axis.startswith("world.") and config.facts.path:  # no world is made
        return False
    systems = [f"{kind}/{name}" for kind in ("train", "evaluate") for name in config.train.systems]
    stages = ("pretrain", "mine", *systems, "evaluate/base")
    return any(depends(made, [settings_of(cell.config, stage) for cell in made], axis) for stage in stages)


def depends(every: Sequence[Cell], settings: Sequence[dict[str, Any]], axis: str) -> bool:
    """Whether cells that differ along an axis alone differ in the settings given for each."""
    seen: dict[str, dict[str, Any]] = {}
    for cell, of_cell in zip(every, settings, strict=True):
        others = str({name: value for name, value in cell.values.items() if name != axis})
        if seen.setdefault(others, of_cell) != of_cell:
            return True
    return False


def _changes(objectives: Mapping[str, ObjectiveConfig], axis: str, value: Any) -> dict[str, Any]:
    """The settings that a swept value changes, by their dotted names."""
    if axis == "learning_rate":
        return {f"objectives.{name}.learning_rate": value for name in objectives}
    if axis == "beta":
        return {f"objectives.{name}.dpo.beta": value for name, one in objectives.items() if one.dpo.weight}
    if axis == "ntp_weight":
        return {
            f"objectives.{name}.ntp.{weight}": value * old
            for name, one in objectives.items()
            if one.contrasts
            for weight, old in one.ntp.coefficients.items()
        }
    return {f"mine.{axis}" if axis in ("negatives", "beams") else axis: value}
