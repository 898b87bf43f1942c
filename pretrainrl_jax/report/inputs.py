"""The files of a workdir that a report is made from."""

import json
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.formats import SYSTEMS, Json


class Inputs(NamedTuple):
    """What a workdir holds, mining aside."""

    config: Json
    evaluations: list[Json]  # base first, then the controls, then the method
    metrics: list[Json]  # lines of metrics.jsonl
    finished: dict[str, Json]  # what each finished stage noted
    shape: Json  # of the base model; empty where it is not recorded


def read_inputs(workdir: Path) -> Inputs:
    """What a workdir holds.

    Raises:
        InputError: if it is no folder, has no configuration or no evaluation, or a file cannot be read.
    """
    if not workdir.is_dir():
        raise InputError(f"{workdir} is no folder: name a workdir whose systems are evaluated")
    described = _optional(workdir / "checkpoints" / "pretrain" / "model.json").get("shape")
    finished = _optional(workdir / "finished.json")
    return Inputs(
        read_json(workdir / "config.json"),
        _read_evaluations(workdir),
        read_metrics(workdir / "metrics.jsonl"),
        {stage: notes for stage, notes in finished.items() if isinstance(notes, dict)},
        described if isinstance(described, dict) else {},
    )


def _optional(path: Path) -> Json:
    return read_json(path) if path.exists() else {}


def read_json(path: Path) -> Json:
    """The object a JSON file holds.

    Raises:
        InputError: if there is none.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the stages of this workdir before its report") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return found


def _read_evaluations(workdir: Path) -> list[Json]:
    paths = sorted((workdir / "evaluations").glob("*.json"))
    if not paths:
        raise InputError(f"{workdir / 'evaluations'} holds no evaluation: run evaluate before report")
    return sorted(map(read_json, paths), key=lambda e: place(str(e.get("system"))))


def place(system: str) -> tuple[int, str]:
    """Orders systems as they are told: base first, the controls, the method, then those not known here."""
    known = list(SYSTEMS)
    return (known.index(system) if system in known else len(known), system)


def read_metrics(path: Path) -> list[Json]:
    """The lines of metrics.jsonl; none without the file. A last line cut off by an interrupt is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    metrics = []
    for index, line in enumerate(lines):
        try:
            metrics.append(json.loads(line))
        except ValueError:
            if index < len(lines) - 1:
                raise InputError(f"{path} line {index + 1} is not JSON") from None
    return [m for m in metrics if isinstance(m, dict)]


def describe_data(config: Json) -> str:
    """The data set in a few words: its given name, or the last part of its path."""
    path = str(config.get("facts", {}).get("path") or "")
    return str(config.get("name") or Path(path).name or "small world")


def describe_model(config: Json) -> str:
    """The model in a few words, from the resolved config."""
    model = config.get("model", {})
    if model.get("path"):
        return Path(model["path"]).name
    return f"{model.get('family')} with {model.get('layers')} layers of width {model.get('width')}"


def flatten(tree: Json, prefix: str = "") -> Json:
    """Nested settings by their dotted names."""
    flat: Json = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
