"""Lists and objects that were written into one text, by JSON, Python or NumPy; and values inside values.

`['a', 'b']`, `['a' 'b']`, `('a', 'b')`, `{'text': array(['a'], dtype=object)}` come of saving lists in a
table of text. They are read by a small grammar; nothing is ever evaluated.
"""

import json
import re
from collections.abc import Iterator, Mapping
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
        value = _Parser(text.strip()).whole()
    except (_NoLiteral, RecursionError, ValueError, TypeError):
        return None
    if not isinstance(value, list | dict):
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


class _Parser:
    """Reads the values of a text, one token after another. Raises _NoLiteral where there is none."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        end = 0
        while end < len(text):
            match = _TOKEN.match(text, end)
            if not match or not match.lastgroup:
                raise _NoLiteral
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            end = match.end()
        self._tokens += [("end", "")] * 2  # one may look two tokens ahead
        self._at = 0

    def whole(self) -> Any:
        """The one value of the text."""
        value = self._value()
        if self._tokens[self._at][0] != "end":
            raise _NoLiteral
        return value

    def _follows(self, mark: str, ahead: int = 0) -> bool:
        return self._tokens[self._at + ahead] == ("mark", mark)

    def _take(self, mark: str) -> bool:
        """Whether this mark follows, which then is read."""
        there = self._follows(mark)
        self._at += there
        return there

    def _value(self) -> Any:
        kind, token = self._tokens[self._at]
        self._at += kind != "end"
        if kind == "text":
            return _text(token)
        if kind == "number":
            return int(token) if token.lstrip("+-").isdigit() else float(token)
        if kind == "name" and self._take("("):
            return self._call(token)
        if kind == "name" and token in _NAMES:
            return _NAMES[token]
        if token == "[":
            return self._parts("]")[0]
        if token == "(":
            parts, commas = self._parts(")")
            if len(parts) > 1 and commas < len(parts) - 1:
                raise _NoLiteral
            return parts if commas or not parts else parts[0]
        if token == "{":
            return self._braces()
        raise _NoLiteral

    def _parts(self, end: str) -> tuple[list[Any], int]:
        """The values up to a bracket, and how many commas stood between them."""
        parts: list[Any] = []
        commas = 0
        while not self._take(end):
            parts.append(self._value())
            commas += self._take(",")
        return parts, commas

    def _braces(self) -> Any:
        """A dictionary, or a set as a list."""
        named: dict[str, Any] = {}
        while not self._take("}"):
            name = self._value()
            if not named and not self._follows(":"):
                commas = self._take(",")
                parts, more = self._parts("}")
                if commas + more < len(parts):
                    raise _NoLiteral
                return [name, *parts]
            if not self._take(":"):
                raise _NoLiteral
            named[str(name)] = self._value()
            if not self._take(",") and not self._follows("}"):
                raise _NoLiteral
        return named

    def _call(self, name: str) -> Any:
        """What `array([...], dtype=object)`, `np.str_('a')` or `datetime.date(1990, 1, 2)` stand for."""
        arguments: list[Any] = []
        while not self._take(")"):
            if self._tokens[self._at][0] == "name" and self._follows("=", ahead=1):
                self._at = min(self._at + 3, len(self._tokens) - 2)  # dtype=object, dtype='<U9'
            else:
                arguments.append(self._value())
            if not self._take(",") and not self._follows(")"):
                raise _NoLiteral
        if name in _DATES:
            return _DATES[name](*arguments)
        if not _CALLS.fullmatch(name):
            raise _NoLiteral
        return arguments[0] if arguments else []


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


def reach(value: Any, path: str) -> Iterator[Any]:
    """Everything that a path leads to.

    A dot reaches into objects, into every item of lists, and into lists written as text.
    """
    if isinstance(value, str):
        value = written(value)
    if isinstance(value, LISTS):
        for part in value:
            yield from reach(part, path)
    elif isinstance(value, Mapping):
        if path in value:
            yield value[path]
            return
        at = path.find(".")
        while at >= 0:
            if path[:at] in value:
                yield from reach(value[path[:at]], path[at + 1 :])
            at = path.find(".", at + 1)


def cells(values: Mapping[str, Any], path: str) -> list[Any]:
    """What a row holds in a column: one value, several where the path leads through a list, or none."""
    if path in values:
        return [values[path]]
    return list(reach(values, path)) if "." in path else []
