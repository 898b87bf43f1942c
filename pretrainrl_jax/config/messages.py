"""Settings in words: what stands for a value, what a text means, and what is wrong with one, in one line."""

import typing
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pretrainrl_jax.config.declare import Axes
from pretrainrl_jax.errors import InputError

SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def form(kind: Any) -> str:
    """What stands for a value of this type in help, its bounds included, as in "NUMBER > 0"."""
    if kind == Axes:
        return "{NAME: (VALUE,…)}"
    if typing.get_origin(kind) is typing.Annotated:
        inner, *limits = typing.get_args(kind)
        bounds = [(limit, name) for limit in limits for name in SIGNS if hasattr(limit, name)]
        shown = ", ".join(f"{SIGNS[name]} {getattr(limit, name)}" for limit, name in bounds)
        return f"{form(inner)} {shown}".rstrip()
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"{form(typing.get_args(kind)[0])},…"
    return {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}[kind]


def is_list(kind: Any) -> bool:
    """Whether values of a setting's type are lists."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_origin(kind) is tuple


def parse_value(name: str, text: str, kind: Any) -> Any:
    """The value a command-line text means for a setting of type `kind`.

    Raises InputError naming the type or the bound that it breaks.
    """
    value = [part.strip() for part in text.split(",") if part.strip()] if is_list(kind) else text
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{name} is {text or 'empty'}: {_meaning(error.errors()[0])}") from None


def explained(error: ValidationError) -> str:
    """What is wrong with a configuration or a section of it: the first thing, in one line."""
    wrong = error.errors(include_url=False)[0]
    if wrong["type"] == "value_error":  # of a section as a whole: its own words
        return str(wrong.get("ctx", {})["error"])
    section = error.title.removesuffix("Config").lower()  # as those of `Config` are called
    name = ".".join(map(str, filter(None, (section, *wrong["loc"]))))
    if wrong["type"] == "unexpected_keyword_argument":
        return f"there is no setting {name}"
    return f"{name} is {wrong['input']!r}: {_meaning(wrong)}"


def _meaning(wrong: Any) -> str:
    """What pydantic says of a value, up to what it says of the value itself."""
    message = wrong["msg"] if wrong["type"] == "literal_error" else wrong["msg"].partition(",")[0]
    return message.replace("Input should", "it must")
