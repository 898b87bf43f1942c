"""The files of a workdir that a report is made from."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import flat, from_flat, nested, upgraded
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.systems import Systems

_SECTIONS = [field.name for field in fields(Config()) if is_dataclass(getattr(Config(), field.name))]


class Inputs(NamedTuple):
    """What a workdir holds, mining aside."""

    config: Json
    known: Systems
    evaluations: dict[str, Json]  # by system, in the order in which they are told
    metrics: list[Json]  # lines of metrics.jsonl
    finished: dict[str, Json]  # what each finished stage noted
    shape: Json  # of the base model; empty where it is not recorded


def read_inputs(workdir: Path, evaluated: bool = True) -> Inputs:
    """What a workdir holds; with `evaluated`, systems that were evaluated.

    Raises:
        InputError: if it is no folder, has no configuration or no such system, or a file cannot be read or
            is not of one system alone.
    """
    if not workdir.is_dir():
        raise InputError(f"{workdir} is no folder: name a workdir whose systems are evaluated")
    paths = workdir / "checkpoints" / "pretrain" / "model.json", workdir / "finished.json"
    described, finished = (read_json(path) if path.exists() else {} for path in paths)
    shape = described.get("shape")
    config, known = read_config(workdir)
    evaluations: dict[str, Json] = {}
    for path in sorted((workdir / "evaluations").glob("*.json")):
        evaluation = read_json(path)
        system = evaluation.get("system")
        if not isinstance(system, str) or not system:
            raise InputError(f"{path} does not name its system")
        if system in evaluations:
            raise InputError(f"{path} is a second evaluation of the system {system}: remove one of the two")
        evaluations[system] = evaluation
    if evaluated and not evaluations:
        raise InputError(f"{workdir / 'evaluations'} holds no evaluation: run evaluate before report")
    return Inputs(
        config,
        known,
        {system: evaluations[system] for system in sorted(evaluations, key=known.place)},
        read_metrics(workdir / "metrics.jsonl"),
        {stage: notes for stage, notes in finished.items() if isinstance(notes, dict)},
        shape if isinstance(shape, dict) else {},
    )


def read_config(workdir: Path) -> tuple[Json, Systems]:
    """The settings a workdir was made with, by whichever version, under today's names; and its systems.

    Raises:
        InputError: if they cannot be read.
    """
    path = workdir / "config.json"
    stored = read_json(path)
    try:
        values = upgraded(flat(stored))
        own = {name: value for name, value in values.items() if name.startswith("objectives.")}
        known = Systems(from_flat({"objectives": {}, "train.systems": ()} | own).objectives)
    except (AttributeError, TypeError, ValidationError):
        raise InputError(f"{path} does not hold the objectives of a run") from None
    for section in _SECTIONS:
        if not isinstance(stored.get(section, {}), dict):
            raise InputError(f"{path} holds no settings under {section!r}, but {str(stored[section])[:40]!r}")
    return stored | nested(values), known


def read_json(path: Path, kind: type = dict) -> Any:
    """The object, or with `list` the array, that a JSON file holds.

    Raises:
        InputError: if there is none.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the stages of this workdir before its report") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} does not hold a JSON {'object' if kind is dict else 'array'}")
    return value


def read_metrics(path: Path) -> list[Json]:
    """The lines of metrics.jsonl; none without the file. A last line cut off by an interrupt is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_bytes().decode("utf-8", "replace").splitlines() if line.strip()]
    metrics = []
    for index, line in enumerate(lines):
        try:
            metrics.append(json.loads(line))
        except ValueError:
            if index < len(lines) - 1:
                raise InputError(f"{path} line {index + 1} is not JSON") from None
    return [m for m in metrics if isinstance(m, dict)]


def describe(config: Json) -> tuple[str, str]:
    """The data set and the model in a few words: a given name, the last part of a path, or the sizes.

    Of the model also how many experts it has, and what adapters learn beside it.
    """
    path = next((str(p) for p in (config.get(s, {}).get("path") for s in ("facts", "preferences")) if p), "")
    data = str(config.get("name") or Path(path).name or "small world")
    model = config.get("model", {})
    sizes = f"{model.get('family')} with {model.get('layers')} layers of width {model.get('d_model')}"
    experts = f", {model['experts']} experts" if model.get("experts") else ""
    name = Path(model["path"]).name if model.get("path") else sizes + experts
    rank = config.get("lora", {}).get("rank")
    return data, name + (f", adapters of rank {rank}" if rank else "")
