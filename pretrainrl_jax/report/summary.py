"""What a run found: the checked numbers of every system, as a table and in words."""

import io
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pretrainrl_jax.errors import InputError

Json = dict[str, Any]

RATES = ("acc", "hr", "mrr", "prob", "prob_all", "prob_aliases")
NOISE_POINTS = 2.0
"""Differences in accuracy under this many points, from one seed, are treated as noise."""

LABELS = {
    "base": "base",
    "dpo": "DPO alone",
    "ntp": "NTP",
    "ntp_answer": "NTP (answers only)",
    "ntp_weighted": "NTP (weighted)",
    "rpo": "Iterative RPO",
    "pretrainrl": "PretrainRL",
}


def label(system: str) -> str:
    """The name a reader sees; a system this table does not know keeps its own name."""
    return LABELS.get(system, system)


def number(value: object) -> float | None:
    """A finite float, or None for anything that is not one: NaN and infinity have no place in JSON."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def summarise(evaluations: list[Json], name: str, model_text: str) -> Json:
    """The content of `report/summary.json`, from the evaluation of every system.

    acc, hr, mrr and prob of a system are those of the facts it was trained on; the other groups of
    questions stand under `groups`. A rate outside [0, 1] is refused; what is not a number becomes None.
    """
    systems: dict[str, Json] = {}
    for evaluation in sorted(evaluations, key=lambda e: e.get("system") != "base"):
        system = evaluation.get("system")
        if not isinstance(system, str) or not system:
            raise InputError("an evaluation does not name its system")
        if system in systems:
            raise InputError(f"two evaluations are of the system {system}")
        systems[system] = _system(evaluation, system)
    return {"dataset": name, "model": model_text, "systems": systems}


def _system(evaluation: Json, system: str) -> Json:
    groups = {
        group: _measures(measured, f"{system}: {group}")
        for group, measured in (evaluation.get("groups") or {}).items()
        if measured and number(measured.get("count")) != 0
    }
    trained = groups.get("trained", {})

    def bins(kind: str) -> list[Json]:
        found = evaluation.get(kind) or []
        return [_measures(b, f"{system}: {kind} bin {i}") for i, b in enumerate(found)]

    return {
        **{rate: trained.get(rate) for rate in ("acc", "hr", "mrr", "prob")},
        "by_popularity": bins("by_popularity"),
        "by_popularity_paraphrase": bins("by_popularity_paraphrase"),
        "text_nll": number(evaluation.get("text_nll")),
        "device_seconds": number(evaluation.get("device_seconds")),
        "unfinished_beams": _rate(evaluation.get("unfinished_beams"), f"{system}: unfinished_beams"),
        "groups": groups,
    }


def _measures(measured: Json, where: str) -> Json:
    checked: Json = {}
    for key, value in measured.items():
        if key == "count":
            checked[key] = int(number(value) or 0)
        else:
            checked[key] = _rate(value, f"{where}: {key}") if key in RATES else number(value)
    return checked


def _rate(value: object, where: str) -> float | None:
    found = number(value)
    if found is None:
        return None
    # Sums of float32 probabilities may pass 1 by a rounding error.
    if not -1e-5 <= found <= 1 + 1e-5:
        raise InputError(f"evaluation of {where} is {found:g}, which is not a rate in [0, 1]")
    return min(1.0, max(0.0, found))


def group_rate(system: Json, group: str, rate: str = "acc") -> float | None:
    """One rate of one group of questions; None where it was not measured."""
    return system["groups"].get(group, {}).get(rate)


def forgetting(summary: Json) -> dict[str, float]:
    """Rise of the loss on held-out text over the base model's, in nats a token, of each trained system."""
    systems = summary["systems"]
    before = systems.get("base", {}).get("text_nll")
    if before is None:
        return {}
    after = {name: s["text_nll"] for name, s in systems.items() if name != "base"}
    return {name: nll - before for name, nll in after.items() if nll is not None}


def table(summary: Json) -> str:
    """The systems side by side, for a terminal of 100 columns."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    drawn.add_column("system", no_wrap=True, max_width=24)
    heads = ("ACC", "HR", "MRR", "Prob", "ACC\nunseen", "ACC\nparaphr.", "ACC\nheld-out", "text\nNLL")
    for head in (*heads, "device\ns"):
        drawn.add_column(head, justify="right", no_wrap=True)
    for name, system in summary["systems"].items():
        rates = [system[rate] for rate in ("acc", "hr", "mrr", "prob")]
        rates += [group_rate(system, group) for group in ("unseen", "paraphrase", "held_out")]
        cells = [percent(rate, "") for rate in rates]
        cells += [decimals(system["text_nll"], 2), decimals(system["device_seconds"], 1)]
        drawn.add_row(Text(label(name)), *cells)
    out = io.StringIO()
    console = Console(file=out, width=100, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(
        f"{summary['dataset']}, {summary['model']}: % of trained facts", markup=False, highlight=False
    )
    console.print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip()) + "\n"


def percent(rate: float | None, unit: str = "%") -> str:
    """A rate as a percentage with one decimal."""
    return "–" if rate is None else f"{100 * rate:.1f}{unit}"


def chance(probability: float | None) -> str:
    """A probability as a percentage; small ones keep two digits instead of rounding to nothing."""
    if probability is None or probability >= 0.01 or probability == 0:
        return percent(probability)
    return f"{100 * probability:.2g}%" if probability >= 1e-5 else "<0.001%"


def decimals(value: float | None, places: int) -> str:
    """A number with fixed decimals, a dash where there is none."""
    return "–" if value is None else f"{value:,.{places}f}"


def signed(value: float, places: int = 2) -> str:
    """A number with its sign; what rounds to zero has none."""
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` items at even distances: a choice that nobody made by looking at them."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


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


def noise(one: Json, other: Json) -> float:
    """Points of accuracy below which two systems are not told apart.

    At least NOISE_POINTS; with few questions the 95 % interval of the difference is wider than that. The
    interval treats the two sets of answers as independent, which is cautious: the questions are the same.
    """
    variance = 0.0
    for system in (one, other):
        count = system["groups"].get("trained", {}).get("count", 0)
        variance += system["acc"] * (1 - system["acc"]) / count if count else 0.0
    return max(NOISE_POINTS, 196 * math.sqrt(variance))


def _compare(summary: Json, name: str, other: str) -> tuple[str, int] | None:
    """Words for the accuracy of one system against another, and the sign of the difference (0: noise)."""
    systems = summary["systems"]
    if any(n not in systems or systems[n]["acc"] is None for n in (name, other)):
        return None
    one, two = systems[name], systems[other]
    points, limit = 100 * (one["acc"] - two["acc"]), noise(one, two)
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
    return f"under {limit:.1f} points with so few questions and one seed"


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
    systems = summary["systems"]
    level = [n for n in rest if 100 * (accuracies[first] - accuracies[n]) < noise(systems[first], systems[n])]
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
