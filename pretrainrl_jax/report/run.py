"""The report's part on the run itself: what was trained, on what, for how long, on which hardware."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.model import cost
from pretrainrl_jax.model.shape import from_json
from pretrainrl_jax.report.formats import Json, decimals, duration, number
from pretrainrl_jax.report.inputs import Inputs
from pretrainrl_jax.report.summary import group_count
from pretrainrl_jax.report.systems import Systems

UNKNOWN = "not recorded"

SIZES = ("vocabulary", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width")


def run_section(inputs: Inputs, summary: Json) -> Json:
    """Everything the page says of the run; what a workdir does not record is said to be so."""
    return {
        "model": model_line(inputs.shape, inputs.config.get("model", {})),
        "data": data_line(summary, inputs.config),
        "pretraining": pretraining(inputs.metrics),
        "objectives": objectives(inputs),
        "hardware": hardware(inputs.finished, inputs.known),
        "stages": stages(inputs.finished, inputs.known),
    }


def model_line(shape: Json, settings: Json) -> str:
    """What the model is: where it comes from, its parameters and its sizes."""
    count = parameters(shape)
    sizes = {key: number(shape.get(key)) for key in SIZES}
    parts = [] if count is None else [f"{count:,} parameters"]
    if None not in sizes.values():
        parts.append(
            f"{sizes['layers']:,.0f} layers of width {sizes['width']:,.0f}, {sizes['heads']:,.0f} heads of "
            f"{sizes['head_width']:,.0f} ({sizes['kv_heads']:,.0f} of keys and values), "
            f"MLP of {sizes['mlp_width']:,.0f}, vocabulary of {sizes['vocabulary']:,.0f}"
        )
    else:
        parts.append(f"its sizes are {UNKNOWN}")
    path = settings.get("path")
    start = f"weights of {Path(path).name}" if path else f"{settings.get('family')} from random weights"
    return f"{'; '.join([start, *parts])}."


def parameters(shape: Json) -> int | None:
    """Number of parameters of a decoder of this shape; None where it does not describe one."""
    if any(number(shape.get(key)) is None for key in SIZES):
        return None
    try:
        return int(cost.parameters(from_json(shape)).total)
    except (KeyError, TypeError):
        return None


def data_line(summary: Json, config: Json) -> str:
    """The data set and how many of its facts were trained on, held out and unseen."""
    counts = {
        group: max((group_count(s, group) for s in summary["systems"].values()), default=0)
        for group in ("trained", "held_out", "unseen")
    }
    parts = []
    if counts["trained"]:
        parts.append(f"{counts['trained']:,} facts trained on")
    if counts["unseen"]:
        parts.append(f"of which {counts['unseen']:,} never stated in pretraining")
    if counts["held_out"]:
        parts.append(f"{counts['held_out']:,} held out")
    passes = number(config.get("train", {}).get("passes"))
    if counts["trained"] and passes is not None:
        parts.append(f"each trained fact visited {passes:,.0f} times")
    return f"{summary['dataset']}: {', '.join(parts) or f'numbers of facts {UNKNOWN}'}."


def pretraining(metrics: list[Json]) -> dict[str, float] | None:
    """Updates and first and last loss of pretraining, if this workdir pretrained."""
    found = [(number(m.get("step")), number(m.get("loss"))) for m in metrics if m.get("stage") == "pretrain"]
    known = [(step, loss) for step, loss in found if step is not None and loss is not None]
    return {"updates": known[-1][0], "first": known[0][1], "last": known[-1][1]} if known else None


def objectives(inputs: Inputs) -> list[Json]:
    """Of each trained system its loss as a sum, and how it was optimised."""
    systems = [str(e.get("system")) for e in inputs.evaluations if e.get("system") != "base"]
    updates: dict[str, float] = {}
    for line in inputs.metrics:
        stage, step = str(line.get("stage")), number(line.get("step"))
        if step is not None:
            updates[stage] = max(step, updates.get(stage, 0))
    return [
        {
            "system": system,
            "loss": loss_text(inputs.known.of(system)),
            "learning_rate": f"{of.learning_rate:g}" if of else UNKNOWN,
            "updates": decimals(updates.get(f"train/{system}"), 0),
            "again": _again(inputs.known.of(system)),
        }
        for system in systems
        for of in [inputs.known.objectives.get(system)]
    ]


def loss_text(objective: ObjectiveConfig) -> str:
    """The terms of an objective with their weights; a weight of zero is left out."""
    terms = []
    for name, coefficients in objective.coefficients.items():
        items = [item for item in fields(objective.terms[name]) if item.name in coefficients]
        how = [f"{i.metadata['shown']}\u00a0=\u00a0{coefficients[i.name]:g}" for i in items if i.default]
        for item in items:
            weight, term = coefficients[item.name], item.metadata["shown"] + f"({', '.join(how)})" * bool(how)
            if not item.default:
                terms.append(term if weight == 1 else f"{weight:g}\u00a0·\u00a0{term}")
    return " + ".join(terms) or UNKNOWN


def _again(objective: ObjectiveConfig) -> str:
    if not objective.remine_every:
        return "no"
    renewed = ", reference renewed" if objective.reference == "renewed" else ""
    return f"every {objective.remine_every:,} updates{renewed}"


COLUMNS = {
    "wall clock": "seconds", "device time": "device_seconds", "device": "device", "ended, UTC": "ended",
    "notes": "notes",
}  # fmt: skip
"""Columns of the stages' table, and what fills them."""


def stages(finished: dict[str, Json], known: Systems) -> Json | None:
    """The finished stages in the order of a run: how long, on what, when; notes on what was odd.

    Stages that recorded nothing, and columns that no stage fills, are left out; None where nothing is left.
    """
    told = {stage: _told(finished[stage]) for stage in _in_order(finished, known)}
    shown = [(head, key) for head, key in COLUMNS.items() if any(of[key] for of in told.values())]
    rows = [
        {"stage": _stage_name(stage, known), "cells": [of[key] for _, key in shown]}
        for stage, of in told.items()
        if any(of.values())
    ]
    return {"heads": [head for head, _ in shown], "rows": rows} if rows else None


def _told(notes: Json) -> dict[str, str]:
    known = {key: number(notes.get(key)) for key in ("seconds", "device_seconds")}
    ended = notes.get("ended")
    return {
        **{key: "" if value is None else duration(value) for key, value in known.items()},
        "device": str(notes.get("device") or ""),
        "ended": ended[:19].replace("T", " ") if isinstance(ended, str) else "",  # to the second
        "notes": _notes(notes),
    }


def _in_order(finished: Iterable[str], known: Systems) -> list[str]:
    def order(stage: str) -> tuple[int, tuple[int, str]]:
        verbs = ("pretrain", "mine", "train", "evaluate")
        verb, _, system = stage.partition("/")
        return (verbs.index(verb) if verb in verbs else len(verbs), known.place(system))

    return sorted(finished, key=order)


def _stage_name(stage: str, known: Systems) -> str:
    verb, _, system = stage.partition("/")
    return f"{verb} {known.label(system)}" if system else verb


def _notes(notes: Json) -> str:
    parts = [f"taken over from {notes['from']}"] if notes.get("from") else []
    skipped = number(notes.get("skipped"))
    if skipped and skipped > 0:
        parts.append(f"updates skipped as not finite: {skipped:,.0f}")
    return "; ".join(parts)


def hardware(finished: dict[str, Json], known: Systems) -> str:
    """The devices that the stages name, and their seconds together; what is not recorded is counted."""
    named = [finished[stage].get("device") for stage in _in_order(finished, known)]
    devices = dict.fromkeys(str(device) for device in named if device)
    seconds = [number(notes.get("seconds")) for notes in finished.values() if not notes.get("from")]
    recorded = [s for s in seconds if s is not None]
    where = f"On {' and '.join(devices)}" if devices else f"The hardware is {UNKNOWN}"
    if not recorded:
        return f"{where}; wall-clock times are {UNKNOWN}."
    missing = len(seconds) - len(recorded)
    tail = f" ({missing} of {len(seconds)} stages {UNKNOWN})" if missing else ""
    return f"{where}; {duration(sum(recorded))} of wall-clock time in all{tail}."
