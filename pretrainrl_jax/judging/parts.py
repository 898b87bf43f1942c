"""Parts of a judge that ask a model, wherever it runs: on the run's devices, or on a server."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from pretrainrl_jax.config import JudgeConfig
from pretrainrl_jax.judging.pairwise import Comparison, paired, pairwise
from pretrainrl_jax.judging.prompts import Prompt, judge_prompt
from pretrainrl_jax.judging.protocol import Case, Counts, Part, Scored, total

ASKING = ("quality", "safety", "factuality")  # the parts that do
Texts = dict[str, str]  # by the names of a prompt's places


class Answer(NamedTuple):
    """What a model says to one prompt."""

    shares: Sequence[float] | None  # of each verdict, the best first, of sum 1; None: none could be read
    counts: Counts = MappingProxyType({})  # what happened on the way


Ask = Callable[[Prompt, Sequence[Texts]], Sequence[Answer]]
"""Asks one prompt with different texts in its places."""


def prompts_of(settings: JudgeConfig) -> dict[str, Prompt]:
    """The prompt of each part that has a weight and asks a model.

    Raises:
        InputError: if a prompt's file is not as it must be.
    """
    return {name: judge_prompt(settings, name) for name in ASKING if getattr(settings, name)}


def model_parts(settings: JudgeConfig, prompts: Mapping[str, Prompt], ask: Ask) -> dict[str, Part]:
    """The parts that ask, by their prompts."""
    parts: dict[str, Part] = {}
    for name, prompt in prompts.items():
        parts[name] = _pairs(prompt, ask, settings) if name == "quality" else _each(prompt, ask)
    return parts


def _pairs(prompt: Prompt, ask: Ask, settings: JudgeConfig) -> Part:
    """The mean of what a candidate wins in comparisons."""

    def judge(cases: Sequence[Case]) -> Scored:
        answers: list[Answer] = []

        def win(comparisons: Sequence[Comparison]) -> list[float | None]:
            answers.extend(ask(prompt, [comparison._asdict() for comparison in comparisons]))
            return [None if answer.shares is None else answer.shares[0] for answer in answers]

        scored = pairwise("quality", win, settings.pairs, settings.opponents)(cases)
        remaining, counts = iter(answers), []
        for case, own in zip(cases, scored.counts, strict=True):
            asked = 2 * len(paired(case, settings.pairs, settings.opponents))
            counts.append({**own, **total(next(remaining).counts for _ in range(asked))})
        return scored._replace(counts=counts)

    return judge


def _each(prompt: Prompt, ask: Ask) -> Part:
    """Candidates one by one: the mean of the verdicts' worth, from 1 of the best to 0 of the worst."""

    def judge(cases: Sequence[Case]) -> Scored:
        texts = [
            {"prefix": case.prefix, "suffix": candidate, "reference": case.reference}
            for case in cases
            for candidate in case.candidates
        ]
        answers = iter(ask(prompt, [{name: text[name] for name in prompt.places} for text in texts]))
        own = [[next(answers) for _ in case.candidates] for case in cases]
        return Scored(
            [
                [None if answer.shares is None else worth(answer.shares) for answer in of_case]
                for of_case in own
            ],
            [total(answer.counts for answer in of_case) for of_case in own],
        )

    return judge


def worth(shares: Sequence[float]) -> float:
    """The mean of what verdicts are worth, from 1 of the first to 0 of the last in equal steps."""
    last = len(shares) - 1
    return math.fsum(share * (1 - place / last) for place, share in enumerate(shares))
