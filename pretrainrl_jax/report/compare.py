"""Two workdirs side by side: what was set differently, and what came of it on the questions they share."""

from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.config.stored import flat
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report.formats import Json, change, decimals, percent
from pretrainrl_jax.report.inputs import Inputs, describe_data, describe_model, read_inputs
from pretrainrl_jax.report.intervals import Difference
from pretrainrl_jax.report.outcomes import GROUPS, Key, common, difference, examples, flips, grouped, right
from pretrainrl_jax.report.page import template, text, write_page
from pretrainrl_jax.report.summary import summarise
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import categories
from pretrainrl_jax.report.terminal import grid, plain
from pretrainrl_jax.report.words import NOISE_POINTS


class Side(NamedTuple):
    """One of the two workdirs."""

    name: str  # of its folder
    inputs: Inputs
    summary: Json

    def grouped(self, system: str) -> dict[str, dict[Key, Json]]:
        """The questions of a system by group."""
        return grouped(next(e for e in self.inputs.evaluations if e["system"] == system))


class Paired(NamedTuple):
    """A system that both workdirs evaluated."""

    system: str
    groups: dict[str, Difference]  # of A and B, by `GROUPS`; those without a common question are left out
    text_nll: tuple[float | None, float | None]
    device_seconds: tuple[float | None, float | None]


class Comparison(NamedTuple):
    """Everything that the page and the table show."""

    known: Systems  # of both
    names: tuple[str, str]
    described: tuple[str, str]  # data set and model of each
    settings: list[tuple[str, str, str]]  # those that differ: name, value of A, value of B
    systems: list[Paired]
    alone: tuple[list[str], list[str]]  # systems of A only, and of B only
    unshared: tuple[int, int]  # questions of A that B was not asked, and the reverse
    best: str  # the most accurate system of both, whose categories and flips are shown
    categories: dict[str, Difference]
    flipped: dict[str, Json]  # "gained": right in B only; "lost": right in A only; as `outcomes.examples`

    def of_group(self, group: str) -> list[tuple[str, Difference]]:
        """The systems that share questions of a group, by the name a reader sees."""
        return [(self.known.label(p.system), p.groups[group]) for p in self.systems if group in p.groups]


def read_comparison(one: Path, other: Path) -> Comparison:
    """Compare two evaluated workdirs, A and B, which may be the same.

    Raises:
        InputError: if one is not evaluated, or they have no system or no question in common.
    """
    a, b = _side(one), _side(other)
    known = Systems({**b.inputs.known.objectives, **a.inputs.known.objectives})
    names = ([*a.summary["systems"]], [*b.summary["systems"]])
    shared = sorted(set(names[0]) & set(names[1]), key=known.place)
    if not shared:
        raise InputError(
            f"{one} and {other} evaluated no system in common ({', '.join(names[0])} and "
            f"{', '.join(names[1])}): compare workdirs that trained the same systems"
        )
    systems = [paired for system in shared if (paired := _paired(system, a, b)).groups]
    if not systems:
        raise InputError(
            f"{one} and {other} have no question in common: compare workdirs of the same data set and split"
        )
    best = _best(systems)
    groups = a.grouped(best), b.grouped(best)
    pairs = common(groups[0]["trained"], groups[1]["trained"])
    gained, lost = flips(pairs)
    return Comparison(
        known=known,
        names=(a.name, b.name),
        described=(_describe(a), _describe(b)),
        settings=_settings(a.inputs.config, b.inputs.config),
        systems=systems,
        alone=([n for n in names[0] if n not in names[1]], [n for n in names[1] if n not in names[0]]),
        unshared=(_unshared(groups[0], groups[1]), _unshared(groups[1], groups[0])),
        best=best,
        categories=_categories(groups[0]["trained"], groups[1]["trained"]),
        flipped={
            "gained": examples(gained, sum(not right(first) for first, _ in pairs)),
            "lost": examples(lost, sum(right(first) for first, _ in pairs)),
        },
    )


def write_comparison(one: Path, other: Path) -> tuple[Path, Comparison]:
    """Write `compare-<name of other>.html` into the first workdir's report; gives its path and what it shows.

    Raises:
        InputError: as `read_comparison`.
    """
    comparison = read_comparison(one, other)
    page = template("compare.html.j2").render(
        found=comparison, label=comparison.known.label, reading=sentences(comparison), groups=GROUPS
    )
    folder = one / "report"
    folder.mkdir(exist_ok=True)
    return write_page(folder / f"compare-{comparison.names[1]}.html", page), comparison


def _side(workdir: Path) -> Side:
    inputs = read_inputs(workdir)
    config = inputs.config
    summary = summarise(inputs.evaluations, describe_data(config), describe_model(config))
    return Side(workdir.resolve().name, inputs, summary)


def _describe(side: Side) -> str:
    seed = side.inputs.config.get("seed", "not recorded")
    return f"{side.summary['dataset']}, {side.summary['model']}, seed {seed}"


def _settings(one: Json, other: Json) -> list[tuple[str, str, str]]:
    both = flat(one), flat(other)
    names = dict.fromkeys([*both[0], *both[1]])
    values = [(name, *(text(f[name]) if name in f else "not set" for f in both)) for name in names]
    return [(name, a, b) for name, a, b in values if a != b]


def _paired(system: str, a: Side, b: Side) -> Paired:
    one, other = a.grouped(system), b.grouped(system)
    measured = {group: difference(common(one[group], other[group])) for group in GROUPS}
    of = a.summary["systems"][system], b.summary["systems"][system]
    return Paired(
        system,
        {group: change for group, change in measured.items() if change is not None},
        (of[0]["text_nll"], of[1]["text_nll"]),
        (of[0]["device_seconds"], of[1]["device_seconds"]),
    )


def _best(systems: list[Paired]) -> str:
    """The trained system with the highest accuracy over both, on trained facts; base where it is alone."""
    known = {p.system: p.groups["trained"] for p in systems if "trained" in p.groups}
    scores = {system: of.before + of.after for system, of in known.items() if system != "base"}
    return max(scores, key=lambda s: scores[s], default=systems[0].system)


def _unshared(one: dict[str, dict[Key, Json]], other: dict[str, dict[Key, Json]]) -> int:
    return sum(key not in other[g] for g in GROUPS if g != "held_out_head" for key in one[g])


def _categories(one: dict[Key, Json], other: dict[Key, Json]) -> dict[str, Difference]:
    shared = {key: question for key, question in one.items() if key in other}
    measured = {name: difference((one[key], other[key]) for key in keys) for name, keys in categories(shared)}
    return {name: change for name, change in measured.items() if change is not None}


def sentences(found: Comparison) -> list[str]:
    """The outcome in words: the best system of both, what stands in one only, what cannot be compared."""
    best = next(paired for paired in found.systems if paired.system == found.best)
    group, of = next(iter(best.groups.items()))
    words = [
        f"{found.known.label(found.best)}, the most accurate of the systems of both: {percent(of.before)} in "
        f"A and {percent(of.after)} in B on {of.questions:,} questions ({GROUPS[group]}); "
        f"B − A is {change(of)} points."
    ]
    if not of.clear:
        words.append("The interval holds zero: on these questions the two are not told apart.")
    elif 100 * abs(of.rate) < NOISE_POINTS:
        words.append(f"Under {NOISE_POINTS:g} points, one seed of each does not tell the two apart.")
    words += [
        f"Evaluated only in {side}: {', '.join(map(found.known.label, alone))}."
        for side, alone in zip("AB", found.alone, strict=True)
        if alone
    ]
    if any(found.unshared):
        one, other = found.unshared
        words.append(
            f"Left out: {one:,} questions of A that B was not asked, and {other:,} of B that A was not asked."
        )
    return words


def comparison_table(found: Comparison) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    heads = [
        f"{side} = {name}: {of}" for side, name, of in zip("AB", found.names, found.described, strict=True)
    ]
    heads += [f"  {name}: {a} | {b}" for name, a, b in found.settings] or ["  no setting differs"]
    rows, tails = [], []
    for paired in found.systems:
        label = found.known.label(paired.system)
        for index, (group, of) in enumerate(paired.groups.items()):
            rates = percent(of.before, ""), percent(of.after, "")
            rows.append(["" if index else label, GROUPS[group], f"{of.questions:,}", *rates, change(of)])
        nll = " | ".join(decimals(value, 3) for value in paired.text_nll)
        seconds = " | ".join(decimals(value, 1) for value in paired.device_seconds)
        tails.append(f"{label}: text NLL {nll}; device-seconds {seconds}")
    drawn = grid({"system": 20, "questions": 27}, ["number", "A, %", "B, %", "B − A, points [95 %]"], rows)
    return plain(*heads, drawn, *tails, *(f"- {sentence}" for sentence in sentences(found)))
