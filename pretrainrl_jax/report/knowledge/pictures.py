"""The pictures of what a model knows: how sure it is against how often it is right."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pretrainrl_jax.knowledge import confidence as measures
from pretrainrl_jax.report.columns import Cell
from pretrainrl_jax.report.drawing import Line, Look, looks, plot
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.knowledge.figures import columns, confident
from pretrainrl_jax.report.systems import Systems


def reliability(questions: Sequence[Json], head: Cell) -> str | None:
    """The share right among answers of like confidence, with 95 % intervals; and after the temperature."""
    sure = confident(questions)
    if not sure:
        return None
    told = {"as it is": (columns(sure), Look(head.dot, "o", "-"))}
    if scaled := [question for question in sure if question.get("calibrated") is not None]:
        told["after temperature"] = columns(scaled, "calibrated"), Look("#222222", "s", (0, (3, 1.5)))
    whole = np.array([0, 100])
    lines = [Line("", Look("#888888", "", "-"), whole, whole)]  # where the two agree
    for label, (values, look) in told.items():
        bins = measures.reliability(*values, 10)
        points = 100 * np.array([(b.confidence, b.accuracy, *(b.interval or ())) for b in bins]).T
        lines.append(Line(label, look, *points))
    how: Any = {"xlim": (-2, 102), "ylim": (-2, 102)}
    return plot(lines, (4.2, 4.2), "confidence, %", "right, %", head.text, **how)


def risk(evaluations: Mapping[str, Sequence[Json]], known: Systems) -> str | None:
    """The share of mistakes among what is answered, from the surest answer to all, one line a system."""
    lines = []
    for name, look in looks(list(evaluations), known).items():
        if sure := confident(evaluations[name]):
            coverage, mistakes = measures.risk_coverage(*columns(sure))
            kept = np.unique(np.linspace(0, len(coverage) - 1, 400).astype(int))  # what a screen can show
            lines.append(Line(known.label(name), look, 100 * coverage[kept], 100 * mistakes[kept]))
    how: Any = {"title": "Mistakes by how much is answered", "xlim": (0, 102), "ylim": (-2, 102)}
    return plot(lines, (4.2, 4.2), "answered, % of facts", "wrong of these, %", columns=2, **how)
