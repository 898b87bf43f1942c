"""Prefix and suffix of a document: what the policy sees, and what it is to continue with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """A stretch of one document's own tokens, cut in two."""

    number: int  # of the document in the stream, from 0: all randomness about it derives from it
    name: str  # where it comes from, for messages: "file.jsonl line 12"
    document: tuple[int, ...]  # all its tokens, without BOS and EOS
    prefix: tuple[int, ...]  # begins with BOS where the tokenizer has one; not empty
    suffix: tuple[int, ...]  # the N tokens after it
