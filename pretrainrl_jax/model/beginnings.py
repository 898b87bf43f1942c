"""What many prompts begin with, as the examples of a few-shot prompt: read once, seen by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.mesh import constrain, round_up_rows
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.model.whole import for_decoding

SHORTEST = 32  # tokens: what a shorter one saves is lost in padding
PAYS = 512  # tokens that one must spare beyond its own, to be read apart
MOST = 8192  # tokens of all that are kept, each counted as the longest
MULTIPLE = 32  # tokens that beginnings are padded to: few sizes, few compilations


class Shared(NamedTuple):
    """What some sequences begin with."""

    beginnings: list[tuple[int, ...]]  # the first is empty, for those that share none
    of: list[int]  # of each sequence, its place among them

    def length(self, index: int) -> int:
        """Tokens of the beginning of a sequence."""
        return len(self.beginnings[self.of[index]])


class Beginnings(NamedTuple):
    """Beginnings that were read. On a mesh every device has all of them, cut by heads alone."""

    keys: jax.Array  # [layers, beginnings, time, kv_heads, head], padded on the right
    values: jax.Array  # the same
    lengths: jax.Array  # int32 [beginnings]


class Before(NamedTuple):
    """What was read before rows: of each row one beginning, with which all that stands in it goes on."""

    beginnings: Beginnings
    of_rows: jax.Array  # int32 [rows]


def find_shared(sequences: Sequence[Sequence[int]]) -> Shared | None:
    """The beginnings of token sequences that it pays to read apart; None where nothing does.

    Each has `SHORTEST` tokens or more, and spares `PAYS` at least: so many that the most are spared. Of more
    than there is room for, `MOST`, those that spare the most are kept. Every sequence keeps a last token of
    its own, which predicts what follows.
    """
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    ranked = [sequences[i] for i in order]
    lengths = np.array([len(sequence) - 1 for sequence in ranked], int)
    common = np.array([_common(*two) for two in pairwise(ranked)], int)
    runs = [_Run(0, len(ranked), int(lengths.min()))] if ranked else []
    for run in runs:  # which grows
        if run.high - run.low > 1:
            inner = common[run.low : run.high - 1]
            run.length = min(run.length, int(inner.min()))
            cuts = run.low + 1 + np.flatnonzero(inner == inner.min())
            parts = pairwise([run.low, *cuts.tolist(), run.high])
            run.parts = [_Run(*part, int(lengths[slice(*part)].min())) for part in parts]
            runs += run.parts
    for run in reversed(runs):
        run.spared = (run.high - run.low - 1) * run.length - PAYS if run.length >= SHORTEST else 0
        if run.spared <= (apart := sum(part.best for part in run.parts)):
            run.spared = 0
        run.best = max(run.spared, apart)

    taken, within = [], runs[:1]
    while within:
        run = within.pop()
        if run.spared > 0:
            taken.append(run)
        else:
            within += run.parts
    shared = Shared([()], [0] * len(sequences))
    longest = 0
    for run in sorted(taken, key=lambda run: -run.spared):
        if (len(shared.beginnings) + 1) * max(longest, run.length) <= MOST:
            longest = max(longest, run.length)
            for index in order[run.low : run.high]:
                shared.of[index] = len(shared.beginnings)
            shared.beginnings.append(tuple(ranked[run.low][: run.length]))
    return shared if longest else None


@dataclass
class _Run:
    """Neighbours among sorted sequences."""

    low: int
    high: int
    length: int  # tokens that all begin with, a last one of each left
    parts: list["_Run"] = field(default_factory=list)  # where neighbours have more in common than all have
    spared: int = 0  # tokens, by one beginning of all; 0 where its parts' own spare more
    best: int = 0  # tokens that are spared at best


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def read_beginnings(
    model: Model, params: Params, shared: Shared | None, *, decoding: bool
) -> Beginnings | None:
    """The keys and values of what sequences begin with; `decoding`: by the weights that decoding reads."""
    if shared is None:
        return None
    count = len(shared.beginnings)
    longest = max(map(len, shared.beginnings))
    tokens = np.zeros(
        (round_up_rows(model.mesh, _power(count)), -(-longest // MULTIPLE) * MULTIPLE), np.int32
    )
    lengths = np.zeros(len(tokens), np.int32)
    for row, beginning in enumerate(shared.beginnings):
        tokens[row, : len(beginning)], lengths[row] = beginning, len(beginning)
    placed = (place_rows(x, model.mesh) for x in (tokens, lengths))
    return _read(model, params, *placed, decoding=decoding)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


@partial(jax.jit, static_argnames=("model", "decoding"))
def _read(
    model: Model, params: Params, tokens: jax.Array, lengths: jax.Array, *, decoding: bool
) -> Beginnings:
    if decoding:
        model, params = for_decoding(model, params)
    time = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(time), tokens.shape)
    read = model.hidden(params, tokens, positions, causal_mask(lengths, time))
    axes = ("layers", None, None, "kv_heads", "head")
    keys, values = (constrain(x, model.layout, *axes) for x in (read.keys, read.values))
    return Beginnings(keys, values, constrain(lengths, model.layout))


def before(model: Model, earlier: Before, time: int) -> tuple[KVCache, jax.Array]:
    """The cache that rows of so many tokens see beside one another, and its tokens, int32 [rows]."""
    beginnings, rows = earlier
    axes = ("layers", "rows", None, "kv_heads", "head")
    keys, values = (constrain(x[:, rows], model.layout, *axes) for x in beginnings[:2])
    lengths = beginnings.lengths[rows]
    places = jnp.arange(keys.shape[2])
    seen = jnp.broadcast_to((places < lengths[:, None])[:, None], (len(rows), time, len(places)))
    return KVCache(keys, values, seen, jnp.broadcast_to(places, (len(rows), len(places)))), lengths
