"""The outcome in words, computed from the numbers of a summary."""

import math
from collections.abc import Iterable

from pretrainrl_jax.report.formats import Json, decimals, label, percent, signed
from pretrainrl_jax.report.intervals import Z
from pretrainrl_jax.report.summary import forgetting, group_count, group_rate

NOISE_POINTS = 2.0
"""Differences in accuracy under this many points, from one seed, are treated as noise."""


def headline(summary: Json) -> str:
    """The outcome in one line."""
    accuracies = _accuracies(summary)
    base = accuracies.pop("base", None)
    if not accuracies:
        known = "was not measured" if base is None else f"is {percent(base)}"
        return f"The base model's accuracy on these facts {known}"
    best = max(accuracies, key=lambda name: accuracies[name])
    if base is None:
        return f"Best accuracy on trained facts: {percent(accuracies[best])}, with {label(best)}"
    if accuracies[best] <= base:
        return f"No trained system is more accurate than the base model ({percent(base)})"
    return (
        f"Accuracy on trained facts: {percent(base)} before, {percent(accuracies[best])} with {label(best)}"
    )


def _accuracies(summary: Json) -> dict[str, float]:
    return {name: s["acc"] for name, s in summary["systems"].items() if s["acc"] is not None}


def reading(summary: Json) -> list[str]:
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
        *_best(summary, accuracies),
        *_against_baselines(summary),
        *_against_controls(summary),
        *_dpo(summary),
        *_beyond(summary, accuracies),
        *_forgetting(summary, accuracies),
        *_time(summary),
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


def _compare(summary: Json, name: str, other: str) -> tuple[str, int] | None:
    """Words for the accuracy of one system against another, and the sign of the difference (0: noise)."""
    systems = summary["systems"]
    if any(n not in systems or systems[n]["acc"] is None for n in (name, other)):
        return None
    one, two = systems[name], systems[other]
    points, limit = 100 * (one["acc"] - two["acc"]), noise(summary, name, other)
    rates = f"({percent(one['acc'])} against {percent(two['acc'])})"
    if round(abs(points), 1) == 0:
        where = f"level with {_formal(other)}"
    else:
        where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {_formal(other)}"
    if abs(points) < limit:
        return f"{_formal(name)} is {where} {rates}, which is within noise ({_why(limit)})", 0
    return f"{_formal(name)} is {where} {rates}", 1 if points > 0 else -1


def _why(limit: float) -> str:
    if limit == NOISE_POINTS:
        return f"under {limit:g} points in one seed"
    return f"under {limit:.1f} points on so few questions, in one seed"


def _formal(name: str) -> str:
    words = {
        "base": "the base model",
        "ntp": "NTP on question + answer",
        "ntp_answer": "NTP on answers only",
        "ntp_weighted": "answer-weighted NTP",
        "rpo": "iterative RPO",
    }
    return words.get(name, label(name))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _best(summary: Json, accuracies: dict[str, float]) -> Iterable[str]:
    first, *rest = sorted(accuracies, key=lambda name: -accuracies[name])
    if first == "base":
        yield f"No trained system is more accurate than the base model ({percent(accuracies['base'])})."
        return
    level = [n for n in rest if 100 * (accuracies[first] - accuracies[n]) < noise(summary, first, n)]
    text = f"The highest accuracy on trained facts is {percent(accuracies[first])}, of {_formal(first)}"
    if "base" in accuracies and "base" not in level:
        text += f"; the base model has {percent(accuracies['base'])}"
    if level:
        others = ", ".join(f"{_formal(n)} ({percent(accuracies[n])})" for n in level)
        text += f"; within noise of the highest: {others}"
    yield f"{text}."


def _against_baselines(summary: Json) -> Iterable[str]:
    """PretrainRL beside the two baselines that the paper puts below it."""
    endings = {
        1: ": the order the paper reports",
        0: "; this run does not tell them apart",
        -1: ": the reverse of the order the paper reports",
    }
    for baseline in ("ntp", "rpo"):
        if compared := _compare(summary, "pretrainrl", baseline):
            text, sign = compared
            yield _sentence(text + endings[sign])


def _against_controls(summary: Json) -> Iterable[str]:
    """A claim about negatives never stands without the control that has none."""
    if "pretrainrl" not in summary["systems"]:
        return
    compared = _compare(summary, "ntp_answer", "pretrainrl")
    if compared is None:
        yield (
            "NTP on answers only, the control that any claim about negatives must stand beside, was not "
            "measured: this run cannot say whether the negatives help."
        )
        return
    text, sign = compared
    endings = {
        1: "; it uses no negatives, so this run is no evidence that they help",
        0: "; it uses no negatives, so this run does not show that they help",
        -1: "; the two differ in negatives and in the loss on question tokens, and the run does not say "
        "which of the two made the difference",
    }
    yield _sentence(text + endings[sign])
    weighted = _compare(summary, "ntp_weighted", "pretrainrl")
    if weighted:
        yield _sentence(f"{weighted[0]}; it too uses no negatives")


def _dpo(summary: Json) -> Iterable[str]:
    compared = _compare(summary, "dpo", "base")
    if compared is None:
        return
    text = compared[0]
    before, after = (summary["systems"][name]["prob"] for name in ("base", "dpo"))
    if before is not None and after is not None:
        text += f"; Prob, which counts hits only, goes from {percent(before)} to {percent(after)}"
    yield _sentence(text)


def _beyond(summary: Json, accuracies: dict[str, float]) -> Iterable[str]:
    """What the most accurate trained system keeps in another wording, and on facts it was not taught."""
    systems = summary["systems"]
    name = max((n for n in accuracies if n != "base"), key=lambda n: accuracies[n])
    best, base = systems[name], systems.get("base")
    reworded = group_rate(best, "paraphrase")
    if reworded is not None:
        yield (
            f"Asked in a wording never trained on, {_formal(name)} answers {percent(reworded)} of the "
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
        yield f"Accuracy from the base model to {_formal(name)}: {'; '.join(changes)}."


def _forgetting(summary: Json, accuracies: dict[str, float]) -> Iterable[str]:
    rises = forgetting(summary)
    if not rises:
        yield "Forgetting cannot be read: the loss on held-out text is not known before and after."
        return
    base = summary["systems"]["base"]["text_nll"]
    each = ", ".join(f"{label(n)} {signed(rise)}" for n, rise in sorted(rises.items(), key=lambda r: r[1]))
    yield f"Forgetting, the rise of the loss on held-out text over {base:.2f} nats a token: {each}."
    measured = {n: rise for n, rise in rises.items() if n in accuracies}
    if len(measured) > 1:
        best = max(measured, key=lambda n: accuracies[n])
        if measured[best] == max(measured.values()) and measured[best] > 0:
            yield _sentence(f"{_formal(best)}, the most accurate of these, also forgets the most text")


def _time(summary: Json) -> Iterable[str]:
    spent = {
        name: system["device_seconds"]
        for name, system in summary["systems"].items()
        if name != "base" and system["device_seconds"] is not None
    }
    if not spent:
        return
    each = ", ".join(f"{label(n)} {decimals(s, 1)}" for n, s in sorted(spent.items(), key=lambda s: s[1]))
    text = f"Device-seconds: {each}."
    control = spent.get("ntp_answer")
    if control and "pretrainrl" in spent:
        ratio = spent["pretrainrl"] / control
        text += f" PretrainRL took {ratio:.1f} times the device time of NTP on answers only"
        text += ": the two are not compared at equal compute." if not 0.8 <= ratio <= 1.25 else "."
    yield text
