"""What many prompts begin with, as the examples of a few-shot prompt: read once, seen by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pretrainrl_jax.model.attention import causal_mask
from pretrainrl_jax.model.decoder import KVCache, Model, Params
from pretrainrl_jax.model.mesh import constrain, round_up_rows
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.model.shared import SHORTEST, Shared, few_sizes, find_shared
from pretrainrl_jax.model.whole import for_decoding

FEWEST = 4  # beginnings that are read together: 4, 8, 16, …: few compilations


class Read(NamedTuple):
    """Beginnings that were read. On a mesh every device has all of them, cut by heads alone."""

    keys: jax.Array  # [layers, beginnings, time, kv_heads, head], padded on the right
    values: jax.Array  # the same
    lengths: jax.Array  # int32 [beginnings]


class Before(NamedTuple):
    """What stands before rows of sequences: of each row one beginning, with which all of it goes on."""

    read: Read
    of_rows: jax.Array  # int32 [rows]


@dataclass(frozen=True)
class Beginnings:
    """What sequences begin with, read; those of like length together."""

    shared: Shared
    read: dict[int, Read]  # by the length that they are padded to
    places: list[int]  # of each beginning, among those of its length
    mesh: Mesh | None

    def length(self, index: int) -> int:
        """Tokens of a sequence that were read with its beginning."""
        return self.shared.length(index)

    def size(self, index: int) -> int:
        """Tokens that its rows see before it, padded; 0: none. Sequences of one size may share a batch."""
        return few_sizes(length, SHORTEST) if (length := self.length(index)) else 0

    def before(self, rows: Sequence[int], batch: int) -> Before | None:
        """What stands before a batch of so many rows, given the sequences that are first in some of them."""
        if not rows or not (size := self.size(rows[0])):
            return None
        of_rows = np.zeros(batch, np.int32)
        of_rows[: len(rows)] = [self.places[self.shared.of[index]] for index in rows]
        return Before(self.read[size], place_rows(of_rows, self.mesh))


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
    read: dict[int, Read] = {}
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
def _read(model: Model, params: Params, tokens: jax.Array, lengths: jax.Array, *, decoding: bool) -> Read:
    if decoding:
        model, params = for_decoding(model, params)
    time = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(time), tokens.shape)
    read = model.hidden(params, tokens, positions, causal_mask(lengths, time))
    axes = ("layers", None, None, "kv_heads", "head")
    keys, values = (constrain(x, model.layout, *axes) for x in (read.keys, read.values))
    return Read(keys, values, constrain(lengths, model.layout))


def cache_before(model: Model, earlier: Before, time: int) -> tuple[KVCache, jax.Array]:
    """The cache that rows of so many tokens see beside one another, and its tokens, int32 [rows]."""
    read, rows = earlier
    axes = ("layers", "rows", None, "kv_heads", "head")
    keys, values = (constrain(x[:, rows], model.layout, *axes) for x in (read.keys, read.values))
    lengths = read.lengths[rows]
    places = jnp.arange(keys.shape[2])
    seen = jnp.broadcast_to((places < lengths[:, None])[:, None], (len(rows), time, len(places)))
    return KVCache(keys, values, seen, jnp.broadcast_to(places, (len(rows), len(places)))), lengths
