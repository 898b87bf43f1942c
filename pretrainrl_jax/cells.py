"""The cells of a sweep: a configuration for every combination of the values of `config.sweep`."""

import itertools
from dataclasses import dataclass, fields, replace
from typing import Any

from pretrainrl_jax.config import Config, SweepConfig


@dataclass(frozen=True)
class Cell:
    """One combination of the values."""

    values: dict[str, float]
    config: Config

    @property
    def name(self) -> str:
        """Its folder."""
        return ",".join(f"{axis}={shown(value)}" for axis, value in self.values.items())


def shown(value: float) -> str:
    """A value as people write it, every digit of it."""
    return str(value).removesuffix(".0")


def cells(config: Config) -> list[Cell]:
    """Every combination of the values of `config.sweep`, seeds outermost; none where nothing is swept."""
    axes = {axis.name: getattr(config.sweep, axis.name) for axis in fields(SweepConfig)}
    axes = {name: values for name, values in axes.items() if values}
    if not axes:
        return []
    made = []
    for values in itertools.product(*axes.values()):
        of_cell = replace(config, sweep=SweepConfig())
        for axis, value in zip(axes, values, strict=True):
            of_cell = _with(of_cell, axis, value)
        made.append(Cell(dict(zip(axes, values, strict=True)), of_cell))
    return made


def _with(config: Config, axis: str, value: Any) -> Config:
    """The configuration with one swept value in all its places."""
    if axis == "seed":
        return replace(config, seed=value)
    if axis in ("negatives", "beams"):
        return replace(config, mine=replace(config.mine, **{axis: value}))
    changed = dict(config.objectives)
    for name, objective in config.objectives.items():
        if axis == "learning_rate":
            changed[name] = replace(objective, learning_rate=value)
        elif axis == "beta" and objective.dpo.weight:
            changed[name] = replace(objective, dpo=replace(objective.dpo, beta=value))
        elif axis == "ntp_weight" and objective.contrasts:
            scaled = {weight: value * old for weight, old in objective.ntp.coefficients.items()}
            changed[name] = replace(objective, ntp=replace(objective.ntp, **scaled))
    return replace(config, objectives=changed)
