"""A prompt and the pairs of answers that a file compares under it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pretrainrl_jax.facts.cleaning import one_line
from pretrainrl_jax.facts.splits import hashed, one_in, smallest

Message = Mapping[str, Any]  # role and content, and what else the chat template knows
Text = str | tuple[Message, ...]  # a text, or the messages of a conversation


@dataclass(frozen=True)
class Preferred:
    """One answer is better than another, said by so many rows."""

    chosen: Text
    rejected: Text
    rows: int = 1


@dataclass(frozen=True)
class Comparison:
    """A prompt and every pair that the file compares under it; no other pair is."""

    prompt: Text
    pairs: tuple[Preferred, ...]

    @cached_property
    def id(self) -> str:
        """A digest of the prompt."""
        return f"{hashed(key(self.prompt)):016x}"


def key(text: Text) -> str:
    """What equal texts, and equal messages, have in common; dates and such in messages count as texts."""
    return (
        text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, sort_keys=True, default=str)
    )


def shown(text: Text, length: int) -> str:
    """A text, or messages with their roles, on one line of at most so many characters."""
    if not isinstance(text, str):
        text = " ".join(f"[{message['role']}] {plain(message)}" for message in text)
    text = one_line(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def plain(message: Message) -> str:
    """The text of a message; of several parts those that are text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    texts = (part.get("text") if isinstance(part, Mapping) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def split(comparisons: Iterable[Comparison], holdout_every: int) -> tuple[list[Comparison], list[Comparison]]:
    """Those that are trained and those only evaluated: one prompt in n, by its hash; 0 holds none out."""
    return one_in(holdout_every, comparisons, lambda comparison: key(comparison.prompt))


def draw(comparisons: Sequence[Comparison], limit: int, seed: int) -> list[Comparison]:
    """The `limit` whose prompts, with the seed, have the smallest hashes, in their order; 0 keeps all."""
    return smallest(comparisons, lambda comparison: hashed(f"{seed} {comparison.id}"), limit)
