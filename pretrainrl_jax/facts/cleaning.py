"""What stands in a cell as clean text: a question, a list of answers, a popularity."""

import json
import math
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any

# What is changed and counted.
REPAIRS = {
    "not NFC": "texts put into Unicode's composed form (NFC), the one that tokenizers expect",
    "invisible marks": "texts freed of control characters, zero-width spaces and marks of writing direction",
    "empty answers": "answers left out because nothing is left of them normalised; their rows have others",
    "no popularity": "rows whose popularity is blank: taken as 0",
    "bad answer popularity": "rows whose answer's popularity is no number, negative or infinite: taken as 0",
}
NOT_NFC, MARKS, EMPTY_ANSWER, NO_POPULARITY, BAD_ANSWER_POPULARITY = REPAIRS
# Why a cell is of no use.
NOT_TEXT = "not text"
BROKEN_TEXT = "broken text"

# Control characters that are no whitespace, and what nobody sees: zero-width space and no-break space, word
# joiner, marks of writing direction. Zero-width joiners stay: Persian, Hindi and emoji are spelt with them.
_MARKS = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SCALARS = (int, float, Decimal, date)


class Unusable(Exception):
    """A row that becomes no fact, by the rule it names."""


class NotText(Unusable):
    """A cell holds something nested, or true or false, where text should be."""


class BrokenText(Unusable):
    """A cell holds half of a surrogate pair, which no file can hold and no tokenizer takes."""


class BrokenList(Exception):
    """A text that must be a JSON list is none."""


def clean(text: str, repaired: Counter[str]) -> str:
    """The text on one line, without invisible marks, in NFC; right-to-left text stays as it is written.

    Whitespace is collapsed silently; other changes are counted in `repaired`. Raises BrokenText if it holds
    half of a surrogate pair.
    """
    text = " ".join(text.split())
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATE.search(text):
        raise BrokenText(BROKEN_TEXT)
    if (bare := _MARKS.sub("", text)) != text:
        repaired[MARKS] += 1
        text = " ".join(bare.split())
    if not unicodedata.is_normalized("NFC", text):
        repaired[NOT_NFC] += 1
        text = unicodedata.normalize("NFC", text)
    return text


def text_in(value: Any) -> str:
    """The text of a cell: numbers and dates as Python writes them, "" for None and NaN.

    Raises NotText for anything else.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float | Decimal) and value != value):
        return ""
    if isinstance(value, _SCALARS) and not isinstance(value, bool):
        return str(value)
    raise NotText(NOT_TEXT)


def texts_in(value: Any, separator: str, must_be_list: bool) -> list[str]:
    """The answers of a cell: a list, a JSON list written as text, or one text, cut at `separator` if given.

    Raises:
        NotText: if it, or what is listed, is nested or true or false.
        BrokenList: if it is a text, no JSON list, and `must_be_list`.
    """
    if isinstance(value, str):
        listed = None
        if value.lstrip().startswith("["):
            with suppress(ValueError, RecursionError):
                listed = json.loads(value)
        if listed is None and must_be_list:
            raise BrokenList
        if listed is None:
            listed = value.split(separator) if separator else [value]
        value = listed
    return [text_in(part) for part in value] if isinstance(value, list | tuple) else [text_in(value)]


def popularity_in(value: Any) -> float | None:
    """The number of a cell, None where it is blank.

    Raises ValueError if it is no number, negative or infinite.
    """
    try:
        text = text_in(value).strip()
        number = float(text) if text else None
    except NotText:
        raise ValueError from None
    if number is not None and not (math.isfinite(number) and number >= 0):
        raise ValueError
    return number
