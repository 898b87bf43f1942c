"""Packed rows as a random-access dataset: row i of training is always the same row.

Progress is one row index, so any run resumes exactly and any number of readers can slice the same data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pretrainrl_jax.trees.packing import Capacity, capacity, fill_row, plan, stack
from pretrainrl_jax.trees.rows import Rows
from pretrainrl_jax.trees.tree import AnswerTree


@dataclass(frozen=True)
class PackedRows:
    """All rows of a training run: each pass over the trees is shuffled and packed anew.

    A random-access source for Grain: `len`, and `[i]` gives the arrays of row i (no batch axis).

    Args:
        trees: each at most `row_length` input tokens.
        row_length: input tokens a row holds.
        seed: the shuffle of pass p derives from (seed, p).
        passes: times every tree is visited; a fraction visits that share of a further pass.
        rows: rows a batch; the last batch is filled up with empty rows.
    """

    trees: Sequence[AnswerTree] = field(repr=False)  # Grain prints its source
    row_length: int
    seed: int
    passes: float
    rows: int

    @cached_property
    def plan(self) -> list[list[int]]:
        """The trees of each row, all passes one after another, without the empty rows at the end."""
        lengths = [tree.inputs for tree in self.trees]
        planned: list[list[int]] = []
        for number in range(int(np.ceil(self.passes))):
            rng = np.random.default_rng([self.seed, number])
            share = min(1.0, self.passes - number)
            order = rng.permutation(len(self.trees))[: round(share * len(self.trees))]
            packed = plan(lengths, self.row_length, order.tolist())
            # First-fit leaves the late rows emptier: their order is drawn, so that no update is made of them.
            planned += [packed[i] for i in rng.permutation(len(packed))]
        return planned

    @cached_property
    def capacity(self) -> Capacity:
        """Static sizes of every row."""
        return capacity(self.trees, self.plan, self.row_length)

    @property
    def fill(self) -> float:
        """Share of the planned rows' input tokens that are not padding."""
        used = sum(self.trees[i].inputs for row in self.plan for i in row)
        return used / max(1, len(self.plan) * self.row_length)

    @property
    def batches(self) -> int:
        """Number of batches, the last one possibly filled up."""
        return -(-len(self.plan) // self.rows)

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: int) -> Rows:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.plan[index] if index < len(self.plan) else []
        return fill_row([self.trees[i] for i in row], self.capacity)


def batches(
    source: PackedRows, start: int = 0, transform: Callable[[Rows], Rows] | None = None
) -> Iterator[Rows]:
    """A Grain iterator over batches [rows, …] of `source`, from batch number `start`, read ahead in threads.

    `transform` is applied to each batch in the reading threads.
    """
    import grain

    data = grain.MapDataset.source(source)[start * source.rows :].batch(source.rows, batch_fn=stack)
    if transform is not None:
        data = data.map(transform)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))
