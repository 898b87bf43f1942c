"""Texts that end at given strings, from prompts: in rounds, since most end long before their limit."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pretrainrl_jax.decoding.decode import bucket, sample_batch
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.templates import ends_at
from pretrainrl_jax.trees.tokenization import Tokenizer

FIRST_ROUND = 32  # tokens; every round is twice as long as the one before


@dataclass(frozen=True)
class Request:
    """A text to be written."""

    prompt: tuple[int, ...]  # not empty
    until: tuple[str, ...]  # the text ends before the first of these, none of them empty
    max_new_tokens: int
    temperature: float = 0.0  # 0 is greedy decoding
    top_p: float = 1.0
    top_k: int = 0


def generate(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    *,
    tokens: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """The text of each request, up to its stop string, an EOS id or its limit.

    After each round the texts that have ended are done; the others go on from all their tokens. A batch has
    so many `tokens`, prompts and what is written after them, at least one prompt. With a seed a text depends
    on its request and place alone. `advance` is called with the number of texts finished. Raises InputError
    if a number of a request is out of its range.
    """
    ends = ends_at(tokenizer, model.shape.vocabulary, newline=False)
    # An EOS id that is no special token has a text, which stays: decoding goes past it, and it is found here.
    special = set(tokenizer.backend.all_special_ids)
    seen = {id for id in tokenizer.eos if id not in special}
    ends[list(seen)] = False

    written: list[tuple[int, ...]] = [() for _ in requests]
    waiting = list(range(len(requests)))
    number = 0
    while waiting:
        alike: dict[tuple[int, int, float, float, int], list[int]] = {}  # by what they have in common
        for i in waiting:
            r, length = requests[i], bucket(len(requests[i].prompt) + len(written[i]))
            # A power of two, since each number of steps is compiled for itself.
            left = 1 << (r.max_new_tokens - len(written[i]) - 1).bit_length()
            steps = min(FIRST_ROUND << number, max(FIRST_ROUND, left))
            alike.setdefault((length, steps, r.temperature, r.top_p, r.top_k), []).append(i)
        finished = set()
        for (length, steps, temperature, top_p, top_k), together in sorted(alike.items()):
            drawn = sample_batch(
                model,
                params,
                [requests[i].prompt + written[i] for i in together],
                ends,
                samples=1,
                max_new_tokens=steps,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=(seed + number) % (1 << 32),
                batch=min(max(1, tokens // (length + steps)), power_of_four(len(together))),
                numbers=together,
            )
            for i, (sample,) in zip(together, drawn, strict=True):
                ended = next((at for at, token in enumerate(sample.tokens, 1) if token in seen), None)
                written[i] = (written[i] + sample.tokens[:ended])[: requests[i].max_new_tokens]
                stopped = through_stop(tokenizer, written[i], requests[i].until)
                written[i] = stopped or written[i]
                full = len(written[i]) >= requests[i].max_new_tokens
                if sample.finished or ended or full or stopped:
                    finished.add(i)
        advance(len(finished))
        waiting = [i for i in waiting if i not in finished]
        number += 1
    texts = [tokenizer.decode(tokens) for tokens in written]
    for i, request in enumerate(requests):
        for stop in request.until:
            texts[i] = texts[i].split(stop)[0]
    return texts


def power_of_four(n: int, size: int = 1) -> int:
    """1, 4, 16, …: the first that holds n, from `size` on."""
    while size < n:
        size *= 4
    return size


def through_stop(
    tokenizer: Tokenizer, tokens: tuple[int, ...], until: Sequence[str]
) -> tuple[int, ...] | None:
    """The tokens up to the one that completes a stop string; None where there is no stop string.

    Special tokens have a text here, so that they can be stop strings.
    """

    def complete(count: int) -> bool:
        text = tokenizer.backend.decode(list(tokens[:count]), skip_special_tokens=False)
        return any(stop in text for stop in until)

    if not complete(len(tokens)):
        return None
    return tokens[: bisect.bisect_left(range(len(tokens)), True, key=complete)]
