"""Batches for a training loop: packed rows, read ahead, on the devices, from any row on."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.model.mesh import round_up_rows
from pretrainrl_jax.model.partitioning import local_rows, place_local_rows
from pretrainrl_jax.trees.anchors import Anchored, AnchorRows
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import PackedRows, PlannedRows, ProcessShard
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import Capacity, bucketed, capacity, in_buckets, pack, plan
from pretrainrl_jax.trees.tree import AnswerTree

NAMED = 256  # batches whose documents are remembered


class Position(Protocol):
    """What a session asks of a feed of batches."""

    @property
    def row(self) -> int: ...  # the first one of the next batch

    @property
    def ended(self) -> bool: ...  # no batch is left

    @property
    def state(self) -> dict[str, Any]: ...  # of a position what the row does not tell, as JSON: a stream's

    def names(self, row: int) -> list[str]: ...  # what is in the batch that ended before `row`, in words


class Feed(Iterator[PackedBatch | Anchored]):
    """An iterator over the batches [microsteps, rows, …] of `rows`, from row `row` on, placed on the mesh.

    Each process reads its own part of each batch. `name` is how a tree is called in messages. With `anchors`,
    rows of anchor text for each batch, a batch is `Anchored`.
    """

    def __init__(
        self,
        rows: PackedRows,
        mesh: Mesh,
        grad_accum_steps: int = 1,
        row: int = 0,
        name: Callable[[AnswerTree], str] = lambda tree: tree.id,
        anchors: AnchorRows | None = None,
    ) -> None:
        self._mesh, self._grad_accum_steps, self._name = mesh, grad_accum_steps, name
        self.state: dict[str, Any] = {}
        self.refill(rows, row, anchors)

    def refill(self, rows: PackedRows, row: int = 0, anchors: AnchorRows | None = None) -> None:
        self.rows, self.row = rows, row  # `row` is the first of the next batch
        where = self._mesh, self._grad_accum_steps, row // rows.rows
        self._trees = placed_batches(rows, *where)
        self._anchors = placed_batches(anchors, *where) if anchors else None

    @property
    def ended(self) -> bool:
        return self.row >= len(self.rows)

    def names(self, row: int) -> list[str]:
        """What the trees of the batch that ended before `row` are called."""
        planned = self.rows.plan[row - self.rows.rows : row]
        return list(dict.fromkeys(self._name(self.rows.trees[i]) for row in planned for i in row))

    def __next__(self) -> PackedBatch | Anchored:
        if self.ended:
            raise StopIteration
        with jax.transfer_guard("disallow"):
            batch = next(self._trees)
            batch = Anchored(batch, next(self._anchors)) if self._anchors else batch
        self.row += self.rows.rows
        return batch


def placed_batches(
    source: PackedRows | PlannedRows | AnchorRows, mesh: Mesh, microsteps: int, batch: int
) -> Iterator[Any]:
    """The batches [microsteps, rows, …] of a source from number `batch` on, on the devices.

    Each process reads its own part of each.
    """
    width = round_up_rows(mesh, source.rows // microsteps)
    places = local_rows(mesh, width)
    read = ProcessShard(source, microsteps, places).batches(batch * source.rows)
    return (place_local_rows(arrays, mesh, places, width) for arrays in read)


class Holds(NamedTuple):
    """What the batches of a loop hold that packs its own: it only grows, so that few programs are compiled.

    A run that goes on begins with what it had: it computes in the same shapes as one that nothing stopped.
    """

    rows: int = 0  # of a microstep
    capacity: Capacity = Capacity(0, 0, 0, 0, 0)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Holds":
        """What the state of a loop's position holds, as `listed` gave it; nothing at its beginning."""
        rows, *sizes = state.get("holds", (0, 0, 0, 0, 0, 0))
        return cls(rows, Capacity(*sizes))

    @property
    def listed(self) -> list[int]:
        return [self.rows, *self.capacity]


def held(
    trees: Sequence[AnswerTree], mesh: Mesh, row_length: int, holds: Holds, microsteps: int = 1
) -> tuple[list[list[int]], Holds]:
    """Which of some trees share a row; and what a batch of them holds, after one that held so much.

    Raises ValueError if a tree is longer than a row.
    """
    sizes = [size(tree, question=False) for tree in trees]
    planned = plan([taken.time for taken in sizes], row_length)
    # The first batch leaves room: the next ones are like it, and rows differ more than their number.
    slack, in_row = (1.0, 1.0) if holds.rows else (1.25, 1.5)
    needed = in_buckets(Capacity(*(int(in_row * n) for n in capacity(sizes, planned, row_length))))
    needed = Capacity(row_length, min(row_length, needed.sources), *needed[2:])
    width = round_up_rows(mesh, -(-bucketed(int(slack * len(planned))) // microsteps))
    return planned, Holds(max(holds.rows, width), Capacity(*map(max, needed, holds.capacity)))


def place_trees(
    trees: Sequence[AnswerTree],
    mesh: Mesh,
    row_length: int,
    holds: Holds,
    microsteps: int = 1,
    sequences: bool = False,
) -> tuple[PackedBatch, Holds]:
    """A batch [microsteps, rows, …] of some trees, on the devices; and what it holds. Prefixes are only read.

    Every process gives the same trees, and its own rows of them. `sequences` is as `pack` is told. Raises
    ValueError if a tree is longer than a row, or one that is to be a sequence has branches.
    """
    planned, holds = held(trees, mesh, row_length, holds, microsteps)
    own = local_rows(mesh, holds.rows)
    rows = [[trees[i] for i in row] for row in planned]
    rows += [[]] * (microsteps * holds.rows - len(planned))
    mine = [rows[microstep * holds.rows + place] for microstep in range(microsteps) for place in own]
    batch = pack(mine, holds.capacity, question=False, sequences=sequences)
    batch = jax.tree.map(lambda x: x.reshape(microsteps, len(own), *x.shape[1:]), batch)
    return place_local_rows(batch, mesh, own, holds.rows), holds


class StreamFeed(Iterator[PackedBatch]):
    """An iterator over the batches [microsteps, rows, …] of a stream's blocks, placed on the mesh.

    Each process has all documents, and packs its own part of each batch. It ends after `steps` batches since
    the stream's beginning, or with the stream. `row` and `state` are where it stood.
    """

    def __init__(
        self,
        blocks: Blocks,
        rows: int,
        mesh: Mesh,
        steps: int,
        grad_accum_steps: int = 1,
        row: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._blocks, self._rows, self._mesh, self._steps = blocks, rows, mesh, steps
        self._grad_accum_steps, self.row = grad_accum_steps, row
        self._named: OrderedDict[int, list[str]] = OrderedDict()
        self._block: PlannedRows | None = None
        self._batch = 0  # of the block, the next
        if state:
            blocks.restore(state["blocks"])
            self._batch = state["batch"]
        self._begin = blocks.state  # the position before the block

    @property
    def state(self) -> dict[str, Any]:
        return {"blocks": self._begin, "batch": self._batch}

    @property
    def ended(self) -> bool:
        """Whether no batch is left. Where a block is over the next one is read for it."""
        return self.row >= self._steps * self._rows or self._current() is None

    def names(self, row: int) -> list[str]:
        """Where the documents of the batch that ended before `row` stand; of one long ago none."""
        return self._named.get(row, [])

    def __next__(self) -> PackedBatch:
        block = None if self.ended else self._current()
        if block is None:
            raise StopIteration
        with jax.transfer_guard("disallow"):
            batch = next(self._read)
        self.row += self._rows
        names = [id.rpartition(":")[0] for id in block.ids(self._batch)]  # without the piece's place
        self._named[self.row] = list(dict.fromkeys(names))
        if len(self._named) > NAMED:
            self._named.popitem(last=False)
        self._batch += 1
        if self._steps - self.row // self._rows > block.batches - self._batch:  # another block follows
            self._blocks.read_ahead(self._batch / block.batches)  # while the device is at work
        return batch

    def _current(self) -> PlannedRows | None:
        """The block that the next batch is of."""
        while self._block is None or self._batch >= self._block.batches:
            if self._block is not None:
                self._begin, self._batch = self._blocks.state, 0
            self._block = self._blocks.next()
            if self._block is None:
                break
            self._read = placed_batches(self._block, self._mesh, self._grad_accum_steps, self._batch)
        return self._block
