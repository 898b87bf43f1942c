"""The report's part on the run itself: what was trained, on what, for how long, on which hardware."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.model import cost
from pretrainrl_jax.model.shape import from_json
from pretrainrl_jax.report.columns import Sheet, Told, at, sheet
from pretrainrl_jax.report.formats import Json, duration, number
from pretrainrl_jax.report.summary import group_count
from pretrainrl_jax.report.systems import Systems

UNKNOWN = "not recorded"
VERBS = ("pretrain", "mine", "train", "evaluate")  # in the order of a run
SIZES = ("vocabulary", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width")


def model_line(shape: Json, settings: Json) -> str:
    """What the model is: where it comes from, its parameters and its sizes."""
    count, sizes = parameters(shape), {key: number(shape.get(key)) for key in SIZES}
    described = (
        "{layers:,.0f} layers of width {width:,.0f}, {heads:,.0f} heads of {head_width:,.0f} "
        "({kv_heads:,.0f} of keys and values), MLP of {mlp_width:,.0f}, vocabulary of {vocabulary:,.0f}"
    )
    parts = [f"weights of {Path(settings['path']).name}"] if settings.get("path") else []
    parts = parts or [f"{settings.get('family')} from random weights"]
    parts += [] if count is None else [f"{count:,} parameters"]
    parts += [f"its sizes are {UNKNOWN}" if None in sizes.values() else described.format(**sizes)]
    return f"{'; '.join(parts)}."


def parameters(shape: Json) -> int | None:
    """Number of parameters of a decoder of this shape; None where it does not describe one."""
    if any(number(shape.get(key)) is None for key in SIZES):
        return None
    try:
        return int(cost.parameters(from_json(shape)).total)
    except (KeyError, TypeError):
        return None


def data_line(summary: Json, config: Json) -> str:
    """The data set and how many of its facts were trained on (or asked about), held out and unseen."""
    alone = config.get("train", {}).get("systems") == []  # a model that was evaluated and not trained
    texts = {
        "trained": "{:,} facts asked about" if alone else "{:,} facts trained on",
        "unseen": "of which {:,} never stated in pretraining",
        "held_out": "{:,} held out",
    }
    systems = summary["systems"].values()
    counts = {group: max((group_count(s, group) for s in systems), default=0) for group in texts}
    parts = [text.format(counts[group]) for group, text in texts.items() if counts[group]]
    passes, seconds = (number(config.get("train", {}).get(name)) for name in ("passes", "device_seconds"))
    if counts["trained"] and seconds and not alone:
        parts.append(f"each system trained for {seconds:,g} device seconds")
    elif counts["trained"] and passes is not None and not alone:
        parts.append(f"each trained fact visited {passes:,g} times")
    return f"{summary['dataset']}: {', '.join(parts) or f'numbers of facts {UNKNOWN}'}."


def loss_text(objective: ObjectiveConfig) -> str:
    """The terms of an objective with their weights; a weight of zero is left out."""
    terms = []
    for name, coefficients in objective.coefficients.items():
        shown = (item for item in fields(objective.terms[name]) if item.metadata["shown"])
        items = [item for item in shown if item.name in coefficients]
        how = [f"{i.metadata['shown']}\u00a0=\u00a0{coefficients[i.name]:g}" for i in items if i.default]
        for item in items:
            weight, term = coefficients[item.name], item.metadata["shown"] + f"({', '.join(how)})" * bool(how)
            if not item.default:
                terms.append(term if weight == 1 else f"{weight:g}\u00a0·\u00a0{term}")
    return " + ".join(terms) or UNKNOWN


def _seconds(value: object) -> str:
    return "" if number(value) is None else duration(number(value))


def _gibibytes(value: object) -> str:
    size = number(value)
    return "" if size is None else f"{size / 2**30:.2f} GiB"


def _notes(notes: Json) -> str:
    parts = [f"taken over from {notes['from']}"] if notes.get("from") else []
    skipped = number(notes.get("skipped")) or 0
    parts += [f"updates skipped as not finite: {skipped:,.0f}"] if skipped > 0 else []
    return "; ".join(parts)


COLUMNS: dict[str, Told] = {
    "wall clock": at(_seconds, "seconds"),
    "device time": at(_seconds, "device_seconds"),
    "peak memory": at(_gibibytes, "host_peak_bytes"),
    "of a device": at(_gibibytes, "device_peak_bytes"),
    "device": lambda notes: str(notes.get("device") or ""),
    "ended, UTC": lambda notes: str(notes.get("ended") or "")[:19].replace("T", " "),  # to the second
    "notes": _notes,
}


def stages(finished: dict[str, Json], known: Systems) -> Sheet:
    """The finished stages in the order of a run: how long, on what, when; notes on what was odd.

    Stages that recorded nothing, and columns that no stage fills, are left out.
    """
    rows = []
    for stage in _in_order(finished, known):
        verb, _, system = stage.partition("/")
        rows.append((f"{verb} {known.label(system)}" if system else verb, finished[stage]))
    made = sheet(COLUMNS, rows, "stage", nothing="")
    return made._replace(rows=[row for row in made.rows if any(cell.text for cell in row[1:])])


def _in_order(finished: Iterable[str], known: Systems) -> list[str]:
    def order(stage: str) -> tuple[int, tuple[int, str]]:
        verb, _, system = stage.partition("/")
        return [*VERBS, verb].index(verb), known.place(system)

    return sorted(finished, key=order)


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
