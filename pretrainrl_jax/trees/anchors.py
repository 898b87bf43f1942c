"""Anchor text: what the base model wrote, and with what probabilities; stored, and packed into rows.

A text begins after a token that is context and no target (`stages.anchor.beginnings`). Every token read
predicts the next one: the base's k most probable tokens there, and the rest as one bucket, are
kept, so that no reference model is needed.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from pretrainrl_jax.atomic import write_bytes
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.batch import blank
from pretrainrl_jax.trees.packing import plan


class AnchorBatch(NamedTuple):
    """Packed rows of anchor text, int32 or float32: each field's axes after the rows, and its padding."""

    tokens: Annotated[Any, "time", 0]  # read; each predicts the next
    tree_id: Annotated[Any, "time", 0]  # texts of a row count from 1, 0 is padding
    positions: Annotated[Any, "time", 0]
    top_tokens: Annotated[Any, "time top", -1]  # the base's most probable next tokens
    top_logps: Annotated[Any, "time top", -inf]  # their log-probabilities under it, nats
    rest_logp: Annotated[Any, "time", -inf]  # that of all others together


MEASURED = ("top_tokens", "top_logps", "rest_logp")  # of a text's reads
FIELD_SPECS = AnchorBatch(*(hint.__metadata__ for hint in AnchorBatch.__annotations__.values()))


class Anchored(NamedTuple):
    """What a step of an anchored objective takes: rows of trees, and rows of anchor text beside them."""

    trees: Any  # PackedBatch
    anchors: AnchorBatch


@dataclass(frozen=True)
class AnchorText:
    """One text: `reads` are the context and all tokens but the last."""

    tokens: tuple[int, ...]  # the context first
    top_tokens: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))  # [reads, k] int32
    top_logps: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # [reads, k] float32
    rest_logp: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # [reads] float32

    @property
    def reads(self) -> tuple[int, ...]:
        return self.tokens[:-1]


def pack_anchors(rows: Sequence[Sequence[AnchorText]], row_length: int, top: int) -> AnchorBatch:
    """The arrays of some rows of texts; what is not filled is padding."""
    batch = AnchorBatch(*blank(len(rows), FIELD_SPECS, {"time": row_length, "top": top}))
    for row, texts in enumerate(rows):
        at = 0
        for number, text in enumerate(texts, 1):
            span = np.s_[row, at : at + len(text.reads)]
            batch.tokens[span], batch.tree_id[span] = text.reads, number
            batch.positions[span] = np.arange(len(text.reads))
            if len(text.top_tokens):
                batch.top_tokens[span], batch.top_logps[span] = text.top_tokens, text.top_logps
                batch.rest_logp[span] = text.rest_logp
            at += len(text.reads)
    return batch


class AnchorRows:
    """Rows of anchor text beside batches of questions: of batch b always the same ones.

    The texts, at least one, are packed once. Rows are taken one after another, in an order that is drawn anew
    each time all were taken; a batch has one for every `questions` of its questions, of which there are
    `counts` and `start` before, and the rest of its rows are empty. It has room for the most that any batch
    needs, a multiple of the microsteps; for `held` at least, what an earlier round had, so that the step
    which is compiled serves it too.
    """

    def __init__(
        self,
        texts: Sequence[AnchorText],
        row_length: int,
        questions: float,
        seed: int,
        counts: Sequence[int],
        microsteps: int,
        start: int = 0,
        held: int = 0,
    ) -> None:
        self._texts, self._row_length, self._seed = texts, row_length, seed
        self._packed = plan([len(text.reads) for text in texts], row_length)
        # The number of the first row of each batch, counted through all of them, and of the one after.
        asked = start + np.concatenate([[0], np.cumsum(counts)])
        self._first = np.round(asked / questions).astype(int)
        most = int(np.diff(self._first).max(initial=1))
        self.rows, self.batches = max(held, -(-most // microsteps) * microsteps), len(counts)
        self.empty = self._row([])  # of nothing, [1, …]

    def __len__(self) -> int:
        return self.batches * self.rows

    def __getitem__(self, index: int) -> AnchorBatch:
        """Row `index`, [1, …]."""
        batch, place = divmod(index, self.rows)
        number = self._first[batch] + place
        if number >= self._first[batch + 1]:
            return self.empty
        cycle, at = divmod(int(number), len(self._packed))
        order = np.random.default_rng([self._seed, cycle]).permutation(len(self._packed))
        return self._row([self._texts[i] for i in self._packed[order[at]]])

    def _row(self, texts: Sequence[AnchorText]) -> AnchorBatch:
        return pack_anchors([texts], self._row_length, self._texts[0].top_tokens.shape[1])


def write_anchors(path: Path, texts: Sequence[AnchorText]) -> None:
    """Write a NumPy archive, complete or not at all; raises OSError if it cannot be written."""
    arrays: dict[str, Any] = {
        "lengths": np.array([len(text.tokens) for text in texts], np.int32),
        "tokens": np.concatenate([np.array(text.tokens, np.int32) for text in texts]),
        **{name: np.concatenate([getattr(text, name) for text in texts]) for name in MEASURED},
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def read_anchors(path: Path) -> list[AnchorText]:
    """The texts that `write_anchors` wrote; raises InputError where they are not there."""
    if not path.is_file():
        raise InputError(f"no anchor text at {path}: run `train` with this workdir again")
    with np.load(io.BytesIO(path.read_bytes())) as arrays:
        lengths = arrays["lengths"]
        ends = np.cumsum(lengths)[:-1]
        tokens = np.split(arrays["tokens"], ends)
        reads = np.cumsum(lengths - 1)[:-1]
        measured = (np.split(arrays[name], reads) for name in MEASURED)
        return [AnchorText(tuple(own.tolist()), *more) for own, *more in zip(tokens, *measured, strict=True)]


def digest_anchors(texts: Sequence[AnchorText]) -> str:
    """A short digest of everything that training reads of them."""
    hashed = hashlib.blake2b(digest_size=8)
    for text in texts:
        hashed.update(repr(text.tokens).encode())
        for name in MEASURED:
            hashed.update(np.ascontiguousarray(getattr(text, name)).tobytes())
    return hashed.hexdigest()
