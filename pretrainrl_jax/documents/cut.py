"""Prefix and suffix of a document: what the policy sees, and what it is to continue with."""

from collections import Counter
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
    document: Document,
    tokens: Sequence[int],
    tokenizer_start: Sequence[int],
    seed: int,
    suffix: int,
    length: int,
    shortest_prefix: int,
) -> Cut | None:
    """The document's tokens cut at a place drawn by (seed, document.number) among all there are.

    Args:
        document: its number and name.
        tokens: all its tokens.
        tokenizer_start: BOS, where there is one: it stands before the prefix.
        suffix: tokens of the suffix.
        length: tokens of prefix and suffix together, BOS counted: a longer prefix keeps its last.
        shortest_prefix: tokens of a prefix at least, BOS not counted.

    Returns:
        The cut, or None for a document that is too short.
    """
    places = len(tokens) - suffix - shortest_prefix + 1
    if places <= 0:
        return None
    at = shortest_prefix + int(np.random.default_rng([seed, document.number]).integers(places))
    begin = max(0, at - (length - suffix - len(tokenizer_start)))
    prefix = (*tokenizer_start, *tokens[begin:at])
    own = tuple(tokens[:length])
    return Cut(document.number, document.name, own, prefix, tuple(tokens[at : at + suffix]))


class Cuts:
    """The documents of a stream, cut, one after another; each process tokenises its share of them.

    Attributes:
        dropped: the stream's, and documents that are too short or cannot be tokenised, by rule.
        ended, identity: as the stream's.
    """

    def __init__(self, stream: Stream, tokenizer: Tokenizer, settings: SelfimproveConfig, seed: int) -> None:
        room = settings.length - settings.suffix - len(tokenizer.start)
        if settings.shortest_prefix > room:
            raise InputError(
                f"selfimprove.shortest_prefix is {settings.shortest_prefix}: beside the suffix "
                f"{room} tokens of selfimprove.length are left for a prefix"
            )
        self._stream, self._tokenizer, self._settings, self._seed = stream, tokenizer, settings, seed
        self.identity = stream.identity

    @property
    def dropped(self) -> Counter[str]:
        return self._stream.dropped

    @property
    def ended(self) -> bool:
        return self._stream.ended

    @property
    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._stream.state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a position. Raises InputError if it is of other sources."""
        self._stream.restore(state)

    def take(self, n: int) -> list[Cut]:
        """The next n cuts; fewer only where the stream ends.

        Raises InputError as `Stream.make`, and where none of the first documents is long enough.
        """
        asked = self._settings
        limits = self._tokenizer.start, self._seed, asked.suffix, asked.length, asked.shortest_prefix

        def cut_all(documents: Sequence[Document]) -> list[tuple[Any, str]]:
            """Of each document what its cut holds: no more is exchanged of a long one."""
            made = []
            every = zip(documents, tokenised(self._tokenizer, documents), strict=True)
            for document, (tokens, rule) in every:
                one = None if tokens is None else cut(document, tokens, *limits)
                held = one and [list(one.document), list(one.prefix), list(one.suffix)]
                made.append((held, rule if one or rule else TOO_SHORT))
            return made

        needed = asked.suffix + asked.shortest_prefix
        hint = f"a cut takes {needed} tokens: lower selfimprove.suffix ({asked.suffix})"
        every = self._stream.make(n, cut_all, hint)
        return [Cut(made.number, made.name, *map(tuple, made.value)) for made in every]


def tokenised(
    tokenizer: Tokenizer, documents: Sequence[Document]
) -> list[tuple[tuple[int, ...] | None, str]]:
    """The tokens of each document, or the rule by which it has none."""
    texts = [document.text for document in documents]
    try:
        encoded = [(ids, "") for ids in tokenizer.encode_all(texts)]
    except InputError:
        encoded = [_alone(tokenizer, text) for text in texts]
    return [(ids, rule) if ids or rule else (None, BLANK) for ids, rule in encoded]


def _alone(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...] | None, str]:
    try:
        return tokenizer.encode(text), ""
    except InputError:
        return None, CONTROL_TOKEN
