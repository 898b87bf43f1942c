"""Prompts of any length in, answers out: length buckets around the compiled search and the sampler."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.constraints import Trie
from pretrainrl_jax.decoding.decoded import Decoded, DecodedBatch, read_decoded
from pretrainrl_jax.decoding.sampling import prompt_keys, sample
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.beginnings import Before, read_beginnings
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import round_up_rows, row_shards
from pretrainrl_jax.model.partitioning import place_rows, replicate, results
from pretrainrl_jax.model.vocabulary import check_tokens

SMALLEST_BUCKET = 16  # prompts are padded to 16, 32, 64, …: a few compilations however many lengths there are
QUEUE = 4  # batches that are searched in one call: more leave fewer places empty, and are told of later


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
    constraint: Trie | None = None,
    starts: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Decoded]]:
    """The best answers of each prompt by beam search; greedy decoding with `beams=1`.

    Gives for each prompt its beams, best first, finished ones before unfinished ones. Prompts of like length
    are padded to a bucket, so that the number of compilations is the number of buckets, and of sizes of what
    prompts begin with and share. Four batches are one call of the compiled search; where one batch holds all
    prompts nothing waits, and a smaller program does. Raises InputError for a number out of range.

    Args:
        prompts: token ids of each prompt, none empty.
        terminators, max_new_tokens, constraint, starts: as `beam_search` takes them.
        batch: prompts decoded at a time, rounded up to what divides over the devices.
        advance: called with the number of prompts finished.
    """
    _refuse_none(beams=beams, max_new_tokens=max_new_tokens, batch=batch)
    batch = round_up_rows(model.mesh, batch)
    ends, allowed = replicate((terminators, constraint), model.mesh)
    search = partial(beam_search, beams=beams, max_new_tokens=max_new_tokens, batch=batch, constraint=allowed)

    def begin(own: Sequence[jax.Array], starts: jax.Array, earlier: Before | None) -> DecodedBatch:
        return search(model, params, *own, ends, starts=starts, earlier=earlier)

    starts = [0] * len(prompts) if starts is None else starts
    call = batch if len(prompts) <= batch else QUEUE * batch
    return _in_batches(model, params, prompts, starts, batch, call, begin, advance)


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
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Decoded]]:
    """Random continuations of each prompt, as `sampling.sample` draws them. Raises as `decode`.

    Each batch is a call, filled up, whose prompts all wait for the longest continuation. Temperature, top_p,
    top_k and the seed may change without another compilation. What is drawn for a prompt depends on the seed,
    the prompt and its number alone, not on the prompts decoded beside it.

    Args:
        prompts, terminators, max_new_tokens, batch, advance: as `decode` takes them.
        samples: how many to draw for each prompt; the first n do not depend on how many follow.
        temperature, top_p, top_k: 0, 1 and 0 are greedy decoding and off.
        seed: of all randomness, 0 to 2**32 - 1.
        numbers: the prompts' numbers, 0 to 2**31 - 1; by default their places in the list. A caller that sees
            only some of the prompts numbers them as if it saw all.
        shortest: tokens that prompts are padded to at least: more of them share a batch and a compilation.
    """
    _refuse_none(samples=samples, max_new_tokens=max_new_tokens, batch=batch)
    _check_chance(temperature, top_p, top_k, seed)
    ends, placed_seed = replicate((terminators, np.uint32(seed)), model.mesh)
    top_k = min(top_k, model.shape.vocabulary)
    filters = {"temperature": np.float32(temperature), "top_p": np.float32(top_p), "top_k": np.int32(top_k)}
    sizes: Any = {"samples": samples, "max_new_tokens": max_new_tokens}
    draw = partial(sample, **sizes, **replicate(filters, model.mesh))

    def begin(own: Sequence[jax.Array], numbers: jax.Array, earlier: Before | None) -> DecodedBatch:
        return draw(model, params, *own, ends, prompt_keys(placed_seed, numbers), earlier=earlier)

    numbers = range(len(prompts)) if numbers is None else numbers
    batch = round_up_rows(model.mesh, batch)
    return _in_batches(model, params, prompts, numbers, batch, batch, begin, advance, shortest)


def _refuse_none(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}: it must be 1 or more")


def _check_chance(temperature: float, top_p: float, top_k: int, seed: int) -> None:
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}: it must be finite, and 0 or more")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}: it must lie above 0, and be 1 or less")
    if top_k < 0:
        raise InputError(f"top_k is {top_k}: use 0 to keep all tokens, or 1 or more")
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed is {seed}: it must lie between 0 and {(1 << 32) - 1}")


def _in_batches(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    values: Sequence[int],
    batch: int,
    call: int,
    begin: Callable[[Sequence[jax.Array], jax.Array, Before | None], DecodedBatch],
    advance: Callable[[int], None],
    shortest: int = SMALLEST_BUCKET,
) -> list[list[Decoded]]:
    """What is decoded of each prompt, from calls on prompts of like length, one of them always on the device.

    What many of them begin with is read once. `begin` begins a call, given its prompts' own tokens int32
    [call, bucket] and lengths int32 [call]; their values, int32 [call]; and what they begin with, if they do.
    Rows that fill it up have no tokens, for which nothing is decoded and nobody waits.
    """
    check_tokens(max((max(prompt, default=0) for prompt in prompts), default=0), model.shape.vocabulary)
    beginnings = read_beginnings(model, params, prompts, decoding=True)
    own = [prompt[beginnings.shared.length(i) :] for i, prompt in enumerate(prompts)]

    def begun() -> Iterator[tuple[list[int | None], DecodedBatch]]:
        sizes = [(beginnings.size(i), bucket(len(p), shortest), len(p)) for i, p in enumerate(own)]
        for rows in _calls(sizes, batch, call, row_shards(model.mesh)):
            longest = max(len(own[i]) for i in rows if i is not None)
            tokens = np.zeros((len(rows), bucket(longest, shortest)), np.int32)
            lengths, of_rows = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
            for row, i in enumerate(rows):
                if i is not None:
                    tokens[row, : len(own[i])], lengths[row], of_rows[row] = own[i], len(own[i]), values[i]
            *placed, of_rows = (place_rows(x, model.mesh) for x in (tokens, lengths, of_rows))
            yield rows, begin(placed, of_rows, beginnings.before(rows))

    decoded: list[list[Decoded]] = [[] for _ in prompts]
    for rows, result in results(begun(), "the answers of a batch"):
        there = [(i, row) for row, i in enumerate(rows) if i is not None]
        for (index, _), records in zip(there, read_decoded(result, [row for _, row in there]), strict=True):
            decoded[index] = records
        advance(len(there))
    return decoded


def _calls(
    sizes: Sequence[tuple[int, int, int]], least: int, most: int, devices: int
) -> list[list[int | None]]:
    """Prompts that are decoded together, of each row its prompt or none; of neighbours each device has one.

    As few calls as there can be, of `most` rows each: where those of a bucket end, longer ones fill them up,
    unless there are `least` of them. `sizes` are of what each prompt sees before it, of its bucket, and of
    itself; rows are cut over `devices`.
    """
    alike: dict[int, list[int]] = {}
    for index in sorted(range(len(sizes)), key=lambda index: sizes[index]):
        alike.setdefault(sizes[index][0], []).append(index)
    calls: list[list[int | None]] = []
    for group in alike.values():
        while group:
            of_bucket = sum(sizes[index][1] == sizes[group[0]][1] for index in group[:most])
            count = of_bucket if of_bucket >= least else most
            filled = [*group[:count], *[None] * most][:most]
            calls.append([index for device in range(devices) for index in filled[device::devices]])
            group = group[count:]
    return calls
