"""Settings by their dotted names: listed, and as JSON holds them, whichever version wrote it."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pretrainrl_jax.config import OBJECTIVES, Config, ObjectiveConfig, TrainConfig
from pretrainrl_jax.config.declare import Results
from pretrainrl_jax.version import STAMP


class Setting(NamedTuple):
    """One setting of a configuration."""

    name: str  # dotted
    field: dataclasses.Field[Any]
    value: Any
    results: Results  # what depends on it

    @property
    def former(self) -> str:
        """The name it had before; empty where it had none."""
        parent, was = self.name.rpartition(".")[0], self.field.metadata["was"]
        if was.startswith("../"):
            parent, was = parent.rpartition(".")[0], was[3:]
        return was and f"{parent}.{was}"


def every_setting(config: Any, prefix: str = "") -> list[Setting]:
    """Every setting of a section or of all, sections opened."""
    listed = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            listed += every_setting(value, f"{prefix}{item.name}.")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                listed += every_setting(inner, f"{prefix}{item.name}.{name}.")
        else:
            results = item.metadata["results"]
            results = type(config).results if results is None else results
            listed.append(Setting(prefix + item.name, item, value, results))
    return listed


def resolved(config: Any) -> dict[str, Any]:
    """A configuration, or a part of it, as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's JSON with dotted names; an empty section stays one."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        named |= flat(inner, f"{prefix}{name}.") if inner else {prefix + name: value}
    return named


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON whose dotted names these are."""
    sections: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[last] = dict(value) if isinstance(value, Mapping) else value
    return sections


def from_flat(values: Mapping[str, Any]) -> Config:
    """The configuration of these settings, by dotted names; those that are not there have their defaults.

    Raises pydantic.ValidationError for one that is wrong, or unknown.
    """
    return _adapter().validate_json(json.dumps(nested(values)))


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some settings changed, all at once; an objective that is not there is made.

    Raises pydantic.ValidationError as `from_flat`.
    """
    return from_flat({**flat(resolved(config)), **values})


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that any version wrote, under today's names; what came later is as it was before it.

    A version of format 1 told its objectives in the order of `OBJECTIVES`, in whichever it stored them.
    """
    names = objective_names(values)
    if values.get("format", 1) < 2:
        names.sort(key=[*OBJECTIVES, *names].index)
    known = every_setting(Config(train=TrainConfig(systems=()), objectives={}))
    for name in names:
        known += every_setting(OBJECTIVES.get(name, ObjectiveConfig()), f"objectives.{name}.")
    now = {setting.former: setting.name for setting in known if setting.former}
    given = {now.get(name, name): value for name, value in values.items() if name not in STAMP}
    result: dict[str, Any] = {}
    for name, item, value, results in known:
        before = item.metadata["before"]
        if before is dataclasses.MISSING:  # what an objective is told as is known; its terms are not
            before = value if not results else item.default
        result[name] = given.pop(name, list(before) if isinstance(before, tuple) else before)
    return result | given  # what is unknown is for `from_flat` to refuse


def section_as_now(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one section, that any version wrote, as `upgraded` gives them."""
    return nested(upgraded({f"{section}.{name}": value for name, value in values.items()}))[section]


def matters(results: Iterable[str], config: Config) -> bool:
    """Whether a result depends on a setting that these depend on.

    A choice is made where one is asked for, and a base model made of documents where that is.
    """
    made = {"choice": config.evaluate.choose != "last", "documents": config.pretrain.text == "documents"}
    return any(made.get(kind, True) for kind in results)


def objective_names(values: Iterable[str]) -> list[str]:
    """The objectives that dotted names of settings are of."""
    parts = (name.split(".") for name in values if name.startswith("objectives."))
    return list(dict.fromkeys(part[1] for part in parts if len(part) > 2))


def shown_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few settings that differ between two flat configurations, in words; empty where none does."""
    changed = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in [*now, *(n for n in before if n not in now)]
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
