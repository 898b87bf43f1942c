"""What was decoded: beams and samples alike, on the device and as read from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np


class DecodedBatch(NamedTuple):
    """The beams or samples of each prompt of a batch, [batch, branches, …].

    Beams come best first, finished ones before unfinished ones; samples by their numbers. Log-probabilities
    are float32, in nats: of the model as it is, and of the distribution that was drawn from (`behaviour`; of
    beams, which are not drawn, the model's own). A terminator's is included where one ended the branch.
    """

    tokens: jax.Array  # int32 [batch, branches, max_new_tokens], 0 after the end; terminators are not kept
    lengths: jax.Array  # int32 [batch, branches], without the terminator
    finished: jax.Array  # bool [batch, branches]: ended by a terminator within the limit
    logps: jax.Array  # [batch, branches], summed; -inf: no such beam
    behaviour_logps: jax.Array  # the same
    token_logps: jax.Array  # [batch, branches, max_new_tokens], of each token, then of the terminator
    behaviour_token_logps: jax.Array  # the same
    ending_logps: jax.Array | None = None  # [batch, branches], of all terminators where a beam ended, else 0


@dataclass(frozen=True)
class Decoded:
    """One beam or sample: its tokens without a terminator, and their log-probabilities with it, in nats."""

    tokens: tuple[int, ...]
    logp: float  # summed, of the model as it is
    behaviour_logp: float  # summed, of the distribution it was drawn from; of a beam the model's own
    finished: bool  # False: no terminator within the length limit
    token_logps: tuple[float, ...] = ()  # of each token, then of the terminator where finished
    behaviour_token_logps: tuple[float, ...] = ()
    ending_logp: float = 0.0  # of all terminators together where a beam ended; 0 unfinished, and of samples


class Rollout(NamedTuple):
    """Tokens as they were sampled, an EOS that ended them included."""

    tokens: tuple[int, ...]  # one at least
    logps: tuple[float, ...]  # of each under the model as it is, neither tempered nor truncated, nats


def read_decoded(batch: DecodedBatch, rows: Sequence[int]) -> list[list[Decoded]]:
    """Of these rows the branches, without places that no beam fills."""
    batch = jax.device_get(batch)

    def read(place: tuple[int, int]) -> Decoded:
        fields: list[Any] = [0.0 if x is None else x[place].tolist() for x in batch]
        tokens, length, finished, logp, behaviour_logp, *each, ending = fields
        each = [tuple(x[: length + finished]) for x in each]
        return Decoded(tuple(tokens[:length]), logp, behaviour_logp, finished, *each, ending_logp=ending)

    there = np.isfinite(batch.logps)
    return [[read((row, i)) for i in np.flatnonzero(there[row]).tolist()] for row in rows]
