"""The report of a workdir: one HTML file that needs nothing else, and the summary for programs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pretrainrl_jax.atomic import write_bytes, write_text
from pretrainrl_jax.config import Config
from pretrainrl_jax.config.stored import flat, resolved
from pretrainrl_jax.report import charts, drawing, formats, mining, run, selfimprove, selfimprove_section
from pretrainrl_jax.report.ability import ability, main_results, read_harness
from pretrainrl_jax.report.columns import Sheet, texts
from pretrainrl_jax.report.contradictions import contradictions, other_texts
from pretrainrl_jax.report.drawing import data_address
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.inputs import Inputs, describe, read_inputs
from pretrainrl_jax.report.knowledge import figures
from pretrainrl_jax.report.knowledge import tables as knowledge_tables
from pretrainrl_jax.report.outcomes import changes
from pretrainrl_jax.report.signatures import signatures
from pretrainrl_jax.report.summary import noun, pair, summarise, systems
from pretrainrl_jax.report.tables import divided, divisions, examples, worse
from pretrainrl_jax.report.words import headline, reading

ASKED = {"sample": "Some", "beams": "k", "template": "not recorded", "match": "not recorded"}
"""Of how a run asked and judged what is said where it is not recorded."""


def write_report(workdir: Path) -> Path:
    """Write a workdir's `report/summary.json`, `report/index.html` and pictures of the idea beside them.

    Gives the path of the page.

    Raises:
        InputError: if the workdir is not evaluated, or a file of it cannot be read.
    """
    inputs = read_inputs(workdir, evaluated=not selfimprove.is_there(workdir))
    known, improved = inputs.known, selfimprove.read(workdir, inputs)
    evaluations = inputs.evaluations
    summary = summarise(evaluations, *describe(inputs.config))
    if improved:
        summary["selfimprove"] = selfimprove.summarise(improved)
    of_improved = selfimprove_section.section(improved, summary["selfimprove"]) if improved else None
    if improved and not evaluations:
        told = selfimprove.headline(summary["selfimprove"])
        inputs = inputs._replace(known=improved.known)
        return write_page(
            workdir, "selfimprove_page.html.j2", inputs, summary, told, [], improved=of_improved
        )
    mined = mining.read(workdir / "mined")
    summary["signatures"] = signatures(inputs, mined.statistics)
    asked = ASKED | inputs.config.get("evaluate", {})
    for system, knowledge in figures.summarise(evaluations, asked).items():
        summary["systems"][system]["knowledge"] = knowledge
    shown = [name for name in pair(summary, known) if name]
    pictured = [evaluations[name] for name in shown]
    idea = charts.idea(known, *pictured) if pictured else None
    two = [known.label(name) for name in shown] if len(pictured) == 2 else []
    path = write_page(
        workdir,
        "facts_page.html.j2",
        inputs,
        summary,
        headline(summary, known),
        reading(summary, known),
        ("facts", run.facts_line(summary, inputs.config)),
        systems=systems(summary, drawing.heads(list(evaluations), known)),
        facts=noun(summary),
        names=two or [known.label(name) for name in shown],
        idea=data_address(idea) if idea else None,
        sampled=charts.curves(inputs.metrics, known, charts.SAMPLED),
        accuracies=divided(evaluations, known),
        asked=asked,
        mining=mining.section(mined, known),
        knowledge=knowledge_tables.section(summary, evaluations, known, shown),
        improved=of_improved,
        worse=worse(*pictured, divisions=divisions(evaluations), names=two) if two else None,
        changes=[
            (side, own["count"], own["of"], examples(own["rows"], *two))
            for side, own in (changes(*pictured) if two else {}).items()
        ],
    )
    if idea:
        write_bytes(path.with_name("idea.png"), idea)
    return path


def write_page(
    workdir: Path,
    name: str,
    inputs: Inputs,
    summary: Json,
    headline: str,
    reading: list[str],
    *about: tuple[str, str],
    **parts: Any,
) -> Path:
    """Write a workdir's page and its summary for programs; gives the page's path.

    The summary is given what the harness found, and sentences on what is wrong with the evaluations. `about`
    is told of the run, beside its model; `parts` is what this template shows and no other.
    """
    known = inputs.known
    asked = inputs.evaluations.values()
    if wrong := contradictions(asked, known) + other_texts(asked, known):
        summary["contradictions"] = wrong
    harness = read_harness(workdir, known)
    for system in filter(summary["systems"].__contains__, harness):
        summary["systems"][system]["harness"] = main_results(harness[system])
    page = template(name).render(
        summary=summary,
        headline=headline,
        reading=reading,
        seed=inputs.config.get("seed", "not recorded"),
        label=known.label,
        about=run.about(inputs, *about),
        minimised=run.minimised(inputs, [name for name in summary["systems"] if name != "base"]),
        stages=run.stages(inputs.finished, known),
        curves=charts.curves(inputs.metrics, known),
        ability=ability(harness, known),
        settings=settings(inputs.config),
        **parts,
    )
    path = workdir / "report" / "index.html"
    write_text(path, page)
    write_text(path.with_name("summary.json"), json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return path


@cache
def template(name: str) -> Template:
    """A page's template; what stands between its marks is escaped."""
    environment = Environment(
        loader=PackageLoader("pretrainrl_jax", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("decimals", "percent", "unmarked")
    environment.filters.update({name: getattr(formats, name) for name in shown})
    environment.filters["isolated"] = Markup("<bdi>{}</bdi>").format
    return environment.get_template(name)


def settings(config: Json) -> Sheet:
    """The settings that differ from the default."""
    defaults = flat(resolved(Config()))
    rows = [
        (name, text(value), text(defaults[name]) if name in defaults else "")
        for name, value in flat(config).items()
        if name not in defaults or value != defaults[name]
    ]
    return texts(rows, "setting", "value", "default")


def text(value: Any) -> str:
    """A setting's value as a reader sees it."""
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "–"
