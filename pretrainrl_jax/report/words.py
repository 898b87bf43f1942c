"""The outcome in words, computed from the numbers of a summary."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.knowledge.intervals import Z
from pretrainrl_jax.report.formats import Json, percent, signed
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
    advised = known.recommended(accuracies) or best
    name = advised if accuracies[advised] > base else best
    after = f"{percent(accuracies[name])} with {known.label(name)}"
    if (rise := forgetting(summary).get(name)) is not None:
        after += f", text loss {signed(rise)}"
    return f"Accuracy on trained facts: {percent(base)} before, {after}"


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
    parts = (_best, _against_baselines, _against_controls, _head, _forgetting, _time)
    return [
        *(
            f"{clause[:1].upper()}{clause[1:]}."
            for part in parts
            for clause in part(summary, known)
            if clause
        ),
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
    if paired := one["against"].get(other):
        return max(NOISE_POINTS, 50 * (paired["high"] - paired["low"]))
    counts = [(system["acc"], group_count(system, "trained")) for system in (one, two)]
    variance = sum(acc * (1 - acc) / count for acc, count in counts if count)
    return max(NOISE_POINTS, 100 * Z * math.sqrt(variance))


def _compare(summary: Json, known: Systems, name: str, other: str, endings: Mapping[int, str]) -> str:
    """A clause on the accuracy of one system against another; "" where one of them has none.

    It ends by the sign of the difference, which is 0 within noise.
    """
    accuracies = _accuracies(summary)
    if name not in accuracies or other not in accuracies:
        return ""
    one, two = accuracies[name], accuracies[other]
    points, limit = 100 * (one - two), noise(summary, name, other)
    where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    where = "level with" if round(abs(points), 1) == 0 else where
    text = f"{known.words(name)} is {where} {known.words(other)} ({percent(one)} against {percent(two)})"
    if abs(points) >= limit:
        return text + endings[1 if points > 0 else -1]
    few = limit > NOISE_POINTS
    under = f"under {limit:.1f} points on so few questions," if few else f"under {limit:g} points"
    return f"{text}, which is within noise ({under} in one seed){endings[0]}"


def _best(summary: Json, known: Systems) -> Iterable[str]:
    accuracies = _accuracies(summary)
    highest, *rest = sorted(accuracies, key=lambda name: -accuracies[name])
    if highest == "base":
        return [f"no trained system is more accurate than the base model ({percent(accuracies['base'])})"]
    level = [n for n in rest if 100 * (accuracies[highest] - accuracies[n]) < noise(summary, highest, n)]
    rates = {name: percent(rate) for name, rate in accuracies.items()}
    text = f"the highest accuracy on trained facts is {rates[highest]}, of {known.words(highest)}"
    if "base" in rates and "base" not in level:
        text += f"; the base model has {rates['base']}"
    if level:
        text += f"; within noise of the highest: {', '.join(f'{known.words(n)} ({rates[n]})' for n in level)}"
    return [text]


def _against_baselines(summary: Json, known: Systems) -> Iterable[str]:
    """Each system beside those that a paper puts below it."""
    endings = {
        1: ": the order the paper reports",
        0: "; this run does not tell them apart",
        -1: ": the reverse of the order the paper reports",
    }
    pairs = [(system, baseline) for system in summary["systems"] for baseline in known.of(system).above]
    return [_compare(summary, known, system, baseline, endings) for system, baseline in pairs]


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
            yield (
                f"{[*missing, 'a control, which'][0]} any claim about negatives must stand beside, was not "
                "measured: this run cannot say whether the negatives help"
            )
        for place, control in enumerate(controls):
            endings = {
                1: "; it uses no negatives, so this run is no evidence that they help",
                0: "; it uses no negatives, so this run does not show that they help",
                -1: _apart(known.of(control), known.of(system)),
            }
            too = dict.fromkeys(endings, "; it too uses no negatives")
            yield _compare(summary, known, control, system, too if place else endings)


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


def _head(summary: Json, known: Systems) -> Iterable[str]:
    """What the base model knows of the best-known facts beyond the run's, and what is left of that."""
    base = summary["systems"].get("base", {"groups": {}})
    if not (count := group_count(base, "head")):
        return
    rate = percent(group_rate(base, "head"))
    told = f"the base model answers {rate} of the {count:,} best-known facts beyond the run's"
    shares = [
        f"{known.label(name)} {percent(group_rate(system, 'head_kept'))}"
        for name, system in summary["systems"].items()
        if group_count(system, "head_kept")
    ]
    yield told + (f"; of those it answers are still answered: {', '.join(shares)}" if shares else "")


def _forgetting(summary: Json, known: Systems) -> Iterable[str]:
    rises = forgetting(summary)
    accuracies = {name: acc for name, acc in _accuracies(summary).items() if name in rises}
    if not rises:
        measured = any(system["text_nll"] is not None for system in summary["systems"].values())
        why = "the loss on held-out text is not known before and after"
        why = why if measured else "no text was evaluated (evaluate.text names a file of it)"
        yield f"forgetting cannot be read: {why}"
    elif len(accuracies) > 1:
        best = max(accuracies, key=lambda n: accuracies[n])
        if rises[best] == max(rises[n] for n in accuracies) and rises[best] > 0:
            yield f"{known.words(best)}, the most accurate, also forgets the most text"


def _time(summary: Json, known: Systems) -> Iterable[str]:
    """Where a claim and its control are not of equal compute."""
    spent = {name: system["device_seconds"] for name, system in summary["systems"].items()}
    for system, controls in _claims(summary, known):
        if spent[system] and (control := next(filter(spent.get, controls[:1]), "")):
            ratio = spent[system] / spent[control]
            if not 0.8 <= ratio <= 1.25:
                took = (
                    f"{known.words(system)} took {ratio:.1f} times the device time of {known.words(control)}"
                )
                yield f"{took}: the two are not compared at equal compute"
