"""The report's part on the run itself: what was trained, on what, for how long, on which devices."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.model import cost
from pretrainrl_jax.model.shape import from_json
from pretrainrl_jax.report.charts import series
from pretrainrl_jax.report.columns import Sheet, Told, at, count, sheet
from pretrainrl_jax.report.formats import Json, duration, number
from pretrainrl_jax.report.inputs import Inputs
from pretrainrl_jax.report.summary import group_count
from pretrainrl_jax.report.systems import Systems

UNKNOWN = "not recorded"
SIZES = (
    "{layers:,} layers of width {width:,}, {heads:,} heads of {head_width:,} "
    "({kv_heads:,} of keys and values), MLP of {mlp_width:,}, vocabulary of {vocabulary:,}"
)
VERBS = ("pretrain", "mine", "train", "evaluate")  # in the order of a run


def about(inputs: Inputs, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The model, `more`, and what pretraining did, each with its head."""
    settings, count = inputs.config.get("model", {}), parameters(inputs.shape)
    start = Path(settings["path"]).name if settings.get("path") else f"random {settings.get('family')}"
    model = start if count is None else f"{start}; {count:,} parameters; {SIZES.format(**inputs.shape)}"
    told = [("model", model), *more]
    steps, losses = series(inputs.metrics, "pretrain", "loss")
    if len(steps):
        told.append(("pretraining", f"{steps[-1]:,.0f} updates, to a loss of {losses[-1]:.2f} nats a token"))
    return [*told, ("hardware", hardware(inputs.finished))]


def hardware(finished: dict[str, Json]) -> str:
    """The devices of all stages, and their seconds together; how many stages did not record theirs."""
    devices = dict.fromkeys(str(notes["device"]) for notes in finished.values() if notes.get("device"))
    seconds = [number(notes.get("seconds")) for notes in finished.values() if not notes.get("from")]
    recorded = [s for s in seconds if s is not None]
    took = f"{duration(sum(recorded))} of wall-clock time in all" if recorded else f"time {UNKNOWN}"
    missing = f" ({len(seconds) - len(recorded)} of {len(seconds)} stages {UNKNOWN})"
    few = 0 < len(recorded) < len(seconds)
    return f"{' and '.join(devices) or UNKNOWN}; {took}{missing if few else ''}"


def parameters(shape: Json) -> int | None:
    """Number of parameters of a decoder of this shape; None where it does not describe one."""
    try:
        return int(cost.parameters(from_json(shape)).total)
    except (KeyError, TypeError):
        return None


def facts_line(summary: Json, config: Json) -> str:
    """How many facts were trained on (or asked about), never stated and held out, and how often each."""
    train = config.get("train", {})
    alone = train.get("systems") == []  # a model that was evaluated and not trained
    groups = {
        "trained": "asked about" if alone else "trained on",
        "unseen": "of these never stated in pretraining",
        "held_out": "held out",
    }
    systems = summary["systems"].values()
    counts = {group: max((group_count(s, group) for s in systems), default=0) for group in groups}
    parts = [f"{counts[group]:,} {words}" for group, words in groups.items() if counts[group]]
    length = {"device_seconds": "device seconds a system", "passes": "passes"}
    spent = [f"{train[name]:,g} {words}" for name, words in length.items() if train.get(name)]
    return ", ".join(parts + ([] if alone else spent[:1])) or UNKNOWN


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


def _gibibytes(value: object) -> str:
    size = number(value)
    return "" if size is None else f"{size / 2**30:.2f} GiB"


def _notes(notes: Json) -> str:
    parts = [f"taken over from {notes['from']}"] if notes.get("from") else []
    skipped = number(notes.get("skipped")) or 0
    parts += [f"updates skipped as not finite: {skipped:,.0f}"] if skipped > 0 else []
    return "; ".join(parts)


COLUMNS: dict[str, Told] = {
    "wall clock": at(lambda value: duration(number(value)), "seconds"),
    "device time": at(lambda value: duration(number(value)), "device_seconds"),
    "peak memory": at(_gibibytes, "host_peak_bytes"),
    "of a device": at(_gibibytes, "device_peak_bytes"),
    "device": lambda notes: str(notes.get("device") or ""),
    "ended, UTC": lambda notes: str(notes.get("ended") or "")[:19].replace("T", " "),  # to the second
    "notes": _notes,
}


MINIMISED: dict[str, Told] = {
    "peak learning rate": at("{:g}".format, "rate"),
    "updates": at(count, "updates"),
    "falsehoods mined again every": at(count, "remined"),
}


def stages(finished: dict[str, Json], known: Systems) -> Sheet:
    """The finished stages in the order of a run: how long, on what, when; notes on what was odd.

    Stages that recorded nothing, and columns that no stage fills, are left out.
    """

    def order(stage: str) -> tuple[int, tuple[int, str]]:
        verb, _, system = stage.partition("/")
        return [*VERBS, verb].index(verb), known.place(system)

    rows: list[tuple[str, Json]] = []
    for stage in sorted(finished, key=order):
        verb, _, system = stage.partition("/")
        rows.append((f"{verb} {known.label(system)}" if system else verb, finished[stage]))
    made = sheet(COLUMNS, rows, "stage", nothing="")
    return made._replace(rows=[row for row in made.rows if any(cell.text for cell in row[1:])])


def minimised(inputs: Inputs, systems: Iterable[str]) -> Sheet:
    """What each trained system minimises, how fast, how long, and how often its falsehoods were renewed."""
    rows: list[tuple[str, str, Json]] = []
    for name in systems:
        objective, (steps, _) = inputs.known.of(name), series(inputs.metrics, f"train/{name}", "step")
        row = {"updates": steps[-1] if len(steps) else None, "remined": objective.remine_every or None}
        row["rate"] = objective.learning_rate if name in inputs.known.objectives else None
        rows.append((inputs.known.label(name), loss_text(objective), row))
    return sheet(MINIMISED, rows, "system", "loss")
