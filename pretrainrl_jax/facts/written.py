"""Lists and objects that were written into one text, by JSON, Python or NumPy; and values inside values.

`['a', 'b']`, `['a' 'b']`, `('a', 'b')`, `{'text': array(['a'], dtype=object)}` come of saving lists in a
table of text. They are read by a small grammar; nothing is ever evaluated.
"""

import ast
import json
import re
import warnings
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
_NAMES: dict[str, Any] = {
    **dict.fromkeys(("null", "nan", "NaN", "NaT", "np.nan")),
    **dict.fromkeys(("true", "np.True_"), True),
    **dict.fromkeys(("false", "np.False_"), False),
}
# What a call stands for: its first argument.
_CALLS = re.compile(
    r"((np|numpy)\.)?(array|str_|bytes_|(u?int|float)\d+)|set|frozenset|list|tuple|Decimal|Timestamp"
)
_DATES = {"datetime.date": date, "datetime.datetime": datetime}


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
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            value = _value(ast.parse(_as_python(text.strip()), mode="eval").body)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError):
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


def _as_python(text: str) -> str:
    """The text with the commas that NumPy leaves out of lists. Raises ValueError where it is no literal.

    Elsewhere values that stand side by side are refused: Python would join texts to one.
    """
    tokens: list[str] = []
    brackets: list[str] = []
    end, ends_value, before = 0, False, ""
    while end < len(text):
        if not (match := _TOKEN.match(text, end)):
            raise ValueError
        end, kind, token = match.end(), match.lastgroup, match[match.lastgroup or 0]
        opens = token in ("[", "(", "{")
        if ends_value and (opens or kind != "mark") and not (token == "(" and before == "name"):
            if brackets[-1:] != ["["]:
                raise ValueError
            tokens.append(",")
        if opens:
            brackets.append(token)
        elif kind == "mark" and not brackets:
            raise ValueError
        elif token in ("]", ")", "}"):
            brackets.pop()
        tokens.append("None" if token == "<NA>" else token)
        ends_value, before = kind != "mark" or token in ("]", ")", "}"), kind or ""
    return " ".join(tokens)


def _value(node: ast.expr) -> Any:
    """What a literal, or a call like `array([...], dtype=object)`, stands for. Raises ValueError if none."""
    match node:
        case ast.Constant(bytes() as value):
            return value.decode()
        case ast.Constant(value):
            return value
        case ast.UnaryOp(sign, ast.Constant(int() | float() as value)):
            return -value if isinstance(sign, ast.USub) else value
        case ast.List(parts) | ast.Tuple(parts) | ast.Set(parts):
            return [_value(part) for part in parts]
        case ast.Dict(names, values):
            return {
                str(_value(name)): _value(value) for name, value in zip(names, values, strict=True) if name
            }
        case ast.Name() | ast.Attribute():
            return _NAMES[ast.unparse(node)]
        case ast.Call(function, arguments):
            name, values = ast.unparse(function), [_value(argument) for argument in arguments]
            if name in _DATES:
                return _DATES[name](*values)
            if not _CALLS.fullmatch(name):
                raise ValueError
            return values[0] if values else []
        case _:
            raise ValueError


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


def leaves(value: Any, opened: bool = False) -> Iterator[Any]:
    """Every value of lists in lists; `opened`: also of lists written as text."""
    if opened and isinstance(value, str) and isinstance(inner := written(value), list):
        value = inner
    if isinstance(value, LISTS):
        for part in value:
            yield from leaves(part, opened)
    else:
        yield value


def cells(values: Mapping[str, Any], path: str) -> list[Any]:
    """What a row holds in a column: one value, several where the path leads through a list, or none."""
    if path in values:
        return [values[path]]
    return list(reach(values, path)) if "." in path else []
