"""`report`: the table in the terminal, summary.json and one HTML page; and two workdirs side by side."""

import json
from pathlib import Path

from pretrainrl_jax.report.compare import comparison_table, write_comparison
from pretrainrl_jax.report.inputs import read_config
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.summary import table
from pretrainrl_jax.report.words import reading
from pretrainrl_jax.stages.context import say


def report(workdir: Path) -> None:
    """Evaluations, table, words, page."""
    page = write_report(workdir)
    summary = json.loads((page.parent / "summary.json").read_text())
    _, known = read_config(workdir)
    say(table(summary, known))
    for sentence in summary["contradictions"]:
        say(f"! {sentence}")
    for sentence in reading(summary, known):
        say(f"- {sentence}")
    say(f"report: {page}")


def compare(one: Path, other: Path) -> Path:
    """Two evaluated workdirs side by side: a table in the terminal, and the page whose path it gives.

    Raises InputError if one is not evaluated, or they have no question in common.
    """
    page, comparison = write_comparison(one, other)
    say(comparison_table(comparison))
    say(f"comparison: {page}")
    return page
