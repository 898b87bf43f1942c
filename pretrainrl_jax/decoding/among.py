"""Answers among known ones: beam search that can say nothing else, between texts and tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrainrl_jax.decoding import constraints
from pretrainrl_jax.decoding.answers import Answer, read_answer
from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.templates import encode_continuations
from pretrainrl_jax.trees.tokenization import Tokenizer

CHUNK = 4096  # answers put into tokens at a time, each with the prompt before it


@dataclass(frozen=True)
class Known:
    """The sets of answers that prompts have, made once for all of them."""

    trie: constraints.Trie
    starts: Mapping[tuple[str, str], int]  # of a kind and a prompt the number of its set
    texts: Sequence[Mapping[tuple[int, ...], str]]  # of each set its answers, by their tokens
    longest: int  # tokens of the longest answer, without terminator


def known_answers(
    tokenizer: Tokenizer,
    terminators: np.ndarray,
    prompts: Sequence[str],
    kinds: Sequence[str],
    answers: Mapping[str, Sequence[str]],
) -> Known:
    """What `answers_among` needs to answer these prompts.

    An answer's tokens are those it has behind a prompt; prompts of a kind share a set wherever the first of
    its answers has the same tokens behind each. Raises InputError if a set is empty, or an answer has no
    tokens or holds a terminator, as a line break is.

    `terminators`, bool [vocabulary], end an answer; `kinds` names each prompt's set of `answers`. A space
    comes before an answer that does not begin with whitespace itself.
    """
    asked = list(dict.fromkeys(zip(kinds, prompts, strict=True)))
    continuations: dict[str, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        if not answers.get(kind):
            raise InputError(f"there is no answer to choose among for {kind!r}")
        continuations[kind] = [text if text[:1].isspace() else f" {text}" for text in answers[kind]]
    samples = [continuations[kind][:1] for kind, _ in asked]
    tried = encode_continuations(tokenizer, [prompt for _, prompt in asked], samples)
    numbers: dict[tuple[str, tuple[int, ...]], int] = {}
    texts: list[dict[tuple[int, ...], str]] = []
    starts: dict[tuple[str, str], int] = {}
    for (kind, prompt), (tokens,) in zip(asked, tried.branches, strict=True):
        if (kind, tokens) not in numbers:
            numbers[kind, tokens] = len(texts)
            seam = _seam(tokenizer, prompt, continuations[kind][0], tokens)
            texts.append(_by_tokens(tokenizer, terminators, seam, continuations[kind]))
        starts[kind, prompt] = numbers[kind, tokens]
    longest = max(len(tokens) for answers in texts for tokens in answers)
    return Known(constraints.build(texts, terminators), starts, texts, longest)


def _seam(tokenizer: Tokenizer, prompt: str, answer: str, tokens: tuple[int, ...]) -> str:
    """The prompt's last line, if an answer has the same tokens behind it: much is saved with many answers."""
    line = prompt[prompt.rfind("\n") + 1 :]
    same = bool(line) and encode_continuations(tokenizer, [line], [[answer]]).branches == [[tokens]]
    return line if same else prompt


def _by_tokens(
    tokenizer: Tokenizer, terminators: np.ndarray, prompt: str, answers: Sequence[str]
) -> dict[tuple[int, ...], str]:
    """The answers by their tokens behind the prompt; of equal tokens the first."""
    ends = frozenset(np.flatnonzero(terminators).tolist())
    by_tokens: dict[tuple[int, ...], str] = {}
    for start in range(0, len(answers), CHUNK):
        part = answers[start : start + CHUNK]
        (branches,) = encode_continuations(tokenizer, [prompt], [part]).branches
        for answer, tokens in zip(part, branches, strict=True):
            shown = repr(answer.strip())
            if not tokens:
                raise InputError(f"the answer {shown} has no tokens: leave it out")
            if not ends.isdisjoint(tokens):
                raise InputError(f"the answer {shown} holds a line break, or else what ends an answer")
            by_tokens.setdefault(tokens, answer.strip())
    return by_tokens


def answers_among(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    kinds: Sequence[str],
    known: Known,
    **search: Any,
) -> list[list[Answer]]:
    """Each prompt's answers among those of its kind, the most probable one first.

    Probabilities are the model's own, not divided by that of all known answers. With as many beams as a set
    has answers, all of them are there; with fewer, the search may miss the most probable one. Prompts and
    kinds are of those that `known` was made for; `search` has `beams`, `batch` and `advance` of `decode`.
    """
    numbers = [known.starts[asked] for asked in zip(kinds, prompts, strict=True)]
    encoded = [tokenizer.start + ids for ids in tokenizer.encode_all(prompts)]
    longest = known.longest + 1  # with a terminator
    decoded = decode(
        model, params, encoded, known.trie.terminators,
        max_new_tokens=longest, constraint=known.trie, starts=numbers, **search,
    )  # fmt: skip
    answers = [
        [replace(read_answer(tokenizer, beam), text=known.texts[number][beam.tokens]) for beam in of_prompt]
        for number, of_prompt in zip(numbers, decoded, strict=True)
    ]
    return [sorted(of_prompt, key=lambda answer: -answer.logp) for of_prompt in answers]
