"""What stands in a cell as clean text: a question, a list of answers, a popularity; and what is counted."""

import math
import re
import unicodedata
from collections import Counter
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pretrainrl_jax.facts.columns import MIDNIGHT, WHOLE, Column
from pretrainrl_jax.facts.plain import tidy
from pretrainrl_jax.facts.written import BEGUN, is_json, leaves, written

# What is changed and counted, by a short name.
REPAIRS = {
    "not NFC": "texts put into Unicode's composed form (NFC), the one that tokenizers expect",
    "invisible marks": "texts freed of control characters, zero-width spaces and marks of writing direction",
    "line breaks": "texts of several lines made one",
    "empty answers": "answers left out because nothing is left of them normalised; their rows have others",
    "no popularity": "rows whose popularity is blank: taken as 0",
    "bad answer popularity": "rows whose answer's popularity is no number, negative or infinite: taken as 0",
    "thousands": "popularities with commas between thousands, 1,234",
    "lists written as text": "cells that hold a list as Python or NumPy writes it: read as that list",
    "whole numbers": "numbers as 1990.0 in a column where all are whole: read as 1990",
    "short numbers": "numbers stored in 32 bits: 0.1, and not 0.10000000149011612",
    "dates": "times of 00:00 in a column where all are: read as the day",
    "null words": "cells that read as nothing (facts.nulls), as None or nan: left blank",
    "kept null words": "answers that read NA, N/A or none: kept, unless facts.nulls names them",
    "subjects filled in": "questions in which the subject took the place of {} or [X]",
    "no rewording": "other wordings left out: no text, or open to a subject that the row does not name",
    "shared truths": "facts that also have the answers of other rows that ask the very same question",
}
(
    NOT_NFC, MARKS, BREAKS, EMPTY_ANSWER, NO_POPULARITY, BAD_ANSWER_POPULARITY, THOUSANDS, WRITTEN,
    WHOLE_NUMBER, SHORT_NUMBER, DATE, NULL_WORD, KEPT_NULL_WORD, FILLED_IN, NO_REWORDING, SHARED,
) = REPAIRS  # fmt: skip
# Why a row became no fact of its own.
RULES = {
    "no question": "the question is blank, and no template of facts.questions can ask it",
    "open question": "{} or [X] stands for a subject, and no subject is named (facts.columns.subject)",
    "no answer": "no answer is given",
    "null answer": "the answer reads as nothing, as None or nan (facts.nulls says which words do)",
    "empty answer": "nothing is left of any answer normalised: punctuation alone",
    "bad popularity": "a popularity is no number, negative or infinite",
    "not text": "a nested value, true or false, a duration or an infinite number stands where text should",
    "broken text": "half of a surrogate pair stands in a text",
    "broken list": "an answer begins as a list written as text does, and is none",
    "several lines": "an answer has several lines: facts.answer_separator='\\n' makes answers of them",
    "merged duplicate": "asks what an earlier row of the category asks; its answers became true of that one",
    "conflicting duplicate": "asks what another row of the category asks, with other answers "
    "(facts.duplicates=drop)",
    "other category": "not among facts.categories",
    "beyond the limit": "not drawn for facts.limit",
}
(
    NO_QUESTION, OPEN_QUESTION, NO_ANSWER, NULL_ANSWER, NO_USABLE_ANSWER, BAD_POPULARITY, NOT_TEXT,
    BROKEN_TEXT, BROKEN_LIST, SEVERAL_LINES, MERGED, CONFLICTING, OTHER_CATEGORY, BEYOND_LIMIT,
) = RULES  # fmt: skip

# Control characters that are no whitespace, and what nobody sees: zero-width space and no-break space, word
# joiner, marks of writing direction. Zero-width joiners stay: Persian, Hindi and emoji are spelt with them.
_MARKS = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
_BREAK = re.compile("[\r\n]")
_SCALARS = (int, float, Decimal, date, time)
_INFINITE = (math.inf, -math.inf)  # as JSON's 1e400 is read
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")
_NO_NUMBER = frozenset(("nan", "n/a", "na", "none", "null", "<na>", "#n/a", "-"))
MAYBE_NULL = frozenset(("na", "n/a", "none", "null", "nil", "nan"))  # NA is Namibia's sign, too
ANYTHING = Column(whole=False, midnight=False)


class Unusable(Exception):
    """A row that becomes no fact, by the rule it names; `where` in it, where that helps."""

    def __init__(self, rule: str, where: str = "") -> None:
        super().__init__(rule)
        self.where = where


class NotText(Unusable):
    """A cell holds something nested, true or false, or another value that is no text."""


class BrokenList(Exception):
    """A text that must be a list is none."""


def clean(text: str, repaired: Counter[str]) -> str:
    """The text on one line, without invisible marks, in NFC; right-to-left text stays as it is written.

    Spaces are collapsed silently; other changes are counted in `repaired`. Raises Unusable if it holds half
    of a surrogate pair, which no file can hold and no tokenizer takes.
    """
    if tidy(text):  # as most are
        return text
    if _BREAK.search(text) and _BREAK.search(text.strip()):
        repaired[BREAKS] += 1
    text = " ".join(text.split())
    if SURROGATE.search(text):
        raise Unusable(BROKEN_TEXT)
    if (bare := _MARKS.sub("", text)) != text:
        repaired[MARKS] += 1
        text = " ".join(bare.split())
    if not unicodedata.is_normalized("NFC", text):
        repaired[NOT_NFC] += 1
        text = unicodedata.normalize("NFC", text)
    return text


def one_line(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def is_text(value: Any) -> bool:
    """Whether a cell's value is a text, or is written as one: a number, a day, None."""
    scalar = isinstance(value, _SCALARS) and not isinstance(value, bool) and value not in _INFINITE
    return scalar or value is None or isinstance(value, str)


def text_in(value: Any, repaired: Counter[str], column: Column = ANYTHING) -> str:
    """The text of a cell: numbers, dates and times as people write them, "" for None and NaN.

    Numbers of a column of whole ones lose their ".0", days lose their 00:00: `column` is what the survey saw.
    Raises NotText for anything else, an infinite number too.
    """
    if isinstance(value, str):
        if column.whole and value.rstrip().endswith(".0") and WHOLE.fullmatch(value):
            repaired[WHOLE_NUMBER] += 1
            return value.strip()[:-2]
        if column.midnight and (day := MIDNIGHT.fullmatch(value)) and day[2]:
            repaired[DATE] += 1
            return day[1]
        return value
    if value is None or (isinstance(value, (float, Decimal)) and value != value):
        return ""
    if not is_text(value):
        raise NotText(NOT_TEXT)
    if isinstance(value, datetime) and column.midnight and value.time() == time():
        repaired[DATE] += 1
        return str(value.date())
    if isinstance(value, float) and column.whole and value.is_integer():
        repaired[WHOLE_NUMBER] += 1
        return str(int(value))
    if type(value) is not float and isinstance(value, float):
        repaired[SHORT_NUMBER] += str(value) != repr(float(value))
    return str(value)


def texts_in(
    value: Any, separator: str, must_be_list: bool, repaired: Counter[str], column: Column = ANYTHING
) -> list[str]:
    """The answers of a cell: a list, one written as text, or one text, cut at `separator` if given.

    Raises:
        NotText: if it, or what is listed, holds named values or true or false.
        Unusable: if it is a text of several lines, or one that begins as a written list and is none.
        BrokenList: if it is a text, no list, and `must_be_list`.
    """
    if type(value) is list and not column.numbers and all(type(part) is str for part in value):
        return value
    if not isinstance(value, str):
        return [text_in(part, repaired, column) for part in leaves(value)]
    listed = written(value)
    if isinstance(listed, list):
        repaired[WRITTEN] += not is_json(value)
        return [text_in(part, repaired, column) for part in leaves(listed)]
    if must_be_list:
        raise BrokenList
    if isinstance(listed, dict) and listed:
        raise NotText(NOT_TEXT)
    if BEGUN.match(value):
        raise Unusable(BROKEN_LIST)
    if separator:
        return [text_in(part, repaired, column) for part in value.split(separator)]
    if _BREAK.search(value.strip()):
        raise Unusable(SEVERAL_LINES)
    return [text_in(value, repaired, column)]


def popularity_in(value: Any, repaired: Counter[str]) -> float | None:
    """The number of a cell, None where it is blank or says that there is none, as NaN and N/A do.

    Raises ValueError if it is no number, negative or infinite.
    """
    if type(value) is float and 0 <= value < math.inf:  # as most are
        return value
    try:
        text = text_in(value, repaired).strip()
    except NotText:
        raise ValueError from None
    if not text or text.casefold() in _NO_NUMBER:
        return None
    if _THOUSANDS.fullmatch(text):
        repaired[THOUSANDS] += 1
        text = text.replace(",", "")
    number = float(text)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError
    return number
