"""Self-Improving Pretraining: rollouts, judges, rewriters, methods; labelled texts that teach the former."""

import json
import re
from typing import ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pretrainrl_jax.config.declare import (
    NOTHING,
    Distinct,
    GroupSize,
    Names,
    PositiveShare,
    Section,
    Share,
    ShareBelowOne,
    Some,
    Systems,
    section,
    setting,
    wrong,
)
from pretrainrl_jax.config.objectives import GrpoConfig

Part = Literal["quality", "safety", "factuality"]  # of a judge, that asks a model, and that labels may be of
CORRUPTIONS = (
    "corrupt_facts", "corrupt_thread", "corrupt_repetition", "corrupt_contradiction", "corrupt_style",
)  # fmt: skip
ASKING = ("selfimprove", "rewriting")  # results of what asks a judge
PROMPTS = ("selfimprove", "tuning")  # of what is made a prompt of


@section
class RolloutsConfig(Section):
    """Continuations that the policy writes itself."""

    results = ("selfimprove",)
    count: PositiveInt = setting(16, "rollouts of a prefix, unless a method says otherwise")
    temperature: PositiveFloat = setting(1.0, "divides the logits")
    top_p: PositiveShare = setting(1.0, "mass of the most probable tokens that are drawn from")
    batch: PositiveInt = setting(16, "prefixes sampled at a time: few suit a CPU, many an accelerator")


@section
class ServerConfig(Section):
    """A server, what it is asked with (only that changes results), and what it may take.

    Each use of one has a section of its own.
    """

    place: ClassVar[str] = "server"  # among the settings
    url: str = setting("", "base address of an OpenAI-compatible server, as http://HOST:8000/v1; empty: none")
    model: str = setting("", "what the server calls the model", results=ASKING)
    key_variable: str = setting("", "environment variable that holds the key, as OPENAI_API_KEY")
    temperature: NonNegativeFloat = setting(1.0, "divides the logits", results=ASKING)
    top_p: PositiveShare = setting(1.0, "mass of the most probable tokens drawn from", results=ASKING)
    tokens: PositiveInt = setting(512, "tokens of a reply at most", results=ASKING)
    body: str = setting("", "JSON object of further fields; null leaves one of ours out", results=ASKING)
    concurrent: PositiveInt = setting(32, "requests in flight at most")
    requests_per_minute: NonNegativeInt = setting(0, "requests begun a minute at most; 0: no limit")
    tokens_per_minute: NonNegativeInt = setting(0, "tokens a minute at most, as estimated; 0: no limit")
    timeout: PositiveFloat = setting(120.0, "seconds to wait for a reply")
    patience: NonNegativeFloat = setting(600.0, "seconds without any reply after which the run ends")
    max_requests: NonNegativeInt = setting(0, "replies a run may take, resumed or not; 0: no limit")
    max_tokens: NonNegativeInt = setting(0, "tokens a run may take, in and out; 0: no limit")
    max_cost: NonNegativeFloat = setting(0.0, "money a run may take, by the prices below; 0: no limit")
    price_in: NonNegativeFloat = setting(0.0, "price of a million tokens of prompts")
    price_out: NonNegativeFloat = setting(0.0, "price of a million tokens of replies")
    cache: str = setting("", "file of paid replies; empty: replies.sqlite in the user's cache folder")

    def _fits(self) -> None:
        name = self.place
        if not self.url:
            for key in ("model", "key_variable", "body"):
                if getattr(self, key):
                    raise ValueError(f"{name}.{key} is given and {name}.url is not: no server would be asked")
            return
        parts = urlsplit(self.url)  # what may be a secret is never shown
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{name}.url must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            alone = f"{name}.url must be an address alone, without user, password or ?query"
            raise ValueError(f"{alone}: keys belong in an environment variable ({name}.key_variable)")
        if not self.model:
            raise ValueError(f"{name}.model is empty: say what the server calls the model")
        if self.key_variable and not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_variable):
            meaning = "it must be the NAME of an environment variable, in capitals, never the key itself"
            raise ValueError(f"{name}.key_variable is no such name: {meaning}")
        if self.max_cost and not (self.price_in or self.price_out):
            meaning = f"give {name}.price_in and price_out, or it never ends"
            raise wrong(f"{name}.max_cost", self.max_cost, meaning)
        try:
            fields = json.loads(self.body or "{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise ValueError(f'{name}.body must be a JSON object, as {{"seed": null}}')
        if taken := {"messages", "model", "stream", "n"}.intersection(fields):
            raise ValueError(f"{name}.body sets {min(taken)!r}, which the run sets itself: leave it out")


@section
class JudgeServerConfig(ServerConfig):
    """A server that judges."""

    place = "judge.server"


@section
class RewriterServerConfig(ServerConfig):
    """A server that rewrites."""

    place = "rewriter.server"


@section
class JudgeConfig(Section):
    """What scores candidates: a sum of parts by their weights; a part of weight 0 is not asked.

    `facts` and `repetition` are exact and need no model; the others ask the model of `path` or of `server`.
    """

    results = ASKING
    facts: NonNegativeFloat = setting(1.0, "weight of the statements that are true by the facts of the run")
    silence: Share = setting(0.5, "score by facts of a text that states none of them")
    repetition: NonNegativeFloat = setting(0.5, "weight of the share of n-grams that are not repeated")
    ngram: PositiveInt = setting(3, "words of these n-grams")
    quality: NonNegativeFloat = setting(0.0, "weight of the model's preference, the mean over ordered pairs")
    safety: NonNegativeFloat = setting(0.0, "weight of the model's verdict that the text alone is safe")
    factuality: NonNegativeFloat = setting(0.0, "weight of its verdict that nothing contradicts the original")
    pairs: Literal["all", "pivot", "sample"] = setting(
        "all", "which candidates quality compares, both ways: all, all with the first, or a sample"
    )
    opponents: PositiveInt = setting(2, "candidates that each one meets at least, where pairs=sample")
    path: str = setting("", "judge: a workdir, checkpoint or Hugging Face folder; local or gs://")
    dtype: Literal["", "float32", "bfloat16"] = setting("", "its compute dtype; empty takes the checkpoint's")
    prefix_tokens: NonNegativeInt = setting(
        512, "last tokens of a prefix that the model is shown; 0: all", results=PROMPTS
    )
    batch: PositiveInt = setting(8, "rows of prompts judged at a time by the model of path")
    prompts: str = setting("", "folder with prompts of one's own, in place of ours so named", results=PROMPTS)
    quality_prompt: str = setting("quality", "prompt of that part: its file, without .txt", results=PROMPTS)
    safety_prompt: str = setting("safety", "prompt of that part", results=PROMPTS)
    factuality_prompt: str = setting("factuality", "prompt of that part", results=PROMPTS)
    server: JudgeServerConfig = JudgeServerConfig()
    samples: PositiveInt = setting(1, "replies of the server to each prompt; the verdict is their mean")
    reasoning: bool = setting(False, "the server's model may reason before its verdict")

    def _fits(self) -> None:
        asked = [name for name in get_args(Part) if getattr(self, name)]
        model = "path" if self.path else "server.url" if self.server.url else ""
        if asked and not model:
            meaning = "it asks a model: give judge.path or judge.server.url"
            raise wrong(f"judge.{asked[0]}", getattr(self, asked[0]), meaning)
        if self.path and self.server.url:
            raise ValueError("judge.path and judge.server.url are both set: one model judges")
        if not asked and not self.facts and not self.repetition:
            raise ValueError("judge has no part: give judge.facts, repetition, quality, safety or factuality")


@section
class RewriterConfig(Section):
    """Who rewrites suffixes, where a method asks for that: the model of `path` or of `server`, or, where both
    are empty, the facts of the run, which correct what is stated falsely."""

    results = ("selfimprove",)
    path: str = setting("", "rewriter: a workdir, checkpoint or Hugging Face folder; local or gs://")
    dtype: Literal["", "float32", "bfloat16"] = setting("", "its compute dtype; empty takes the checkpoint's")
    temperature: PositiveFloat = setting(0.6, "divides the logits of the model of path")
    top_p: PositiveShare = setting(0.6, "mass of the most probable tokens that it draws from")
    prefix_tokens: NonNegativeInt = setting(512, "last tokens of a prefix that it is shown; 0: all")
    prompts: str = setting("", "folder with a prompt of one's own", results=PROMPTS)
    prompt: str = setting("rewrite", "the prompt: the name of its file, without .txt", results=PROMPTS)
    server: RewriterServerConfig = RewriterServerConfig()

    def _fits(self) -> None:
        if self.path and self.server.url:
            raise ValueError("rewriter.path and rewriter.server.url are both set: one model rewrites")

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
        "online_dpo", "DPO of best against worst, NLL of the best, or next-token training unjudged"
    )
    candidates: Some[Literal["original", "rewrite", "rollout", "document"]] = setting(
        ("original", "rollout"), "what is judged: original, rewrite, rollout; of next_token one, or document"
    )
    rollouts: NonNegativeInt = setting(0, "rollouts of a prefix; 0 takes rollouts.count")
    start: Literal["base", "scratch"] = setting("base", "from the base model, or from random weights")
    learning_rate: PositiveFloat = setting(3e-4, "peak learning rate")
    beta: PositiveFloat = setting(0.1, "beta of DPO")

    def _fits(self) -> None:
        if not self.judged and len(self.candidates) > 1:
            raise wrong("methods.*.candidates", self.candidates, "next_token learns one of them")
        if self.judged and "document" in self.candidates:
            raise wrong("methods.*.candidates", self.candidates, "document is for next_token")

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
    systems: Systems = setting(tuple(METHODS), "methods to train, each from its start", results=NOTHING)
    steps: PositiveInt = setting(2000, "steps of each method")
    documents: PositiveInt = setting(256, "documents a step")
    suffix: PositiveInt = setting(128, "tokens of the original suffix, and of a candidate", results=ASKING)
    length: PositiveInt = setting(2048, "tokens of prefix and suffix; a longer prefix keeps its last")
    shortest_prefix: PositiveInt = setting(1, "tokens of a prefix at least, BOS not counted")
    updates: PositiveInt = setting(1, "updates of a step, each on its part of the step's documents")
    staleness: NonNegativeInt = setting(0, "steps that sampling may be behind learning; so many are judged")
    grad_accum_steps: PositiveInt = setting(1, "microsteps of an update")
    row_length: NonNegativeInt = setting(0, "tokens a packed row holds; 0: what the longest takes, or more")
    reference: Literal["resident", "loaded", "policy"] = setting(
        "resident", "of DPO: the initial model, kept or loaded for each step; or the policy before the step"
    )
    kept: NonNegativeInt = setting(10, "documents whose candidates the report shows", results=NOTHING)
    compared: NonNegativeInt = setting(50, "held-out prefixes judged against the base model; 0: none")
    entropy_bound: Share = setting(
        0.25, "share of the first steps' entropy or n-grams below which a collapse is told", results=NOTHING
    )

    def _fits(self) -> None:
        if self.suffix >= self.length:
            meaning = f"it must be below selfimprove.length ({self.length})"
            raise wrong("selfimprove.suffix", self.suffix, meaning)
        if 0 < self.row_length < (longest := self.length + self.suffix):
            meaning = f"a document with two candidates takes up to {longest}: raise it, or set it to 0"
            raise wrong("selfimprove.row_length", self.row_length, meaning)
        if self.reference == "policy" and self.updates == 1:
            meaning = "with one update a step DPO's loss is ln 2 for ever: raise selfimprove.updates"
            raise wrong("selfimprove.reference", "policy", meaning)
        if self.documents % self.updates:
            meaning = f"make it a multiple of selfimprove.updates ({self.updates})"
            raise wrong("selfimprove.documents", self.documents, meaning)


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

    parts: Some[Part] = setting(get_args(Part), "what is learned to judge; others' lines are counted")


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
    corruptions: Some[str] = setting(
        CORRUPTIONS, "prompts that spoil a suffix, by file: one a document, in turn"
    )
    blocklist: str = setting("", "file of words that unsafe documents hold, one a line; empty: ours")
    blocked: PositiveInt = setting(5, "such words that a document holds at least, repeated ones counted")


@section
class BenchConfig(Section):
    """`judge --bench FILE`: which judges, which prompts, how many texts."""

    judges: Distinct[str] = setting(
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
