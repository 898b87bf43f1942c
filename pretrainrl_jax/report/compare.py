"""Two workdirs side by side: what was set differently, and what came of it on the questions they share.

As a page, as a table for a terminal, and as Markdown.
"""

from collections.abc import Callable
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
from pretrainrl_jax.report.columns import Cell, Sheet, Told, at, compared, figure, in_percent, plain, sheet
from pretrainrl_jax.report.contradictions import contradictions
from pretrainrl_jax.report.formats import Json, signed
from pretrainrl_jax.report.inputs import describe, read_inputs
from pretrainrl_jax.report.knowledge.figures import columns, confident, flips, states
from pretrainrl_jax.report.knowledge.tables import FLIPPED
from pretrainrl_jax.report.outcomes import (
    GROUPS,
    NEIGHBOURS,
    Pairs,
    Questions,
    common,
    difference,
    grouped,
)
from pretrainrl_jax.report.page import template, text
from pretrainrl_jax.report.signatures import signatures
from pretrainrl_jax.report.summary import summarise
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.words import NOISE_POINTS

MEASURES = {"AURC": area_under_risk_coverage, "ECE": ece, "Brier": brier}


class Paired(NamedTuple):
    """A system that both workdirs evaluated."""

    system: str
    groups: dict[str, Difference]  # of A and B, by `GROUPS`; those without a common question are left out
    figures: list[Json]  # of A and B, as summary.json has them
    flips: Json | None  # as `figures.flips`; None without a trained fact of both
    confidence: dict[str, tuple[float, float]]  # of A and B, as `measured_confidence`


class Comparison(NamedTuple):
    """Everything that the page and the table show."""

    known: Systems  # of both
    names: list[str]  # of the two folders
    described: list[str]  # data set, model and seed of each
    settings: list[list[str]]  # those that differ: name, value of A, value of B
    systems: list[Paired]
    remarks: list[str]  # what the tables do not say
    signatures: list[Json]  # those of B that A does not show, as `signatures.signatures`


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
    made = [
        _paired(system, asked[0][system], asked[1][system], [s["systems"][system] for s in summaries])
        for system in shared
    ]
    systems = [paired for paired in made if paired.groups]
    if not systems:
        raise InputError(
            f"{one} and {other} have no question in common: compare workdirs of the same data set and split"
        )
    told = [
        signatures(s, mining.read(p / "mined").statistics) for s, p in zip(sides, (one, other), strict=True)
    ]
    shown = {(signature["name"], signature["system"]) for signature in told[0]}
    seeds = [side.config.get("seed", "not recorded") for side in sides]
    settings = _settings(a.config, b.config)
    wrong = [f"{sentence}." for sentence in contradictions([*a.evaluations, *b.evaluations], known)]
    return Comparison(
        known=known,
        names=[one.resolve().name, other.resolve().name],
        described=[f"{s['dataset']}, {s['model']}, seed {n}" for s, n in zip(summaries, seeds, strict=True)],
        settings=settings,
        systems=systems,
        remarks=[*wrong, *_remarks(asked, systems[-1].system, known, settings)],
        signatures=[s for s in told[1] if (s["name"], s["system"]) not in shown],
    )


def _paired(system: str, of_a: Questions, of_b: Questions, figures: list[Json]) -> Paired:
    measured = {group: difference(common(of_a[group], of_b[group])) for group in GROUPS}
    trained = common(of_a["trained"], of_b["trained"])
    return Paired(
        system,
        {group: change for group, change in measured.items() if change is not None},
        figures,
        flips(trained) if trained else None,
        measured_confidence(trained),
    )


def _remarks(asked: list[Json], system: str, known: Systems, settings: list[list[str]]) -> list[str]:
    """What stands in one of the runs only, and how small a difference says nothing."""
    words = [] if settings else ["No setting differs."]
    for side, own, other in zip("AB", asked, asked[::-1], strict=True):
        alone = [known.label(name) for name in own if name not in other]
        words += [f"Evaluated only in {side}: {', '.join(alone)}."] if alone else []
    a, b = (_unshared(own[system], other[system]) for own, other in (asked, asked[::-1]))
    if a or b:
        words.append(f"Left out: {a:,} questions that only A was asked, and {b:,} that only B was.")
    return [*words, f"Under {NOISE_POINTS:g} points one seed of each does not tell two runs apart."]


def measured_confidence(pairs: Pairs) -> dict[str, tuple[float, float]]:
    """What the confidence of either side is worth on the same questions, and the share in each state.

    Empty where one of them was evaluated by a version that does not measure it.
    """
    sides = [one for one, _ in pairs], [other for _, other in pairs]
    if not pairs or any(len(confident(side)) < len(side) for side in sides):
        return {}
    measured = {name: [measure(*columns(side)) for side in sides] for name, measure in MEASURES.items()}
    shares = [states(side) for side in sides]
    measured |= {state: [share[state]["value"] for share in shares] for state in STATES}
    return {name: (a, b) for name, (a, b) in measured.items()}


def write_comparison(one: Path, other: Path) -> tuple[Path, Comparison]:
    """Write `compare-<name of other>.html` into the first workdir's report; gives its path and what it shows.

    Raises:
        InputError: as `read_comparison`.
    """
    comparison = read_comparison(one, other)
    path = one / "report" / f"compare-{comparison.names[1]}.html"
    write_text(path, _rendered("compare.html.j2", comparison))
    return path, comparison


def comparison_markdown(comparison: Comparison) -> str:
    """What differs and what came of it, short enough for the text of a pull request.

    Tables, new signatures of failure, and the outcome in words; names and texts of the runs are no markup.
    """
    return _rendered("compare.md.j2", comparison).rstrip("\n") + "\n"


def _rendered(name: str, comparison: Comparison) -> str:
    return template(name).render(
        found=comparison,
        label=comparison.known.label,
        sheets=sheets(comparison),
        summary={"signatures": comparison.signatures},
        new=_new(comparison),
    )


def _both(told: Callable[[float], str]) -> Told:
    return lambda both: " → ".join(map(told, both))


def _costlier(figures: list[Json]) -> str:
    one, other = (side["text_nll"] for side in figures)
    return "" if None in (one, other) else signed(other - one, 3)


ACCURACY = compared("number", "A, %", "B, %", "B − A, points [95 %]")
CONFIDENCE: dict[str, Told] = {name: at(_both(figure), name) for name in MEASURES}
KNOWLEDGE: dict[str, Told] = {f"{name}, %": at(_both(in_percent), name) for name in STATES}
COSTS: dict[str, Told] = {
    "text NLL\nof A": at(figure, 0, "text_nll"),
    "text NLL\nof B": at(figure, 1, "text_nll"),
    "B − A,\nnats": _costlier,
    "device-seconds\nof A": at(partial(figure, places=1), 0, "device_seconds"),
    "device-seconds\nof B": at(partial(figure, places=1), 1, "device_seconds"),
}


def sheets(comparison: Comparison) -> dict[str, Sheet]:
    """What a page, a terminal and Markdown show of the systems that both evaluated, by title."""
    systems = [(comparison.known.label(paired.system), paired) for paired in comparison.systems]
    groups = [(label, GROUPS[g], apart) for label, paired in systems for g, apart in paired.groups.items()]
    flipping = [(label, paired.flips) for label, paired in systems if paired.flips]
    costs = [(label, paired.figures) for label, paired in systems]
    sure = [(label, paired.confidence) for label, paired in systems if paired.confidence]
    made = {
        "Accuracy": sheet(ACCURACY, groups, "system", "questions"),
        "Trained facts gained (right in B only) and lost": sheet(FLIPPED, flipping, "system"),
        "Confidence on trained facts, A → B": sheet(CONFIDENCE, sure, "system"),
        "States of knowledge of trained facts, A → B": sheet(KNOWLEDGE, sure, "system"),
        "Loss on text, and time": sheet(COSTS, costs, "system"),
        "Settings that differ": Sheet(
            ["setting", "A", "B"], [[*map(Cell, setting)] for setting in comparison.settings], words=3
        ),
    }
    return {title: of for title, of in made.items() if of.rows}


def _settings(one: Json, other: Json) -> list[list[str]]:
    both = flat(one), flat(other)
    names = dict.fromkeys([*both[0], *both[1]])
    values = [[name, *(text(f[name]) if name in f else "not set" for f in both)] for name in names]
    return [value for value in values if value[1] != value[2]]


def _unshared(one: Questions, other: Questions) -> int:
    parts = {"held_out_head", *NEIGHBOURS.values()}  # of the held-out facts, which are counted already
    return sum(key not in other[group] for group in GROUPS if group not in parts for key in one[group])


def comparison_table(comparison: Comparison) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    sides = zip("AB", comparison.names, comparison.described, strict=True)
    parts: list[str | Sheet] = [f"{side} = {name}: {described}" for side, name, described in sides]
    parts += [f"  {name}: {a} | {b}" for name, a, b in comparison.settings]
    for title, made in sheets(comparison._replace(settings=[])).items():
        parts += [title, made]
    parts += [f"! new in B: {sentence}" for sentence in _new(comparison)]
    return plain(*parts, *(f"- {remark}" for remark in comparison.remarks))


def _new(comparison: Comparison) -> list[str]:
    label = comparison.known.label
    return [f"{label(s['system'])}: {s['name']}: {s['evidence']}" for s in comparison.signatures]
