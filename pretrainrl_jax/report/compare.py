"""Two workdirs side by side: what was set differently, and what came of it on the questions they share.

As a page, as tables for a terminal, and as Markdown.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.config.stored import flat
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.confidence import area_under_risk_coverage, brier, ece
from pretrainrl_jax.report import mining
from pretrainrl_jax.report.columns import Sheet, Told, at, compared, figure, in_percent, plain, sheet, texts
from pretrainrl_jax.report.contradictions import contradictions
from pretrainrl_jax.report.formats import Json, signed
from pretrainrl_jax.report.inputs import Inputs, describe, read_inputs
from pretrainrl_jax.report.knowledge.figures import STATES, columns, confident, flips, states
from pretrainrl_jax.report.knowledge.tables import FLIPPED
from pretrainrl_jax.report.outcomes import (
    GROUPS,
    NEIGHBOURS,
    Pairs,
    Questions,
    common,
    difference,
    flipped,
    grouped,
    right,
)
from pretrainrl_jax.report.page import template, text
from pretrainrl_jax.report.signatures import signatures
from pretrainrl_jax.report.summary import summarise
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import examples, parts
from pretrainrl_jax.report.words import NOISE_POINTS

MEASURES = {"AURC": area_under_risk_coverage, "ECE": ece, "Brier": brier}


class Comparison(NamedTuple):
    """Everything that a page, a terminal and Markdown show."""

    names: list[str]  # of the two folders
    described: list[str]  # data set, model and seed of each
    remarks: list[str]  # what the tables do not say
    sheets: dict[str, Sheet]  # by title; those with three columns of words are lists
    details: dict[str, Sheet]  # what a page shows beside them of the most accurate system of both


def read_comparison(one: Path, other: Path) -> Comparison:
    """Compare two evaluated workdirs, A and B, which may be the same.

    Raises:
        InputError: if one is not evaluated, or they have no system or no question in common.
    """
    sides = a, b = read_inputs(one), read_inputs(other)
    summaries = [summarise(side.evaluations, *describe(side.config)) for side in sides]
    asked = [{name: grouped(own) for name, own in side.evaluations.items()} for side in sides]
    known = Systems({**b.known.objectives, **a.known.objectives})
    shared = sorted({*asked[0]} & {*asked[1]}, key=known.place)
    if not shared:
        names = " and ".join(", ".join(own) for own in asked)
        raise InputError(
            f"{one} and {other} evaluated no system in common ({names}): compare workdirs that trained the "
            "same systems"
        )
    both = {system: (asked[0][system], asked[1][system]) for system in shared}
    made = {
        **_sheets(both, [summary["systems"] for summary in summaries], known),
        "Settings that differ": texts(_settings(a.config, b.config), "setting", "A", "B"),
        "Signatures of failure that are new in B": texts(
            _new(sides, (one, other), known), "system", "signature", "evidence"
        ),
    }
    if not made["Accuracy"].rows:
        raise InputError(
            f"{one} and {other} have no question in common: compare workdirs of the same data set and split"
        )
    seeds = [side.config.get("seed", "not recorded") for side in sides]
    wrong = [
        f"{sentence}."
        for sentence in contradictions([*a.evaluations.values(), *b.evaluations.values()], known)
    ]
    return Comparison(
        [one.resolve().name, other.resolve().name],
        [f"{s['dataset']}, {s['model']}, seed {n}" for s, n in zip(summaries, seeds, strict=True)],
        [*wrong, *_remarks(asked, shared[-1], known)],
        {title: of for title, of in made.items() if of.rows},
        _details(both, known),
    )


def _details(both: dict[str, tuple[Questions, Questions]], known: Systems) -> dict[str, Sheet]:
    """By category, and question by question, of the trained system that is right most often over both."""
    asked = {system: common(*(side["trained"] for side in sides)) for system, sides in both.items()}
    best = max(
        asked, key=lambda system: (system != "base", sum(right(q) for two in asked[system] for q in two))
    )
    a, b = (side["trained"] for side in both[best])
    categories = parts({key: a[key] for key in a if key in b}, lambda question: question.get("category"))
    made = [(name, difference((a[key], b[key]) for key in keys)) for name, keys in categories]
    of, details = known.label(best), {"By category: ": sheet(ACCURACY, made, "category")}
    for side, found in flipped(asked[best], asked[best]).items():
        title = "Wrong in A, right in B" if side == "gained" else "Right in A, wrong in B"
        details[f"{title}, {found['count']:,} of {found['of']:,} facts: "] = examples(found["rows"], "A", "B")
    return {title + of: made for title, made in details.items() if made.rows}


def _sheets(
    both: dict[str, tuple[Questions, Questions]], told: list[Json], known: Systems
) -> dict[str, Sheet]:
    """The tables of the systems that both evaluated, by title."""
    groups, flipped, sure = [], [], []
    for system, (of_a, of_b) in both.items():
        pairs = {group: common(of_a[group], of_b[group]) for group in GROUPS}
        changes = {GROUPS[group]: difference(asked) for group, asked in pairs.items()}
        groups += [(known.label(system), group, apart) for group, apart in changes.items() if apart]
        if trained := pairs["trained"]:
            flipped.append((known.label(system), flips(trained)))
        if measured := measured_confidence(pairs["trained"]):
            sure.append((known.label(system), measured))
    costs = [(known.label(system), [side[system] for side in told]) for system in both]
    return {
        "Accuracy": sheet(ACCURACY, groups, "system", "questions"),
        "Trained facts gained (right in B only) and lost": sheet(FLIPPED, flipped, "system"),
        "Confidence on trained facts, A → B": sheet(CONFIDENCE, sure, "system"),
        "States of knowledge of trained facts, A → B": sheet(KNOWLEDGE, sure, "system"),
        "Loss on text, and time": sheet(COSTS, costs, "system"),
    }


def _new(sides: tuple[Inputs, Inputs], workdirs: tuple[Path, Path], known: Systems) -> list[list[str]]:
    """The signatures of B that A does not show."""
    of_a, of_b = (
        signatures(side, mining.read(workdir / "mined").statistics)
        for side, workdir in zip(sides, workdirs, strict=True)
    )
    shown = {(told["name"], told["system"]) for told in of_a}
    new = [told for told in of_b if (told["name"], told["system"]) not in shown]
    return [[known.label(told["system"]), told["name"], told["evidence"]] for told in new]


def _remarks(asked: list[dict[str, Questions]], system: str, known: Systems) -> list[str]:
    """What stands in one of the runs only, and how small a difference says nothing."""
    words = []
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
    write_text(path, template("compare.html.j2").render(found=comparison))
    return path, comparison


def comparison_markdown(comparison: Comparison) -> str:
    """The same for the text of a pull request; names and texts of the runs are no markup."""
    return template("compare.md.j2").render(found=comparison).rstrip("\n") + "\n"


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
    for title, made in comparison.sheets.items():
        lists = ["  {}: {} | {}".format(*row) for row in made.texts()] if made.words == 3 else [made]
        parts += [title, *lists]
    return plain(*parts, *(f"- {remark}" for remark in comparison.remarks))
