"""The outcome in words: a headline, and what the numbers of a summary cannot say themselves."""

import math
from collections.abc import Iterable

from pretrainrl_jax.config import ObjectiveConfig
from pretrainrl_jax.knowledge.intervals import Z
from pretrainrl_jax.report.formats import Json, percent, signed
from pretrainrl_jax.report.summary import forgetting, group_count
from pretrainrl_jax.report.systems import Systems

NOISE_POINTS = 2.0
"""Differences in accuracy under this many points, from one seed, are treated as noise."""

CAUTION = (
    "All of this is one seed, and accuracy is on the facts that were trained on: it measures what was "
    "taught, not what the model can infer."
)


def headline(summary: Json, known: Systems) -> str:
    """The outcome in one line: of the system that is recommended, or else of the most accurate one."""
    accuracies = _accuracies(summary)
    base = accuracies.pop("base", None)
    if not accuracies:
        rate = "was not measured" if base is None else f"is {percent(base)}"
        return f"The base model's accuracy on these facts {rate}"
    name = known.recommended(accuracies) or max(accuracies, key=lambda n: accuracies[n])
    before = "" if base is None else f"{percent(base)} before, "
    rise = forgetting(summary).get(name)
    cost = "" if rise is None else f", text loss {signed(rise)}"
    return f"Accuracy on trained facts: {before}{percent(accuracies[name])} with {known.label(name)}{cost}"


def _accuracies(summary: Json) -> dict[str, float]:
    return {name: s["acc"] for name, s in summary["systems"].items() if s["acc"] is not None}


def reading(summary: Json, known: Systems) -> list[str]:
    """What is told apart and what is not, what the negatives are to thank for, what was not measured.

    None where nothing was trained.
    """
    if set(_accuracies(summary)) <= {"base"}:
        return []
    clauses = [*_against_baselines(summary, known), *_against_controls(summary, known)]
    if not forgetting(summary):
        measured = any(system["text_nll"] is not None for system in summary["systems"].values())
        why = "the loss on held-out text is not known before and after"
        why = why if measured else "no text was evaluated (evaluate.text names a file of it)"
        clauses.append(f"forgetting cannot be read: {why}")
    return [*(f"{clause[:1].upper()}{clause[1:]}." for clause in clauses), CAUTION]


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


def _compared(summary: Json, known: Systems, name: str, other: str) -> tuple[str, int]:
    """A clause on the accuracy of one system against another's, and its sign, which is 0 within noise."""
    one, two = (summary["systems"][n]["acc"] for n in (name, other))
    points, limit = 100 * (one - two), noise(summary, name, other)
    sign = 0 if abs(points) < limit else 1 if points > 0 else -1
    where = (f"within noise ({limit:.1f} points) of", "above", "below")[sign]
    return (
        f"{known.words(name)} is {where} {known.words(other)} ({percent(one)} against {percent(two)})",
        sign,
    )


def _against_baselines(summary: Json, known: Systems) -> Iterable[str]:
    """Each system beside those that a paper puts below it."""
    accuracies = _accuracies(summary)
    endings = ("this run does not tell them apart", "the order the paper reports", "the reverse of the paper")
    for system in accuracies:
        for baseline in filter(accuracies.__contains__, known.of(system).above):
            text, sign = _compared(summary, known, system, baseline)
            yield f"{text}: {endings[sign]}"


def _claims(accuracies: dict[str, float], known: Systems) -> list[str]:
    """The systems whose gains may come from negatives: those that a paper puts above others, or the best."""
    contrast = [name for name in accuracies if known.of(name).contrasts]
    mixed = [name for name in contrast if _terms(known.of(name))]
    best = sorted(mixed, key=lambda name: -accuracies[name])[:1]
    return [name for name in contrast if known.of(name).above] or best


def _terms(objective: ObjectiveConfig) -> dict[str, dict[str, float]]:
    """The coefficients of the terms that read no negatives."""
    terms = objective.coefficients.items()
    return {name: own for name, own in terms if not objective.terms[name].contrasts}


def _against_controls(summary: Json, known: Systems) -> Iterable[str]:
    """A claim about negatives never stands without the best control that has none, nor at unequal compute."""
    accuracies = _accuracies(summary)
    for system in _claims(accuracies, known):
        controls = [name for name in known.controls(system) if name in accuracies]
        if not controls:
            yield (
                f"no control without negatives was measured beside {known.words(system)}: this run cannot "
                "say whether the negatives help"
            )
            continue
        control = max(controls, key=lambda name: accuracies[name])
        one, two = known.of(control), known.of(system)
        alike = _terms(one) == _terms(two) and one.learning_rate == two.learning_rate
        endings = (
            "it uses no negatives, so this run does not show that they help",
            "it uses no negatives, so this run is no evidence that they help",
            f"the two differ in {'negatives alone' if alike else 'more than negatives'}",
        )
        text, sign = _compared(summary, known, control, system)
        yield f"{text}; {endings[sign]}"
        spent, less = (summary["systems"][name]["device_seconds"] for name in (system, control))
        if spent and less and not 0.8 <= spent / less <= 1.25:
            took = f"{known.words(system)} took {spent / less:.1f} times the device time"
            yield f"{took} of {known.words(control)}: the two are not compared at equal compute"
