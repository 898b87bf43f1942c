"""What most cells are, told of many at one look: tidy texts, lists of them, numbers.

A predicate here that holds of a list of values holds of each of them. So a block of rows takes a few passes
over long texts, and the rows in which something is amiss are found by halves.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

Values = Sequence[Any]
_BETWEEN = "\0"  # no tidy text has it
_BEGUN = re.compile(r"\0\s*(?:[\[{]|[\w.]*\()")  # of all that `written.may_hold` or `written.BEGUN` match
_BLANK = re.compile(r"\0\s*\0")
_NO_LETTER = re.compile(r"\0[^0-9A-Za-z\0]*\0")
_NUMERALS = frozenset("0123456789.")


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    """The values of each column; empty where rows have other names than the first one."""
    if set(map(len, rows)) != {len(rows[0])}:
        return {}
    try:
        return {name: list(map(itemgetter(name), rows)) for name in rows[0]}
    except KeyError:
        return {}


def exceptions(values: Values, plain: Callable[[Values], bool], start: int = 0) -> list[int]:
    """The places of the values of which the predicate does not hold, counted from `start`."""
    if plain(values):
        return []
    if len(values) == 1:
        return [start]
    half = len(values) // 2
    return exceptions(values[:half], plain, start) + exceptions(values[half:], plain, start + half)


def tidy(text: str) -> bool:
    """Whether a text is on one line, in NFC, without invisible marks and spaces too many."""
    spaced = "  " in text or text[:1] == " " or text[-1:] == " "
    return not spaced and text.isprintable() and unicodedata.is_normalized("NFC", text)


def are_tidy(values: Values) -> bool:
    """Texts, all of them `tidy`."""
    if not _texts(values):
        return False
    joined = _joined(values)
    bare = joined.replace(_BETWEEN, "")
    return (
        len(joined) - len(bare) == len(values) + 1
        and bare.isprintable()
        and "  " not in joined
        and "\0 " not in joined
        and " \0" not in joined
        and unicodedata.is_normalized("NFC", joined)
    )


def are_filled(values: Values) -> bool:
    """Texts, none of which is blank or may hold a list or an object."""
    if not _texts(values):
        return False
    joined = _joined(values)
    return (
        joined.count(_BETWEEN) == len(values) + 1 and not _BLANK.search(joined) and not _BEGUN.search(joined)
    )


def are_digits(values: Values) -> bool:
    """Texts of digits alone, or nothing."""
    return _texts(values) and _NUMERALS.issuperset(joined := "".join(values)) and "." not in joined


def are_closed(values: Values) -> bool:
    """Questions with words, and without a bracket that could stand for a subject."""
    return are_tidy(values) and all(values) and not ("{" in (joined := _joined(values)) or "[" in joined)


def are_lists(values: Values) -> bool:
    """Lists of anything."""
    return set(map(type, values)) == {list}


def as_lists(values: Values) -> Values:
    """The values, where they are lists written as JSON read as these."""
    if not (_texts(values) and all(text[:1] == "[" for text in values)):
        return values
    try:
        return list(map(json.loads, values))
    except (ValueError, RecursionError):
        return values


def are_worded(values: Values) -> bool:
    """Tidy texts, each with a Latin letter or a digit, none of which may hold a list."""
    return are_tidy(values) and not _NO_LETTER.search(joined := _joined(values)) and not _BEGUN.search(joined)


def are_numbers(values: Values) -> bool:
    """Numbers, or texts of digits, all of them 0 or more and finite."""
    kinds = set(map(type, values))
    if kinds == {str}:
        if not _NUMERALS.issuperset("".join(values)):
            return False
    elif not kinds <= {int, float}:
        return False
    try:
        numbers = list(map(float, values))
    except (ValueError, OverflowError):
        return False
    return min(numbers) >= 0 and sum(numbers) < math.inf  # of NaN the sum says it


def _texts(values: Values) -> bool:
    return set(map(type, values)) == {str}


def _joined(texts: Iterable[str]) -> str:
    return f"{_BETWEEN}{_BETWEEN.join(texts)}{_BETWEEN}"
