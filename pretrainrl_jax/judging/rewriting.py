"""Rewriters: what is to stand in the place of a suffix."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pretrainrl_jax.facts.statements import Statements, corrected
from pretrainrl_jax.judging.protocol import RewriteCase, Rewriter

OPENING = 5  # words of the prefix, with which a rewrite begins
WRAPPING = ("<<<", ">>>")


def exact_rewriter(statements: Statements) -> Rewriter:
    """The rewriter that puts true answers in the place of false ones, and copies all else as it is.

    A false statement counts where it is complete in the suffix: one that the prefix begins counts too. Only
    the suffix changes: of an answer that begins in the prefix only the rest is replaced, where the true
    answer begins with the same characters; else that statement stays, since no suffix can mend it.
    """

    def rewrite(cases: Sequence[RewriteCase]) -> list[str | None]:
        texts: list[str | None] = []
        for prefix, suffix in cases:
            text = prefix + suffix
            for statement in reversed(statements.find(text, since=len(prefix))):  # places before stay right
                if statement.verdict == "false":
                    right = corrected(text, statement)
                    text = right if right.startswith(prefix) else text
            texts.append(text[len(prefix) :])
        return texts

    return rewrite


class Wanted(NamedTuple):
    """A rewrite that a model is to write."""

    prefix: str
    words: str  # the last ones of the prefix, as they stand there
    suffix: str


Write = Callable[[Sequence[Wanted]], Sequence[str]]
"""What a model writes, the words at its beginning."""


def model_rewriter(write: Write) -> Rewriter:
    """The rewriter that asks a model: None for a rewrite that does not begin with the prefix's last words."""

    def rewrite(cases: Sequence[RewriteCase]) -> list[str | None]:
        wanted = [Wanted(case.prefix, last_words(case.prefix), case.suffix) for case in cases]
        written = write(wanted)
        return [behind(one.words, text, one.suffix) for one, text in zip(wanted, written, strict=True)]

    return rewrite


def last_words(prefix: str) -> str:
    """The end of a prefix from its fifth last word on, what follows the last word included."""
    parts = prefix.rsplit(None, OPENING)
    return prefix[len(parts[0]) if len(parts) > OPENING else 0 :].lstrip()


def read_rewrite(output: str, words: str) -> str | None:
    """The text that an output puts in the suffix's place, to the letter: what follows the prefix's words.

    None where the output does not open with these, or nothing follows. Space before them is no part of it.
    """
    opened = output.lstrip() if words else output
    rest = opened.removeprefix(words.lstrip())
    return rest if rest.strip() and opened.startswith(words.lstrip()) else None


def behind(words: str, written: str, suffix: str) -> str | None:
    """What stands behind the words in what was written; None where it does not begin with them.

    White space within the words may differ. A suffix that comes back but for white space around it came back
    as it was: models trim what they write.
    """
    for mark in WRAPPING:  # a model may repeat the marks of its prompt
        written = written.strip().removeprefix(mark).removesuffix(mark)
    rest = last = written = written.strip()
    for word in words.split():
        if not rest.startswith(word):
            return None
        last = rest[len(word) :]
        rest = last.lstrip()
    if last.strip() == suffix.strip():
        return suffix
    blank = words[len(words.rstrip()) :]
    return last.removeprefix(blank) or None
