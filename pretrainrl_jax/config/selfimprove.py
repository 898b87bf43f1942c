"""Self-Improving Pretraining: documents, rollouts, judges, and the ways to learn from their verdicts."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pretrainrl_jax.config.declare import (
    NOTHING,
    Names,
    Numbers,
    PositiveShare,
    Section,
    Share,
    section,
    setting,
    wrong,
)
from pretrainrl_jax.config.servers import JudgeServerConfig, RewriterServerConfig

CANDIDATES = ("original", "rewrite", "rollout")


@section
class DocumentsConfig(Section):
    """A stream of documents: files, data sets, or the small world's own texts."""

    results = ("selfimprove", "documents")
    path: Names = setting(
        (),
        "sources, with commas between: .txt .jsonl .parquet .array_record (text files also .gz, .zst), "
        "folders and patterns of these, hf:NAME or tfds:NAME; empty: texts about the facts of the run",
    )
    weights: Numbers = setting((), "how often each source is drawn from, in proportion; empty: in turn")
    column: str = setting(
        "text", "column or key that holds a document's text; a dot reaches into nested values"
    )
    split: str = setting("train", "split of a tfds: or an hf: data set")
    subset: str = setting("", "configuration of an hf: data set, where it has several")
    separator: Literal["blank_lines", "line", "file"] = setting(
        "blank_lines", "what ends a document of a .txt file: blank lines, each line, or the file alone"
    )
    encoding: str = setting("utf-8", "how the characters of a text file are written; a BOM is skipped")
    shuffle: NonNegativeInt = setting(
        1000, "documents of a source that are shuffled together as they are read; 0 keeps their order"
    )
    epochs: NonNegativeInt = setting(0, "passes over the sources; 0: without end")
    longest: PositiveInt = setting(
        1_000_000, "characters of a document; what is longer is read up to there, and counted"
    )
    count: PositiveInt = setting(4000, "documents made of the facts, where path is empty")
    sentences: PositiveInt = setting(6, "sentences of such a document")
    false_share: Share = setting(0.2, "share of its statements that are false")
    held_out: PositiveInt = setting(
        200, "documents made beside these, nothing false in them, to measure on; so many prefixes each way"
    )

    @model_validator(mode="after")
    def _fits(self) -> "DocumentsConfig":
        if self.weights and len(self.weights) != len(self.path):
            raise wrong(
                "documents.weights",
                self.weights,
                f"give one for each of the {len(self.path)} sources of documents.path, or none",
            )
        if 0 in self.weights:
            raise wrong("documents.weights", self.weights, "leave out a source that is never drawn from")
        return self


@section
class RolloutsConfig(Section):
    """Continuations that the policy writes itself."""

    results = ("selfimprove",)
    count: PositiveInt = setting(16, "rollouts of a prefix, unless a method says otherwise")
    temperature: PositiveFloat = setting(1.0, "divides the logits")
    top_p: PositiveShare = setting(1.0, "mass of the most probable tokens that are drawn from")
    batch: PositiveInt = setting(16, "prefixes sampled at a time: few suit a CPU, many an accelerator")


@section
class JudgeConfig(Section):
    """What scores candidates: a sum of parts by their weights; a part of weight 0 is not asked.

    `facts` and `repetition` are exact and need no model; the others ask the model of `path` or of `server`.
    """

    results = ("selfimprove", "rewriting")
    facts: NonNegativeFloat = setting(
        1.0, "weight of the statements that are true, looked up in the facts of the run"
    )
    silence: Share = setting(0.5, "score by facts of a text that states none of them")
    repetition: NonNegativeFloat = setting(
        0.5, "weight of the share of a text's n-grams that are not repeated (1: none is)"
    )
    ngram: PositiveInt = setting(3, "words of these n-grams")
    quality: NonNegativeFloat = setting(
        0.0, "weight of the model's pairwise preference, the mean over all ordered pairs"
    )
    safety: NonNegativeFloat = setting(0.0, "weight of the model's verdict that the text alone is safe")
    factuality: NonNegativeFloat = setting(
        0.0, "weight of the model's verdict that the text contradicts nothing of the original"
    )
    pairs: Literal["all", "pivot", "sample"] = setting(
        "all",
        "which candidates quality compares, always in both orders: all, all with the first, or a sample",
    )
    opponents: PositiveInt = setting(2, "candidates that each one meets at least, where pairs=sample")
    path: str = setting("", "judge: a workdir, checkpoint or Hugging Face folder; local or gs://")
    dtype: Literal["", "float32", "bfloat16"] = setting("", "its compute dtype; empty takes the checkpoint's")
    prefix_tokens: NonNegativeInt = setting(
        512,
        "last tokens of a prefix that the model is shown, by its own tokenizer (a server's: as four "
        "characters each); 0 shows all",
        results=("selfimprove", "tuning"),
    )
    batch: PositiveInt = setting(8, "rows of prompts judged at a time by the model of path")
    prompts: str = setting(
        "",
        "folder with prompts of one's own: a file there stands in place of ours so named",
        results=("selfimprove", "tuning"),
    )
    quality_prompt: str = setting(
        "quality",
        "prompt of that part: the name of its file, without .txt",
        results=("selfimprove", "tuning"),
    )
    safety_prompt: str = setting("safety", "prompt of that part", results=("selfimprove", "tuning"))
    factuality_prompt: str = setting("factuality", "prompt of that part", results=("selfimprove", "tuning"))
    server: JudgeServerConfig = JudgeServerConfig()
    samples: PositiveInt = setting(
        1,
        "replies of the server to each prompt; the verdict is their mean (the paper: 1, or 5 at top_p 0.6)",
    )
    reasoning: bool = setting(False, "the server's model may reason before its verdict")

    @model_validator(mode="after")
    def _fits(self) -> "JudgeConfig":
        asked = [name for name in ("quality", "safety", "factuality") if getattr(self, name)]
        model = "path" if self.path else "server.url" if self.server.url else ""
        if asked and not model:
            meaning = "it asks a model: give judge.path or judge.server.url"
            raise wrong(f"judge.{asked[0]}", getattr(self, asked[0]), meaning)
        if self.path and self.server.url:
            raise ValueError("judge.path and judge.server.url are both set: one model judges")
        if not asked and not self.facts and not self.repetition:
            raise ValueError("judge has no part: give judge.facts, repetition, quality, safety or factuality")
        return self


@section
class RewriterConfig(Section):
    """Who rewrites suffixes, where a method asks for that: the model of `path` or of `server`, or, where both
    are empty, the facts of the run, which correct what is stated falsely."""

    results = ("selfimprove",)
    path: str = setting("", "rewriter: a workdir, checkpoint or Hugging Face folder; local or gs://")
    dtype: Literal["", "float32", "bfloat16"] = setting("", "its compute dtype; empty takes the checkpoint's")
    temperature: PositiveFloat = setting(0.6, "divides the logits of the model of path")
    top_p: PositiveShare = setting(0.6, "mass of the most probable tokens that it draws from")
    prefix_tokens: NonNegativeInt = setting(
        512, "last tokens of a prefix that it is shown (a server's: as four characters each); 0 shows all"
    )
    prompts: str = setting("", "folder with a prompt of one's own", results=("selfimprove", "tuning"))
    prompt: str = setting(
        "rewrite", "the prompt: the name of its file, without .txt", results=("selfimprove", "tuning")
    )
    server: RewriterServerConfig = RewriterServerConfig()

    @model_validator(mode="after")
    def _fits(self) -> "RewriterConfig":
        if self.path and self.server.url:
            raise ValueError("rewriter.path and rewriter.server.url are both set: one model rewrites")
        return self

    @property
    def is_model(self) -> bool:
        """A model rewrites, not the facts of the run."""
        return bool(self.path or self.server.url)


@section
class MethodConfig(Section):
    """A way to learn from documents."""

    results = ("selfimprove",)
    label: str = setting("", "what tables and charts call it; empty: its name", results=NOTHING)
    update: Literal["online_dpo", "rf_nll", "next_token"] = setting(
        "online_dpo",
        "DPO of the best candidate against the worst, NLL of the best, or next-token training unjudged",
    )
    candidates: Names = setting(
        ("original", "rollout"),
        "what is judged: original, rewrite, rollout; of next_token one of them, or document for all of it",
    )
    rollouts: NonNegativeInt = setting(0, "rollouts of a prefix; 0 takes rollouts.count")
    start: Literal["base", "scratch"] = setting("base", "from the base model, or from random weights")
    learning_rate: PositiveFloat = setting(3e-4, "peak learning rate")
    beta: PositiveFloat = setting(0.1, "beta of DPO")

    @model_validator(mode="after")
    def _fits(self) -> "MethodConfig":
        allowed = (*CANDIDATES, "document") if self.update == "next_token" else CANDIDATES
        unknown = [name for name in self.candidates if name not in allowed]
        if unknown or not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise wrong(
                "methods.*.candidates", self.candidates, f"name any of {', '.join(allowed)}, each once"
            )
        if self.update == "next_token" and len(self.candidates) > 1:
            raise wrong("methods.*.candidates", self.candidates, "next_token learns one of them")
        return self

    @property
    def contrasts(self) -> bool:
        """It compares candidates with each other, under a reference."""
        return self.update == "online_dpo"

    @property
    def judged(self) -> bool:
        """A judge decides what is learned."""
        return self.update != "next_token"


METHODS: dict[str, MethodConfig] = {
    "online_dpo": MethodConfig("online DPO"),
    "rf_nll": MethodConfig("RF-NLL", update="rf_nll"),
    "next_token": MethodConfig("next token", update="next_token", candidates=("document",)),
    "suffix": MethodConfig("next token (suffix)", update="next_token", candidates=("original",)),
}
"""The paper's updates and its baselines."""


@section
class SelfimproveConfig(Section):
    """The loop: cut, continue, judge, learn."""

    results = ("selfimprove",)
    systems: Names = setting(
        tuple(METHODS), "methods to train, each from its start, comma-separated", results=NOTHING
    )
    steps: PositiveInt = setting(2000, "steps of each method")
    documents: PositiveInt = setting(256, "documents a step")
    suffix: PositiveInt = setting(
        128,
        "N: tokens of the original suffix, and of a candidate at most",
        results=("selfimprove", "rewriting"),
    )
    length: PositiveInt = setting(
        2048, "tokens of prefix and suffix together; a longer prefix keeps its last"
    )
    shortest_prefix: PositiveInt = setting(
        1, "tokens of a prefix at least, BOS not counted: a document without room for it is left out"
    )
    updates: PositiveInt = setting(1, "updates of a step, each on its part of the step's documents")
    staleness: NonNegativeInt = setting(
        0,
        "steps, of `updates` updates each, that the policy which sampled a document may be behind the one "
        "that learns from it: so many are judged while the devices sample and train others; 0: one by one",
    )
    grad_accum_steps: PositiveInt = setting(1, "microsteps of an update")
    row_length: NonNegativeInt = setting(0, "tokens a packed row holds; 0: what the longest tree takes")
    reference: Literal["resident", "loaded", "policy"] = setting(
        "resident",
        "whose log-probabilities DPO is held to: the initial model, kept on the devices or loaded for each "
        "step and freed; or the policy before the step's updates, which holds nothing",
    )
    kept: NonNegativeInt = setting(
        10, "documents whose candidates and scores are kept for the report", results=NOTHING
    )
    compared: NonNegativeInt = setting(
        50,
        "held-out prefixes at most whose greedy continuation the judge compares with the base model's, of "
        "each system: its win rate; 0 compares none",
    )
    entropy_bound: Share = setting(
        0.25,
        "entropy or distinct n-grams below this share of the first steps' are told as a collapse",
        results=NOTHING,
    )

    @model_validator(mode="after")
    def _fits(self) -> "SelfimproveConfig":
        if self.suffix >= self.length:
            raise wrong(
                "selfimprove.suffix", self.suffix, f"it must be below selfimprove.length ({self.length})"
            )
        if 0 < self.row_length < (longest := self.length + self.suffix):
            meaning = f"a document with two candidates takes up to {longest}: raise it, or set it to 0"
            raise wrong("selfimprove.row_length", self.row_length, meaning)
        if self.reference == "policy" and self.updates == 1:
            raise wrong(
                "selfimprove.reference",
                "policy",
                "with one update a step its loss is ln 2 for ever and nothing holds the model: "
                "raise selfimprove.updates, or take resident or loaded",
            )
        if self.documents % self.updates:
            raise wrong(
                "selfimprove.documents",
                self.documents,
                f"make it a multiple of selfimprove.updates ({self.updates})",
            )
        return self
