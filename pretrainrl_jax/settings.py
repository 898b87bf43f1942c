"""Settings by their dotted names: listed, read from text, changed, and checked against each other."""

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from typing import Any, Literal

from pretrainrl_jax.config import OBJECTIVES, Config, ObjectiveConfig
from pretrainrl_jax.errors import InputError


def fields_of(config: Any, prefix: str = "") -> list[tuple[str, dataclasses.Field[Any], Any]]:
    """Every setting as (dotted name, field, value), sections opened."""
    found = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found += fields_of(value, f"{prefix}{item.name}.")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                found += fields_of(inner, f"{prefix}{item.name}.{name}.")
        else:
            found.append((prefix + item.name, item, value))
    return found


def type_name(kind: Any) -> str:
    """A setting's type in words."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        words = {str: "names", int: "whole numbers", float: "numbers"}
        return f"comma-separated {words[typing.get_args(kind)[0]]}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def parse_value(name: str, text: str, kind: Any) -> Any:
    """The value a command-line text means for a setting of type `kind`.

    Raises:
        InputError: naming the type it should have.
    """
    try:
        if typing.get_origin(kind) is Literal:
            if text in typing.get_args(kind):
                return text
            raise ValueError
        if typing.get_origin(kind) is tuple:
            of = typing.get_args(kind)[0]
            return tuple(_parse_one(part.strip(), of) for part in text.split(",") if part.strip())
        return _parse_one(text, kind)
    except (ValueError, KeyError):
        raise InputError(f"--{name}={text}: {name} must be {type_name(kind)}") from None


def _parse_one(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def replace_value(config: Any, name: str, value: Any) -> Any:
    """The configuration with the dotted setting `name` changed; an objective that is not there is made."""
    first, _, rest = name.partition(".")
    if isinstance(config, Mapping):
        return {**config, first: replace_value(config.get(first, ObjectiveConfig()), rest, value)}
    if rest:
        value = replace_value(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


def validate(config: Config) -> None:
    """Check the settings against each other, without reading any file.

    Raises:
        InputError: for the first setting that is out of range.
    """
    for name in config.objectives:  # the names of the settings below are made of them
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "base":
            raise InputError(
                f"objectives names {name!r}: it names folders, give letters, digits, _ and -; base is taken"
            )
    values = {name: value for name, _, value in fields_of(config)}
    kinds = {name: item.type for name, item, _ in fields_of(config)}
    for name, value in values.items():
        if not _has_type(value, kinds[name]):
            raise InputError(f"{name} is {value!r}: it must be {type_name(kinds[name])}")
    for name in POSITIVE:
        if values[name] <= 0:
            raise InputError(f"{name} is {values[name]}: it must be more than 0")
    for name, value in values.items():
        if isinstance(value, int | float) and value < 0 and name not in INFERRED:
            raise InputError(f"{name} is {value}: it must not be negative")
    sizes = [values[name] for name in INFERRED]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError(
            f"mesh.data, mesh.fsdp and mesh.tensor are {sizes[0]}, {sizes[1]} and {sizes[2]}: each must be 1 "
            "or more, or one of them -1, which takes the devices that the others leave"
        )
    if config.hosts.coordinator and not config.hosts.index < config.hosts.count:
        raise InputError(
            f"hosts.index is {config.hosts.index} and hosts.count {config.hosts.count}: processes are "
            "numbered from 0, and hosts.coordinator needs to know how many there are"
        )
    if config.profile_steps and not _is_span(config.profile_steps):
        raise InputError(f"profile_steps is {config.profile_steps!r}: give two updates, as 10:13")
    if config.seed >= 2**32:
        raise InputError(f"seed is {config.seed}: it must be below 2**32")
    for name, value in values.items():
        if name.startswith("sweep.") and (len(set(value)) < len(value) or any(v < 0 for v in value)):
            raise InputError(f"{name} is {value}: name each value once, none of them negative")
    for name in SHARES:
        if values[name] > 1:
            raise InputError(f"{name} is {values[name]}: it is a share, between 0 and 1")
    for name in BELOW_ONE:
        if values[name] == 1:
            raise InputError(f"{name} is 1: it must be below 1")
    for large, small in DIVIDES:
        if values[large] % values[small]:
            raise InputError(
                f"{large} is {values[large]}: it must be a multiple of {small} ({values[small]})"
            )
    if config.model.head_width % 2:
        raise InputError(f"model.head_width is {config.model.head_width}: rotary embedding needs an even one")
    for system in config.train.systems:
        if system not in config.objectives:
            known = ", ".join(config.objectives)
            raise InputError(f"train.systems names {system!r}: the objectives are {known}")
        if not config.objectives[system].coefficients:
            raise InputError(f"objectives.{system} has no term: give {_weights(system)}")
    for name, objective in config.objectives.items():
        for other in objective.above:
            if other not in {**OBJECTIVES, **config.objectives}:
                raise InputError(f"objectives.{name}.above names {other!r}: there is no such objective")
    if config.evaluate.choose != "last" and not config.evaluate.every_updates:
        raise InputError(
            f"evaluate.choose is {config.evaluate.choose}: evaluate while training (evaluate.every_updates), "
            "or there is nothing to choose from"
        )
    for source in config.mine.sources:
        if source not in MINE_SOURCES:
            raise InputError(f"mine.sources names {source!r}: the sources are {', '.join(MINE_SOURCES)}")
    if not config.mine.sources or len(set(config.mine.sources)) < len(config.mine.sources):
        raise InputError(f"mine.sources is {config.mine.sources}: name one or more, each once")
    if len(config.mine.sources) > config.mine.negatives:
        raise InputError(
            f"mine.negatives is {config.mine.negatives}, fewer than the {len(config.mine.sources)} sources "
            "that share them: raise it"
        )
    if config.facts.holdout_every == 1:
        raise InputError("facts.holdout_every is 1: use 0 to hold out none, or 2 or more")
    if config.pretrain.epochs == 0 and not config.model.path:
        raise InputError("pretrain.epochs is 0 and model.path is empty: there would be no base model")
    trains_tokenizer = not config.model.path and not config.tokenizer.path
    if trains_tokenizer and 0 < config.model.vocabulary < config.tokenizer.vocabulary:
        raise InputError(
            f"model.vocabulary is {config.model.vocabulary}, smaller than the tokenizer's "
            f"{config.tokenizer.vocabulary} (tokenizer.vocabulary): raise it, or set it to 0"
        )


def _weights(objective: str) -> str:
    """The settings of which one must not be 0."""
    terms = fields_of(ObjectiveConfig(), f"objectives.{objective}.")
    names = [name for name, item, _ in terms if name.count(".") == 3 and not item.default]
    return f"{', '.join(names[:-1])} or {names[-1]}"


MINE_SOURCES = ("beam", "pool", "popularity")
POSITIVE = (
    "model.width", "model.layers", "model.heads", "model.kv_heads", "model.head_width", "model.mlp_width",
    "model.rope_theta", "model.norm_epsilon", "optimizer.clip", "hosts.dead_seconds", "hosts.stall_seconds",
    "world.facts", "world.relations", "world.answers",
    "pretrain.learning_rate", "pretrain.row_length", "pretrain.rows", "pretrain.accumulate",
    "mine.beams", "mine.max_new_tokens", "mine.batch", "mine.negatives", "mine.pool", "mine.popular_share",
    "train.passes", "train.questions", "train.row_length", "train.accumulate",
    "evaluate.beams", "evaluate.max_new_tokens", "evaluate.batch", "evaluate.bins", "evaluate.sample",
    "harness.tokens", "checkpoint.keep", "checkpoint.shard_questions",
)  # fmt: skip
INFERRED = ("mesh.data", "mesh.fsdp", "mesh.tensor")
SHARES = (
    "world.head_share", "corpus.question_share", "corpus.paraphrase_share", "corpus.held_out_share",
    "optimizer.beta1", "optimizer.beta2", "optimizer.warmup", "optimizer.final", "mine.min_probability",
    "mine.popular_share",
)  # fmt: skip
BELOW_ONE = ("optimizer.beta1", "optimizer.beta2", "corpus.held_out_share")
DIVIDES = (("model.heads", "model.kv_heads"), ("pretrain.rows", "pretrain.accumulate"))


def _is_span(text: str) -> bool:
    first, colon, last = text.partition(":")
    return bool(colon) and first.isdecimal() and last.isdecimal() and int(first) < int(last)


def _has_type(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_has_type(v, of) for v in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
