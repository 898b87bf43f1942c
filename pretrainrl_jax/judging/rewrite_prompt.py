"""What a model is asked as a rewriter, and how its output is read.

The prefix's last words open the passage that it is shown, and its output: so a rewrite continues smoothly.
"""

import re
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging.prompts import OURS, PLACE, Prompt

NAME = "rewrite.txt"
WORDS = 5  # last ones of a prefix
PLACES = ("prefix", "words", "suffix")
LAST_WORDS = re.compile(rf"(?:\S+\s+){{0,{WORDS - 1}}}\S+\s*\Z")


def read_rewrite_prompt(folder: str = "") -> Prompt:
    """The prompt: the folder's rewrite.txt where it has one, else ours. It has no verdicts.

    Raises:
        InputError: if the file cannot be read or lacks a place that it must have.
    """
    own = Path(folder, NAME)
    path = own if folder and own.exists() else OURS / NAME
    try:
        text = path.read_text("utf-8-sig").rstrip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"cannot read {path}: {why}; check judge.prompts") from None
    there = PLACE.findall(text)
    if unknown := [name for name in there if name not in PLACES]:
        listed = ", ".join(f"{{{name}}}" for name in PLACES)
        raise InputError(f"{path} is no prompt: it has the place {{{unknown[0]}}}; there are {listed}")
    if missing := [name for name in ("words", "suffix") if name not in there]:
        raise InputError(f"{path} is no prompt: it has no place {{{missing[0]}}}")
    if not PLACE.split(text)[-1].strip():
        raise InputError(f"{path} is no prompt: it must end in words of its own, not in a place")
    return Prompt(text, ())


def last_words(prefix: str) -> str:
    """The end of a prefix from its fifth last word on, what follows the last word included."""
    found = LAST_WORDS.search(prefix)
    return found[0] if found else ""


def read_rewrite(output: str, words: str) -> str | None:
    """The text that an output puts in the suffix's place: what follows the prefix's last words.

    None where the output does not open with these, or nothing follows. Space before them is no part of it.
    """
    opened = output.lstrip() if words else output
    rest = opened.removeprefix(words.lstrip())
    return rest if rest.strip() and opened.startswith(words.lstrip()) else None
