"""Prompts of any length in, answers out: length buckets around the compiled search and the sampler."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.constraints import Constraint
from pretrainrl_jax.decoding.decoded import Decoded, DecodedBatch, read_decoded
from pretrainrl_jax.decoding.sampling import prompt_keys, sample
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.beginnings import Before, read_beginnings
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import round_up_rows
from pretrainrl_jax.model.partitioning import place_rows, replicate, results
from pretrainrl_jax.model.vocabulary import check_tokens

SMALLEST_BUCKET = 16  # prompts are padded to 16, 32, 64, …: a few compilations however many lengths there are


def bucket(length: int, shortest: int = SMALLEST_BUCKET) -> int:
    """The padded length of a prompt of `length` tokens: the next power of two, `shortest` at least."""
    return max(shortest, 1 << (length - 1).bit_length())


def decode(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    terminators: np.ndarray,
    *,
    beams: int,
    max_new_tokens: int,
    batch: int,
    constraint: Constraint | None = None,
    starts: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Decoded]]:
    """The best answers of each prompt by beam search; greedy decoding with `beams=1`.

    Prompts are decoded in batches of like length, each padded to a bucket, so that the number of
    compilations is the number of buckets, and of sizes of what prompts begin with and share.

    Args:
        prompts: token ids of each prompt, none empty.
        terminators: bool [vocabulary].
        beams: beam width.
        max_new_tokens: longest answer, terminator included.
        batch: prompts decoded at a time, rounded up to what divides over the devices; the last batch of a
            bucket is filled up.
        constraint: which tokens and terminators may follow.
        starts: where of the constraint each prompt begins; None is 0 for all.
        advance: called with the number of prompts finished.

    Returns:
        For each prompt its beams, best first, finished ones before unfinished ones.

    Raises:
        InputError: if a number is out of its range.
    """
    _refuse_none(beams=beams, max_new_tokens=max_new_tokens, batch=batch)
    check_tokens(max((max(prompt, default=0) for prompt in prompts), default=0), model.shape.vocabulary)
    batch = round_up_rows(model.mesh, batch)
    ends, placed_constraint = replicate(terminators, model.mesh), _placed(constraint, model)
    starts = [0] * len(prompts) if starts is None else starts

    def start(
        indices: list[int], tokens: np.ndarray, lengths: np.ndarray, earlier: Before | None
    ) -> DecodedBatch:
        of_rows = _of_rows(starts, indices, batch)
        *placed, placed_starts = (place_rows(x, model.mesh) for x in (tokens, lengths, of_rows))
        return beam_search(
            model,
            params,
            *placed,
            ends,
            starts=placed_starts,
            beams=beams,
            max_new_tokens=max_new_tokens,
            constraint=placed_constraint,
            earlier=earlier,
        )

    return _in_batches(model, params, prompts, batch, start, advance)


def sample_batch(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    terminators: np.ndarray,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    batch: int,
    numbers: Sequence[int] | None = None,
    shortest: int = SMALLEST_BUCKET,
    constraint: Constraint | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Decoded]]:
    """Random continuations of each prompt, as `sampling.sample` draws them.

    Batches and compilations are those of `decode`; temperature, top_p, top_k and the seed may change without
    another one. What is drawn for a prompt depends on the seed, the prompt and its number alone, not on the
    prompts decoded beside it.

    Args:
        prompts: token ids of each prompt, none empty.
        terminators: bool [vocabulary].
        samples: how many to draw for each prompt; the first n do not depend on how many follow.
        max_new_tokens: longest sample, terminator included.
        temperature: 0 is greedy decoding.
        top_p: 1 is off.
        top_k: 0 is off.
        seed: of all randomness, 0 to 2**32 - 1.
        batch: prompts decoded at a time, rounded up to what divides over the devices; the last batch of a
            bucket is filled up.
        numbers: the prompts' numbers, 0 to 2**31 - 1; by default their places in the list. A caller that sees
            only some of the prompts numbers them as if it saw all.
        shortest: tokens that prompts are padded to at least: more of them share a batch and a compilation.
        constraint: which tokens and terminators may follow.
        advance: called with the number of prompts finished.

    Returns:
        For each prompt its samples.

    Raises:
        InputError: if a number is out of its range.
    """
    _refuse_none(samples=samples, max_new_tokens=max_new_tokens, batch=batch)
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}: it must be finite, and 0 or more")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}: it must lie above 0, and be 1 or less")
    if top_k < 0:
        raise InputError(f"top_k is {top_k}: use 0 to keep all tokens, or 1 or more")
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed is {seed}: it must lie between 0 and {(1 << 32) - 1}")
    check_tokens(max((max(prompt, default=0) for prompt in prompts), default=0), model.shape.vocabulary)
    batch = round_up_rows(model.mesh, batch)
    ends, placed_seed = (replicate(x, model.mesh) for x in (terminators, np.uint32(seed)))
    top_k = min(top_k, model.shape.vocabulary)
    filters = {"temperature": np.float32(temperature), "top_p": np.float32(top_p), "top_k": np.int32(top_k)}
    placed_filters: Any = {name: replicate(x, model.mesh) for name, x in filters.items()}
    known = range(len(prompts)) if numbers is None else numbers
    placed_constraint = _placed(constraint, model)

    def start(
        indices: list[int], tokens: np.ndarray, lengths: np.ndarray, earlier: Before | None
    ) -> DecodedBatch:
        lengths[len(indices) :] = 0  # nothing is drawn for rows that fill up the batch: nobody waits for them
        of_rows = _of_rows(known, indices, batch)
        *placed, placed_numbers = (place_rows(x, model.mesh) for x in (tokens, lengths, of_rows))
        return sample(
            model,
            params,
            *placed,
            ends,
            prompt_keys(placed_seed, placed_numbers),
            samples=samples,
            max_new_tokens=max_new_tokens,
            constraint=placed_constraint,
            **placed_filters,
            earlier=earlier,
        )

    return _in_batches(model, params, prompts, batch, start, advance, shortest)


def _placed(constraint: Constraint | None, model: Model) -> Any:
    return jax.tree.map(lambda x: replicate(np.asarray(x), model.mesh), constraint)


def _of_rows(values: Sequence[int], indices: Sequence[int], batch: int) -> np.ndarray:
    """The prompts' values, int32 [batch]; 0 for rows that fill up the batch."""
    rows = np.zeros(batch, np.int32)
    rows[: len(indices)] = [values[index] for index in indices]
    return rows


def _refuse_none(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}: it must be 1 or more")


def _in_batches(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    batch: int,
    start: Callable[[list[int], np.ndarray, np.ndarray, Before | None], DecodedBatch],
    advance: Callable[[int], None],
    shortest: int = SMALLEST_BUCKET,
) -> list[list[Decoded]]:
    """What is decoded of each prompt, from batches of like length with one of them always on the device.

    What many of them begin with is read once. `start` begins a batch, given the places of its prompts, their
    own tokens int32 [batch, bucket] and lengths int32 [batch], and what they begin with, if they do.
    """
    beginnings = read_beginnings(model, params, prompts, decoding=True)
    own = [prompt[beginnings.length(i) :] for i, prompt in enumerate(prompts)]
    begun = (
        (
            indices,
            start(
                indices,
                *_padded([own[i] for i in indices], batch, shortest),
                beginnings.before(indices, batch),
            ),
        )
        for indices in _batches([(beginnings.size(i), len(p)) for i, p in enumerate(own)], batch)
    )
    decoded: list[list[Decoded]] = [[] for _ in prompts]
    for indices, result in results(begun, "the answers of a batch"):
        for index, records in zip(indices, read_decoded(result), strict=False):
            decoded[index] = records
        advance(len(indices))
    return decoded


def _batches(sizes: Sequence[tuple[int, int]], batch: int) -> list[list[int]]:
    """Prompts that are decoded together, given the size of what each sees before it, and its own tokens.

    As few batches as there can be: where those of a bucket end, longer ones fill up the batch.
    """
    alike: dict[int, list[int]] = {}
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        alike.setdefault(sizes[index][0], []).append(index)
    return [group[i : i + batch] for group in alike.values() for i in range(0, len(group), batch)]


def _padded(prompts: Sequence[Sequence[int]], batch: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((batch, bucket(max(len(p) for p in prompts), shortest)), np.int32)
    lengths = np.ones(batch, np.int32)  # prompts that fill up the batch have one token
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return tokens, lengths
