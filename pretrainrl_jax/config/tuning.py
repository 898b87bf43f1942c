"""A judge or a rewriter of one's own: a model that learns from labelled texts by GRPO."""

from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pretrainrl_jax.config.declare import (
    NOTHING,
    Names,
    PositiveShare,
    Section,
    ShareBelowOne,
    section,
    setting,
    wrong,
)
from pretrainrl_jax.config.objectives import GrpoConfig

GroupSize = Annotated[int, Ge(2)]
JUDGED = ("quality", "safety", "factuality")  # parts of a judge that labels may be of


@section
class LabelledConfig(Section):
    """What training a judge and training a rewriter have in common; the numbers are the paper's."""

    results = ("tuning",)
    data: Names = setting((), "files of labelled texts, one JSON object a line, with commas between")
    held_out: ShareBelowOne = setting(
        0.1, "share of the texts that is measured on and not learned; what shares a prefix is on one side"
    )
    steps: PositiveInt = setting(500, "steps, each on new outputs")
    prompts: PositiveInt = setting(256, "prompts a step")
    samples: GroupSize = setting(16, "outputs sampled of each prompt, a group")
    temperature: PositiveFloat = setting(0.6, "at which they are sampled and learned")
    top_p: PositiveShare = setting(0.6, "of sampling alone")
    tokens: PositiveInt = setting(512, "longest output, its end included")
    prompt_tokens: PositiveInt = setting(3584, "longest prompt; a longer one is left out, and counted")
    learning_rate: PositiveFloat = setting(2e-7, "constant")
    form: Literal["dapo", "grpo", "dr_grpo"] = setting(
        "grpo", "what is averaged: all tokens, a sample's and then samples, or samples by the longest one"
    )
    updates: PositiveInt = setting(1, "updates on the outputs sampled at a time")
    grad_accum_steps: PositiveInt = setting(1, "microsteps of an update")
    format_steps: NonNegativeInt = setting(
        0,
        "steps of next-token training first that show the form of an output: a verdict drawn at random, or a "
        "safe suffix copied; for a model that never writes one, and so earns nothing",
    )
    format_rate: PositiveFloat = setting(1e-5, "learning rate of these")
    batch: PositiveInt = setting(16, "prompts sampled at a time: few suit a CPU, many an accelerator")
    measure_every: NonNegativeInt = setting(
        50,
        "measure on what is held out every n steps; in any case at the beginning and at the end",
        results=NOTHING,
    )

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

    @model_validator(mode="after")
    def _fits(self) -> "JudgeTuningConfig":
        known = all(part in JUDGED for part in self.parts)
        if not known or not self.parts or len(set(self.parts)) < len(self.parts):
            raise wrong("tuning.judge.parts", self.parts, f"name any of {', '.join(JUDGED)}, each once")
        return self


@section
class RewriterTuningConfig(LabelledConfig):
    """A rewriter learns to copy what is safe and to rewrite the rest, which the run's judge scores."""

    tokens: PositiveInt = setting(
        128, "longest output, its end and the words of the prefix that open it included"
    )
    prompt_tokens: PositiveInt = setting(3968, "longest prompt; a longer one is left out, and counted")


@section
class TuningConfig(Section):
    """`selfimprove --train judge|rewriter`: sampled outputs, a reward of each, GRPO."""

    judge: JudgeTuningConfig = JudgeTuningConfig()
    rewriter: RewriterTuningConfig = RewriterTuningConfig()
