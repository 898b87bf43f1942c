"""A model as the judge: how probable each verdict is after a prompt, on the devices of the run.

Nothing is sampled: a verdict's probability is that of its tokens, normalised over the prompt's verdicts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pretrainrl_jax.config import JudgeConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.continuations import score_by_length
from pretrainrl_jax.judging.pairwise import Comparison, pairwise
from pretrainrl_jax.judging.prompts import Prompt, read_prompt
from pretrainrl_jax.judging.protocol import Case, Part, Scores
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch

TOGETHER = 1024  # prompts cut into tokens at a time: a step of the paper's size has 61,440


def model_parts(settings: JudgeConfig, judge: Loaded) -> dict[str, Part]:
    """The parts that ask a model and have a weight.

    Raises:
        InputError: if a prompt's file is not as it must be.
    """
    parts: dict[str, Part] = {}
    if settings.quality:
        parts["quality"] = _pairs(_question("quality", settings, judge))
    for name in ("safety", "factuality"):
        if getattr(settings, name):
            parts[name] = _each(_question(name, settings, judge))
    return parts


@dataclass(frozen=True)
class Question:
    """A prompt, and the model that is asked."""

    name: str
    prompt: Prompt
    judge: Loaded
    verdicts: tuple[tuple[int, ...], ...]  # the prompt's, as tokens
    prefix_tokens: int  # of a prefix at most; 0: all
    batch: int  # rows of prompts scored at a time

    def probabilities(self, texts: Sequence[dict[str, str]]) -> np.ndarray:
        """Of prompts with these texts in their places, the probability of each verdict.

        Returns:
            float64 [prompts, verdicts]; each row sums to 1, or is NaN where the model gives none.
        """
        tokenizer, branches = self.judge.tokenizer, tuple(map(Branch, self.verdicts))
        logps: list[list[float]] = []
        for start in range(0, len(texts), TOGETHER):
            filled = [self.prompt.fill(**places) for places in texts[start : start + TOGETHER]]
            encoded = encode_plain(tokenizer, filled)
            trees = [AnswerTree("", tokenizer.start + tokens, branches) for tokens in encoded]
            logps += score_by_length(self.judge.model, self.judge.params, trees, rows=lambda _: self.batch)
        scores = np.array(logps, np.float64).reshape(len(texts), len(branches))
        with np.errstate(invalid="ignore"):  # -inf of all: NaN, which is refused by name
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def ends(self, prefixes: Iterable[str]) -> dict[str, str]:
        """The end of each prefix that the model is shown."""
        return {
            prefix: last_tokens(self.judge.tokenizer, prefix, self.prefix_tokens) for prefix in {*prefixes}
        }


def _question(name: str, settings: JudgeConfig, judge: Loaded) -> Question:
    prompt = read_prompt(name, settings.prompts)
    verdicts = verdict_tokens(judge.tokenizer, prompt)
    return Question(name, prompt, judge, verdicts, settings.prefix_tokens, settings.batch)


def _pairs(question: Question) -> Part:
    def win(comparisons: Sequence[Comparison]) -> Sequence[float]:
        ends = question.ends(comparison.prefix for comparison in comparisons)
        texts = [c._asdict() | {"prefix": ends[c.prefix]} for c in comparisons]
        return question.probabilities(texts)[:, 0].tolist()

    return pairwise(question.name, win)


def _each(question: Question) -> Part:
    """Candidates one by one: the mean of the verdicts' worth, from 1 of the best to 0 of the worst."""
    worth = np.linspace(1, 0, len(question.verdicts))

    def judge(cases: Sequence[Case]) -> Scores:
        ends = question.ends(case.prefix for case in cases)
        texts = [
            {"prefix": ends[case.prefix], "suffix": candidate, "reference": case.reference}
            for case in cases
            for candidate in case.candidates
        ]
        scores = iter((question.probabilities(texts) @ worth).tolist())
        return [[next(scores) for _ in case.candidates] for case in cases]

    return judge


def verdict_tokens(tokenizer: Tokenizer, prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """Each verdict as the tokens that continue the prompt, whose last words are its own.

    Raises:
        InputError: if a verdict's tokens begin another's: one would be counted as both.
    """
    before = tokenizer.encode(prompt.ending)
    verdicts = []
    for word in prompt.verdicts:
        both = tokenizer.encode(f"{prompt.ending} {word}")
        joined = both[: len(before)] == before and len(both) > len(before)
        verdicts.append(both[len(before) :] if joined else tokenizer.encode(f" {word}"))
    for i, begun in enumerate(verdicts):
        for j, other in enumerate(verdicts):
            if i != j and other[: len(begun)] == begun:
                raise InputError(
                    f"by the judge's tokenizer the verdict {prompt.verdicts[j]!r} begins as "
                    f"{prompt.verdicts[i]!r} does: choose other words in a prompt of your own (judge.prompts)"
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
        return [_encode_spaced(tokenizer, text, spelt) for text in texts]


def _encode_spaced(tokenizer: Tokenizer, text: str, spelt: re.Pattern[str]) -> tuple[int, ...]:
    try:
        return tokenizer.encode(text)
    except InputError:
        return tokenizer.encode(spelt.sub(lambda name: f"{name[0][0]} {name[0][1:]}", text))
