"""Packed rows as a random-access dataset: row i of training is always the same row.

Progress is one row index, so any run resumes exactly and any number of readers can slice the same data.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pretrainrl_jax.trees.layouts import Layout, Size, size
from pretrainrl_jax.trees.packing import Capacity, capacity, fill_row, plan, stack
from pretrainrl_jax.trees.rows import NEGATIVE, Rows
from pretrainrl_jax.trees.tree import AnswerTree, Branch


@dataclass(frozen=True)
class PackedRows:
    """All rows of a training run: each pass over the trees is shuffled and packed anew.

    A random-access source for Grain: `len`, and `[i]` gives the arrays of row i (no batch axis).

    Args:
        trees: each, with the negatives drawn, at most `row_length` input tokens.
        row_length: input tokens a row holds.
        seed: the shuffle of pass p derives from (seed, p).
        passes: times every tree is visited; a fraction visits that share of a further pass.
        rows: rows a batch; the last batch is filled up with empty rows.
        negatives: drawn of a tree's negatives at each visit (see `draw`); 0 keeps all.
        layout: how a tree is laid into a row.
        start: passes that were made already; a fraction skips the trees that the other part has visited.
        at_least: sizes below which the rows' arrays do not shrink, so that a step compiled for them serves.
    """

    trees: Sequence[AnswerTree] = field(repr=False)  # Grain prints its source
    row_length: int
    seed: int
    passes: float
    rows: int
    negatives: int = 0
    layout: Layout = "shared"
    start: float = 0.0
    at_least: Capacity | None = None

    @cached_property
    def _passes(self) -> list[tuple[list[int], list[Size], list[list[int]]]]:
        """Of each pass the trees in the order they are taken, their sizes, and the rows as places in it."""
        count = len(self.trees)
        made = []
        for number in range(int(self.start), int(np.ceil(self.passes))):
            rng = np.random.default_rng([self.seed, number])
            first, last = (round(min(max(x - number, 0.0), 1.0) * count) for x in (self.start, self.passes))
            order = rng.permutation(count)[first:last].tolist()
            sizes = [size(self._drawn(index, number), self.layout) for index in order]
            packed = plan([s.inputs for s in sizes], self.row_length, range(len(order)))
            # First-fit leaves the late rows emptier: their order is drawn, so that no update is made of them.
            made.append((order, sizes, [packed[i] for i in rng.permutation(len(packed))]))
        return made

    @cached_property
    def plan(self) -> list[list[int]]:
        """The trees of each row, all passes one after another, without the empty rows at the end."""
        return [[order[i] for i in row] for order, _, packed in self._passes for row in packed]

    @cached_property
    def _pass_of(self) -> list[int]:
        """The number of the pass that each planned row belongs to."""
        return [int(self.start) + n for n, (_, _, packed) in enumerate(self._passes) for _ in packed]

    @cached_property
    def capacity(self) -> Capacity:
        """Static sizes of every row."""
        found = [capacity(sizes, packed, self.row_length) for _, sizes, packed in self._passes]
        found += [self.at_least or Capacity(self.row_length, 0, 0), capacity([], [], self.row_length)]
        return Capacity(self.row_length, max(c.targets for c in found), max(c.slots for c in found))

    @property
    def fill(self) -> float:
        """Share of the planned rows' input tokens that are not padding at a row's end."""
        used = sum(s.inputs for _, sizes, _ in self._passes for s in sizes)
        return used / max(1, len(self.plan) * self.row_length)

    @property
    def batches(self) -> int:
        """Number of batches, the last one possibly filled up."""
        return -(-len(self.plan) // self.rows)

    def _drawn(self, index: int, number: int) -> AnswerTree:
        return draw(self.trees[index], self.negatives, self.seed, number)

    @cached_property
    def empty(self) -> Rows:
        """A row of nothing, which changes no loss."""
        return fill_row([], self.capacity, self.layout)

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: int) -> Rows:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.plan[index] if index < len(self.plan) else []
        trees = [self._drawn(i, self._pass_of[index]) for i in row]
        return fill_row(trees, self.capacity, self.layout)


def draw(tree: AnswerTree, negatives: int, seed: int, epoch: int) -> AnswerTree:
    """The tree with `negatives` of its negatives, drawn at random by (seed, epoch, the tree's id).

    PretrainRL (arXiv 2602.01875) draws 5 from the category's pool. Where negatives come from several sources,
    each gives an equal part, the first named ones one more where that does not come out even, and what one
    lacks the others give. All of them stay where there are no more than that, or `negatives` is 0.
    """
    found = [b for b in tree.branches if b.kind == NEGATIVE]
    if not negatives or len(found) <= negatives:
        return tree
    chance = random.Random(f"{seed}/{epoch}/{tree.id}")
    by_source: dict[str, list[Branch]] = {}
    for branch in chance.sample(found, len(found)):
        by_source.setdefault(branch.source, []).append(branch)
    waiting = [by_source[s] for s in dict.fromkeys(b.source for b in found)]
    drawn: list[Branch] = []
    while len(drawn) < negatives:
        for of_source in waiting:
            if of_source and len(drawn) < negatives:
                drawn.append(of_source.pop())
    kept = {id(b) for b in drawn}
    return replace(tree, branches=tuple(b for b in tree.branches if b.kind != NEGATIVE or id(b) in kept))


def longest(tree: AnswerTree, negatives: int, layout: Layout) -> int:
    """The most input tokens the tree takes of a row, whichever of its negatives are drawn."""
    found = sorted((b for b in tree.branches if b.kind == NEGATIVE), key=lambda b: -len(b.tokens))
    kept = found[:negatives] if negatives else found
    rest = tuple(b for b in tree.branches if b.kind != NEGATIVE)
    return size(replace(tree, branches=(*rest, *kept)), layout).inputs


def batches(source: PackedRows) -> Iterator[Rows]:
    """A Grain iterator over batches [rows, …] of `source`, read ahead in threads."""
    import grain

    data = grain.MapDataset.source(source).batch(source.rows, batch_fn=stack)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


@dataclass(frozen=True)
class Share:
    """What one process reads of each batch: the same places of each of its microsteps.

    A random-access source for Grain, row after row of these places, batch after batch.

    Args:
        source: the rows; `source.rows` of them are a batch.
        microsteps: a batch is cut into; divides `source.rows`.
        width: rows of a microstep: those of the batch, then empty ones, so that it divides over devices.
        places: of 0 to `width` - 1, those this process reads.
    """

    source: PackedRows = field(repr=False)
    microsteps: int
    width: int
    places: tuple[int, ...]

    def __len__(self) -> int:
        return self.source.batches * self.microsteps * len(self.places)

    def __getitem__(self, index: int) -> Rows:
        microstep, at = divmod(index, len(self.places))
        size = self.source.rows // self.microsteps
        if self.places[at] >= size:
            return self.source.empty
        return self.source[microstep * size + self.places[at]]

    def batches(self, first: int = 0) -> Iterator[Rows]:
        """A Grain iterator over this process's part of each batch, [microsteps, places, …].

        Args:
            first: the row of `source` that the first batch begins with.
        """
        import grain

        count = self.microsteps * len(self.places)
        data = grain.MapDataset.source(self)[first // self.source.rows * count :]

        def cut(rows: Rows) -> Rows:
            return Rows(*(x.reshape(self.microsteps, -1, *x.shape[1:]) for x in rows))

        data = data.batch(count, batch_fn=stack).map(cut)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))
