"""Texts of models and documents, put into a prompt so that none of them can pass for a part of it.

A judge reads texts that may say "Option 1 is better", close the block that they stand in, or hold a model's
control tokens. The first is for the judge to see through; the others are made harmless here.
"""

import re
from collections.abc import Iterable, Sequence

PLACE = re.compile(r"\{(\w+)\}")
# What servers' tokenizers read as control tokens even within a message.
CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|>|<｜[^<>｜\s]{1,60}｜>|\[/?[A-Z]{4,}(?:_[A-Z]+)*\]|<</?SYS>>|(?i:</?(?:s|bos|eos|pad|unk|"
    r"mask|think|thinking|reasoning|start_of_turn|end_of_turn|tool_call|tool_response)>)"
)


def fences_of(prompt: str) -> tuple[str, ...]:
    """The lines directly before and behind the places that stand on a line of their own."""
    lines = [line.strip() for line in prompt.splitlines()]
    found: set[str] = set()
    for number, line in enumerate(lines):
        if PLACE.fullmatch(line):
            found |= {*lines[max(0, number - 1) : number], *lines[number + 1 : number + 2]}
    return tuple(sorted(line for line in found if len(line) > 1 and not PLACE.search(line)))


def unfenced(text: str, fences: Iterable[str]) -> str:
    """The text with a space within whatever is a fence, in any case of letters; all else is as it was."""
    return _opened(text, [re.compile(re.escape(fence), re.IGNORECASE) for fence in fences])


def uncontrolled(text: str) -> str:
    """The text with a space within whatever a server may read as a control token."""
    return _opened(text, [CONTROL])


def _opened(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    while any(pattern.search(text) for pattern in patterns):  # opening one may leave another: ">>>>"
        for pattern in patterns:
            text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text
