"""Settings by their dotted names: listed, as JSON of any version holds them, and which stages need which."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pretrainrl_jax.config import METHODS, NAMED, OBJECTIVES, Config, SelfimproveConfig, TrainConfig
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
    return TypeAdapter(Config).validate_json(json.dumps(nested(values)))


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some settings changed, all at once; new objectives and methods are made.

    Raises pydantic.ValidationError as `from_flat`.
    """
    return from_flat({**flat(resolved(config)), **values})


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings that any version wrote, under today's names; what came later is as it was before it.

    A version of format 1 told its objectives in the order of `OBJECTIVES`, in whichever it stored them.
    """
    names = named_sections(values)
    if values.get("format", 1) < 2:
        names.sort(key=[*(("objectives", name) for name in OBJECTIVES), *names].index)
    nothing: dict[str, Any] = {section: {} for section in NAMED}
    known = every_setting(
        Config(train=TrainConfig(systems=()), selfimprove=SelfimproveConfig(systems=()), **nothing)
    )
    if not any(section == "methods" for section, _ in names):  # a workdir of before there were any
        names += [("methods", name) for name in METHODS]
    for section, name in names:
        known += every_setting(section_named(section, name), f"{section}.{name}.")
    now = {setting.former: setting.name for setting in known if setting.former}
    given = {now.get(name, name): value for name, value in values.items() if name not in STAMP}
    if "anchor.texts" in given:  # which each had that length at most
        given["anchor.tokens"] = given.pop("anchor.texts") * given["anchor.length"]
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

    A choice is made where one is asked for, a base model of documents where that is, and one with adapters
    where pretraining goes on with a model; a report is made again at any time.
    """
    made = {
        "report": False,
        "choice": config.evaluate.choose != "last",
        "documents": config.pretrain.text == "documents",
        "adapted": bool(config.model.path and config.pretrain.epochs),
    }
    return any(made.get(kind, True) for kind in results)


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """By dotted name, what "pretrain", "mine", "train/<system>", "tuning/judge", … depends on."""
    kind, _, system = stage.partition("/")
    objective = config.objectives.get(system)
    stages = {"pretrain", "documents", "adapted", kind}
    if kind in ("train", "evaluate"):
        stages.add("choice")
    if objective:
        stages |= {"train", "mine"} if objective.contrasts else {"train"}
        stages |= {"anchor", "anchored"} if objective.anchored else set()
        stages |= {"rewards"} if objective.reinforced else set()
    if stage == "tuning/rewriter":  # the judge scores rewrites
        stages.add("rewriting")
    values = flat(resolved(config))
    return {
        name: values[name]
        for name, _, _, results in every_setting(config)
        if matters(stages.intersection(results), config)
        and all(of == system for _, of in named_sections([name]))
        and (not name.startswith("tuning.") or name.startswith(f"tuning.{system}."))
    }


def named_sections(values: Iterable[str]) -> list[tuple[str, str]]:
    """The objectives and methods that dotted names of settings are of: ("objectives", "dpo"), …"""
    parts = (name.split(".") for name in values)
    return list(dict.fromkeys((part[0], part[1]) for part in parts if part[0] in NAMED and len(part) > 2))


def section_named(section: str, name: str) -> Any:
    """The known one of that name, or what a new one is."""
    known, new = NAMED[section]
    return known.get(name, new)


def shown_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few settings that differ between two flat configurations, in words; empty where none does."""
    changed = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in [*now, *(n for n in before if n not in now)]
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
