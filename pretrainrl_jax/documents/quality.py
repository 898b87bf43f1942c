"""What a text is by plain rules: fit to be read at all, and how many words of a list it holds."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import read_text

OURS = Path(__file__).with_name("blocklist.txt")
SETTING = "making.blocklist"

STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
BULLETS = ("•", "‣", "●", "▪", "◦", "*", "-", "–")
ELLIPSES = ("…", "...")
MARKS = "".join(map(chr, range(33, 48))) + ":;?!“”‘’…–—"  # around a word, no part of it


def failed_rule(text: str) -> str:
    """The name of the first of Gopher's rules that a text fails; "" where it passes all.

    Rae et al. 2021, appendix A.1.1. Words are what white space separates, lines are those
    that are not blank.
    """
    words = text.split()
    if not 50 <= len(words) <= 100_000:
        return "words"
    if not 3 <= sum(map(len, words)) / len(words) <= 10:
        return "word_length"
    ellipses = sum(map(text.count, ELLIPSES))
    if max(text.count("#"), ellipses) > 0.1 * len(words):
        return "symbols"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(BULLETS) for line in lines) > 0.9 * len(lines):
        return "bullets"
    if sum(line.endswith(ELLIPSES) for line in lines) > 0.3 * len(lines):
        return "ellipses"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return "letters"
    if len(STOP_WORDS.intersection(word.strip(MARKS).lower() for word in words)) < 2:
        return "stop_words"
    return ""


def read_blocklist(path: str = "") -> list[str]:
    """The words of a file, one a line, or several that stand one behind the other; "" for ours.

    Raises:
        InputError: if it cannot be read, or holds none.
    """
    text = read_text(Path(path) if path else OURS, SETTING)
    words = list(dict.fromkeys(" ".join(line.casefold().split()) for line in text.split("\n")))
    words = [word for word in words if word]
    if not words:
        raise InputError(f"{path} holds no word: write one a line, or leave {SETTING} out for ours")
    return words


def word_counter(words: Sequence[str]) -> Callable[[str], int]:
    """A function that counts how often words of a list stand in a text, as whole words, in any case.

    A word ends where no letter or digit follows. Of entries that overlap the first in the text counts, and
    of those that begin at one place the longest.
    """
    longest_first = sorted(words, key=len, reverse=True)
    listed = "|".join(r"\s+".join(map(re.escape, word.split())) for word in longest_first)
    whole = re.compile(rf"(?<![^\W_])(?:{listed})(?![^\W_])")
    return lambda text: sum(1 for _ in whole.finditer(text.casefold()))
