"""Two workdirs side by side: what was set differently, and what came of it on the questions they share.

As a page, as a table for a terminal, and as Markdown.
"""

import html
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.config.stored import flat
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.confidence import area_under_risk_coverage, brier, ece
from pretrainrl_jax.knowledge.intervals import Difference
from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report import mining
from pretrainrl_jax.report.columns import Told, at, compared, figure, grid, markdown, plain, sheet
from pretrainrl_jax.report.contradictions import contradictions
from pretrainrl_jax.report.formats import Json, change, decimals, percent, signed
from pretrainrl_jax.report.inputs import describe, read_inputs
from pretrainrl_jax.report.knowledge.changes import flips
from pretrainrl_jax.report.knowledge.figures import columns, confident, states
from pretrainrl_jax.report.outcomes import (
    GROUPS,
    NEIGHBOURS,
    Pairs,
    Questions,
    common,
    difference,
    flipped,
    grouped,
)
from pretrainrl_jax.report.page import template, text
from pretrainrl_jax.report.signatures import signatures
from pretrainrl_jax.report.summary import summarise
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import categories
from pretrainrl_jax.report.words import NOISE_POINTS

MEASURES = {"AURC": area_under_risk_coverage, "ECE": ece, "Brier": brier}
CONFIDENCE = (*MEASURES, *STATES)
"""What is compared of how sure two systems are; all but the first and last of `MEASURES` are shares."""


class Paired(NamedTuple):
    """A system that both workdirs evaluated."""

    system: str
    groups: dict[str, Difference]  # of A and B, by `GROUPS`; those without a common question are left out
    figures: list[Json]  # of A and B, as summary.json has them
    flips: Json | None  # as `changes.flips`; None without a trained fact of both
    confidence: dict[str, tuple[float, float]]  # of A and B, as `measured_confidence`


class Comparison(NamedTuple):
    """Everything that the page and the table show."""

    known: Systems  # of both
    names: list[str]  # of the two folders
    described: list[str]  # data set, model and seed of each
    settings: list[tuple[str, str, str]]  # those that differ: name, value of A, value of B
    systems: list[Paired]
    alone: tuple[list[str], list[str]]  # systems of A only, and of B only
    unshared: tuple[int, int]  # questions of A that B was not asked, and the reverse
    best: str  # the most accurate system of both, whose categories and flips are shown
    categories: dict[str, Difference]
    contradictions: list[str]  # as `contradictions.contradictions`, of both
    signatures: list[Json]  # those of B that A does not show, as `signatures.signatures`
    flipped: dict[str, Json]  # "gained": right in B only; "lost": right in A only; as `outcomes.examples`


def read_comparison(one: Path, other: Path) -> Comparison:
    """Compare two evaluated workdirs, A and B, which may be the same.

    Raises:
        InputError: if one is not evaluated, or they have no system or no question in common.
    """
    sides = a, b = read_inputs(one), read_inputs(other)
    summaries = [summarise(side.evaluations, *describe(side.config)) for side in sides]
    asked = [{e["system"]: grouped(e) for e in side.evaluations} for side in sides]
    known = Systems({**b.known.objectives, **a.known.objectives})
    names = [list(summary["systems"]) for summary in summaries]
    shared = sorted(set(names[0]) & set(names[1]), key=known.place)
    if not shared:
        raise InputError(
            f"{one} and {other} evaluated no system in common ({', '.join(names[0])} and "
            f"{', '.join(names[1])}): compare workdirs that trained the same systems"
        )
    systems = []
    for system in shared:
        of_a, of_b = (questions[system] for questions in asked)
        measured = {group: difference(common(of_a[group], of_b[group])) for group in GROUPS}
        figures = [summary["systems"][system] for summary in summaries]
        groups = {group: change for group, change in measured.items() if change is not None}
        trained = common(of_a["trained"], of_b["trained"])
        flipping = flips(trained) if trained else None
        systems += [Paired(system, groups, figures, flipping, measured_confidence(trained))] if groups else []
    if not systems:
        raise InputError(
            f"{one} and {other} have no question in common: compare workdirs of the same data set and split"
        )
    best = _best(systems)
    of_a, of_b = (questions[best] for questions in asked)
    pairs = common(of_a["trained"], of_b["trained"])
    parts = categories({key: of_a["trained"][key] for key in of_a["trained"] if key in of_b["trained"]})
    told = [
        signatures(s, mining.read(p / "mined").statistics) for s, p in zip(sides, (one, other), strict=True)
    ]
    shown = {(signature["name"], signature["system"]) for signature in told[0]}
    seeds = [side.config.get("seed", "not recorded") for side in sides]
    return Comparison(
        known=known,
        names=[one.resolve().name, other.resolve().name],
        described=[f"{s['dataset']}, {s['model']}, seed {n}" for s, n in zip(summaries, seeds, strict=True)],
        settings=_settings(a.config, b.config),
        systems=systems,
        alone=([n for n in names[0] if n not in names[1]], [n for n in names[1] if n not in names[0]]),
        unshared=(_unshared(of_a, of_b), _unshared(of_b, of_a)),
        best=best,
        categories={
            name: change
            for name, keys in parts
            if (change := difference((of_a["trained"][key], of_b["trained"][key]) for key in keys))
        },
        contradictions=contradictions([*a.evaluations, *b.evaluations], known),
        signatures=[s for s in told[1] if (s["name"], s["system"]) not in shown],
        flipped=flipped(pairs, pairs),
    )


def measured_confidence(pairs: Pairs) -> dict[str, tuple[float, float]]:
    """What the confidence of either side is worth on the same questions, and the share in each state.

    Empty where one of them was evaluated by a version that does not measure it.
    """
    sides = [one for one, _ in pairs], [other for _, other in pairs]
    if not pairs or any(len(confident(side)) < len(side) for side in sides):
        return {}
    of_a, of_b = map(_confidence, sides)
    return {name: (of_a[name], of_b[name]) for name in CONFIDENCE}


def _confidence(questions: list[Json]) -> dict[str, float]:
    shares = {state: share["value"] for state, share in states(questions).items()}
    return {name: measure(*columns(questions)) for name, measure in MEASURES.items()} | shares


def write_comparison(one: Path, other: Path) -> tuple[Path, Comparison]:
    """Write `compare-<name of other>.html` into the first workdir's report; gives its path and what it shows.

    Raises:
        InputError: as `read_comparison`.
    """
    comparison = read_comparison(one, other)
    systems, label = comparison.systems, comparison.known.label
    page = template("compare.html.j2").render(
        found=comparison,
        label=label,
        reading=sentences(comparison),
        groups={
            name: sheet(SHARED, [(label(p.system), p.groups[g]) for p in systems if g in p.groups], "system")
            for g, name in GROUPS.items()
        },
        flips=[(label(p.system), chance_of_flips(p.flips)) for p in systems if p.flips],
        confidence=sheet(
            {name: at(str, place) for place, name in enumerate(CONFIDENCE, 1)},
            [(row[0], row) for row in confidence_rows(comparison)],
            "system",
        ),
        costs=sheet(COSTS, [(label(p.system), p.figures) for p in systems], "system"),
        categories=sheet(SHARED, list(comparison.categories.items()), "category"),
        summary={"signatures": comparison.signatures},
    )
    path = one / "report" / f"compare-{comparison.names[1]}.html"
    write_text(path, page)
    return path, comparison


def _costlier(figures: list[Json]) -> str:
    one, other = (side["text_nll"] for side in figures)
    return "" if None in (one, other) else signed(other - one, 3)


SHARED = compared("questions of both", "A, %", "B, %", "B − A, points")
COSTS: dict[str, Told] = {
    "text NLL of A": at(figure, 0, "text_nll"),
    "text NLL of B": at(figure, 1, "text_nll"),
    "B − A, nats": _costlier,
    "device-seconds of A": at(partial(figure, places=1), 0, "device_seconds"),
    "device-seconds of B": at(partial(figure, places=1), 1, "device_seconds"),
}


def _settings(one: Json, other: Json) -> list[tuple[str, str, str]]:
    both = flat(one), flat(other)
    names = dict.fromkeys([*both[0], *both[1]])
    values = [(name, *(text(f[name]) if name in f else "not set" for f in both)) for name in names]
    return [(name, a, b) for name, a, b in values if a != b]


def _best(systems: list[Paired]) -> str:
    """The trained system with the highest accuracy over both, on trained facts; base where it is alone."""
    known = {p.system: p.groups["trained"] for p in systems if "trained" in p.groups and p.system != "base"}
    return max(known, key=lambda s: known[s].before + known[s].after, default=systems[0].system)


def _unshared(one: Questions, other: Questions) -> int:
    parts = {"held_out_head", *NEIGHBOURS.values()}  # of the held-out facts, which are counted already
    return sum(key not in other[group] for group in GROUPS if group not in parts for key in one[group])


def sentences(comparison: Comparison) -> list[str]:
    """The outcome in words: the best system of both, what stands in one only, what cannot be compared."""
    label = comparison.known.label
    best = next(paired for paired in comparison.systems if paired.system == comparison.best)
    group, apart = next(iter(best.groups.items()))
    words = [
        f"{label(best.system)}, the most accurate of the systems of both: {percent(apart.before)} in "
        f"A and {percent(apart.after)} in B on {apart.questions:,} questions ({GROUPS[group]}); "
        f"B − A is {change(apart)} points."
    ]
    words += [f"{sentence}." for sentence in comparison.contradictions]
    if not apart.clear:
        words.append("The interval holds zero: on these questions the two are not told apart.")
    elif 100 * abs(apart.rate) < NOISE_POINTS:
        words.append(f"Under {NOISE_POINTS:g} points, one seed of each does not tell the two apart.")
    for side, alone in zip("AB", comparison.alone, strict=True):
        words += [f"Evaluated only in {side}: {', '.join(map(label, alone))}."] if alone else []
    if any(comparison.unshared):
        a, b = comparison.unshared
        words.append(
            f"Left out: {a:,} questions of A that B was not asked, and {b:,} of B that A was not asked."
        )
    return words


def chance_of_flips(flips: Json) -> str:
    """How many trained facts flipped each way, and p."""
    p = "<0.0001" if flips["p"] < 1e-4 else f"{flips['p']:.2g}"
    return f"+{flips['gained']:,} −{flips['lost']:,}, p {p}"


ACCURACY = ("system", "questions", "number", "A, %", "B, %", "B − A, points [95 %]", "p")


def accuracy_rows(comparison: Comparison) -> list[list[str]]:
    """Of each system and each group of questions what stands below `ACCURACY`."""
    rows = []
    for paired in comparison.systems:
        for group, apart in paired.groups.items():
            flips = chance_of_flips(paired.flips) if paired.flips and group == "trained" else ""
            rates = percent(apart.before, ""), percent(apart.after, "")
            label = comparison.known.label(paired.system)
            rows.append([label, GROUPS[group], f"{apart.questions:,}", *rates, change(apart), flips])
    return rows


def confidence_rows(comparison: Comparison) -> list[list[str]]:
    """Of each system that was measured so in both, its label and the figures of `CONFIDENCE`, as A → B."""
    rows = []
    for paired in comparison.systems:
        cells = [
            " → ".join(decimals(x, 3) if name in MEASURES else percent(x) for x in both)
            for name, both in paired.confidence.items()
        ]
        rows += [[comparison.known.label(paired.system), *cells]] if cells else []
    return rows


def comparison_table(comparison: Comparison) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    label = comparison.known.label
    sides = zip("AB", comparison.names, comparison.described, strict=True)
    heads = [f"{side} = {name}: {described}" for side, name, described in sides]
    heads += [f"  {name}: {a} | {b}" for name, a, b in comparison.settings] or ["  no setting differs"]
    rows, tails, name = [], list[str](), ""
    for system, *cells, _ in accuracy_rows(comparison):
        rows.append(["" if system == name else system, *cells])  # it stands before the first of its groups
        name = system
    for paired in comparison.systems:
        nll = " | ".join(decimals(side["text_nll"], 3) for side in paired.figures)
        seconds = " | ".join(decimals(side["device_seconds"], 1) for side in paired.figures)
        tails.append(f"{label(paired.system)}: text NLL {nll}; device-seconds {seconds}")
        if paired.flips:
            flips = f"{chance_of_flips(paired.flips)} (McNemar, exact)"
            tails.append(f"{label(paired.system)}: trained facts gained and lost: {flips}")
    for system, *cells in confidence_rows(comparison):
        figures = (f"{name} {cell}" for name, cell in zip(CONFIDENCE, cells, strict=True))
        tails.append(f"{system}: {', '.join(figures)}")
    tails += [f"! new in B: {sentence}" for sentence in _new(comparison)]
    drawn = grid({"system": 20, "questions": 27}, ACCURACY[2:-1], rows)
    return plain(*heads, drawn, *tails, *(f"- {sentence}" for sentence in sentences(comparison)))


def _new(comparison: Comparison) -> list[str]:
    label = comparison.known.label
    return [f"{label(s['system'])}: {s['name']}: {s['evidence']}" for s in comparison.signatures]


def comparison_markdown(comparison: Comparison) -> str:
    """What differs and what came of it, short enough for the text of a pull request.

    Tables, new signatures of failure, and the outcome in words; names and texts of the runs are no markup.
    """
    sides = zip("AB", comparison.names, comparison.described, strict=True)
    parts = [
        f"### A: {_text(comparison.names[0])}, B: {_text(comparison.names[1])}\n",
        _list(f"{side} is {name}: {described}" for side, name, described in sides),
        _list(sentences(comparison)),
        _table(ACCURACY, accuracy_rows(comparison)),
        "p is McNemar's exact one of the trained facts that flipped: +right in B only, −right in A only.\n",
    ]
    if rows := confidence_rows(comparison):
        parts += ["#### Confidence on trained facts, A → B\n", _table(["system", *CONFIDENCE], rows)]
    parts.append("#### Settings that differ\n")
    parts.append(_table(["setting", "A", "B"], comparison.settings) if comparison.settings else "None.\n")
    if new := _new(comparison):
        parts += ["#### Signatures of failure that are new in B\n", _list(f"{told}." for told in new)]
    return "\n".join(parts)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return markdown([*heads], [[_text(cell) for cell in row] for row in rows])


def _list(items: Iterable[str]) -> str:
    return "".join(f"- {_text(item)}\n" for item in items)


def _text(value: str) -> str:
    """On one line, and without markup."""
    escaped = html.escape(" ".join(value.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*[]#" else c for c in escaped)
