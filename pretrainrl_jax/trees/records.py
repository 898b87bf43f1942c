"""Mined trees on disk: ArrayRecord files of one JSON record a tree."""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrainrl_jax.atomic import disk_errors
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_json(tree: AnswerTree) -> dict[str, Any]:
    """The tree as plain values; a log-probability that was not computed is null."""
    branches = [
        asdict(b) | {"reference_logp": _finite(b.reference_logp), "beam_logp": _finite(b.beam_logp)}
        for b in tree.branches
    ]
    return {"id": tree.id, "prefix": tree.prefix, "branches": branches}


def from_json(values: dict[str, Any]) -> AnswerTree:
    """The tree that `to_json` wrote."""
    branches = tuple(
        Branch(
            tuple(b["tokens"]),
            b["kind"],
            b["text"],
            math.nan if b["reference_logp"] is None else b["reference_logp"],
            math.nan if b["beam_logp"] is None else b["beam_logp"],
            b["source"],
        )
        for b in values["branches"]
    )
    return AnswerTree(values["id"], tuple(values["prefix"]), branches)


def digest(trees: Iterable[AnswerTree]) -> str:
    """A short digest of everything that training reads of trees: the same for the same data."""
    found = hashlib.blake2b(digest_size=8)
    for tree in trees:
        branches = [(b.tokens, b.kind, b.source, repr(b.reference_logp)) for b in tree.branches]
        found.update(repr((tree.id, tuple(tree.prefix), branches)).encode())
    return found.hexdigest()


def write_trees(path: Path, trees: Iterable[AnswerTree]) -> None:
    """Write an ArrayRecord file, complete or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with disk_errors():
        writer = ArrayRecordWriter(str(partial), "group_size:64")
        for tree in trees:
            writer.write(json.dumps(to_json(tree), ensure_ascii=False).encode())
        writer.close()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_trees(path: Path) -> list[AnswerTree]:
    """All trees of a file, in order.

    Raises:
        InputError: if the file is missing.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise InputError(f"no mined trees at {path}: run `mine` with this workdir first")
    reader = ArrayRecordReader(str(path))
    trees = [from_json(json.loads(record)) for record in reader.read_all()]
    reader.close()
    return trees


def refuse_unscored(trees: Iterable[AnswerTree]) -> None:
    """Raises InputError if a branch of a tree with negatives has no reference log-probability."""
    for tree in trees:
        if len(tree.branches) > 1 and any(math.isnan(b.reference_logp) for b in tree.branches):
            raise InputError(
                f"tree {tree.id} has a branch without a reference log-probability: mine the facts again"
            )
