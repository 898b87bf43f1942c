"""Prompts of any length in, answers out: length buckets around the compiled search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pretrainrl_jax.decoding.beam import Beams, beam_search
from pretrainrl_jax.model.decoder import Model, Params

SMALLEST_BUCKET = 16  # prompts are padded to 16, 32, 64, …: a few compilations however many lengths there are


@dataclass(frozen=True)
class Hypothesis:
    """One beam: the answer's tokens without a terminator, and its summed log-probability with it."""

    tokens: tuple[int, ...]
    logp: float
    finished: bool  # False: no terminator within the length limit


def bucket(length: int) -> int:
    """The padded length of a prompt of `length` tokens: the next power of two."""
    return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length())


def decode(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    terminators: np.ndarray,
    *,
    beams: int,
    max_new_tokens: int,
    batch: int,
    place: Callable[[np.ndarray], jax.Array] = jax.numpy.asarray,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Hypothesis]]:
    """The best answers of each prompt by beam search; greedy decoding with `beams=1`.

    Prompts are decoded in batches of like length, each padded to a bucket, so that the number of
    compilations is the number of buckets.

    Args:
        model: the decoder.
        params: its parameters.
        prompts: token ids of each prompt, none empty.
        terminators: bool [vocabulary].
        beams: beam width.
        max_new_tokens: longest answer, terminator included.
        batch: prompts decoded at a time; the last batch of a bucket is filled up.
        place: puts a batch [batch, …] on the devices.
        advance: called with the number of prompts finished.

    Returns:
        For each prompt its beams, best first, finished ones before unfinished ones.
    """
    found: list[list[Hypothesis]] = [[] for _ in prompts]
    waiting: list[tuple[list[int], Beams]] = []
    ends = jax.numpy.asarray(terminators)

    def collect() -> None:
        indices, result = waiting.pop(0)
        for index, beams_of in zip(indices, _hypotheses(result), strict=False):
            found[index] = beams_of
        advance(len(indices))

    for indices in _batches([len(p) for p in prompts], batch):
        tokens, lengths = _padded([prompts[i] for i in indices], batch)
        result = beam_search(
            model, params, place(tokens), place(lengths), ends, beams=beams, max_new_tokens=max_new_tokens
        )
        waiting.append((indices, result))
        if len(waiting) > 1:  # read a batch only while the device already works on the next one
            collect()
    while waiting:
        collect()
    return found


def _batches(lengths: Sequence[int], batch: int) -> list[list[int]]:
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        buckets.setdefault(bucket(length), []).append(index)
    return [of[i : i + batch] for _, of in sorted(buckets.items()) for i in range(0, len(of), batch)]


def _padded(prompts: Sequence[Sequence[int]], batch: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((batch, bucket(max(len(p) for p in prompts))), np.int32)
    lengths = np.ones(batch, np.int32)  # prompts that fill up the batch have one token
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return tokens, lengths


def _hypotheses(beams: Beams) -> list[list[Hypothesis]]:
    tokens, lengths, logps, finished = (x.tolist() for x in jax.device_get(beams))
    return [
        [
            Hypothesis(tuple(t[:n]), lp, end)
            for t, n, lp, end in zip(*of_prompt, strict=True)
            if lp != float("-inf")
        ]
        for of_prompt in zip(tokens, lengths, logps, finished, strict=True)
    ]
