"""Prefix and suffix of a document: what the policy sees, and what it is to continue with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainrl_jax.config import SelfimproveConfig
from pretrainrl_jax.documents.rules import BLANK, CONTROL_TOKEN, TOO_SHORT
from pretrainrl_jax.documents.stream import Document, Stream
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.tokenization import Tokenizer


@dataclass(frozen=True)
class Cut:
    """A stretch of one document's own tokens, cut in two."""

    number: int  # of the document in the stream, from 0: all randomness about it derives from it
    name: str  # where it comes from, for messages: "file.jsonl line 12"
    document: tuple[int, ...]  # its first tokens, as many as a cut may have, without BOS and EOS
    prefix: tuple[int, ...]  # begins with BOS where the tokenizer has one; not empty
    suffix: tuple[int, ...]  # the N tokens after it


def cut(
    document: Document, tokens: Sequence[int], start: Sequence[int], settings: SelfimproveConfig, seed: int
) -> Cut | None:
    """The document's tokens cut at a place drawn by (seed, document.number) among all there are.

    `tokens` are all it has, `start` is BOS, where there is one: it stands before the prefix, and counts in
    `length`, of which a longer prefix keeps its last tokens. None for a document that is too short.
    """
    suffix, length, shortest = settings.suffix, settings.length, settings.shortest_prefix
    places = len(tokens) - suffix - shortest + 1
    if places <= 0:
        return None
    at = shortest + int(np.random.default_rng([seed, document.number]).integers(places))
    begin = max(0, at - (length - suffix - len(start)))
    prefix, own = (*start, *tokens[begin:at]), tuple(tokens[:length])
    return Cut(document.number, document.name, own, prefix, tuple(tokens[at : at + suffix]))


class Cuts:
    """The documents of a stream, cut, one after another; each process tokenises its share of them.

    The stream counts what is dropped: also documents that are too short or cannot be tokenised.
    """

    def __init__(self, stream: Stream, tokenizer: Tokenizer, settings: SelfimproveConfig, seed: int) -> None:
        room = settings.length - settings.suffix - len(tokenizer.start)
        if settings.shortest_prefix > room:
            raise InputError(
                f"selfimprove.shortest_prefix is {settings.shortest_prefix}: beside the suffix "
                f"{room} tokens of selfimprove.length are left for a prefix"
            )
        self.stream, self._tokenizer, self._settings, self._seed = stream, tokenizer, settings, seed

    def take(self, n: int) -> list[Cut]:
        """The next n cuts; fewer only where the stream ends.

        Raises InputError as `Stream.make`, and where none of the first documents is long enough.
        """
        asked, tokenizer = self._settings, self._tokenizer

        def cut_all(documents: Sequence[Document]) -> list[tuple[Any, str]]:
            """Of each document what its cut holds: no more is exchanged of a long one."""
            made = []
            for document, (tokens, rule) in zip(documents, tokenised(tokenizer, documents), strict=True):
                one = cut(document, tokens, tokenizer.start, asked, self._seed) if tokens else None
                held = one and [list(one.document), list(one.prefix), list(one.suffix)]
                made.append((held, rule if one or rule else TOO_SHORT))
            return made

        needed = asked.suffix + asked.shortest_prefix
        hint = f"a cut takes {needed} tokens: lower selfimprove.suffix ({asked.suffix})"
        every = self.stream.make(n, cut_all, hint)
        return [Cut(made.number, made.name, *map(tuple, made.value)) for made in every]


def tokenised(
    tokenizer: Tokenizer, documents: Sequence[Document]
) -> list[tuple[tuple[int, ...] | None, str]]:
    """The tokens of each document, or the rule by which it has none."""
    try:
        encoded = tokenizer.encode_all([document.text for document in documents])
    except InputError:
        encoded = [_alone(tokenizer, document.text) for document in documents]
    return [(ids, "") if ids else (None, CONTROL_TOKEN if ids is None else BLANK) for ids in encoded]


def _alone(tokenizer: Tokenizer, text: str) -> tuple[int, ...] | None:
    try:
        return tokenizer.encode(text)
    except InputError:
        return None
