"""`report`: the table in the terminal, summary.json and one HTML page."""

import json

from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.summary import reading, table
from pretrainrl_jax.stages.context import Context, say


def report(context: Context) -> None:
    """Evaluations, table, words, page."""
    page = write_report(context.workdir)
    summary = json.loads((page.parent / "summary.json").read_text())
    say(table(summary))
    for sentence in reading(summary):
        say(f"- {sentence}")
    say(f"report: {page}")
