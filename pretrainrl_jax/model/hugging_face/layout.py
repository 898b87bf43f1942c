"""From the axes of their tensors to ours and back: derived from the table of weights and our logical axes."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.traverse_util
import numpy as np

from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.families import Weight, weights_of

Slices = tuple[slice, ...]
Place = tuple[int, ...]  # layer and expert


@dataclass(frozen=True)
class Parameter:
    """One of our parameters, and the tensors it is made of."""

    weight: Weight
    shape: tuple[int, ...]  # ours, with all layers and experts
    axes: tuple[str, ...]  # their logical names

    @cached_property
    def stacked(self) -> int:
        """Our first axes along which each entry is a tensor of its own: layers, then experts, or none."""
        return sum(axis in ("layers", "experts") for axis in self.axes)

    @cached_property
    def places(self) -> list[Place]:
        """Of each of its tensors the layer and the expert, as far as there are some."""
        return list(np.ndindex(*self.shape[: self.stacked]))

    def name(self, place: Place) -> str:
        """Their name of the tensor of a layer and an expert."""
        return self.weight.theirs.format(*place)

    @cached_property
    def names(self) -> list[str]:
        """Their names of its tensors, in the order of the layers."""
        return [self.name(place) for place in self.places]

    @cached_property
    def groups(self) -> list[list[int]]:
        """For each axis of theirs, our axes that lie flattened in it."""
        return [[self.axes.index(n) for n in axis.split() if n in self.axes] for axis in self.weight.axes]

    @cached_property
    def theirs(self) -> tuple[int, ...]:
        """The shape of each of its tensors."""
        return tuple(math.prod(self.shape[axis] for axis in group) for group in self.groups)

    @cached_property
    def transposed(self) -> bool:
        """Whether theirs is a matrix whose columns are our first axes."""
        return len(self.groups) == 2 and self.groups[0] > self.groups[1]

    def as_matrix(self, unfolded: np.ndarray) -> np.ndarray:
        """What `take` kept of a tensor of theirs as a matrix, with rows and columns as theirs."""
        rows = math.prod(unfolded.shape[: len(self.groups[0])]) if len(self.groups) == 2 else 1
        return unfolded.reshape(rows, -1)

    def as_theirs(self, ours: np.ndarray) -> np.ndarray:
        """A view of a layer of ours, or of a part of it, as that matrix."""
        if len(self.groups) == 1:
            return ours.reshape(1, -1)
        inner = len(self.groups[1 if self.transposed else 0])  # of ours, the axes that come first
        matrix = ours.reshape(math.prod(ours.shape[self.stacked :][:inner]), -1)  # of one layer and expert
        return matrix.T if self.transposed else matrix

    def take(self, part: Slices) -> tuple[Slices, tuple[int, ...], Slices]:
        """How to read a part of ours, of one layer, from a tensor of theirs.

        Returns:
            The slices of theirs to read; the shape to unfold that into, our axes in their order; and what to
            keep of it. Of axes that lie flattened in one, all of the inner ones are read.
        """
        rows, unfolded, cut = [], [], []
        for outer, *inner in self.groups:
            size = math.prod(self.shape[axis] for axis in inner)
            rows.append(slice(part[outer].start * size, part[outer].stop * size))
            unfolded += [part[outer].stop - part[outer].start, *(self.shape[axis] for axis in inner)]
            cut += [slice(None), *(part[axis] for axis in inner)]
        return tuple(rows), tuple(unfolded), tuple(cut)


def parameters(model: Model) -> dict[str, Parameter]:
    """The parameters of a model by their path, joined with slashes."""
    boxed: Any = flax.traverse_util.flatten_dict(model.abstract(), sep="/")
    table = weights_of(model.shape.family)
    return {path: Parameter(table[path], leaf.value.shape, leaf.names) for path, leaf in boxed.items()}
