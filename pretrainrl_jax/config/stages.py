"""How each stage works."""

from collections.abc import ItemsView, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from pretrainrl_jax.config.declare import (
    NOTHING,
    Axes,
    Counts,
    Distinct,
    Names,
    Numbers,
    PositiveShare,
    Section,
    Share,
    ShareBelowOne,
    Shares,
    Systems,
    section,
    setting,
    wrong,
)
from pretrainrl_jax.config.objectives import OBJECTIVES

Source = Literal["beam", "pool", "popularity", "constrained"]
Group = Literal["trained", "paraphrase", "held_out", "reversed"]
Template = Literal["bare", "few_shot"]


@section
class OptimizerConfig(Section):
    """AdamW, its learning rate's course, and what is done about a loss that is not finite."""

    results = ("pretrain",)
    weight_decay: NonNegativeFloat = setting(0.1, "decoupled decay of matrices (embeddings and head too)")
    beta1: ShareBelowOne = setting(0.9, "Adam's first moment")
    beta2: ShareBelowOne = setting(0.95, "Adam's second moment")
    clip: PositiveFloat = setting(1.0, "largest global gradient norm")
    warmup: Share = setting(0.03, "share of the steps spent warming up")
    final: Share = setting(0.1, "learning rate at the end, as a share of the peak (cosine)")
    nonfinite: Literal["stop", "skip"] = setting(
        "stop", "stop and name the batch's questions, or leave that step out", results=NOTHING
    )


@section
class PretrainConfig(Section):
    """The base model's next-token training."""

    results = ("pretrain",)
    text: Literal["corpus", "documents"] = setting("corpus", "texts about the facts, or streamed documents")
    steps: NonNegativeInt = setting(0, "steps on documents; 0: until documents.epochs are over")
    epochs: NonNegativeFloat = setting(1.0, "passes over the corpus; 0 trains nothing (with model.path)")
    learning_rate: PositiveFloat = setting(3e-3, "peak learning rate")
    row_length: PositiveInt = setting(256, "tokens a packed row holds")
    rows: PositiveInt = setting(2, "rows a step")
    grad_accum_steps: PositiveInt = setting(1, "microsteps of a step; divides rows", was="accumulate")

    def _fits(self) -> None:
        streams = self.text == "documents"
        if self.steps and not streams:
            meaning = "it is for pretrain.text=documents: give pretrain.epochs"
            raise wrong("pretrain.steps", self.steps, meaning)
        if streams and self.epochs not in (0, 1):
            meaning = "documents.epochs counts passes over documents: leave it 1"
            raise wrong("pretrain.epochs", self.epochs, meaning)
        if self.rows % self.grad_accum_steps:
            meaning = f"make it a multiple of pretrain.grad_accum_steps ({self.grad_accum_steps})"
            raise wrong("pretrain.rows", self.rows, meaning)


@section
class MineConfig(Section):
    """The base model's own falsehoods, and where else negatives may come from."""

    results = ("mine",)
    template: Template = setting("bare", "how the question is put to the model", results=("pretrain",))
    sources: Distinct[Source] = setting(("beam",), "where negatives come from (docs/methods.md); or nowhere")
    among: str = setting("category", "what constrained chooses among: category, or a file of answers")
    beams: PositiveInt = setting(16, "beam width")
    max_new_tokens: PositiveInt = setting(8, "longest answer, terminator included")
    batch: PositiveInt = setting(16, "questions decoded at a time: few suit a CPU, many an accelerator")
    negatives: PositiveInt = setting(5, "of a question: the most probable, or drawn anew at each visit")
    min_probability: Share = setting(0.0, "a less probable beam is no negative, nor counted for a pool")
    pool: PositiveInt = setting(20, "values in a category's pool; popular answers drawn for a question")
    pool_questions: NonNegativeInt = setting(0, "questions of a category that make its pool; 0: all")
    agreement_questions: NonNegativeInt = setting(1000, "so many questions' pool is compared with all's")
    popular_share: PositiveShare = setting(0.1, "share of a category's answers that count as popular")
    drop_overlapping: bool = setting(True, "drop a candidate that contains a truth or is in one, by words")

    def _fits(self) -> None:
        if not self.among:
            raise wrong("mine.among", "empty", "give category, or a file of answers, one a line")
        if len(self.sources) > self.negatives:
            meaning = f"raise it, since {len(self.sources)} sources share them"
            raise wrong("mine.negatives", self.negatives, meaning)


@section
class TrainConfig(Section):
    """Training on mined trees: which objectives, and on what batches."""

    results = ("train",)
    systems: Systems = setting(
        tuple(name for name in OBJECTIVES if not OBJECTIVES[name].reinforced),
        "objectives to train, each from the base model; sampling takes its time",
        results=NOTHING,
    )
    template: Template = setting("bare", "how the question is put to the model", results=("pretrain",))
    passes: PositiveFloat = setting(3.0, "times each fact is visited")
    order: NonNegativeInt = setting(0, "another order of facts, negatives and samples; 0: the seed's own")
    device_seconds: NonNegativeFloat = setting(0.0, "passes for so long, on all devices; 0: train.passes")
    wordings: PositiveInt = setting(
        1, "wordings of each question, one a pass in turn; never the evaluated one", results=("mine", "train")
    )
    questions: PositiveInt = setting(27, "questions a step (on average: a step is whole packed rows)")
    row_length: PositiveInt = setting(128, "tokens a packed row holds", results=("mine", "train", "evaluate"))
    layout: Literal["shared", "literal"] = setting(
        "shared", "the question once, answers as branches; or the paper's pairs", results=("mine", "train")
    )
    grad_accum_steps: PositiveInt = setting(1, "microsteps a step is cut into", was="accumulate")
    ntp_scale: Literal["sequence", "token"] = setting(
        "sequence", "summed over a question's tokens (eq. 5), or averaged over all tokens"
    )
    dpo_scale: Literal["prompts", "pairs"] = setting(
        "prompts", "averaged over a prompt's pairs and then prompts, or over all pairs (TRL)"
    )


@section
class EvaluateConfig(Section):
    """How questions are answered and answers judged."""

    results = ("evaluate", "choice")
    template: Template = setting("bare", "how the question is put to the model", results=("pretrain",))
    beams: PositiveInt = setting(10, "beam width: the k of HR@k, MRR@k and Prob@k")
    max_new_tokens: PositiveInt = setting(8, "longest answer, terminator included")
    batch: PositiveInt = setting(16, "questions decoded at a time: few suit a CPU, many an accelerator")
    match: Literal["exact", "contains"] = setting(
        "exact",
        "an answer is right if, normalised, it equals a true answer, or if it contains one",
        results=("evaluate", "choice", "rewards"),
    )
    groups: Distinct[Group] = setting(
        get_args(Group),
        "questions that are asked (paraphrase: in a wording never trained)",
        results=("evaluate",),
    )
    among: str = setting(
        "", "also answer by choice: among category, or a file of answers; empty: off", results=("evaluate",)
    )
    bins: PositiveInt = setting(5, "popularity bins of equal size")
    by: Names = setting((), "columns of facts.path by which results are broken down, beside the category")
    thresholds: Shares = setting(
        (0.0, 0.5, 0.75, 0.9),
        "confidence targets: the model answers where it is more confident",
        results=("report",),
    )
    penalties: Numbers = setting((), "of a mistake at each of these; empty: t / (1 - t)", results=("report",))
    samples: NonNegativeInt = setting(4, "answers drawn for each question, to see if they agree; 0: none")
    rubric: Numbers = setting((), "penalties to state in prompts that allow 'I don't know', as 0,1,3,9")
    every_steps: NonNegativeInt = setting(
        0, "evaluate a sample while training, every n steps; 0: off", results=("choice",), was="every_updates"
    )
    text: str = setting("", "file of texts, blank lines between, whose loss is measured; empty: held out")
    statements: Names = setting(
        (), "text the model learned from, as documents.path, for statements", results=("evaluate",)
    )
    sample: PositiveInt = setting(200, "questions of that sample, and as many texts", results=("choice",))
    choose: Literal["last", "acc", "text_nll"] = setting(
        "last",
        "which evaluated step a system's checkpoint is: the last, or the best on the sample",
        results=("train", "evaluate"),
    )
    forgetting: PositiveFloat = setting(
        0.5, "a rise of the loss on text that counts as a failure, nats a token", results=("report",)
    )

    def _fits(self) -> None:
        if "trained" not in self.groups:
            raise wrong("evaluate.groups", self.groups, "name trained, and what else is to be asked")
        if self.samples == 1:
            raise wrong("evaluate.samples", 1, "two at least can agree: give 2 or more, or 0 for none")
        if self.penalties and len(self.penalties) != len(self.thresholds):
            meaning = f"give one for each of the {len(self.thresholds)} evaluate.thresholds, or none"
            raise wrong("evaluate.penalties", self.penalties, meaning)
        if self.choose != "last" and not self.every_steps:
            meaning = "there is nothing to choose from without evaluate.every_steps"
            raise wrong("evaluate.choose", self.choose, meaning)


@section
class AskConfig(Section):
    """How `ask` puts a question to a model."""

    examples: str = setting("", "file of facts, as facts.path, all of which a few-shot prompt shows")


@section
class HarnessConfig(Section):
    """Standard evaluations by the lm-evaluation-harness: `evaluate --harness mmlu,gsm8k,bbh`."""

    path: str = setting("", "folder of the harness's YAML tasks, beside its own; empty for its own alone")
    limit: NonNegativeInt = setting(0, "questions of each task, the first ones; 0 asks all")
    length: NonNegativeInt = setting(0, "tokens a model reads at once; 0: what it states, else 4096")
    tokens: PositiveInt = setting(8192, "tokens of a batch, one context at least; an accelerator wants more")
    chat: bool = setting(False, "put questions into the tokenizer's chat template")


@section
class ExportConfig(Section):
    """What `export` writes."""

    dtype: Literal["stored", "float32", "bfloat16", "float16"] = setting("stored", "of the tensors")
    shard_size: str = setting("5GB", "largest file of weights, as 5GB or 500MB")
    adapters: Literal["merged", "peft"] = setting("merged", "merged into the weights, or alone (peft)")
    base: str = setting("", "with peft, the model they are for; empty: where it was taken from")

    def _fits(self) -> None:
        if self.base and self.adapters != "peft":
            raise wrong("export.base", self.base, "it is for --export.adapters=peft")
        if self.adapters == "peft" and self.dtype != "stored":
            raise wrong("export.dtype", self.dtype, "adapters alone are float32: leave it out")


@section
class CheckpointConfig(Section):
    """What an interrupted run goes on from. It changes no result (shard_questions: none but by rounding)."""

    every_steps: NonNegativeInt = setting(0, "steps between checkpoints; 0: by time", was="every_updates")
    every_minutes: NonNegativeFloat = setting(10.0, "minutes between checkpoints; 0 goes by steps alone")
    keep: PositiveInt = setting(2, "last checkpoints kept of a stage")
    keep_best: NonNegativeInt = setting(
        1, "as many beside them, of the lowest mean loss since the one before"
    )
    shard_questions: PositiveInt = setting(512, "questions mined or evaluated between two files")
    grace_seconds: NonNegativeFloat = setting(25.0, "then a stage told to stop that has not saved is ended")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple | ItemsView) else value


@section
class SweepConfig(Section):
    """Values to try, every combination of them (`run`); cells share base models, mined data and systems.

    Any setting is swept under its own name, as --sweep.train.passes=1,2,3; these have short ones.
    """

    seed: Counts = setting((), "seeds: a base model for each; the table has means and spread")
    ntp_weight: Numbers = setting((), "lambda: factors on the NTP weights of objectives with negatives")
    beta: Numbers = setting((), "beta of the objectives that have a DPO term")
    learning_rate: Numbers = setting((), "peak learning rates of all objectives")
    negatives: Counts = setting((), "mine.negatives")
    beams: Counts = setting((), "mine.beams")
    over: Axes = setting((), "any other settings by name, in a configuration file: {'train.passes': (1, 3)}")

    @field_validator("over", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return _tuples(value.items() if isinstance(value, Mapping) else value)

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """What is swept, by name: short names first."""
        short = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "over"}
        return {name: values for name, values in {**short, **dict(self.over)}.items() if values}

    def _fits(self) -> None:
        for name, values in (*self.axes.items(), ("over", tuple(name for name, _ in self.over))):
            if len({repr(value) for value in values}) < len(values):
                raise wrong(f"sweep.{name}", values, "name each once")
        for name, values in self.over:
            if not values:
                raise wrong(f"sweep.{name}", "empty", "give values")
