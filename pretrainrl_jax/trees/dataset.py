"""Packed rows as a random-access dataset: row i of training is always the same row.

Progress is one row index, so any run resumes exactly and any number of readers can slice the same data. Of
several trees of one question, in different wordings, each pass sees one, in turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from pretrainrl_jax.trees.anchors import AnchorRows
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.layouts import Layout, size
from pretrainrl_jax.trees.packing import Capacity, capacity, pack, plan
from pretrainrl_jax.trees.tree import AnswerTree

Visit = Callable[[AnswerTree, int], AnswerTree]  # what a pass of that number sees of a tree


@dataclass(eq=False)
class PackedRows:
    """All rows of a training run: each pass over the trees is shuffled and packed anew."""

    trees: Sequence[AnswerTree] = field(repr=False)  # Grain prints its source
    row_length: int  # input tokens a row holds; a tree, as it is visited, has no more
    seed: int  # the shuffle of pass p derives from (seed, p)
    passes: float  # times every tree is visited; a fraction visits that share of a further pass
    rows: int  # a batch; the last batch is filled up with empty rows
    visit: Visit = lambda tree, number: tree
    layout: Layout = "shared"  # how a tree is laid into a row
    question: bool = True  # prefixes are predicted
    sequences: bool = False  # every tree is one, as `pack` is told
    start: float = 0.0  # passes made already; a fraction skips the trees that the other part has visited
    holds: Capacity | None = None  # of the rows; by default the smallest that holds all of them

    def __post_init__(self) -> None:
        self.plan: list[list[int]] = []  # the trees of each row, all passes one after another, no empty row
        self._pass_of: list[int] = []  # of each of these rows, the number of its pass
        count, capacities, used = len(self.trees), list[Capacity](), 0
        for number in range(int(self.start), int(np.ceil(self.passes))):
            rng = np.random.default_rng([self.seed, number])
            begin, last = (round(min(max(x - number, 0.0), 1.0) * count) for x in (self.start, self.passes))
            order = rng.permutation(count)[begin:last].tolist()
            sizes = [size(self.visit(self.trees[i], number), self.layout, self.question) for i in order]
            packed = plan([s.time for s in sizes], self.row_length)
            # First-fit leaves the late rows emptier: their order is drawn, so that no update is made of them.
            self.plan += [[order[i] for i in packed[row]] for row in rng.permutation(len(packed))]
            self._pass_of += [number] * len(packed)
            capacities.append(capacity(sizes, packed, self.row_length))
            used += sum(s.time for s in sizes)
        capacities = capacities or [capacity([], [], self.row_length)]
        self.capacity = self.holds or Capacity(*map(max, zip(*capacities, strict=True)))  # of every row
        # Share of the planned rows' input tokens that are not padding at a row's end.
        self.fill = used / max(1, len(self.plan) * self.row_length)
        self.batches = -(-len(self.plan) // self.rows)  # the last one possibly filled up
        self.empty = pack([[]], self.capacity, self.layout, self.question, self.sequences)  # changes no loss

    @property
    def questions(self) -> list[int]:
        """Trees of each batch."""
        rows = [len(trees) for trees in self.plan]
        return [sum(rows[at : at + self.rows]) for at in range(0, len(rows), self.rows)]

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: int) -> PackedBatch:
        """Row `index`, [1, …]; beyond the plan an empty one fills up the last batch."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if index >= len(self.plan):
            return self.empty
        trees = [self.visit(self.trees[i], self._pass_of[index]) for i in self.plan[index]]
        return pack([trees], self.capacity, self.layout, self.question, self.sequences)


@dataclass(eq=False)
class PlannedRows:
    """Some batches of rows of documents, planned already; the last one is filled up with empty rows."""

    trees: Sequence[AnswerTree] = field(repr=False)
    plan: Sequence[Sequence[int]] = field(repr=False)  # the trees of each row
    rows: int  # of a batch
    capacity: Capacity

    def __post_init__(self) -> None:
        self.batches = -(-len(self.plan) // self.rows)
        self.empty = pack([[]], self.capacity, question=False, sequences=True)

    def __getitem__(self, index: int) -> PackedBatch:
        """Row `index`, [1, …]; beyond the plan an empty one."""
        if index >= len(self.plan):
            return self.empty
        trees = [self.trees[i] for i in self.plan[index]]
        return pack([trees], self.capacity, question=False, sequences=True)

    def ids(self, batch: int) -> list[str]:
        planned = self.plan[batch * self.rows : (batch + 1) * self.rows]
        return [self.trees[i].id for row in planned for i in row]


@dataclass(frozen=True)
class ProcessShard:
    """What one process reads of each batch: the same places of each of its microsteps.

    A random-access source for Grain, row after row of these places, batch after batch.
    """

    source: PackedRows | PlannedRows | AnchorRows = field(repr=False)  # `source.rows` rows are a batch
    microsteps: int  # a batch is cut into; divides `source.rows`
    places: tuple[int, ...]  # of a microstep's rows, and empty ones after them, those this process reads

    def __len__(self) -> int:
        return self.source.batches * self.microsteps * len(self.places)

    def __getitem__(self, index: int) -> Any:
        microstep, at = divmod(index, len(self.places))
        size = self.source.rows // self.microsteps
        if self.places[at] >= size:
            return self.source.empty
        return self.source[microstep * size + self.places[at]]

    def batches(self, row: int = 0) -> Iterator[Any]:
        """This process's part of each batch, [microsteps, places, …], from row `row` of `source` on.

        A Grain iterator: rows are read ahead in threads.
        """
        import grain
        import jax

        count = self.microsteps * len(self.places)

        def whole(*field: np.ndarray) -> np.ndarray:
            return np.concatenate(field).reshape(self.microsteps, -1, *field[0].shape[1:])

        data = grain.MapDataset.source(self)[row // self.source.rows * count :]
        data = data.batch(count, batch_fn=lambda rows: jax.tree.map(whole, *rows))
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def one_of_each(trees: Sequence[AnswerTree]) -> list[AnswerTree]:
    """The first tree of each id."""
    return list({tree.id: tree for tree in reversed(trees)}.values())[::-1]


def in_turn(trees: Sequence[AnswerTree], visit: Visit = lambda tree, number: tree) -> Visit:
    """What is seen of a tree's id in a pass: the next of the trees of that id, as `visit` sees it.

    Which one the first pass shows is drawn by the id, so that each pass has all of them, and a question has
    the same whatever others there are.
    """
    wordings: dict[str, list[AnswerTree]] = {}
    for tree in trees:
        wordings.setdefault(tree.id, []).append(tree)

    def seen(tree: AnswerTree, number: int) -> AnswerTree:
        of_question = wordings[tree.id]
        return visit(of_question[turn(tree.id, number, len(of_question))], number)

    return seen


def turn(name: str, number: int, count: int) -> int:
    """Which of its `count` wordings pass `number` asks of the question with that id."""
    return (crc32(name.encode()) + number) % count
