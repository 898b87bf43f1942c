"""Lists and objects that were written into one text, by JSON, Python or NumPy.

`['a', 'b']`, `['a' 'b']`, `('a', 'b')`, `{'text': array(['a'], dtype=object)}` come of saving lists in a
table of text. They are read by a small grammar; nothing is ever evaluated.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from typing import Any

LISTS = (list, tuple)  # `list | tuple` would be made anew at each look, and there are millions
# What can only be the beginning of such a list, as `['a'` or `deque(['a'`; "[sic]" and "(500) Days" are not.
BEGUN = re.compile(
    r"\s*(\[\s*([bruBRU]?['\"]|array\()|array\(\s*\[|([\w.]*\.)?"
    r"(deque|Index|Series|dict_\w+|list|tuple|set|frozenset|dict|OrderedDict|defaultdict|Counter)"
    r"\(\s*[\[{(]\s*[bruBRU]?['\"])"
)
_CONTAINER = re.compile(r"\s*([\[({]|(?:array|set|frozenset)\()")
_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[\[\](){},:=])|(?P<text>[bruBRU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![-+\w.])|(?P<name>[A-Za-z_][\w.]*|<NA>))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\n|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}
_NAMES: dict[str, Any] = {
    **dict.fromkeys(("None", "null", "nan", "NaN", "NaT", "<NA>", "np.nan"), None),
    **dict.fromkeys(("True", "true", "np.True_"), True),
    **dict.fromkeys(("False", "false", "np.False_"), False),
}
# What a call stands for: its first argument.
_CALLS = re.compile(
    r"((np|numpy)\.)?(array|str_|bytes_|(u?int|float)\d+)|set|frozenset|list|tuple|Decimal|Timestamp"
)
_DATES = {"datetime.date": date, "datetime.datetime": datetime}


class _NoLiteral(Exception):
    """The text is none of these forms."""


def may_hold(text: str) -> bool:
    """Whether a text begins as a list or an object does; `written` tells whether it is one."""
    return bool(_CONTAINER.match(text))


def written(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that a text holds; None where it is an ordinary text.

    A tuple or a set counts only if texts stand in it: "(1, 2)" and "{x}" are texts that people write.
    """
    if not may_hold(text):
        return None
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        return value if isinstance(value, list | dict) else None
    try:
        tokens = list(_tokens(text.strip()))
        value, end = _value(tokens, 0)
    except (_NoLiteral, RecursionError, ValueError, TypeError):
        return None
    if end != len(tokens) or not isinstance(value, list | dict):
        return None
    if text.lstrip()[0] in "({" and isinstance(value, list):
        return value if value and all(isinstance(part, str | None) for part in value) else None
    return value


def is_json(text: str) -> bool:
    """Whether a text is JSON."""
    with suppress(ValueError, RecursionError):
        json.loads(text)
        return True
    return False


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match or not match.lastgroup:
            raise _NoLiteral
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()


def _value(tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
    """The value that begins at a token, and the place behind it."""
    kind, token = _at(tokens, at)
    if kind == "text":
        return _text(token), at + 1
    if kind == "number":
        return (int(token) if token.lstrip("+-").isdigit() else float(token)), at + 1
    if kind == "name":
        if _at(tokens, at + 1) == ("mark", "("):
            return _call(token, tokens, at + 2)
        if token not in _NAMES:
            raise _NoLiteral
        return _NAMES[token], at + 1
    if token == "[":
        parts, _, at = _parts(tokens, at + 1, "]")
        return parts, at
    if token == "(":
        parts, commas, at = _parts(tokens, at + 1, ")")
        if len(parts) > 1 and commas < len(parts) - 1:
            raise _NoLiteral
        return (parts if commas or not parts else parts[0]), at
    if token == "{":
        return _braces(tokens, at + 1)
    raise _NoLiteral


def _at(tokens: list[tuple[str, str]], at: int) -> tuple[str, str]:
    return tokens[at] if at < len(tokens) else ("end", "")


def _parts(tokens: list[tuple[str, str]], at: int, end: str) -> tuple[list[Any], int, int]:
    """The values up to a bracket, how many commas stood between them, and the place behind it."""
    parts, commas = [], 0
    while _at(tokens, at) != ("mark", end):
        value, at = _value(tokens, at)
        parts.append(value)
        if _at(tokens, at) == ("mark", ","):
            commas, at = commas + 1, at + 1
    return parts, commas, at + 1


def _braces(tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
    """A dictionary, or a set as a list."""
    named: dict[str, Any] = {}
    if _at(tokens, at) == ("mark", "}"):
        return named, at + 1
    _, behind = _value(tokens, at)
    if _at(tokens, behind) != ("mark", ":"):
        parts, commas, at = _parts(tokens, at, "}")
        if commas < len(parts) - 1:
            raise _NoLiteral
        return parts, at
    while _at(tokens, at) != ("mark", "}"):
        name, at = _value(tokens, at)
        if _at(tokens, at) != ("mark", ":"):
            raise _NoLiteral
        named[str(name)], at = _value(tokens, at + 1)
        if _at(tokens, at) == ("mark", ","):
            at += 1
        elif _at(tokens, at) != ("mark", "}"):
            raise _NoLiteral
    return named, at + 1


def _call(name: str, tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
    """What `array([...], dtype=object)`, `np.str_('a')` or `datetime.date(1990, 1, 2)` stand for."""
    arguments = []
    while _at(tokens, at) != ("mark", ")"):
        if _at(tokens, at)[0] == "name" and _at(tokens, at + 1) == ("mark", "="):
            at += 3  # dtype=object, dtype='<U9'
        else:
            value, at = _value(tokens, at)
            arguments.append(value)
        if _at(tokens, at) == ("mark", ","):
            at += 1
        elif _at(tokens, at) != ("mark", ")"):
            raise _NoLiteral
    if name in _DATES:
        return _DATES[name](*arguments), at + 1
    if not _CALLS.fullmatch(name):
        raise _NoLiteral
    return (arguments[0] if arguments else []), at + 1


def _text(token: str) -> str:
    prefix = token[0] if token[0] not in "'\"" else ""
    inner = token[len(prefix) + 1 : -1]
    text = inner if prefix in "rR" and prefix else _ESCAPE.sub(_unescaped, inner)
    return text.encode("latin-1").decode() if prefix in ("b", "B") else text  # ValueError where it is no text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _LETTERS.get(code, code if code in "'\"\\" else match[0])
