"""What a run on preferences found: checked numbers of every system, their table, words and page."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.preferences import PairScore, measures
from pretrainrl_jax.knowledge.intervals import Difference, mean_interval, paired, ratio_interval, sums
from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import (
    Cell,
    Sheet,
    Told,
    at,
    changed,
    estimated,
    figure,
    in_percent,
    plain,
    sheet,
)
from pretrainrl_jax.report.contradictions import AGAIN
from pretrainrl_jax.report.formats import Json, number, percent, signed, spread
from pretrainrl_jax.report.inputs import describe, read_config, read_inputs
from pretrainrl_jax.report.page import write_page
from pretrainrl_jax.report.systems import Systems

SIDES = {"held_out": "held-out", "trained": "trained"}
WORDS = ("prompt", "chosen", "rejected")


def is_about_preferences(workdir: Path) -> bool:
    """Whether a workdir is of a run on preferences. Raises InputError if its settings cannot be read."""
    return bool(read_config(workdir)[0].get("preferences", {}).get("path"))


def summarise(evaluations: Mapping[str, Json], dataset: str, model: str) -> Json:
    """The content of `report/summary.json`, from the evaluation of every system.

    Shares are in [0, 1] and means are over pairs, each with its 95 % interval as `…_interval`: a bootstrap
    over prompts. `change` is that of `preference_accuracy` against base, on the same pairs. Base has no
    `reward_accuracy`: its margins are 0.
    """
    systems: dict[str, Json] = {}
    pairs = {system: pairs_of(evaluation) for system, evaluation in evaluations.items()}
    for system, evaluation in evaluations.items():
        own, base = pairs[system], pairs.get("base")
        prompts, weights = [pair.prompt for pair in own], [pair.weight for pair in own]
        preferred, rewarded = [p.gap > 0 for p in own], [p.margin > 0 for p in own]
        systems[system] = {
            **measures(own),
            "of": evaluation.get("of", "not recorded"),
            "preference_accuracy_interval": mean_interval(prompts, preferred, weights),
            "reward_accuracy_interval": mean_interval(prompts, rewarded, weights),
            "margin_interval": ratio_interval(*sums(prompts, weights, [pair.margin for pair in own])),
            "text_nll": number(evaluation.get("text_nll")),
            "text": evaluation.get("text"),
            "device_seconds": number(evaluation.get("device_seconds")),
        }
        if system == "base":
            systems[system] |= dict.fromkeys(
                ("reward_accuracy", "reward_accuracy_interval", "margin_interval")
            )
        elif base and len(base) == len(own):
            systems[system]["change"] = difference(base, own)._asdict()
    return {"dataset": dataset, "model": model, "about": "preferences", "systems": systems}


def pairs_of(evaluation: Json) -> list[PairScore]:
    """The pairs that an evaluation lists. Raises InputError if it lists none."""
    try:
        pairs = [PairScore(*pair) for pair in evaluation["scores"]]
    except (KeyError, TypeError):
        pairs = []
    if not pairs:
        raise InputError(f"the evaluation of {evaluation.get('system')} lists no pairs: {AGAIN}")
    return pairs


def difference(base: Sequence[PairScore], other: Sequence[PairScore]) -> Difference:
    """The preference accuracy of two systems on the same pairs."""
    before, after = (measures(pairs)["preference_accuracy"] for pairs in (base, other))
    apart = [float(b.gap > 0) - float(a.gap > 0) for a, b in zip(base, other, strict=True)]
    prompts, weights = [pair.prompt for pair in base], [pair.weight for pair in base]
    bounds = ratio_interval(*sums(prompts, weights, apart)) if any(apart) else None
    if bounds is None:  # no pair flipped, or there is one prompt: what so few prompts leave open
        alike = paired([(True, True)] * len(set(prompts)))
        bounds = (alike.low, alike.high) if alike else (-1.0, 1.0)
    return Difference(len(base), before, after, *bounds)


def _margin(system: Json) -> Cell | str:
    if system["reward_accuracy"] is None:  # of the base model, whose margins are 0
        return ""
    return Cell(signed(system["margin"]), " to ".join(signed(x, 1) for x in system["margin_interval"] or ()))


COLUMNS: dict[str, Told] = {
    "prefers\n%": estimated(in_percent, of="preference_accuracy"),
    "reward\n%": estimated(in_percent, of="reward_accuracy"),
    "margin\nnats": _margin,
    "text\nNLL": at(figure, "text_nll"),
    "device\ns": at(partial(figure, places=1), "device_seconds"),
}
CHANGE = {"change, points": at(changed, "change")}  # a terminal has no room for it beside them


def table(summary: Json, known: Systems) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    rows = [(known.label(name), system) for name, system in summary["systems"].items()]
    sample = next(iter(summary["systems"].values()))
    title = f"{summary['dataset']}, {summary['model']}: {about_pairs(sample)}"
    parts = (sheet(columns, rows, "system").opened() for columns in (COLUMNS, CHANGE))
    return plain(title, *(part for part in parts if len(part.heads) > 1))


def about_pairs(system: Json) -> str:
    """Which pairs a system was evaluated on, in words."""
    kind = SIDES.get(system["of"], system["of"])
    return f"{system['pairs']:,} {kind} pairs of {system['prompts']:,} prompts"


def headline(summary: Json, known: Systems) -> str:
    """The outcome in one line."""
    shares = {name: system["preference_accuracy"] for name, system in summary["systems"].items()}
    base = shares.pop("base", None)
    if not shares:
        return f"The base model prefers the chosen answer in {percent(base)} of pairs"
    best = max(shares, key=lambda name: shares[name])
    before = "" if base is None else f"{percent(base)} before, "
    return f"Chosen answers preferred: {before}{percent(shares[best])} with {known.label(best)}"


def reading(summary: Json, known: Systems) -> list[str]:
    """How far the numbers can be trusted."""
    of, prompts = zip(
        *((system["of"], system["prompts"]) for system in summary["systems"].values()), strict=True
    )
    sentences = ["All of this is one seed; the intervals know which prompts were asked, and no more."]
    if "trained" in of:
        sentences.append("No prompt is held out: these are the pairs that were trained on.")
    elif min(prompts) < 30:
        sentences.append("So few prompts are held out that only large differences show.")
    return sentences


def examples(before: Json, after: Json) -> Sheet | None:
    """Some pairs with the gap between their answers before and after, the least changed first."""
    old, new, texts = pairs_of(before), pairs_of(after), after.get("examples") or {}
    if len(old) != len(new):
        return None
    places = sorted((int(p) for p in texts if int(p) < len(new)), key=lambda p: new[p].gap - old[p].gap)
    rows = [
        (*(texts[str(place)][key] for key in WORDS), (old[place].gap, new[place].gap))
        for place in spread(places)
    ]
    gaps: dict[str, Told] = {"gap before → after": lambda gaps: " → ".join(signed(gap, 1) for gap in gaps)}
    return sheet(gaps, rows, *WORDS)


def write_report(workdir: Path) -> Path:
    """Write a workdir's `report/summary.json` and `report/index.html`; gives the path of the page.

    Raises:
        InputError: if the workdir is not evaluated, or a file of it cannot be read.
    """
    inputs = read_inputs(workdir)
    known, evaluations = inputs.known, inputs.evaluations
    summary = summarise(evaluations, *describe(inputs.config))
    systems = summary["systems"]
    trained = [name for name in systems if name != "base"]
    best = max(trained, key=lambda name: systems[name]["preference_accuracy"], default="")
    heads = drawing.heads(list(systems), known)
    return write_page(
        workdir,
        "preferences.html.j2",
        inputs,
        summary,
        headline(summary, known),
        reading(summary, known),
        ("DPO over", str(inputs.config["train"]["dpo_scale"])),
        systems=sheet(COLUMNS | CHANGE, [(heads[name], own) for name, own in systems.items()], "system"),
        about_pairs=about_pairs(next(iter(systems.values()))),
        examples=examples(evaluations["base"], evaluations[best]) if best and "base" in systems else None,
        examples_of=f"base and {known.label(best)}",
    )
