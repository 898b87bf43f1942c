"""Whole documents in packed rows: block by block of a stream, each of which is planned as one."""

from functools import partial
from typing import Any

import numpy as np

from pretrainrl_jax.documents.cut import tokenised
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.trees.dataset import PlannedRows
from pretrainrl_jax.trees.packing import plan, rounded
from pretrainrl_jax.trees.templates import of_document
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree

BLOCK = 64  # rows that are planned together, about: more fill better, fewer take less memory
READ = 64  # documents read at a time


class Blocks:
    """The blocks of a stream's documents, each ending in EOS; one longer than a row becomes several trees.

    A row holds `row_length` input tokens, a batch `rows`; the order of a block's rows derives from the seed.
    """

    def __init__(self, stream: Stream, tokenizer: Tokenizer, row_length: int, rows: int, seed: int) -> None:
        self._stream, self._tokenizer = stream, tokenizer
        self._row_length, self._rows, self._seed = row_length, rows, seed
        # Any row fits: a tree has an input token at least, and each of these predicts one target.
        self._capacity = rounded(row_length, row_length, row_length, row_length, 0)
        self._most = rows * max(1, BLOCK // rows)  # rows of a block
        self._trees: list[AnswerTree] = []  # read, and in no block yet
        self._marks: list[tuple[int, dict[str, Any]]] = []  # at which of them the stream stood where
        self._skip = self._number = 0  # trees to leave out, which were in earlier blocks; the next block

    @property
    def state(self) -> dict[str, Any]:
        """The position before the next block, as JSON: the stream's, and trees to leave out from there."""
        at, stream = self._marks[0] if self._marks else (-self._skip, self._stream.state)
        return {"stream": stream, "skip": -at, "block": self._number}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a position. Raises InputError if it is of other sources."""
        self._stream.restore(state["stream"])
        self._skip, self._number = state["skip"], state["block"]
        self._trees, self._marks = [], []

    def next(self) -> PlannedRows | None:
        """The next block, or None where the stream has ended. Raises InputError as `Stream.make`."""
        self.read_ahead(1.0)
        most = self._most
        rows = plan([tree.inputs for tree in self._trees], self._row_length)
        # Rows are listed as they are opened: what comes before the first tree of a row too many stays.
        end = rows[most][0] if len(rows) > most else len(self._trees)
        rows = plan([tree.inputs for tree in self._trees[:end]], self._row_length)
        if not rows:
            return None
        # First-fit leaves the late rows emptier: their order is drawn.
        order = np.random.default_rng([self._seed, self._number]).permutation(len(rows))
        block = PlannedRows(self._trees[:end], [rows[i] for i in order], self._rows, self._capacity)
        self._trees, self._number = self._trees[end:], self._number + 1
        self._marks = [(at - end, state) for at, state in self._marks]
        while len(self._marks) > 1 and self._marks[1][0] <= 0:
            self._marks.pop(0)
        if not self._trees:
            self._marks = []
        return block

    def read_ahead(self, share: float) -> None:
        """Read so much of the next block, up to 1: its cost is spread over the batches before it."""
        wanted = share * self._most * self._row_length
        while sum(tree.inputs for tree in self._trees) <= wanted and not self._stream.ended:
            self._read()

    def _read(self) -> None:
        self._marks.append((len(self._trees) - self._skip, self._stream.state))
        trees: list[AnswerTree] = []
        for made in self._stream.make(READ, partial(tokenised, self._tokenizer), "give other documents"):
            trees += of_document(self._tokenizer, made.name, made.value, self._row_length)
        self._trees += trees[self._skip :]
        self._skip = max(0, self._skip - len(trees))
