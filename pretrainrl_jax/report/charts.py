"""The pictures of the report: each a `data:` address to put in an image tag, None where there is no data."""

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pretrainrl_jax.report.drawing import PNG, Line, Look, canvas, looks, painted, plot
from pretrainrl_jax.report.formats import Json, number, percent
from pretrainrl_jax.report.outcomes import trained, truth
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# The idea: truth against falsehood


def share_above(questions: list[Json]) -> float:
    """Share of questions where the truth is more probable than the model's strongest falsehood."""
    return float(np.mean(_truths(questions) > _falsehoods(questions)))


def idea(known: Systems, before: Json, after: Json | None = None) -> bytes | None:
    """Probability of the truth against the strongest falsehood of each trained question, before and after.

    A PNG file, as thousands of points are no paths; None where no trained question was evaluated.
    """
    systems = {e["system"]: trained(e) for e in (before, after) if e is not None}
    # The same questions in both panels, or the shares could not be compared.
    keys = [key for key in trained(before) if all(key in asked for asked in systems.values())]
    if not keys:
        return None
    titles = ["base model" if name == "base" else known.label(name) for name in systems]
    if len(titles) == 2:
        titles = [f"{when}: {title}" for when, title in zip(("Before", "After"), titles, strict=True)]
    clouds = zip(titles, systems.values(), strict=True)
    panels = {title: [asked[key] for key in keys] for title, asked in clouds}
    with canvas(len(panels) * 4.4 + 1.4, 4.8) as figure:
        _draw_idea(figure, panels)
        return painted(figure, PNG)


def _truths(questions: list[Json]) -> np.ndarray:
    return np.array([truth(question) or 0.0 for question in questions])


def _falsehoods(questions: list[Json]) -> np.ndarray:
    return np.array([number(question.get("p_falsehood")) or 0.0 for question in questions])


def idea_floor(p: np.ndarray) -> float:
    """The smallest probability drawn, a power of ten that leaves about 1 % of the points below it."""
    low = math.log10(np.percentile(p[p > 0], 1)) if any(p > 0) else -4.0
    return 10.0 ** max(-9, min(-4, math.floor(low)))


def _draw_idea(figure: "Figure", panels: dict[str, list[Json]]) -> None:
    """The panels beside each other, on the same scales."""
    everything = list(itertools.chain(*panels.values()))
    # Truths can be far less probable than falsehoods: the axes have scales of their own, and the line of
    # equal probability is drawn.
    floors = [(measure, idea_floor(measure(everything))) for measure in (_falsehoods, _truths)]
    x_limits, y_limits = ((floor / 1.6, 2.0) for _, floor in floors)
    line = (min(*x_limits, *y_limits), 2.0)
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, questions) in zip(grid, panels.items(), strict=True):
        x, y = (np.maximum(measure(questions), floor) for measure, floor in floors)
        axes.fill_between(line, line, [line[1]] * 2, color="#EAF3EC", linewidth=0, zorder=0)
        axes.plot(line, line, color="#555555", linewidth=1.2, zorder=1)
        size = float(np.clip(24000 / len(x), 6, 30))
        axes.scatter(x, y, s=size, alpha=0.5, linewidths=0, zorder=2, c="#0072B2")
        axes.set(xscale="log", yscale="log", xlim=x_limits, ylim=y_limits)
        axes.set_title(f"{title}\n", fontweight="bold", loc="left", pad=8)
        text = f"truth above falsehood: {percent(share_above(questions))} of {len(questions):,}"
        axes.text(0, 1.015, text, transform=axes.transAxes, va="bottom")
        axes.set_xlabel("probability of the strongest falsehood")
    grid[0].set_ylabel("probability of the truth")


# Training


class Curve(NamedTuple):
    """One of the pictures of training."""

    key: str
    title: str
    unit: str
    factor: float = 1.0


CURVES = (
    Curve("loss", "loss", "nats a question"),
    Curve("reward_margin", "reward margin", "nats, times β"),
    Curve("logp_gold", "log-probability of the truth", "nats"),
    Curve("logp_negative", "log-probability of the falsehoods", "nats"),
)
SAMPLED = (
    Curve("sample_acc", "accuracy on the sample", "%", 100.0),
    Curve("sample_text_nll", "loss on text", "nats a token"),
)
IMPROVED = (
    Curve("rollout_tokens", "length of rollouts", "tokens"),
    Curve("rollout_entropy", "entropy of rollouts", "nats a token"),
    Curve("distinct_ngrams", "distinct 3-grams of rollouts", "%", 100.0),
    Curve("dropped_ties", "documents that teach nothing: ties", "documents a step"),
    Curve("loss", "loss", "nats a document"),
    Curve("reward_margin", "reward margin", "nats, times β"),
)


def curves(
    metrics: list[Json], known: Systems, wanted: tuple[Curve, ...] = CURVES, verb: str = "train"
) -> list[tuple[str, str]]:
    """Loss, reward margin and log-probabilities over the updates of every trained system.

    With SAMPLED, what was evaluated while training, on a sample; with IMPROVED, and its verb, what the steps
    of self-improvement recorded. Of each picture its title and address; those of which nothing is recorded
    are left out.
    """
    stages = {str(line.get("stage")) for line in metrics}
    names = (stage.partition("/")[2] for stage in stages if stage.startswith(f"{verb}/"))
    systems, axis = sorted(names, key=known.place), "updates" if verb == "train" else "steps"
    drawn = []
    for curve in wanted:
        points = {name: series(metrics, f"{verb}/{name}", curve.key) for name in systems}
        styles = looks([name for name in systems if len(points[name][0])], known)
        lines = [
            Line(known.label(name), look, points[name][0], curve.factor * points[name][1])
            for name, look in styles.items()
        ]
        smooth = wanted is not SAMPLED
        if address := plot(lines, (5.4, 4.4), axis, curve.unit, curve.title, smooth=smooth):
            drawn.append((curve.title, address))
    return drawn


Points = tuple[np.ndarray, np.ndarray]  # steps and values


def series(metrics: list[Json], stage: str, key: str) -> Points:
    """Steps and finite values of one curve, thinned to what a screen can show."""
    # By step: a resumed run writes the steps after its checkpoint a second time, and the later one counts.
    values: dict[float, float] = {}
    for line in metrics:
        step, value = number(line.get("step")), number(line.get(key))
        if line.get("stage") == stage and step is not None and value is not None:
            values[step] = value
    # A system that sees no negatives writes exactly 0 for them: nothing was measured, so nothing is drawn.
    if key in ("reward_margin", "logp_negative") and not any(values.values()):
        values = {}
    steps = sorted(values)
    kept = [*steps[: -1 : max(1, len(steps) // 600)], *steps[-1:]]
    return np.array(kept), np.array([values[step] for step in kept])


# Self-improvement

KINDS = {
    "original": Look("#0072B2", "s", (0, (6, 2))),
    "rewrite": Look("#009E73", "^", (0, (1, 1))),
    "rollout": Look("#D55E00", "o", "-"),
}


def by_kind(metrics: list[Json], system: str, key: str, title: str) -> str | None:
    """Over the steps of a method: what its candidates of each kind had of "chosen", "rejected" or "score"."""
    stage, share, lines = f"selfimprove/{system}", key != "score", []
    for kind, look in KINDS.items():
        steps, values = series(metrics, stage, f"{key}_{kind}")
        others = [series(metrics, stage, f"{name}_{kind}")[1] for name in ("chosen", "rejected")]
        # A kind that is among the candidates was given a score, or chosen.
        there = len(series(metrics, stage, f"score_{kind}")[0]) or any(map(np.any, others))
        if len(steps) and there:
            lines.append(Line(f"{kind}s", look, steps, 100 * values if share else values))
    how: Any = {"y": "% of documents", "ylim": (-3, 103)} if share else {"y": "mean score"}
    return plot(lines, (4.2, 3.4), "steps", title=title, smooth=True, **how)
