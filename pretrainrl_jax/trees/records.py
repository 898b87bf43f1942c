"""Mined trees on disk: ArrayRecord files of one JSON record a tree."""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrainrl_jax.atomic import disk_errors, write_bytes
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import fetched
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, total

KINDS = {"chosen": 2, "rejected": 3}  # as files and digests of 2026-11 had roles, under `kind`
OLD_ROLES = {kind: role for role, kind in KINDS.items()}
BARE = Branch((-1,))


def to_json(tree: AnswerTree) -> dict[str, Any]:
    """The tree as plain values; what has its default, or was not measured, is left out or null."""
    branches = [
        {name: _plain(value) for name, value in vars(b).items() if repr(value) != repr(getattr(BARE, name))}
        for b in tree.branches
    ]
    pairs = {} if tree.pairs is None else {"pairs": [list(pair) for pair in tree.pairs]}
    return {"id": tree.id, "prefix": list(tree.prefix), "branches": branches} | pairs


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(values: dict[str, Any]) -> AnswerTree:
    """The tree that `to_json` wrote, in this version or an older one."""
    branches, pairs = tuple(map(_branch, values["branches"])), values.get("pairs")
    pairs = None if pairs is None else tuple(Pair(*pair) for pair in pairs)
    return AnswerTree(values["id"], tuple(values["prefix"]), branches, pairs)


def _branch(values: dict[str, Any]) -> Branch:
    if "kind" in values:
        values = values | {"role": OLD_ROLES[values["kind"]], "behaviour_logp": values["beam_logp"]}
        del values["kind"], values["beam_logp"]
    return Branch(**{name: _measured(value) for name, value in values.items()})


def _measured(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_measured, value))
    return math.nan if value is None else value


def digest(trees: Iterable[AnswerTree]) -> str:
    """A short digest of everything that training reads of trees: the same for the same data."""
    hashed = hashlib.blake2b(digest_size=8)
    for tree in trees:
        branches = []
        for b in tree.branches:
            # One behaviour log-probability of a whole branch is not read.
            each = b.behaviour_logp if isinstance(b.behaviour_logp, tuple) else ()
            known = (b.tokens, KINDS.get(b.role, b.role), b.source, repr(b.reference_logp))
            more = repr((b.weight, b.advantage, each))
            branches.append(known if more == "(1.0, nan, ())" else (*known, more))
        pairs = () if tree.pairs is None else (tree.pairs,)
        hashed.update(repr((tree.id, tuple(tree.prefix), branches, *pairs)).encode())
    return hashed.hexdigest()


def write_trees(path: Path, trees: Iterable[AnswerTree]) -> None:
    """Write an ArrayRecord file, complete or not at all; raises OSError if it cannot be written."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with tempfile.TemporaryDirectory() as folder, disk_errors():
        local = Path(folder) / path.name
        writer = ArrayRecordWriter(str(local), "group_size:64")
        for tree in trees:
            writer.write(json.dumps(to_json(tree), ensure_ascii=False).encode())
        writer.close()
        write_bytes(path, local.read_bytes())


def read_trees(path: Path) -> list[AnswerTree]:
    """All trees of a file, in order; raises InputError if it is missing."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise InputError(f"no mined trees at {path}: run `mine` with this workdir first")
    with fetched(path) as local:
        reader = ArrayRecordReader(str(local))
        trees = [from_json(json.loads(record)) for record in reader.read_all()]
        reader.close()
    return trees


def refuse_unscored(trees: Iterable[AnswerTree]) -> None:
    """Raises InputError if a branch of a pair has no reference log-probability."""
    for tree in trees:
        if any(math.isnan(total(tree.branches[i].reference_logp)) for p in tree.preferences for i in p[:2]):
            said = f"tree {tree.id} has a branch without a reference log-probability"
            raise InputError(f"{said}: mine the facts again")
