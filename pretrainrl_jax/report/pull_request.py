"""Two workdirs side by side as Markdown, short enough for the text of a pull request."""

import html
from collections.abc import Iterable

from pretrainrl_jax.report.columns import markdown
from pretrainrl_jax.report.compare import (
    CONFIDENCE,
    Comparison,
    chance_of_flips,
    confidence_rows,
    sentences,
)
from pretrainrl_jax.report.formats import change, percent
from pretrainrl_jax.report.outcomes import GROUPS


def comparison_markdown(comparison: Comparison) -> str:
    """What differs and what came of it: tables, new signatures of failure, and the outcome in words.

    Names and texts of the runs are no markup in it.
    """
    sides = zip("AB", comparison.names, comparison.described, strict=True)
    parts = [
        f"### A: {_text(comparison.names[0])}, B: {_text(comparison.names[1])}\n",
        _list(f"{side} is {name}: {described}" for side, name, described in sides),
        _list(sentences(comparison)),
        _accuracies(comparison),
        "p is McNemar's exact one of the trained facts that flipped: +right in B only, −right in A only.\n",
    ]
    if rows := confidence_rows(comparison):
        parts += ["#### Confidence on trained facts, A → B\n", _table(["system", *CONFIDENCE], rows)]
    parts.append("#### Settings that differ\n")
    parts.append(_table(["setting", "A", "B"], comparison.settings) if comparison.settings else "None.\n")
    if comparison.signatures:
        label = comparison.known.label
        told = (f"{label(s['system'])}: {s['name']}: {s['evidence']}." for s in comparison.signatures)
        parts += ["#### Signatures of failure that are new in B\n", _list(told)]
    return "\n".join(parts)


def _accuracies(comparison: Comparison) -> str:
    rows = []
    for paired in comparison.systems:
        for group, apart in paired.groups.items():
            flips = chance_of_flips(paired.flips) if paired.flips and group == "trained" else ""
            rates = percent(apart.before, ""), percent(apart.after, "")
            label = comparison.known.label(paired.system)
            rows.append([label, GROUPS[group], f"{apart.questions:,}", *rates, change(apart), flips])
    return _table(["system", "questions", "number", "A, %", "B, %", "B − A, points [95 %]", "p"], rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return markdown([*heads], [[_text(cell) for cell in row] for row in rows])


def _list(items: Iterable[str]) -> str:
    return "".join(f"- {_text(item)}\n" for item in items)


def _text(value: str) -> str:
    """On one line, and without markup."""
    escaped = html.escape(" ".join(value.split()), quote=False)
    return "".join(f"\\{c}" if c in "\\`*[]#" else c for c in escaped)
