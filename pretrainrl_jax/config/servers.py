"""Model servers that speak OpenAI's protocol: vLLM, SGLang, llama.cpp, and others."""

import json
import re
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pretrainrl_jax.config.declare import NOTHING, PositiveShare, Section, section, setting, wrong


@section
class ServerConfig(Section):
    """A server, what it is asked with, and what it may take. Each use of one has a section of its own."""

    results = ("selfimprove", "rewriting")
    place: ClassVar[str] = "server"  # among the settings
    url: str = setting(
        "",
        "base address of an OpenAI-compatible server, as http://HOST:8000/v1; empty: none",
        results=NOTHING,
    )
    model: str = setting("", "what the server calls the model")
    key_variable: str = setting(
        "",
        "environment variable that holds the key, as OPENAI_API_KEY; empty: no key is sent",
        results=NOTHING,
    )
    temperature: NonNegativeFloat = setting(1.0, "divides the logits")
    top_p: PositiveShare = setting(1.0, "mass of the most probable tokens that are drawn from")
    tokens: PositiveInt = setting(512, "tokens of a reply at most")
    body: str = setting(
        "", 'JSON object of more fields of each request; null leaves one of ours out, as {"seed": null}'
    )
    concurrent: PositiveInt = setting(32, "requests in flight at most", results=NOTHING)
    requests_per_minute: NonNegativeInt = setting(
        0, "requests begun a minute at most; 0: no limit", results=NOTHING
    )
    tokens_per_minute: NonNegativeInt = setting(
        0, "tokens of prompts and replies a minute at most, as estimated before; 0: no limit", results=NOTHING
    )
    timeout: PositiveFloat = setting(120.0, "seconds to wait for a reply", results=NOTHING)
    patience: NonNegativeFloat = setting(
        600.0,
        "seconds without any reply after which the run saves what it has and ends with exit code 1",
        results=NOTHING,
    )
    max_requests: NonNegativeInt = setting(
        0, "replies a run may take, resumed or not; 0: no limit", results=NOTHING
    )
    max_tokens: NonNegativeInt = setting(0, "tokens a run may take, in and out; 0: no limit", results=NOTHING)
    max_cost: NonNegativeFloat = setting(
        0.0, "money a run may take, by the prices below; 0: no limit", results=NOTHING
    )
    price_in: NonNegativeFloat = setting(0.0, "price of a million tokens of prompts", results=NOTHING)
    price_out: NonNegativeFloat = setting(0.0, "price of a million tokens of replies", results=NOTHING)
    cache: str = setting(
        "",
        "file of paid replies, that runs share; empty: replies.sqlite in the user's cache folder",
        results=NOTHING,
    )

    @model_validator(mode="after")
    def _fits(self) -> "ServerConfig":
        name = self.place
        if not self.url:
            given = [one for one in ("model", "key_variable", "body") if getattr(self, one)]
            if given:
                raise ValueError(
                    f"{name}.{given[0]} is given and {name}.url is not: no server would be asked"
                )
            return self
        parts = urlsplit(self.url)  # what may be a secret is never shown
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{name}.url must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            meaning = f"keys belong in an environment variable ({name}.key_variable)"
            raise ValueError(
                f"{name}.url must be an address alone, without user, password or ?query: {meaning}"
            )
        if not self.model:
            raise ValueError(f"{name}.model is empty: say what the server calls the model")
        if self.key_variable and not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_variable):
            meaning = "it must be the NAME of an environment variable, in capitals, never the key itself"
            raise ValueError(f"{name}.key_variable is no such name: {meaning}")
        if self.max_cost and not (self.price_in or self.price_out):
            raise wrong(
                f"{name}.max_cost", self.max_cost, f"give {name}.price_in and price_out, or it never ends"
            )
        try:
            fields = json.loads(self.body or "{}")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise ValueError(f'{name}.body must be a JSON object, as {{"seed": null}}')
        if taken := {"messages", "model", "stream", "n"}.intersection(fields):
            raise ValueError(f"{name}.body sets {min(taken)!r}, which the run sets itself: leave it out")
        return self


@section
class JudgeServerConfig(ServerConfig):
    """A server that judges."""

    place = "judge.server"


@section
class RewriterServerConfig(ServerConfig):
    """A server that rewrites."""

    place = "rewriter.server"
