"""Rollouts: what a model writes after a prefix, up to a number of tokens or the end that it gives itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.model.decoder import Model, Params


class Rollout(NamedTuple):
    """Tokens as they were sampled, an EOS that ended them included."""

    tokens: tuple[int, ...]  # one at least
    logps: tuple[float, ...]  # of each under the model as it is, neither tempered nor truncated, nats


def sample_rollouts(
    model: Model,
    params: Params,
    prefixes: Sequence[Sequence[int]],
    eos: Sequence[int],
    **drawing: Any,
) -> list[list[Rollout]]:
    """Rollouts of each prefix, which is computed once for all of its own.

    They have no terminator of ours: an EOS id is drawn as any other token, stands in the rollout and ends it.
    `drawing` is what else `sample_batch` takes, but for top_k, which is off; `max_new_tokens` counts an EOS.
    """
    # No terminators: which EOS it was is kept only of what does not end there.
    terminators, ends = np.zeros(model.shape.vocabulary, bool), frozenset(eos)

    def until_eos(sample: Decoded) -> Rollout:
        places = (place for place, token in enumerate(sample.tokens, 1) if token in ends)
        length = next(places, len(sample.tokens))
        return Rollout(sample.tokens[:length], sample.token_logps[:length])

    drawn = sample_batch(model, params, prefixes, terminators, top_k=0, **drawing)
    return [[until_eos(sample) for sample in of_prefix] for of_prefix in drawn]
