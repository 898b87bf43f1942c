"""The outcome in words, computed from the numbers of a summary."""

import math
from collections.abc import Iterable
from dataclasses import fields

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.report.formats import Json, decimals, percent, signed
from pretrainrl_jax.report.intervals import Z
from pretrainrl_jax.report.summary import forgetting, group_count, group_rate
from pretrainrl_jax.report.systems import Systems

NOISE_POINTS = 2.0
"""Differences in accuracy under this many points, from one seed, are treated as noise."""


def headline(summary: Json, known: Systems) -> str:
    """The outcome in one line."""
    accuracies = _accuracies(summary)
    base = accuracies.pop("base", None)
    if not accuracies:
        rate = "was not measured" if base is None else f"is {percent(base)}"
        return f"The base model's accuracy on these facts {rate}"
    best, highest = max(accuracies.items(), key=lambda item: item[1])
    if base is None:
        return f"Best accuracy on trained facts: {percent(highest)}, with {known.label(best)}"
    if highest <= base:
        return f"No trained system is more accurate than the base model ({percent(base)})"
    return f"Accuracy on trained facts: {percent(base)} before, {percent(highest)} with {known.label(best)}"


def _accuracies(summary: Json) -> dict[str, float]:
    return {name: s["acc"] for name, s in summary["systems"].items() if s["acc"] is not None}


def reading(summary: Json, known: Systems) -> list[str]:
    """What the table shows and what it does not, in sentences computed from its numbers."""
    accuracies = _accuracies(summary)
    if not accuracies:
        return ["No accuracy on trained facts was measured."]
    if set(accuracies) == {"base"}:
        return [
            f"Only the base model was evaluated; its accuracy here is {percent(accuracies['base'])}.",
            "Nothing was trained, so there is nothing to compare yet.",
        ]
    sentences = [
        *_best(summary, known, accuracies),
        *_against_baselines(summary, known),
        *_against_controls(summary, known),
        *_dpo(summary, known),
        *_beyond(summary, known, accuracies),
        *_forgetting(summary, known, accuracies),
        *_time(summary, known),
    ]
    return [
        *sentences,
        "All of this is one seed, and accuracy is on the facts that were trained on: it measures what was "
        "taught, not what the model can infer.",
    ]


def noise(summary: Json, name: str, other: str) -> float:
    """Points of accuracy below which two systems are not told apart.

    Half the 95 % interval of their difference, question by question, and at least NOISE_POINTS: the interval
    knows which questions were asked, not what another seed would have trained. Where the outcomes of the
    questions are not at hand the answers are taken as independent, which is wider.
    """
    one, two = (summary["systems"][n] for n in (name, other))
    paired = one["against"].get(other)
    if paired:
        return max(NOISE_POINTS, 50 * (paired["high"] - paired["low"]))
    variance = 0.0
    for system in (one, two):
        count = group_count(system, "trained")
        variance += system["acc"] * (1 - system["acc"]) / count if count else 0.0
    return max(NOISE_POINTS, 100 * Z * math.sqrt(variance))


def _compare(summary: Json, known: Systems, name: str, other: str) -> tuple[str, int] | None:
    """Words for the accuracy of one system against another, and the sign of the difference (0: noise)."""
    systems = summary["systems"]
    if any(n not in systems or systems[n]["acc"] is None for n in (name, other)):
        return None
    one, two = systems[name], systems[other]
    points, limit = 100 * (one["acc"] - two["acc"]), noise(summary, name, other)
    rates = f"({percent(one['acc'])} against {percent(two['acc'])})"
    if round(abs(points), 1) == 0:
        where = f"level with {known.words(other)}"
    else:
        where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {known.words(other)}"
    if abs(points) < limit:
        return f"{known.words(name)} is {where} {rates}, which is within noise ({_why(limit)})", 0
    return f"{known.words(name)} is {where} {rates}", 1 if points > 0 else -1


def _why(limit: float) -> str:
    if limit == NOISE_POINTS:
        return f"under {limit:g} points in one seed"
    return f"under {limit:.1f} points on so few questions, in one seed"


def _sentence(text: str) -> str:
    return _capital(text) + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _best(summary: Json, known: Systems, accuracies: dict[str, float]) -> Iterable[str]:
    first, *rest = sorted(accuracies, key=lambda name: -accuracies[name])
    if first == "base":
        yield f"No trained system is more accurate than the base model ({percent(accuracies['base'])})."
        return
    level = [n for n in rest if 100 * (accuracies[first] - accuracies[n]) < noise(summary, first, n)]
    text = f"The highest accuracy on trained facts is {percent(accuracies[first])}, of {known.words(first)}"
    if "base" in accuracies and "base" not in level:
        text += f"; the base model has {percent(accuracies['base'])}"
    if level:
        others = ", ".join(f"{known.words(n)} ({percent(accuracies[n])})" for n in level)
        text += f"; within noise of the highest: {others}"
    yield f"{text}."


def _against_baselines(summary: Json, known: Systems) -> Iterable[str]:
    """Each system beside those that a paper puts below it."""
    endings = {
        1: ": the order the paper reports",
        0: "; this run does not tell them apart",
        -1: ": the reverse of the order the paper reports",
    }
    for system in summary["systems"]:
        for baseline in known.of(system).above:
            if compared := _compare(summary, known, system, baseline):
                text, sign = compared
                yield _sentence(text + endings[sign])


def _claims(summary: Json, known: Systems) -> list[tuple[str, list[str]]]:
    """The systems whose gains may come from negatives, with the controls that have none, best ones first.

    They are those that a paper puts above others, or else the best one that has other terms beside.
    """
    accuracies = _accuracies(summary)
    contrast = [name for name in accuracies if known.of(name).contrasts]
    mixed = [name for name in contrast if not _only_contrasts(known.of(name))]
    best = sorted(mixed, key=lambda name: -accuracies[name])[:1]
    claims = [name for name in contrast if known.of(name).above] or best
    controls = {name: [c for c in known.controls(name) if c in accuracies] for name in claims}
    return [(name, sorted(controls[name], key=lambda c: -accuracies[c])) for name in claims]


def _only_contrasts(objective: ObjectiveConfig) -> bool:
    return objective.contrasts and all(objective.terms[name].contrasts for name in objective.coefficients)


def _against_controls(summary: Json, known: Systems) -> Iterable[str]:
    """A claim about negatives never stands without the control that has none."""
    for system, controls in _claims(summary, known):
        if not controls:
            missing = [f"{known.words(name)}, the control that" for name in known.controls(system)]
            yield _sentence(
                f"{[*missing, 'a control, which'][0]} any claim about negatives must stand beside, was not "
                "measured: this run cannot say whether the negatives help"
            )
        endings = {
            1: "; it uses no negatives, so this run is no evidence that they help",
            0: "; it uses no negatives, so this run does not show that they help",
        }
        for place, control in enumerate(controls):
            if compared := _compare(summary, known, control, system):
                text, sign = compared
                first = endings.get(sign) or _apart(known.of(control), known.of(system))
                yield _sentence(text + ("; it too uses no negatives" if place else first))


def _apart(control: ObjectiveConfig, other: ObjectiveConfig) -> str:
    """In what a control without negatives differs from an objective that is above it."""
    differ = ["negatives"]
    for name, term in other.terms.items():
        for item in fields(term) if not term.contrasts else ():
            if getattr(term, item.name) != getattr(control.terms[name], item.name):
                differ.append(f"the {item.metadata['doc'].partition(',')[0]}")
    if control.learning_rate != other.learning_rate:
        differ.append("the learning rate")
    if len(differ) == 1:
        return "; the two differ in negatives alone"
    return (
        f"; the two differ in {', in '.join(differ[:-1])} and in {differ[-1]}, and the run does not say "
        f"which of {'the two' if len(differ) == 2 else 'these'} made the difference"
    )


def _dpo(summary: Json, known: Systems) -> Iterable[str]:
    """What only pushes answers apart, beside the base model."""
    for name, system in summary["systems"].items():
        if not _only_contrasts(known.of(name)) or not (compared := _compare(summary, known, name, "base")):
            continue
        text, before, after = compared[0], summary["systems"]["base"]["prob"], system["prob"]
        if before is not None and after is not None:
            text += f"; Prob, which counts hits only, goes from {percent(before)} to {percent(after)}"
        yield _sentence(text)


def _beyond(summary: Json, known: Systems, accuracies: dict[str, float]) -> Iterable[str]:
    """What the most accurate trained system keeps in another wording, and on facts it was not taught."""
    systems = summary["systems"]
    name = max((n for n in accuracies if n != "base"), key=lambda n: accuracies[n])
    best, base = systems[name], systems.get("base")
    reworded = group_rate(best, "paraphrase")
    if reworded is not None:
        yield (
            f"Asked in a wording never trained on, {known.words(name)} answers {percent(reworded)} of the "
            f"trained facts, against {percent(best['acc'])} in the trained wording."
        )
    changes = []
    groups = {"held_out": "facts never trained on", "held_out_head": "the most popular of those"}
    for group, words in groups.items():
        after = group_rate(best, group)
        before = group_rate(base, group) if base else None
        if before is not None and after is not None:
            changes.append(f"{words} from {percent(before)} to {percent(after)}")
    if changes:
        yield f"Accuracy from the base model to {known.words(name)}: {'; '.join(changes)}."


def _forgetting(summary: Json, known: Systems, accuracies: dict[str, float]) -> Iterable[str]:
    rises = forgetting(summary)
    if not rises:
        yield "Forgetting cannot be read: the loss on held-out text is not known before and after."
        return
    base = summary["systems"]["base"]["text_nll"]
    ranked = sorted(rises.items(), key=lambda r: r[1])
    each = ", ".join(f"{known.label(name)} {signed(rise)}" for name, rise in ranked)
    yield f"Forgetting, the rise of the loss on held-out text over {base:.2f} nats a token: {each}."
    measured = {n: rise for n, rise in rises.items() if n in accuracies}
    if len(measured) > 1:
        best = max(measured, key=lambda n: accuracies[n])
        if measured[best] == max(measured.values()) and measured[best] > 0:
            yield _sentence(f"{known.words(best)}, the most accurate of these, also forgets the most text")


def _time(summary: Json, known: Systems) -> Iterable[str]:
    spent = {
        name: system["device_seconds"]
        for name, system in summary["systems"].items()
        if name != "base" and system["device_seconds"] is not None
    }
    if not spent:
        return
    ranked = sorted(spent.items(), key=lambda s: s[1])
    each = ", ".join(f"{known.label(name)} {decimals(seconds, 1)}" for name, seconds in ranked)
    text = f"Device-seconds: {each}."
    for system, controls in _claims(summary, known):
        if controls and system in spent and (of := spent.get(controls[0])):
            ratio = spent[system] / of
            text += f" {_capital(known.words(system))} took {ratio:.1f} times the device time of "
            text += known.words(controls[0])
            text += ": the two are not compared at equal compute." if not 0.8 <= ratio <= 1.25 else "."
    yield text
