"""What self-improving pretraining did: every system's truth, what its steps recorded, some documents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.improvement.collapse import WORDS
from pretrainrl_jax.knowledge.intervals import paired, ratio_interval, wilson
from pretrainrl_jax.report.columns import Cell, Sheet, Told, at, count, estimated, in_percent, plain, sheet
from pretrainrl_jax.report.contradictions import AGAIN
from pretrainrl_jax.report.formats import Json, decimals, number, percent, signed
from pretrainrl_jax.report.inputs import Inputs, read_json
from pretrainrl_jax.report.systems import Systems

CAUTION = "All of this is one seed; the intervals know which prefixes were asked, and no more."
UNTRAINED = ("base", "scratch")


class Measure(NamedTuple):
    """A ratio over prefixes: of each, what is counted and among how many."""

    head: str
    part: str  # which of the lists of an evaluation
    cell: Callable[[Any], tuple[float, float]]
    better: int = 0  # 1: more is better, -1: less is; 0: it is neither
    places: int = 1
    share: bool = True  # told in %

    def told(self, value: float) -> str:
        """A value without its unit."""
        return decimals(self._scale * value, self.places)

    def apart(self, apart: Json) -> Cell:
        """A difference and its interval, coloured where that does not hold zero: better, `up`, or worse."""
        difference, low, high = (
            signed(self._scale * apart[key], self.places) for key in ("difference", "low", "high")
        )
        tone = ("", "up", "down")[sure(apart) * self.better]
        return Cell(difference, f"{low} to {high}", tone)

    @property
    def _scale(self) -> float:
        return 100.0 if self.share else 1.0


MEASURES = {
    "named_true": Measure("true, named %", "named", lambda p: (p["verdict"] == "true", 1), 1),
    "named_false": Measure("false, named %", "named", lambda p: (p["verdict"] == "false", 1), -1),
    "free_true": Measure("true, free %", "free", lambda p: (p["true"], p["true"] + p["false"]), 1),
    "facts": Measure("facts a prefix", "free", lambda p: (len(set(p["facts"])), 1), 1, 2, False),
    "head": Measure("head facts %", "free", lambda p: (p["head"], len(p["facts"]))),
    "repeated": Measure("corrupted repeated %", "corrupted", lambda p: (p["repeated"], 1), -1),
    "won": Measure("wins %", "compared", lambda p: (p["won"], 1), 1),
    "text_nll": Measure("text NLL", "texts", lambda text: text, -1, 3, False),
}


class Improved(NamedTuple):
    """What self-improvement left in a workdir, by system in the order in which they are told."""

    known: Systems
    methods: dict[str, Json]  # the settings of each that was trained
    ends: dict[str, Json]  # what it said as it ended; empty where it has not
    steps: dict[str, list[Json]]  # its lines of metrics.jsonl, one a step
    examples: dict[str, list[Json]]
    evaluations: dict[str, Json]


def is_there(workdir: Path) -> bool:
    """Whether a workdir holds anything of self-improvement."""
    return any((workdir / name).is_dir() for name in ("selfimprove", "evaluations/selfimprove"))


def read(workdir: Path, inputs: Inputs) -> Improved | None:
    """What a workdir holds of self-improvement; None where it holds nothing.

    Raises:
        InputError: if a file cannot be read, or does not hold what it should.
    """
    if not is_there(workdir):
        return None
    folder, config = workdir / "selfimprove", inputs.config
    evaluations = {p.stem: read_json(p) for p in (workdir / "evaluations/selfimprove").glob("*.json")}
    trained = {path.name for path in folder.glob("*") if path.is_dir()} | {*evaluations}.difference(UNTRAINED)
    asked = [*UNTRAINED, *config.get("selfimprove", {}).get("systems", ()), *config.get("methods", {})]
    order = sorted(trained | {*evaluations}, key=lambda n: (asked.index(n) if n in asked else len(asked), n))
    methods, ends, steps, examples = {}, {}, {}, {}
    for name in filter(trained.__contains__, order):
        end, kept = folder / name / "summary.json", folder / name / "examples.json"
        ends[name] = read_json(end) if end.is_file() else {}
        examples[name] = read_json(kept, list) if kept.is_file() else []
        method = {key: ends[name].get(key) for key in ("label", "update", "start")}
        method |= config.get("methods", {}).get(name, {})
        rollouts = method.get("rollouts") or config.get("rollouts", {}).get("count")
        methods[name] = method | {"rollouts": rollouts if "rollout" in method.get("candidates", ()) else 0}
        # A resumed run writes the steps after its checkpoint a second time, and the later line counts.
        by_step = {
            line["step"]: line for line in inputs.metrics if line.get("stage") == f"selfimprove/{name}"
        }
        steps[name] = [by_step[step] for step in sorted(by_step)]
    labels = {n: str(methods.get(n, {}).get("label") or n) for n in order if n != "base"}
    return Improved(
        Systems({name: ObjectiveConfig(label) for name, label in labels.items()}),
        methods,
        ends,
        steps,
        examples,
        {name: evaluations[name] for name in order if name in evaluations},
    )


def summarise(improved: Improved) -> Json:
    """What `report/summary.json` says of it: every system, the paper's expectations, and collapses.

    Of each measure of `MEASURES` its value, with its 95 % interval as `…_interval`: a bootstrap over prefixes
    (of the text's loss, over texts). `against` has the differences to next-token training from the same
    start, on the same prefixes. `chosen_rollout` has the share of rollouts among the chosen in the first
    and in the last third of the steps.
    """
    systems: dict[str, Json] = {}
    units = {name: _units(name, evaluation) for name, evaluation in improved.evaluations.items()}
    for name in dict.fromkeys([*units, *improved.methods]):
        own, method = units.get(name, {}), improved.methods.get(name, {})
        systems[name] = {"label": improved.known.label(name), "prefixes": len(own.get("named_true", ()))}
        systems[name] |= {key: method[key] for key in ("update", "start", "rollouts") if key in method}
        for key, cells in own.items():
            systems[name] |= {key: _rate(cells), f"{key}_interval": _interval(MEASURES[key], cells)}
        if (evaluation := improved.evaluations.get(name)) is not None:
            facts = {fact for prefix in evaluation.get("free", ()) for fact in prefix["facts"]}
            systems[name]["distinct_facts"] = len(facts)
            systems[name] |= {key: number(evaluation.get(key)) for key in ("distinct_ngrams", "unjudged")}
        if (other := _baseline(name, improved)) in units and own:
            systems[name]["against"] = {"system": other, **_differences(units[other], own)}
        if shares := _thirds(improved.steps.get(name, [])):
            systems[name]["chosen_rollout"] = shares
    truer = [
        {"system": own["label"], "less": systems[own["against"]["system"]]["label"]}
        | own["against"]["named_true"]
        for own in systems.values()
        if own.get("update") != "next_token" and "named_true" in own.get("against", {})
    ]
    chosen = [  # in the first third of the steps, and in the last
        {"system": f"{own['label']}, last {shares['steps']} steps", "less": "first steps"} | shares
        for own in systems.values()
        if (shares := own.get("chosen_rollout"))
    ]
    return {
        "systems": systems,
        "expectations": [
            _expectation("more true statements than next-token training", truer),
            _expectation("rollouts are chosen more often as training goes on", chosen),
            _expectation("more rollouts are better", _more_rollouts(improved, units)),
        ],
        "collapsed": [
            _collapse(improved.known.label(name), event)
            for name, end in improved.ends.items()
            for event in end.get("collapsed", [])
        ],
    }


def _units(name: str, evaluation: Json) -> dict[str, np.ndarray]:
    """Of each measure that has any, what is counted and among how many, [prefixes, 2]."""
    try:
        texts = [*zip(evaluation.get("text_nll", ()), evaluation.get("text_tokens", ()), strict=True)]
        lists = evaluation | {"texts": texts}
        cells = {
            key: np.array([measure.cell(unit) for unit in lists.get(measure.part, ())], float)
            for key, measure in MEASURES.items()
        }
        if not all(np.isfinite(values).all() for values in cells.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise InputError(f"evaluations/selfimprove/{name}.json lacks what it should hold: {AGAIN}") from None
    return {key: values for key, values in cells.items() if len(values)}


def _rate(cells: np.ndarray) -> float | None:
    total, count = cells.sum(0)
    return float(total / count) if count else None


def _interval(measure: Measure, cells: np.ndarray) -> tuple[float, float] | None:
    bounds, rate = ratio_interval(*cells.T), _rate(cells)
    if measure.share and bounds and bounds[0] == bounds[1] and rate is not None:
        asked = int(np.count_nonzero(cells[:, 1]))  # all alike: what so few leave open
        return wilson(round(rate * asked), asked)
    return bounds


def _differences(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, Json]:
    """Of each measure of two systems on the same prefixes: before, after, and their difference's bounds."""
    differences = {}
    for key, measure in MEASURES.items():
        if key not in before or key not in after or len(before[key]) != len(after[key]):
            continue
        if apart := _apart(before[key], after[key]):
            alike = paired([(True, True)] * len(after[key]))
            if measure.share and alike and (apart["low"], apart["high"]) == (0, 0):
                apart |= {"low": alike.low, "high": alike.high}
            differences[key] = apart
    return differences


def _apart(before: np.ndarray, after: np.ndarray) -> Json | None:
    """Two ratios over as many units, and the bounds of their difference; None where one of them is none."""
    rates = _rate(before), _rate(after)
    bounds = ratio_interval(*after.T, less=tuple(before.T))
    if bounds is None or rates[0] is None or rates[1] is None:
        return None
    apart = {"difference": rates[1] - rates[0], "low": bounds[0], "high": bounds[1]}
    return {"before": rates[0], "after": rates[1], **apart}


def _baseline(name: str, improved: Improved) -> str:
    """Next-token training from the same start, on whole documents if there is one; empty for itself."""
    methods = improved.methods
    wanted = "next_token", methods.get(name, {}).get("start")
    others = [n for n, m in methods.items() if (m.get("update"), m.get("start")) == wanted]
    others.sort(key=lambda other: methods[other].get("candidates") != ["document"])
    return others[0] if others and others[0] != name else ""


def _thirds(lines: list[Json]) -> Json | None:
    """The share of rollouts among the chosen, early and late; None where nothing else could be chosen."""
    chosen = [
        (line["chosen_rollout"] * line["learned"], line["learned"])
        for line in lines
        if line.get("chosen_rollout") is not None and line.get("learned")
    ]
    part = len(chosen) // 3
    if part < 2 or all(
        line.get(f"score_{kind}") is None for line in lines for kind in ("original", "rewrite")
    ):
        return None
    apart = _apart(*(np.array(third, float) for third in (chosen[:part], chosen[-part:])))
    return apart and {**apart, "steps": part}


def sure(apart: Json) -> int:
    """The sign of a difference whose interval does not hold zero, else 0."""
    return (apart["low"] > 0) - (apart["high"] < 0)


OUTCOMES = {1: "holds", -1: "does not hold: the opposite was measured", 0: "is not shown"}
SHOWN = {
    "before\n%": at(in_percent, "before"),
    "after\n%": at(in_percent, "after"),
    "difference": MEASURES["named_true"].apart,
}


def _expectation(claim: str, evidence: list[Json]) -> Json:
    """What the paper leads one to expect, and whether each comparison here shows it.

    A comparison is of `system` and what it is compared with, `less`: as `_apart`.
    """
    signs = {sure(apart) for apart in evidence}
    if not evidence:
        outcome = "was not measured"
    elif len(signs) == 1:
        outcome = OUTCOMES[signs.pop()]
    else:
        outcome = "holds for some" if 1 in signs else "does not hold"
    return {"claim": claim, "outcome": outcome, "evidence": evidence}


def shown(expected: Json) -> tuple[str, Sheet]:
    """An expectation and what came of it, and the table of the comparisons."""
    rows = [(row["system"], row["less"], row) for row in expected["evidence"]]
    title = f"The paper's expectation, {expected['claim']}: {expected['outcome']}"
    return title, sheet(SHOWN, rows, "system", "less")


def _more_rollouts(improved: Improved, units: dict[str, dict[str, np.ndarray]]) -> list[Json]:
    """Each system against the one with fewer rollouts, where their settings differ in nothing else."""
    methods, evidence = improved.methods, []
    but = {name: {**own, "label": "", "rollouts": 0} for name, own in methods.items()}
    ranked = sorted((n for n in methods if methods[n]["rollouts"]), key=lambda n: methods[n]["rollouts"])
    for place, more in enumerate(ranked):
        alike = [n for n in ranked[:place] if but[n] == but[more]]
        both = [*alike[-1:], more]
        if len(both) == 2 and {*both} <= {*units} and methods[both[0]] != methods[more]:
            less, most = (f"{improved.known.label(n)} ({methods[n]['rollouts']} rollouts)" for n in both)
            if apart := _differences(*(units[n] for n in both)).get("named_true"):
                evidence.append({"system": most, "less": less} | apart)
    return evidence


def _collapse(label: str, event: Json) -> str:
    """What a run said of a collapse while it happened, and how long it lasted."""
    until = f"until step {event['ended']}" if event.get("ended") else "until the end"
    return f"{label}, from step {event['step']} {until}: {WORDS[event['what']].format(**event)}"


def headline(summary: Json) -> str:
    """The outcome in one line."""
    rates = {name: own["named_true"] for name, own in summary["systems"].items() if "named_true" in own}
    trained = {name: rate for name, rate in rates.items() if name not in UNTRAINED}
    if not trained:
        return "Self-improving pretraining"
    best = max(trained, key=lambda name: trained[name])
    before = f"{percent(rates['base'])} before, " if "base" in rates else ""
    return f"True continuations: {before}{percent(rates[best])} with {summary['systems'][best]['label']}"


def measured(key: str) -> Told:
    """A column of one of `MEASURES`."""
    return estimated(MEASURES[key].told, of=key)


TERMINAL: dict[str, Told] = {
    "true\nnamed": measured("named_true"),
    "true\nfree": at(MEASURES["free_true"].told, "free_true"),
    "facts/\nprefix": at(MEASURES["facts"].told, "facts"),
    "in\nall": at(count, "distinct_facts"),
    "head\n%": at(MEASURES["head"].told, "head"),
    "rep.\n%": at(MEASURES["repeated"].told, "repeated"),
    "wins\n%": at(MEASURES["won"].told, "won"),
    "text\nNLL": at(MEASURES["text_nll"].told, "text_nll"),
    "n-gr.\n%": at(in_percent, "distinct_ngrams"),
}


def table(summary: Json) -> str:
    """The systems side by side, and whether they do what the paper expects, for 100 columns."""
    systems = [(system["label"], system) for system in summary["systems"].values()]
    title = "self-improving pretraining: % of continuations"
    parts: list[str | Sheet] = [plain(title, sheet(TERMINAL, systems, "system").opened(), words=[19])]
    for title, made in map(shown, summary["expectations"]):
        parts += [title, made.opened()] if made.rows else [title]
    return plain(*parts, words=(28, 22))
