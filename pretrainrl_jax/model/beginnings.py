"""What many prompts begin with, as the examples of a few-shot prompt: read once, seen by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.mesh import constrain, round_up_rows
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.model.whole import for_decoding

FEWEST = 4  # beginnings that are read together: 4, 8, 16, …: few compilations
SHORTEST = 32  # tokens: what a shorter beginning saves is lost in padding
PAYS = 512  # tokens that a beginning must spare more than the shorter ones of others, to be read apart
MOST = 8192  # tokens of all beginnings, padded: they lie in memory together


class Shared(NamedTuple):
    """What sequences begin with."""

    beginnings: list[tuple[int, ...]]
    of: list[int]  # of each sequence, its place among them; -1 where it shares none

    def length(self, index: int) -> int:
        """Tokens of a sequence that are read with its beginning."""
        return len(self.beginnings[self.of[index]]) if self.of[index] >= 0 else 0


@dataclass
class _Run:
    """Neighbours among sorted sequences."""

    low: int
    high: int
    length: int  # tokens that all begin with, a last one of each left
    parts: list["_Run"] = field(default_factory=list)  # where neighbours have more in common than all have

    @property
    def spared(self) -> int:
        """Tokens that need not be read if all of them share one beginning."""
        return (self.high - self.low - 1) * self.length if self.length >= SHORTEST else 0


def find_shared(sequences: Sequence[Sequence[int]]) -> Shared:
    """The beginnings of token sequences that spare the most.

    Each has `SHORTEST` tokens or more. A longer one of fewer sequences is taken for a shorter one of more
    only where that spares `PAYS` more; and where that would take more room than there is (`MOST`), either
    some of them or shorter ones of more, whichever spares more. Every sequence keeps a last token of its
    own, which predicts what follows.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    ranked = [sequences[i] for i in order]
    runs = _runs(ranked)
    best: list[_Run] = []
    pays = PAYS
    while found := _spare_most(runs, pays):
        kept = _fitting(found)
        best = max(best, kept, key=lambda some: sum(run.spared for run in some))
        if len(kept) == len(found):
            break  # what pays more spares less
        pays *= 2
    shared = Shared([], [-1] * len(sequences))
    for run in best:
        for index in order[run.low : run.high]:
            shared.of[index] = len(shared.beginnings)
        shared.beginnings.append(tuple(ranked[run.low][: run.length]))
    return shared


def few_sizes(length: int, least: int) -> int:
    """The first of `least` times 1, 1.5, 2, 3, 4, 6, … that holds a length: few compilations."""
    power = max(least, 1 << (length - 1).bit_length())
    return power * 3 // 4 if least < power and length <= power * 3 // 4 else power


def _runs(ranked: Sequence[Sequence[int]]) -> list[_Run]:
    """All sequences as a run, then the parts of each: neighbours that have more in common than it has."""
    lengths = np.array([len(sequence) - 1 for sequence in ranked], int)
    common = np.array([_common(*two) for two in pairwise(ranked)], int)
    runs = [_Run(0, len(ranked), int(lengths.min()))] if ranked else []
    for run in runs:  # which grows
        if run.high - run.low > 1:
            inner = common[run.low : run.high - 1]
            run.length = min(run.length, int(inner.min()))
            cuts = run.low + 1 + np.flatnonzero(inner == inner.min())
            # Those that are what all begin with, and no more, stand first: others share its last token, too.
            short = run.low + int((lengths[run.low : run.high] < inner.min()).sum())
            cuts = cuts if short in (run.low, run.high) else np.array([short])
            parts = pairwise([run.low, *cuts.tolist(), run.high])
            run.parts = [_Run(*part, int(lengths[slice(*part)].min())) for part in parts]
            runs += run.parts
    return runs


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _spare_most(runs: Sequence[_Run], pays: int) -> list[_Run]:
    """Of the runs some that have no sequence in common: those that spare the most, each less `pays`."""
    best: dict[int, tuple[int, list[_Run]]] = {}  # by a run's place: what is spared within it, and how
    for run in reversed(runs):  # parts come after what they are parts of
        within = [best[id(part)] for part in run.parts]
        apart = sum(spared for spared, _ in within)
        whole = run.spared - pays
        taken = [one for _, some in within for one in some] if apart >= whole else [run]
        best[id(run)] = (max(apart, whole), taken) if max(apart, whole) > 0 else (0, [])
    return best[id(runs[0])][1] if runs else []


def _fitting(runs: Sequence[_Run]) -> list[_Run]:
    """Those that spare the most, as many as there is room for."""
    kept, room = [], MOST
    for run in sorted(runs, key=lambda run: (-run.spared, run.low)):
        if (size := few_sizes(run.length, SHORTEST)) <= room:
            kept.append(run)
            room -= size
    return kept


class Before(NamedTuple):
    """What stands before rows of sequences: of each row one beginning, with which all of it goes on.

    On a mesh every device has all beginnings, cut by heads alone.
    """

    keys: jax.Array  # [layers, beginnings, time, kv_heads, head], padded on the right
    values: jax.Array  # the same
    lengths: jax.Array  # int32 [beginnings]
    of_rows: Any = None  # int32 [rows]


@dataclass(frozen=True)
class Beginnings:
    """What sequences begin with, read; those of like length together."""

    shared: Shared
    read: dict[int, Before]  # by the length that they are padded to
    places: list[int]  # of each beginning, among those of its length
    mesh: Mesh | None

    def size(self, index: int) -> int:
        """Tokens that its rows see before it, padded; 0: none. Sequences of one size may share a batch."""
        return few_sizes(length, SHORTEST) if (length := self.shared.length(index)) else 0

    def before(self, rows: Sequence[int | None]) -> Before | None:
        """What stands before a batch, given the first sequence of each row, or none."""
        sizes = {self.size(index) for index in rows if index is not None}
        if sizes <= {0}:
            return None
        (size,) = sizes
        of_rows = [0 if index is None else self.places[self.shared.of[index]] for index in rows]
        return self.read[size]._replace(of_rows=place_rows(np.array(of_rows, np.int32), self.mesh))


def read_beginnings(
    model: Model, params: Params, sequences: Sequence[Sequence[int]], *, decoding: bool
) -> Beginnings:
    """Read what token sequences begin with; `decoding`: by the weights that decoding reads."""
    shared = find_shared(sequences)
    of_size: dict[int, list[tuple[int, ...]]] = {}
    places = []
    for beginning in shared.beginnings:
        alike = of_size.setdefault(few_sizes(len(beginning), SHORTEST), [])
        places.append(len(alike))
        alike.append(beginning)
    read: dict[int, Before] = {}
    for size, alike in of_size.items():
        count = max(FEWEST, 1 << (len(alike) - 1).bit_length())
        tokens = np.zeros((round_up_rows(model.mesh, count), size), np.int32)
        lengths = np.zeros(len(tokens), np.int32)
        for row, beginning in enumerate(alike):
            tokens[row, : len(beginning)], lengths[row] = beginning, len(beginning)
        placed = (place_rows(x, model.mesh) for x in (tokens, lengths))
        read[size] = _read(model, params, *placed, decoding=decoding)
    return Beginnings(shared, read, places, model.mesh)


@partial(jax.jit, static_argnames=("model", "decoding"))
def _read(model: Model, params: Params, tokens: jax.Array, lengths: jax.Array, *, decoding: bool) -> Before:
    if decoding:
        model, params = for_decoding(model, params)
    time = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(time), tokens.shape)
    read = model.hidden(params, tokens, positions, causal_mask(lengths, time))
    axes = ("layers", None, None, "kv_heads", "head")
    keys, values = (constrain(x, model.layout, *axes) for x in (read.keys, read.values))
    return Before(keys, values, constrain(lengths, model.layout))


def cache_before(model: Model, earlier: Before, time: int) -> tuple[KVCache, jax.Array]:
    """The cache that rows of so many tokens see beside one another, and its tokens, int32 [rows]."""
    rows, axes = earlier.of_rows, ("layers", "rows", None, "kv_heads", "head")
    keys, values = (constrain(x[:, rows], model.layout, *axes) for x in (earlier.keys, earlier.values))
    lengths = earlier.lengths[rows]
    places = jnp.arange(keys.shape[2])
    seen = jnp.broadcast_to((places < lengths[:, None])[:, None], (len(rows), time, len(places)))
    return KVCache(keys, values, seen, jnp.broadcast_to(places, (len(rows), len(places)))), lengths
