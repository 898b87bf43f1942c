"""A model on the devices of the run as the judge or the rewriter.

A judge is not sampled: a verdict's probability is that of its tokens, normalised over the prompt's verdicts.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pretrainrl_jax.config import JudgeConfig, RewriterConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.continuations import score_by_length
from pretrainrl_jax.judging.parts import Answer, Texts
from pretrainrl_jax.judging.prompts import Prompt, spaced
from pretrainrl_jax.judging.rewriting import Wanted, Write
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after
from pretrainrl_jax.trees.tree import AnswerTree, Branch

SHORTEST = 64  # tokens of the shortest bucket of prompts that are continued
TOGETHER = 1024  # prompts cut into tokens at a time: a step of the paper's size has 61,440


@dataclass(frozen=True)
class LocalJudge:
    """A model that is asked on the devices."""

    settings: JudgeConfig
    judge: Loaded

    def check(self, prompt: Prompt) -> None:
        """Raises InputError for a prompt that this model cannot be asked."""
        verdict_tokens(self.judge.tokenizer, prompt)

    def ask(self, prompt: Prompt, texts: Sequence[Texts]) -> list[Answer]:
        """The probability of each verdict after a prompt with these texts in its places.

        They are of sum 1, or NaN where the model gives none.
        """
        tokenizer = self.judge.tokenizer
        prefixes = {text["prefix"] for text in texts if "prefix" in text}
        length, rows = self.settings.prefix_tokens, self.settings.batch
        ends = {prefix: last_tokens(tokenizer, prefix, length) for prefix in prefixes}
        cut = [text | {"prefix": ends[text["prefix"]]} if "prefix" in text else text for text in texts]
        branches = tuple(map(Branch, verdict_tokens(tokenizer, prompt)))
        logps: list[list[float]] = []
        for start in range(0, len(cut), TOGETHER):
            filled = [prompt.fill(**places) for places in cut[start : start + TOGETHER]]
            encoded = encode_plain(tokenizer, filled)
            trees = [AnswerTree("", tokenizer.start + tokens, branches) for tokens in encoded]
            logps += score_by_length(self.judge.model, self.judge.params, trees, rows=lambda _: rows)
        scores = np.array(logps, np.float64).reshape(len(texts), len(branches))
        with np.errstate(invalid="ignore"):  # -inf of all: NaN, which is refused by name
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return [Answer(shares) for shares in (odds / odds.sum(axis=1, keepdims=True)).tolist()]


def local_writer(
    prompt: Prompt, settings: RewriterConfig, rewriter: Loaded, tokens: int, seed: int, batch: int
) -> Write:
    """Samples rewrites of so many tokens, `batch` at a time; they begin with the prefix's last words."""
    tokenizer = rewriter.tokenizer

    def write(wanted: Sequence[Wanted]) -> list[str]:
        ends = [last_tokens(tokenizer, one.prefix, settings.prefix_tokens) for one in wanted]
        texts = [
            f"{prompt.fill(prefix=end, words=one.words, suffix=one.suffix)}\n{one.words.rstrip()}"
            for one, end in zip(wanted, ends, strict=True)
        ]
        prefixes = [tokenizer.start + encoded for encoded in encode_plain(tokenizer, texts)]
        drawn = rewriter.rollouts(
            prefixes,
            samples=1,
            max_new_tokens=tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
            batch=batch,
            numbers=[zlib.crc32(repr(one).encode()) >> 1 for one in wanted],  # of 31 bits
            shortest=SHORTEST,
        )
        return [
            one.words.rstrip() + text_after(tokenizer, prefix, tokenizer.without_end(own[0].tokens))
            for one, prefix, own in zip(wanted, prefixes, drawn, strict=True)
        ]

    return write


def verdict_tokens(tokenizer: Tokenizer, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """Each verdict as the tokens that continue the prompt, whose last words are its own.

    Raises InputError if a verdict's tokens begin another's: one would be counted as both.
    """
    before = tokenizer.encode(prompt.ending)
    verdicts = []
    for word in prompt.verdicts:
        both = tokenizer.encode(f"{prompt.ending} {word}")
        joined = both[: len(before)] == before and len(both) > len(before)
        verdicts.append(both[len(before) :] if joined else tokenizer.encode(f" {word}"))
    for (word, begun), (longer, other) in permutations(zip(prompt.verdicts, verdicts, strict=True), 2):
        if other[: len(begun)] == begun:
            raise InputError(
                f"by the judge's tokenizer the verdict {longer!r} begins as {word!r} does: choose other "
                "words in a prompt of your own (judge.prompts)"
            )
    return tuple(verdicts)


def last_tokens(tokenizer: Tokenizer, text: str, count: int) -> str:
    """The text of the last `count` tokens, from a letter's beginning on; all of it where `count` is 0."""
    (tokens,) = encode_plain(tokenizer, [text])
    if not count or len(tokens) <= count:
        return text
    return tokenizer.decode(tokens[-count:]).lstrip("\ufffd")


def encode_plain(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """`Tokenizer.encode_all` that refuses nothing.

    What this tokenizer cannot write but as a control token is written with a space in it.
    """
    try:
        return tokenizer.encode_all(texts)
    except InputError:
        names = tokenizer.backend.convert_ids_to_tokens(sorted(tokenizer.control))
        spelt = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
    encoded = []
    for text in texts:
        try:
            encoded.append(tokenizer.encode(text))
        except InputError:
            encoded.append(tokenizer.encode(spelt.sub(spaced, text)))
    return encoded
