"""Self-Improving Pretraining: rollouts, judges and rewriters, and the ways to learn from their verdicts."""

import json
import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pretrainrl_jax.config.declare import (
    NOTHING,
    Names,
    PositiveShare,
    Section,
    Share,
    section,
    setting,
    wrong,
)

CANDIDATES = ("original", "rewrite", "rollout")
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
    key_variable: str = setting(
        "", "environment variable that holds the key, as OPENAI_API_KEY; empty: no key is sent"
    )
    temperature: NonNegativeFloat = setting(1.0, "divides the logits", results=ASKING)
    top_p: PositiveShare = setting(
        1.0, "mass of the most probable tokens that are drawn from", results=ASKING
    )
    tokens: PositiveInt = setting(512, "tokens of a reply at most", results=ASKING)
    body: str = setting(
        "",
        'JSON object of more fields of each request; null leaves one of ours out, as {"seed": null}',
        results=ASKING,
    )
    concurrent: PositiveInt = setting(32, "requests in flight at most")
    requests_per_minute: NonNegativeInt = setting(0, "requests begun a minute at most; 0: no limit")
    tokens_per_minute: NonNegativeInt = setting(
        0, "tokens of prompts and replies a minute at most, as estimated before; 0: no limit"
    )
    timeout: PositiveFloat = setting(120.0, "seconds to wait for a reply")
    patience: NonNegativeFloat = setting(
        600.0, "seconds without any reply after which the run saves what it has and ends with exit code 1"
    )
    max_requests: NonNegativeInt = setting(0, "replies a run may take, resumed or not; 0: no limit")
    max_tokens: NonNegativeInt = setting(0, "tokens a run may take, in and out; 0: no limit")
    max_cost: NonNegativeFloat = setting(0.0, "money a run may take, by the prices below; 0: no limit")
    price_in: NonNegativeFloat = setting(0.0, "price of a million tokens of prompts")
    price_out: NonNegativeFloat = setting(0.0, "price of a million tokens of replies")
    cache: str = setting(
        "", "file of paid replies, that runs share; empty: replies.sqlite in the user's cache folder"
    )

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
        results=PROMPTS,
    )
    batch: PositiveInt = setting(8, "rows of prompts judged at a time by the model of path")
    prompts: str = setting(
        "", "folder with prompts of one's own: a file there stands in place of ours so named", results=PROMPTS
    )
    quality_prompt: str = setting(
        "quality", "prompt of that part: the name of its file, without .txt", results=PROMPTS
    )
    safety_prompt: str = setting("safety", "prompt of that part", results=PROMPTS)
    factuality_prompt: str = setting("factuality", "prompt of that part", results=PROMPTS)
    server: JudgeServerConfig = JudgeServerConfig()
    samples: PositiveInt = setting(
        1, "replies of the server to each prompt; the verdict is their mean (the paper: 1, or 5 at top_p 0.6)"
    )
    reasoning: bool = setting(False, "the server's model may reason before its verdict")

    def _fits(self) -> None:
        asked = [name for name in ("quality", "safety", "factuality") if getattr(self, name)]
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
    prefix_tokens: NonNegativeInt = setting(
        512, "last tokens of a prefix that it is shown (a server's: as four characters each); 0 shows all"
    )
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

    def _fits(self) -> None:
        allowed = (*CANDIDATES, "document") if self.update == "next_token" else CANDIDATES
        unknown = [name for name in self.candidates if name not in allowed]
        if unknown or not self.candidates or len(set(self.candidates)) < len(self.candidates):
            meaning = f"name any of {', '.join(allowed)}, each once"
            raise wrong("methods.*.candidates", self.candidates, meaning)
        if self.update == "next_token" and len(self.candidates) > 1:
            raise wrong("methods.*.candidates", self.candidates, "next_token learns one of them")

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
        128, "N: tokens of the original suffix, and of a candidate at most", results=ASKING
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
    row_length: NonNegativeInt = setting(
        0, "tokens a packed row holds; 0: what the longest takes, or suits attention"
    )
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

    def _fits(self) -> None:
        if self.suffix >= self.length:
            meaning = f"it must be below selfimprove.length ({self.length})"
            raise wrong("selfimprove.suffix", self.suffix, meaning)
        if 0 < self.row_length < (longest := self.length + self.suffix):
            meaning = f"a document with two candidates takes up to {longest}: raise it, or set it to 0"
            raise wrong("selfimprove.row_length", self.row_length, meaning)
        if self.reference == "policy" and self.updates == 1:
            meaning = (
                "with one update a step its loss is ln 2 for ever and nothing holds the model: "
                "raise selfimprove.updates, or take resident or loaded"
            )
            raise wrong("selfimprove.reference", "policy", meaning)
        if self.documents % self.updates:
            meaning = f"make it a multiple of selfimprove.updates ({self.updates})"
            raise wrong("selfimprove.documents", self.documents, meaning)
