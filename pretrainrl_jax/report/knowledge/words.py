"""What a system knows in words and in a table for a terminal, from "knowledge" in summary.json."""

from collections.abc import Iterable

from pretrainrl_jax.report.columns import grid, plain
from pretrainrl_jax.report.formats import Json, decimals, percent, signed
from pretrainrl_jax.report.summary import noun, pair
from pretrainrl_jax.report.systems import Systems


def table(summary: Json, known: Systems) -> str:
    """How each system's probability tells right from wrong, for a terminal of 100 columns; "" if unknown."""
    rows, heads = [], []
    for name, system in summary["systems"].items():
        told = system.get("knowledge", {}).get("trained", {})
        if "confidence" not in told:
            continue
        scaled, targets = told.get("calibrated"), [t for t in told["targets"] if t["threshold"]][:3]
        heads = [f"score\nt={target['threshold']:g}" for target in targets]
        row = [percent(told["confidence"]["accuracy"]["value"], "")]
        row += [percent(told["states"][state]["value"], "") for state in ("knows", "misled")]
        row += [decimals(told["confidence"]["aurc"]["value"], 3)]
        row += [decimals(scaled["ece"], 3) if scaled else "–"]
        row += [decimals(told["confidence"]["brier"]["value"], 3)]
        rows.append([known.label(name), *row, *(signed(target["score"]["value"], 2) for target in targets)])
    if not rows:
        return ""
    names = ["right\n%", "knows\n%", "misled\n%", "AURC", "ECE\nafter T", "Brier", *heads]
    title = f"Does it know the difference? Most probable answers to {noun(summary)}"
    return plain(title, grid({"system": 18}, names, rows))


def reading(summary: Json, known: Systems) -> list[str]:
    """What no table says of the base model and the method: their commonest mistake, and what training did."""
    told: dict[str, Json] = {}
    for name in filter(None, pair(summary, known)):
        own = summary["systems"][name].get("knowledge", {})
        if "states" in own.get("trained", {}):
            alone = set(summary["systems"]) == {"base"}
            told["the model" if alone else known.words(name)] = own
    return [
        f"{clause[:1].upper()}{clause[1:]}."
        for clauses in (_believes(told), _changed(told))
        for clause in clauses
    ]


def _believes(told: dict[str, Json]) -> Iterable[str]:
    for name, own in list(told.items())[:1]:
        for each in own.get("repeated", [])[:1]:
            times = {0: "never right", 1: "right once"}.get(each["true"], f"right {each['true']:,} times")
            yield (
                f"the wrong answer that {name} gives most often is “{each['answer']}”: to {each['said']:,} "
                f"questions, and it is {times}"
            )


def _changed(told: dict[str, Json]) -> Iterable[str]:
    for name, own in told.items():
        if flips := own.get("changes", {}).get("flips", {}).get("trained"):
            p = "p < 0.0001" if flips["p"] < 0.0001 else f"p = {flips['p']:.2g}"
            text = f"with {name} {_flipped(flips)} trained facts (McNemar, {p})"
            others = own["changes"]["flips"].get("held_out")
            yield text + (f"; {_flipped(others)} held-out ones" if others else "")


def _flipped(flips: Json) -> str:
    return f"{flips['gained']:,} became right and {flips['lost']:,} wrong of {flips['questions']:,}"
