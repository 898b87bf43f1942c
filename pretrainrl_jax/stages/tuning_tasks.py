"""What a judge and a rewriter that learn are asked, and what their outputs earn."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainrl_jax.config.tuning import LabelledConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.improvement.grading import Graded, Worth, grade_rewrites, grade_verdict
from pretrainrl_jax.improvement.labels import SAFE, Labelled, Labels, read_labels
from pretrainrl_jax.judging.compose import PARTS
from pretrainrl_jax.judging.local import encode_plain, last_tokens
from pretrainrl_jax.judging.prompts import Prompt, judge_prompt, read_prompt
from pretrainrl_jax.judging.protocol import Case
from pretrainrl_jax.judging.rewriting import last_words
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.stages.improvement import Improvement
from pretrainrl_jax.trees.tokenization import Tokenizer

TOGETHER = 1024  # prompts cut into tokens at a time


@dataclass(frozen=True)
class Task:
    """A judge's, or a rewriter's."""

    settings: LabelledConfig
    labels: Labels
    tokenizer: Tokenizer
    prompts: dict[str, Prompt]  # by part
    fill: Callable[[Labelled], str]  # the prompt about an example
    shows: Callable[[Labelled, int], str]  # an output of the right form; a verdict is drawn by the number
    grade: Callable[[Sequence[Labelled], Sequence[Sequence[str]]], list[list[Graded]]]

    def encoded(self, examples: Sequence[Labelled]) -> list[tuple[int, ...]]:
        """The tokens of the prompts about examples."""
        tokens = encode_plain(self.tokenizer, [self.fill(one) for one in examples])
        return [self.tokenizer.start + ids for ids in tokens]

    def lesson(self, example: Labelled, number: int) -> tuple[int, ...]:
        """The tokens of an output of the right form, and its end."""
        text = self.shows(example, number)
        ending = self.prompts[example.part].ending
        before, both = encode_plain(self.tokenizer, [ending, f"{ending} {text}"])
        joined = both[: len(before)] == before
        tokens = both[len(before) :] if joined else encode_plain(self.tokenizer, [f" {text}"])[0]
        return (*tokens, self.tokenizer.eos[0])

    def fitting(self, setting: str) -> tuple[list[Labelled], int]:
        """The examples whose prompts and copies are not too long, the others counted; and the longest prompt.

        Raises:
            InputError: if none is left.
        """
        examples, kept, longest = self.labels.examples, [], 0
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            for example, prompt in zip(some, self.encoded(some), strict=True):
                if len(prompt) > self.settings.prompt_tokens:
                    self.labels.left_out[f"longer than {setting}.prompt_tokens"] += 1
                elif len(self.lesson(example, 0)) > self.settings.tokens:
                    self.labels.left_out[f"whose output is longer than {setting}.tokens"] += 1
                else:
                    kept.append(example)
                    longest = max(longest, len(prompt))
        if not kept:
            raise InputError(f"every labelled text is too long: {self.labels._replace(examples=[]).told}")
        return kept, longest


def judge_task(context: Context, tokenizer: Tokenizer, opened: ExitStack) -> Task:
    """Prompts as those of a judge in use: its verdicts are the labels."""
    settings, asked = context.config.tuning.judge, context.config.judge
    prompts = {part: judge_prompt(asked, part) for part in settings.parts}
    labels = read_labels(
        settings.data, {part: prompt.verdicts for part, prompt in prompts.items()}, "tuning.judge.data"
    )

    def fill(example: Labelled) -> str:
        places = example.places
        if "prefix" in places:
            places["prefix"] = last_tokens(tokenizer, places["prefix"], asked.prefix_tokens)
        return prompts[example.part].fill(**places)

    def shows(example: Labelled, number: int) -> str:
        verdicts = prompts[example.part].verdicts
        return verdicts[np.random.default_rng([context.config.seed, 2, number]).integers(len(verdicts))]

    def grade(examples: Sequence[Labelled], outputs: Sequence[Sequence[str]]) -> list[list[Graded]]:
        return [
            [grade_verdict(example, output, prompts[example.part].verdicts) for output in own]
            for example, own in zip(examples, outputs, strict=True)
        ]

    return Task(settings, labels, tokenizer, prompts, fill, shows, grade)


def rewriter_task(context: Context, tokenizer: Tokenizer, opened: ExitStack) -> Task:
    """A safe suffix is to be copied; the rewrite of an unsafe one is scored by the run's judge.

    `opened` closes the server that it may be.
    """
    settings, config = context.config.tuning.rewriter, context.config
    prompt = read_prompt("rewrite", config.rewriter.prompts, config.rewriter.prompt)
    labels = read_labels(settings.data, {"rewrite": tuple(SAFE.values())}, "tuning.rewriter.data")
    scored = any(example.label != SAFE[True] for example in labels.examples)
    worth = rewrite_worth(context, opened) if scored else lambda cases: []

    def fill(example: Labelled) -> str:
        prefix, suffix = example.texts
        return prompt.fill(prefix=prefix, words=last_words(prefix), suffix=suffix)

    def shows(example: Labelled, number: int) -> str:
        prefix, suffix = example.texts
        return f"{last_words(prefix).lstrip()}{suffix}"

    def cut(example: Labelled, rewrite: str) -> str:
        (tokens,) = encode_plain(tokenizer, [rewrite])
        limit = config.selfimprove.suffix
        return rewrite if len(tokens) <= limit else tokenizer.decode(tokens[:limit])

    def grade(examples: Sequence[Labelled], outputs: Sequence[Sequence[str]]) -> list[list[Graded]]:
        return grade_rewrites(examples, outputs, worth, cut)

    return Task(settings, labels, tokenizer, {"rewrite": prompt}, fill, shows, grade)


def rewrite_worth(context: Context, opened: ExitStack) -> Worth:
    """The mean of the judge's parts by their weights: of quality and safety, (quality + safety) / 2.

    It is said what they are.
    """
    settings = context.config.judge
    weights = {name: weight for name in PARTS if (weight := getattr(settings, name))}
    listed = ", ".join(f"{weight:g} {name}" for name, weight in weights.items())
    context.screen.say(f"tuning/rewriter: a rewrite earns the mean of {listed}")
    if "safety" not in weights:
        context.screen.warn(
            "tuning/rewriter: no part of the judge asks whether a rewrite is safe: give judge.safety"
        )
    improvement, total = Improvement(context, opened), sum(weights.values())

    def scores(cases: Sequence[Case]) -> Any:
        if settings.server.url:  # process 0 asks it
            return run_on_process_0(lambda: improvement.full_judge(cases).scores, "judging rewrites")
        return improvement.full_judge(cases).scores

    def worth(cases: Sequence[Case]) -> list[list[float | None]]:
        if not cases:
            return []
        return [[None if score is None else score / total for score in own] for own in scores(cases)]

    return worth
