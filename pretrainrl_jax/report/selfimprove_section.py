"""The page's section on self-improving pretraining."""

from functools import partial

import numpy as np

from pretrainrl_jax.report import charts, drawing
from pretrainrl_jax.report.columns import Cell, Sheet, Told, at, count, figure, in_percent, sheet
from pretrainrl_jax.report.formats import Json, number, spread
from pretrainrl_jax.report.selfimprove import CAUTION, MEASURES, Improved, measured, shown

UPDATES = {"online_dpo": "online DPO", "rf_nll": "RF-NLL", "next_token": "next token"}
TONES = {"chosen": "right", "rejected": "wrong"}
PARTS = ("sampling", "judging", "waiting", "reference", "training")


RUNS = {
    "update": at(lambda update: UPDATES.get(update, ""), "update"),
    "candidates": at(", ".join, "candidates"),
    "start": at(str, "start"),
    "rollouts a prefix": at(lambda rollouts: count(rollouts) if rollouts else "", "rollouts"),
    "steps": at(count, "steps"),
    "documents": at(count, "documents"),
    "left out": at(lambda rules: ", ".join(f"{rule} {n:,}" for rule, n in rules.items()), "dropped"),
    "ties": at(count, "ties"),
    "verdicts": at(count, "verdicts"),
    "sampler and trainer apart, nats": at(str, "apart"),
}
MEANS = {  # over the steps: of a judge that is a model, of a rewriter, and of time
    "first wins %": at(in_percent, "first_wins"),
    "longer wins %": at(in_percent, "longer_wins"),
    "orders differ %": at(in_percent, "orders_differ"),
    "unreadable %": at(in_percent, "unreadable_share"),
    "rewrites used %": at(in_percent, "rewrites_used"),
    "safe ones copied %": at(in_percent, "safe_copied"),
    **{f"s {part}": at(partial(figure, places=2), f"seconds_{part}") for part in PARTS},
    "devices at work %": at(in_percent, "device_share"),
    "judge at work %": at(in_percent, "judge_share"),
    "steps behind": at(partial(figure, places=1), "staleness"),
}


def _run(improved: Improved, name: str) -> Json:
    """A row of `RUNS`."""
    means, most = (
        [gap for step in improved.steps[name] if (gap := number(step.get(f"logp_gap_{what}"))) is not None]
        for what in ("mean", "max")
    )
    apart = f"mean {np.mean(means):.1g}, most {max(most):.1g}" if means and most else None
    own = {key: value for key, value in improved.ends[name].items() if key != "rollouts"}
    return own | improved.methods[name] | {"steps": len(improved.steps[name]) or None, "apart": apart}


def _means(lines: list[Json]) -> Json:
    """The mean of each number that the steps of a method record."""
    keys = dict.fromkeys(key for line in lines for key in line)
    found = {key: [value for line in lines if (value := number(line.get(key))) is not None] for key in keys}
    return {key: float(np.mean(values)) for key, values in found.items() if values}


def _true(summary: Json, improved: Improved) -> Sheet:
    """Every measure of the systems that were evaluated."""
    columns = {measure.head: measured(key) for key, measure in MEASURES.items()}
    columns |= {"facts in all": at(count, "distinct_facts")}
    columns |= {"distinct n-grams %": at(in_percent, "distinct_ngrams"), "no verdict": at(count, "unjudged")}
    # Of text that tells of no facts an evaluation measures nothing, without another text.
    every = {name: summary["systems"][name] for name in improved.evaluations}
    heads = drawing.heads([*summary["systems"]], improved.known)
    rows = [
        (heads[name], system)
        for name, system in every.items()
        if any(system.get(key) is not None for key in (*MEASURES, "distinct_ngrams"))
    ]
    return sheet(columns, rows, "system")


def _against(systems: dict[str, Json]) -> Sheet:
    """Differences to next-token training from the same start."""
    columns = {measure.head: at(measure.apart, key) for key, measure in MEASURES.items()}
    rows = [
        (system["label"], systems[system["against"]["system"]]["label"], system["against"])
        for system in systems.values()
        if "against" in system
    ]
    return sheet(columns, rows, "system", "less")


def _document(document: Json) -> Json:
    """A document with the table of its candidates by their scores, best first."""
    every = sorted(document.get("candidates") or [], key=lambda c: -(number(c.get("score")) or 0))
    parts = dict.fromkeys(part for candidate in every for part in candidate.get("parts") or {})
    columns: dict[str, Told] = {"score": at(figure, "score")}
    columns |= {part: at(figure, "parts", part) for part in parts}
    columns["was"] = at(lambda role: Cell(str(role), tone=TONES.get(str(role), "")), "role")
    rows = [(str(each.get("kind") or ""), str(each.get("text") or "no text"), each) for each in every]
    told = {key: str(document.get(key, "")) for key in ("step", "name", "prefix")}
    return told | {"candidates": sheet(columns, rows, "candidate", "text", nothing="")}


def section(improved: Improved, summary: Json) -> Json:
    """What the page shows of it, beside its summary."""
    known, charted = improved.known, []
    for name, lines in improved.steps.items():
        asked = (("chosen", "chosen"), ("rejected", "rejected"), ("score", "score by kind"))
        pictures = [(title, charts.by_kind(lines, name, key, title)) for key, title in asked]
        if drawn := [picture for picture in pictures if picture[1]]:
            charted.append((known.label(name), drawn))
    everything = [line for lines in improved.steps.values() for line in lines]
    return {
        "summary": summary,
        "caution": CAUTION,
        "expectations": [shown(expected) for expected in summary["expectations"]],
        "true": _true(summary, improved),
        "against": _against(summary["systems"]),
        "prefixes": max((len(e.get("named", ())) for e in improved.evaluations.values()), default=0),
        "kinds": charted,
        "curves": charts.curves(everything, known, charts.IMPROVED, "selfimprove"),
        "runs": sheet(RUNS, [(known.label(n), _run(improved, n)) for n in improved.methods], "method"),
        "means": sheet(MEANS, [(known.label(n), _means(own)) for n, own in improved.steps.items()], "method"),
        "examples": {
            known.label(name): [_document(document) for document in spread(kept)]
            for name, kept in improved.examples.items()
            if kept
        },
    }
