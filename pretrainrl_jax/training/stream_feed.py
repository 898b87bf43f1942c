"""Batches of documents that are streamed: as `feed.Feed` gives them of rows that are at hand."""

from collections import OrderedDict
from typing import Any

import jax
from jax.sharding import Mesh

from pretrainrl_jax.documents.packing import Blocks
from pretrainrl_jax.model.mesh import round_up_rows
from pretrainrl_jax.model.partitioning import local_rows, place_local_rows
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import PlannedRows, ProcessShard

NAMED = 256  # batches whose documents are remembered


class StreamFeed:
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
        self._width = round_up_rows(mesh, rows // grad_accum_steps)
        self._places = local_rows(mesh, self._width)
        self._named: OrderedDict[int, list[str]] = OrderedDict()
        self._block: PlannedRows | None = None
        self._batch = 0  # of the block, the next
        if state:
            blocks.restore(state["blocks"])
            self._batch = state["batch"]
        self._begin = blocks.state  # the position before the block

    @property
    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"blocks": self._begin, "batch": self._batch}

    @property
    def ended(self) -> bool:
        """Whether no batch is left. Where a block is over the next one is read for it."""
        return self.row >= self._steps * self._rows or self._current() is None

    def names(self, row: int) -> list[str]:
        """Where the documents of the batch that ended before `row` stand; of one long ago none."""
        return self._named.get(row, [])

    def __iter__(self) -> "StreamFeed":
        return self

    def __next__(self) -> PackedBatch:
        block = None if self.ended else self._current()
        if block is None:
            raise StopIteration
        with jax.transfer_guard("disallow"):
            batch = place_local_rows(next(self._read), self._mesh, self._places, self._width)
        self.row += self._rows
        names = [id.rpartition(":")[0] for id in block.ids(self._batch)]  # without the piece's place
        self._named[self.row] = list(dict.fromkeys(names))
        if len(self._named) > NAMED:
            self._named.popitem(last=False)
        self._batch += 1
        return batch

    def _current(self) -> PlannedRows | None:
        """The block that the next batch is of."""
        while self._block is None or self._batch >= self._block.batches:
            if self._block is not None:
                self._begin, self._batch = self._blocks.state, 0
            self._block = self._blocks.next()
            if self._block is None:
                break
            share = ProcessShard(self._block, self._grad_accum_steps, self._width, self._places)
            self._read = share.batches(self._batch * self._rows)
        return self._block


def count_batches(blocks: Blocks) -> int:
    """How many batches a stream has from here to its end: all of it is read."""
    count = 0
    while block := blocks.next():
        count += block.batches
    return count
