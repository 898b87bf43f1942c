"""Settings in words: their types, what a text means, and what is wrong with a value, in one line."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from pretrainrl_jax.config import NAMED, Config
from pretrainrl_jax.config.declare import Axes, Counts, Names, Numbers
from pretrainrl_jax.config.stored import every_setting
from pretrainrl_jax.errors import InputError

BOUNDS = {
    "greater_than": "it must be more than {gt:g}",
    "greater_than_equal": "it must be {ge:g} or more",
    "less_than": "it must be below {lt:.15g}",
    "less_than_equal": "it must be {le:g} or less",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
TYPES: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    Names: "comma-separated names", Counts: "comma-separated whole numbers",
    Numbers: "comma-separated numbers", Axes: "a dict of settings and their values, in a configuration file",
}  # fmt: skip


def type_name(kind: Any) -> str:
    """A setting's type in words."""
    if kind in TYPES:
        return TYPES[kind]
    arguments = typing.get_args(kind)
    return "one of " + ", ".join(arguments) if typing.get_origin(kind) is Literal else type_name(arguments[0])


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


def parse_value(name: str, text: str, kind: Any) -> Any:
    """The value a command-line text means for a setting of type `kind`, whose bounds are not looked at.

    Raises InputError naming the type it should have.
    """
    plain = _plain(kind)
    try:
        if is_list(kind):
            parts = [part.strip() for part in text.split(",") if part.strip()]
            return [_read(part, typing.get_args(plain)[0]) for part in parts]
        return _read(text, plain)
    except ValidationError:
        raise InputError(f"--{name}={text}: {name} must be {type_name(kind)}") from None


def _plain(kind: Any) -> Any:
    """A type without its bounds; what translates former values stays."""
    while typing.get_origin(kind) is typing.Annotated:
        kind, *more = typing.get_args(kind)
        if translators := [item for item in more if isinstance(item, BeforeValidator)]:
            return typing.Annotated[kind, translators[0]]
    return kind


def is_list(kind: Any) -> bool:
    """Whether values of a setting's type are lists."""
    return typing.get_origin(_plain(kind)) is tuple


def _read(text: str, kind: Any) -> Any:
    return TypeAdapter(_plain(kind), config=ConfigDict(allow_inf_nan=False)).validate_strings(text)


def explained(error: ValidationError) -> str:
    """What is wrong with a configuration or a section of it: the first thing, in one line."""
    wrong = error.errors(include_url=False)[0]
    if not (section := SECTIONS.get(error.title)):  # a configuration file may check things of its own
        return f"{error.title}: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    path, value = _path(section, wrong["loc"]), wrong["input"]
    name, about = ".".join(path), wrong.get("ctx", {})
    if wrong["type"] == "value_error":  # of a section as a whole: its own words
        return str(about["error"])
    if wrong["type"] == "unexpected_keyword_argument":
        return f"there is no setting {name}"
    if wrong["type"] in BOUNDS:
        return f"{name} is {value}: {BOUNDS[wrong['type']].format(**about)}"
    if wrong["type"].startswith("dataclass"):
        return f"{name} is {value!r}: it must be a config.{about['class_name']}"
    if path[0] in NAMED and (len(path) == 1 or wrong["loc"][-1] == "[key]"):
        has = "is" if len(path) == 1 else "names"
        kind = type(NAMED[path[0]][1]).__name__
        return f"{path[0]} {has} {value!r}: it must be a dict of config.{kind} by name"
    if wrong["type"].endswith(("_type", "_parsing")) or wrong["type"] in ("literal_error", "finite_number"):
        return f"{name} is {value!r}: it must be {type_name(_kind(path))}"
    return f"{name}: {wrong['msg']} ({value!r})"


def _path(section: type, loc: Sequence[str | int]) -> list[str]:
    """The dotted name, in parts, of what an error of a section's class is about."""
    names = dict(enumerate(item.name for item in dataclasses.fields(section)))  # it may be given by its place
    inner = [names.get(part, str(part)) if isinstance(part, int) else part for part in loc[:1]]
    return [*PATHS[section], *inner, *map(str, loc[1:])]


def _paths(section: Any, path: list[str]) -> dict[type, list[str]]:
    """Where the class of a section, and those of the sections in it, stand."""
    inner = {item.name: getattr(section, item.name) for item in dataclasses.fields(section)}
    paths = {type(section): path}
    for name, value in inner.items():
        paths |= _paths(value, [*path, name]) if dataclasses.is_dataclass(value) else {}
    return paths


def _kind(path: Sequence[str]) -> Any:
    """The type of the setting at a path, which may go on into its items."""
    path = [path[0], "NAME", *path[2:]] if path[0] in NAMED else path
    names = (".".join(path[:end]) for end in range(1, len(path) + 1))
    return next(KINDS[name] for name in names if name in KINDS)


PATHS = _paths(Config(), [])
KINDS = {setting.name: setting.field.type for setting in every_setting(Config())}
for named, (_, new) in NAMED.items():
    PATHS.update(_paths(new, [named, "NAME"]))
    KINDS.update((setting.name, setting.field.type) for setting in every_setting(new, f"{named}.NAME."))
SECTIONS = {section.__name__: section for section in PATHS}
