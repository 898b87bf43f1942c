"""`report`: the table in the terminal, summary.json and one HTML page; and two workdirs side by side."""

import json
from pathlib import Path

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report import page, preferences, selfimprove, summary, words
from pretrainrl_jax.report.compare import comparison_markdown, comparison_table, write_comparison
from pretrainrl_jax.report.inputs import read_config
from pretrainrl_jax.report.knowledge import tables as knowledge
from pretrainrl_jax.report.signatures import signature_lines
from pretrainrl_jax.stages.context import say


def report(workdir: Path) -> None:
    """Evaluations, table, words, page."""
    if preferences.is_about_preferences(workdir):
        write, table, reading = preferences.write_report, preferences.table, preferences.reading
    else:
        write, table, reading = page.write_report, summary.table, words.reading
    path = write(workdir)
    figures = json.loads((path.parent / "summary.json").read_text())
    _, known = read_config(workdir)
    improved = figures.get("selfimprove", {})
    if figures["systems"]:
        say(table(figures, known))
        if shown := knowledge.terminal(figures, known):
            say(shown)
    if improved:
        say(selfimprove.table(improved))
    told = signature_lines(figures.get("signatures", []), known)
    for sentence in [*figures.get("contradictions", []), *improved.get("collapsed", []), *told]:
        say(f"! {sentence}")
    for sentence in reading(figures, known) if figures["systems"] else []:
        say(f"- {sentence}")
    if improved:
        say(f"- {selfimprove.CAUTION}")
    say(f"report: {path}")


def compare(one: Path, other: Path, markdown: bool = False) -> Path:
    """Two evaluated workdirs side by side: a table in the terminal, and the page whose path it gives.

    Beside the page the same lies as Markdown; with `markdown` that, and nothing else, is printed.

    Raises InputError if one is not evaluated, or they have no question in common.
    """
    for workdir in (one, other):
        if (workdir / "config.json").is_file() and preferences.is_about_preferences(workdir):
            raise InputError(f"--compare is for runs on facts, and {workdir} is one on preferences")
    written, comparison = write_comparison(one, other)
    text = comparison_markdown(comparison)
    write_text(written.with_suffix(".md"), text)
    if markdown:
        say(text.rstrip("\n"))
    else:
        say(comparison_table(comparison))
        say(f"comparison: {written}, {written.with_suffix('.md').name}")
    return written
