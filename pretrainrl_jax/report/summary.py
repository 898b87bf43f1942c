"""What a run found: the checked numbers of every system, and their table for a terminal."""

from collections.abc import Mapping
from functools import partial

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.report.columns import Cell, Sheet, Told, estimated, in_percent, plain, sheet
from pretrainrl_jax.report.formats import Json, decimals, number, percent
from pretrainrl_jax.report.outcomes import common, difference, kept, trained
from pretrainrl_jax.report.systems import Systems

RATES = ("acc", "hr", "mrr", "prob", "prob_all", "prob_aliases")
PLACES = {"text_nll": 2, "device_seconds": 1, "forgetting": 2}  # decimals of the figures that are no rates


def summarise(evaluations: Mapping[str, Json], dataset: str, model: str) -> Json:
    """The content of `report/summary.json`, from the evaluation of every system.

    acc, hr, mrr and prob of a system are those of the facts it was trained on; the other groups of
    questions stand under `groups`; "head_kept" are the best-known facts beyond the run's that the base model
    answers. Beside an acc stands its 95 % interval, `acc_interval`. `against` holds
    the difference of acc to every other system, paired by question, where the outcomes are at hand. A rate
    outside [0, 1] is refused; what is not a number becomes None.
    """
    systems = {name: _system(evaluation, name) for name, evaluation in evaluations.items()}
    asked = {name: trained(evaluation) for name, evaluation in evaluations.items()}
    for name in evaluations.keys() - {"base"} if "base" in evaluations else ():
        if of_head := kept(evaluations["base"], evaluations[name]):
            systems[name]["groups"]["head_kept"] = _measures(of_head, f"{name}: head_kept")
    for name, of_system in systems.items():
        changes = {other: difference(common(asked[other], asked[name])) for other in asked if other != name}
        of_system["against"] = {other: change._asdict() for other, change in changes.items() if change}
    return {"dataset": dataset, "model": model, "systems": systems}


def _system(evaluation: Json, system: str) -> Json:
    groups = {
        group: _measures(measured, f"{system}: {group}")
        for group, measured in (evaluation.get("groups") or {}).items()
        if measured and number(measured.get("count")) != 0
    }
    bins = {
        kind: [_measures(b, f"{system}: {kind} bin {i}") for i, b in enumerate(evaluation.get(kind) or [])]
        for kind in ("by_popularity", "by_popularity_paraphrase")
    }
    return {
        **{key: groups.get("trained", {}).get(key) for key in ("acc", "hr", "mrr", "prob", "acc_interval")},
        **bins,
        "text_nll": number(evaluation.get("text_nll")),
        "device_seconds": number(evaluation.get("device_seconds")),
        "unfinished_beams": _rate(evaluation.get("unfinished_beams"), f"{system}: unfinished_beams"),
        "groups": groups,
    }


def _measures(measured: Json, where: str) -> Json:
    checked = {k: _rate(v, f"{where}: {k}") if k in RATES else number(v) for k, v in measured.items()}
    count = int(checked.get("count") or 0)
    checked |= {"count": count} if "count" in checked else {}
    rate = checked.get("acc")
    return checked if rate is None else checked | {"acc_interval": wilson(round(rate * count), count)}


def _rate(value: object, where: str) -> float | None:
    rate = number(value)
    # Sums of float32 probabilities may pass 1 by a rounding error.
    if rate is not None and not -1e-5 <= rate <= 1 + 1e-5:
        raise InputError(f"evaluation of {where} is {rate:g}, which is not a rate in [0, 1]")
    return None if rate is None else min(1.0, max(0.0, rate))


def group_rate(system: Json, group: str, rate: str = "acc") -> float | None:
    """One rate of one group of questions; None where it was not measured."""
    return system["groups"].get(group, {}).get(rate)


def group_count(system: Json, group: str) -> int:
    """Questions of one group; 0 where there are none."""
    return system["groups"].get(group, {}).get("count", 0)


def figure(system: Json, name: str) -> float | None:
    """A figure of a system, by its key in summary.json; of a group of questions, by its name, the acc."""
    return system[name] if name in system else group_rate(system, name)


def shown(system: Json, name: str) -> str:
    """That figure as a reader sees it: rates in %, a dash where it was not measured."""
    value = figure(system, name)
    return decimals(value, PLACES[name]) if name in PLACES else percent(value, "")


def forgetting(summary: Json) -> dict[str, float]:
    """Rise of the loss on held-out text over the base model's, in nats a token, of each trained system."""
    losses = {name: s["text_nll"] for name, s in summary["systems"].items() if s["text_nll"] is not None}
    before = losses.pop("base", None)
    return {} if before is None else {name: nll - before for name, nll in losses.items()}


def pair(summary: Json, known: Systems) -> tuple[str | None, str | None]:
    """The systems of the pictures before and after: base, and the method or else the most accurate one."""
    systems = summary["systems"]
    trained = {n: s["acc"] for n, s in systems.items() if n != "base"}
    after = max(trained, key=lambda n: -1.0 if trained[n] is None else trained[n], default=None)
    after = known.method(trained) or after
    return ("base", after) if "base" in systems else (after, None)


def noun(summary: Json) -> str:
    """What the facts are called: without a trained system none of them was trained."""
    return "facts" if set(summary["systems"]) <= {"base"} else "trained facts"


COLUMNS = {
    "ACC": "acc", "HR": "hr", "MRR": "mrr", "Prob": "prob", "ACC\nunseen": "unseen",
    "ACC\nparaphr.": "paraphrase", "ACC\nheld-out": "held_out", "text\nNLL": "text_nll",
    "device\ns": "device_seconds",
}  # fmt: skip
MORE = {
    "forgetting": "forgetting", "Prob, all": "prob_all", "ACC head": "held_out_head", "ACC kept": "head_kept",
    "unfinished beams": "unfinished_beams",
}  # fmt: skip
"""What a page shows beside `COLUMNS`."""


def table(summary: Json, known: Systems) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    columns = {head: partial(shown, name=name) for head, name in COLUMNS.items()}
    rows = [(known.label(name), system) for name, system in summary["systems"].items()]
    title = f"{summary['dataset']}, {summary['model']}: % of {noun(summary)}"
    return plain(title, sheet(columns, rows, "system"), words=[24])


def systems(summary: Json, heads: Mapping[str, Cell]) -> Sheet:
    """The systems side by side, for a page; `heads` begin the rows."""
    columns: dict[str, Told] = {head: partial(shown, name=name) for head, name in (COLUMNS | MORE).items()}
    columns["ACC"] = estimated(in_percent, of="acc")
    rises, rows = forgetting(summary), []
    for name, system in summary["systems"].items():
        row = {"forgetting": rises.get(name), "prob_all": group_rate(system, "trained", "prob_all")}
        rows.append((heads[name], system | row))
    return sheet(columns, rows, "system")
