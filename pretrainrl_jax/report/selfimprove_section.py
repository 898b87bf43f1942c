"""The page's section on self-improving pretraining, and its picture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pretrainrl_jax.report import charts, drawing
from pretrainrl_jax.report.columns import Table, filled
from pretrainrl_jax.report.formats import Json, decimals, duration, number, percent, spread
from pretrainrl_jax.report.selfimprove import CAUTION, MEASURES, Improved

EXAMPLES = 10


def _count(key: str) -> Callable[[Json], str]:
    return lambda row: "" if number(row.get(key)) is None else decimals(number(row.get(key)), 0)


UPDATES = {"online_dpo": "online DPO", "rf_nll": "RF-NLL", "next_token": "next token"}
RUNS = {
    "update": lambda row: UPDATES.get(row.get("update"), ""),
    "candidates": lambda row: ", ".join(row.get("candidates") or ()),
    "start": lambda row: str(row.get("start") or ""),
    "rollouts a prefix": lambda row: _count("rollouts")(row) if row.get("rollouts") else "",
    "steps": _count("steps"),
    "documents": _count("documents"),
    "left out": lambda row: ", ".join(f"{rule} {n:,}" for rule, n in (row.get("dropped") or {}).items()),
    "ties": _count("ties"),
    "verdicts": _count("verdicts"),
    "sampler and trainer apart, nats": lambda row: row["apart"],
}
TIMES = ("sampling", "judging", "reference", "training")
SHARES = {"devices at work %": "device_share", "judge at work %": "judge_share"}  # of a step's time


JUDGED = {  # of a judge that is a model, and of a rewriter: heads by metric
    "first wins %": "first_wins",
    "longer wins %": "longer_wins",
    "orders differ %": "orders_differ",
    "unreadable %": "unreadable_share",
    "rewrites used %": "rewrites_used",
    "safe ones copied %": "safe_copied",
}


def _run(improved: Improved, name: str) -> Json:
    """A row of `RUNS`."""
    means, most = (
        [gap for step in improved.steps[name] if (gap := number(step.get(f"logp_gap_{what}"))) is not None]
        for what in ("mean", "max")
    )
    apart = f"mean {np.mean(means):.1g}, most {max(most):.1g}" if means and most else ""
    own = {key: value for key, value in improved.ends[name].items() if key != "rollouts"}
    return own | improved.methods[name] | {"steps": len(improved.steps[name]) or None, "apart": apart}


def _spent(line: Json, part: str) -> float:
    """Seconds of a step; judging beside the devices takes those in which they waited for it."""
    seconds = number(line.get(f"seconds_{part}"))
    if part == "judging" and seconds is None:
        seconds = number(line.get("seconds_waiting"))
    return seconds or 0.0


def _times(improved: Improved) -> Table:
    """Where the seconds of each method's steps went, and what was at work meanwhile, where that was noted."""
    sums = {
        name: [sum(_spent(line, part) for line in lines) for part in TIMES]
        for name, lines in improved.steps.items()
    }
    every = [line for lines in improved.steps.values() for line in lines]
    shares = {head: key for head, key in SHARES.items() if any(number(line.get(key)) for line in every)}
    behind = ["steps behind"] if any(number(line.get("staleness")) for line in every) else []
    rows = [
        [
            improved.known.label(name),
            duration(sum(parts)),
            *(percent(part / sum(parts), "") for part in parts),
            *(percent(_mean(improved.steps[name], key), "") for key in shares.values()),
            *(decimals(_mean(improved.steps[name], "staleness"), 1) for _ in behind),
        ]
        for name, parts in sums.items()
        if sum(parts)
    ]
    return Table(["method", "all steps", *(f"{part} %" for part in TIMES), *shares, *behind], rows)


def _judge(improved: Improved) -> Table:
    """What a model's verdicts say of it, where it judged or rewrote: means over the steps, in %."""
    every = [line for lines in improved.steps.values() for line in lines]
    heads = {
        head: key for head, key in JUDGED.items() if any(number(line.get(key)) is not None for line in every)
    }
    rows = [
        [improved.known.label(name), *(percent(_mean(lines, key), "") for key in heads.values())]
        for name, lines in improved.steps.items()
        if any(number(line.get(key)) is not None for line in lines for key in heads.values())
    ]
    return Table(["method", *heads], rows)


def _mean(lines: list[Json], key: str) -> float | None:
    values = [value for line in lines if (value := number(line.get(key))) is not None]
    return float(np.mean(values)) if values else None


def _document(document: Json) -> Json:
    """A document with its candidates by their scores, best first, as a reader sees them."""
    every = document.get("candidates") or []
    every = sorted(every, key=lambda c: -(number(c.get("score")) or 0))
    parts = list(dict.fromkeys(part for candidate in every for part in candidate.get("parts") or {}))
    candidates = [
        {key: str(candidate.get(key) or "") for key in ("kind", "text", "role")}
        | {
            "score": decimals(number(candidate.get("score")), 3),
            "parts": [decimals(number((candidate.get("parts") or {}).get(part)), 3) for part in parts],
        }
        for candidate in every
    ]
    told = {key: str(document.get(key, "")) for key in ("step", "name", "prefix")}
    return told | {"parts": parts, "candidates": candidates}


def save_picture(folder: Path, improved: Improved) -> None:
    """Write the shares of what was chosen as `chosen.png` into a folder, if anything was."""
    everything = [line for lines in improved.steps.values() for line in lines]
    charts.save_chosen(
        folder / "chosen.png", everything, {n: improved.known.label(n) for n in improved.steps}
    )


def _is_measured(summary: Json, name: str) -> bool:
    """Whether an evaluation measured anything: of text that tells of no facts, without another text, none."""
    return any(summary["systems"][name].get(key) is not None for key in (*MEASURES, "distinct_ngrams"))


def section(improved: Improved, summary: Json) -> Json:
    """What the page shows of it, beside its summary."""
    known, charted = improved.known, []
    for name, lines in improved.steps.items():
        asked = (("chosen", "chosen"), ("rejected", "rejected"), ("score", "score by kind"))
        pictures = [(title, charts.by_kind(lines, name, key, title)) for key, title in asked]
        span = charts.smoothed_over(charts.series(lines, f"selfimprove/{name}", "score_rollout")[0])
        if any(address for _, address in pictures):
            charted.append((known.label(name), span, [picture for picture in pictures if picture[1]]))
    everything = [line for lines in improved.steps.values() for line in lines]
    runs = filled(RUNS, [_run(improved, name) for name in improved.methods])
    labelled = zip(improved.methods, runs.rows, strict=True)
    return {
        "measures": MEASURES,
        "systems": summary["systems"],
        "summary": summary,
        "caution": CAUTION,
        "evaluated": {n: summary["systems"][n] for n in improved.evaluations if _is_measured(summary, n)},
        "prefixes": max((len(e.get("named", ())) for e in improved.evaluations.values()), default=0),
        "kinds": charted,
        "curves": charts.curves(everything, known, charts.IMPROVED, "selfimprove"),
        "runs": Table(["method", *runs.heads], [[known.label(name), *row] for name, row in labelled]),
        "times": _times(improved),
        "judge": _judge(improved),
        "examples": {
            known.label(name): [_document(document) for document in spread(kept, EXAMPLES)]
            for name, kept in improved.examples.items()
            if kept
        },
        "colours": {n: look.color for n, look in drawing.looks([*summary["systems"]], known).items()},
    }
