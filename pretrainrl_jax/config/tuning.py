"""Labelled texts: how they are made, judges and rewriters that learn from them, judges compared on them."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from pretrainrl_jax.config.declare import (
    NOTHING,
    GroupSize,
    Names,
    PositiveShare,
    Section,
    ShareBelowOne,
    section,
    setting,
    wrong,
)
from pretrainrl_jax.config.objectives import GrpoConfig

JUDGED = ("quality", "safety", "factuality")  # parts of a judge that labels may be of
CORRUPTIONS = (
    "corrupt_facts", "corrupt_thread", "corrupt_repetition", "corrupt_contradiction", "corrupt_style",
)  # fmt: skip


@section
class LabelledConfig(Section):
    """What training a judge and training a rewriter have in common; the numbers are the paper's."""

    results = ("tuning",)
    data: Names = setting((), "files of labelled texts, one JSON object a line, with commas between")
    held_out: ShareBelowOne = setting(0.1, "share of the texts, by prefix, that is measured on alone")
    steps: PositiveInt = setting(500, "steps, each on new outputs")
    prompts: PositiveInt = setting(256, "prompts a step")
    samples: GroupSize = setting(16, "outputs sampled of each prompt, a group")
    temperature: PositiveFloat = setting(0.6, "at which they are sampled and learned")
    top_p: PositiveShare = setting(0.6, "of sampling alone")
    tokens: PositiveInt = setting(512, "longest output, its end included")
    prompt_tokens: PositiveInt = setting(3584, "longest prompt; a longer one is left out, and counted")
    learning_rate: PositiveFloat = setting(2e-7, "constant")
    form: Literal["dapo", "grpo", "dr_grpo"] = setting("grpo", "averaged by tokens, samples, or the longest")
    updates: PositiveInt = setting(1, "updates on the outputs sampled at a time")
    grad_accum_steps: PositiveInt = setting(1, "microsteps of an update")
    format_steps: NonNegativeInt = setting(0, "next-token steps first on the form of an output")
    format_rate: PositiveFloat = setting(1e-5, "learning rate of these")
    batch: PositiveInt = setting(16, "prompts sampled at a time: few suit a CPU, many an accelerator")
    measure_every: NonNegativeInt = setting(50, "steps between measures on what is held out", results=NOTHING)

    @property
    def grpo(self) -> GrpoConfig:
        """The term that is minimised."""
        return GrpoConfig(
            1.0,
            form=self.form,
            samples=self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.tokens,
            updates=self.updates,
        )


@section
class JudgeTuningConfig(LabelledConfig):
    """A judge learns verdicts: an output earns 1 where its verdict is the label, else 0."""

    parts: Names = setting(JUDGED, "what is learned to judge; lines about other parts are counted")

    def _fits(self) -> None:
        known = all(part in JUDGED for part in self.parts)
        if not known or not self.parts or len(set(self.parts)) < len(self.parts):
            raise wrong("tuning.judge.parts", self.parts, f"name any of {', '.join(JUDGED)}, each once")


@section
class RewriterTuningConfig(LabelledConfig):
    """A rewriter learns to copy what is safe and to rewrite the rest, which the run's judge scores."""

    tokens: PositiveInt = setting(128, "longest output, with its end and the words that open it")
    prompt_tokens: PositiveInt = setting(3968, "longest prompt; a longer one is left out, and counted")


@section
class TuningConfig(Section):
    """`selfimprove --train judge|rewriter`: sampled outputs, a reward of each, GRPO."""

    judge: JudgeTuningConfig = JudgeTuningConfig()
    rewriter: RewriterTuningConfig = RewriterTuningConfig()


@section
class MakingConfig(Section):
    """`selfimprove --make judge-data|unsafe-data`: how much is made, and how.

    No stage of a run depends on it: what is made says itself what it was made with.
    """

    documents: PositiveInt = setting(1000, "documents of the stream that are worked on")
    batch: PositiveInt = setting(64, "documents between two saves")
    samples: PositiveInt = setting(8, "verdicts of the judge on each text, which must all agree")
    corruptions: Names = setting(
        CORRUPTIONS, "prompts that spoil a suffix, by their files' names: one a document, in turn"
    )
    blocklist: str = setting("", "file of words that unsafe documents hold, one a line; empty: ours")
    blocked: PositiveInt = setting(5, "such words that a document holds at least, repeated ones counted")

    def _fits(self) -> None:
        if not self.corruptions or len(set(self.corruptions)) < len(self.corruptions):
            raise wrong("making.corruptions", self.corruptions, "name one or more, each once")


@section
class BenchConfig(Section):
    """`judge --bench FILE`: which judges, which prompts, how many texts."""

    judges: Names = setting(
        (), "judges to compare: a model's folder; or MODEL@URL of a server, MODEL@URL#VARIABLE with a key"
    )
    prompts: Names = setting((), "prompts of each part by their names, with commas between; empty: all")
    limit: NonNegativeInt = setting(0, "texts of each part at most, drawn by the seed; 0 asks about all")
    orders: NonNegativeInt = setting(20, "texts of each part asked about again with orders to the judge")
    split: str = setting("train", "split of an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    batch: PositiveInt = setting(32, "prompts asked at a time")

    def _fits(self) -> None:
        for judge in self.judges:
            name, at, _ = judge.partition("@http")
            if at and not name:
                raise wrong("bench.judges", judge, "say what the server calls the model: MODEL@URL")
        if len(set(self.judges)) < len(self.judges):
            raise wrong("bench.judges", self.judges, "name each once")
