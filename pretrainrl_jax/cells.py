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
    found = []
    for values in itertools.product(*axes.values()):
        of_cell = replace(config, sweep=SweepConfig())
        for axis, value in zip(axes, values, strict=True):
            of_cell = _with(of_cell, axis, value)
        found.append(Cell(dict(zip(axes, values, strict=True)), of_cell))
    return found


def _with(config: Config, axis: str, value: Any) -> Config:
    """The configuration with one swept value in all its places."""
    if axis == "seed":
        return replace(config, seed=value)
    if axis in ("negatives", "beams"):
        return replace(config, mine=replace(config.mine, **{axis: value}))
    changed = dict(config.objectives)
    for name, of in config.objectives.items():
        if axis == "learning_rate":
            changed[name] = replace(of, learning_rate=value)
        elif axis == "beta" and of.dpo.weight:
            changed[name] = replace(of, dpo=replace(of.dpo, beta=value))
        elif axis == "ntp_weight" and of.contrasts:
            scaled = {weight: value * old for weight, old in of.ntp.coefficients.items()}
            changed[name] = replace(of, ntp=replace(of.ntp, **scaled))
    return replace(config, objectives=changed)
