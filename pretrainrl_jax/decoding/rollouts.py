"""Rollouts: what a model writes after a prefix, up to a number of tokens or the end that it gives itself."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.decoding.decode import sample_batch
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
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch: int,
    numbers: Sequence[int],
    shortest: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Rollout]]:
    """Rollouts of each prefix, which is computed once for all of its own.

    They have no terminator of ours: an EOS id is drawn as any other token, stands in the rollout and ends it.

    Args:
        prefixes: token ids, none empty.
        eos: ids that end a text.
        samples: rollouts of each prefix.
        max_new_tokens: of a rollout at most, an EOS included.
        temperature, top_p, batch, shortest: as `sample_batch` takes them.
        seed, numbers: what is drawn for a prefix depends on the seed, its tokens and its number alone.
        advance: called with the number of prefixes finished.
    """
    drawn = sample_batch(
        model,
        params,
        prefixes,
        np.zeros(model.shape.vocabulary, bool),  # which EOS it was is kept only of what does not end there
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        seed=seed,
        batch=batch,
        numbers=numbers,
        shortest=shortest,
        advance=advance,
    )
    ends = frozenset(eos)

    def until_eos(tokens: tuple[int, ...]) -> int:
        return next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))

    rollouts = []
    for of_prefix in drawn:
        lengths = [until_eos(sample.tokens) for sample in of_prefix]
        rollouts.append(
            [
                Rollout(sample.tokens[:length], sample.token_logps[:length])
                for sample, length in zip(of_prefix, lengths, strict=True)
            ]
        )
    return rollouts
