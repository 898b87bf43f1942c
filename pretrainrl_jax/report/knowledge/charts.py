"""The pictures of knowledge: states, reliability, risk and coverage. None where there is nothing to draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrainrl_jax.knowledge import confidence as measures
from pretrainrl_jax.report.columns import Cell
from pretrainrl_jax.report.drawing import Line, Look, chart, looks, plot
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.knowledge.figures import columns, confident
from pretrainrl_jax.report.systems import Systems

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATES = {
    "knows": ("#00734F", "white"),
    "unsure": ("#7CC8AE", "#222222"),
    "in reach": ("#F2D98B", "#222222"),
    "misled": ("#C8452B", "white"),
    "unknown": ("#C9CDD2", "#222222"),
}
"""The colour of each state of knowledge, and of the number on it: from right to wrong, then nothing."""

LEAST = 5.5  # % of a bar, below which a number would not fit
LABEL = 24  # characters of a system's name
BINS = 10


def states(systems: Mapping[str, Json], which: str, known: Systems, title: str) -> str | None:
    """A bar a system, parted into the states of what it was asked, the numbers of %. on them."""
    shares = {n: told[which]["states"] for n, told in systems.items() if "states" in told.get(which, {})}
    if not shares:
        return None
    labels = [known.label(name) for name in shares]
    short = [label if len(label) <= LABEL else f"{label[: LABEL - 1]}…" for label in labels]

    def draw(axes: "Axes") -> None:
        left = np.zeros(len(shares))
        for state, (colour, ink) in STATES.items():
            width = 100 * np.array([each[state]["value"] for each in shares.values()])
            axes.barh(range(len(shares)), width, left=left, color=colour, label=state, height=0.72)
            for place, (share, start) in enumerate(zip(width, left, strict=True)):
                if share >= LEAST:
                    middle = start + share / 2
                    axes.text(
                        middle, place, f"{share:.0f}", ha="center", va="center", fontsize=9.5, color=ink
                    )
            left += width
        axes.set_yticks(range(len(shares)), short)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    return chart((5.4, 1.25 + 0.42 * len(shares)), "% of facts", "", draw, title, columns=5)


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
        bins = measures.reliability(*values, BINS)
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
