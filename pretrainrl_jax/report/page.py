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
from pretrainrl_jax.report.contradictions import contradictions, other_texts
from pretrainrl_jax.report.drawing import data_address
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.inputs import Inputs, describe, read_inputs
from pretrainrl_jax.report.knowledge import figures
from pretrainrl_jax.report.knowledge import section as knowledge_section
from pretrainrl_jax.report.outcomes import changes
from pretrainrl_jax.report.signatures import signatures
from pretrainrl_jax.report.summary import figure, forgetting, group_rate, pair, summarise
from pretrainrl_jax.report.tables import by_category, by_popularity, sheets
from pretrainrl_jax.report.words import headline, reading

MATCH_RULES = {
    "exact": "normalised, the answer equals a true answer",
    "contains": "normalised, the answer contains a true answer",
}
ASKED = {"sample": "Some", "beams": "k", "template": "not recorded", "match": "not recorded"}
"""Of how a run asked and judged what is said where it is not recorded."""

FORMATS = ("bounds", "brief", "chance", "change", "decimals", "percent", "signed", "span", "unmarked")


def write_report(workdir: Path) -> Path:
    """Write a workdir's `report/summary.json`, `report/index.html` and pictures of the idea beside them.

    Gives the path of the page.

    Raises:
        InputError: if the workdir is not evaluated, or a file of it cannot be read.
    """
    inputs = read_inputs(workdir, evaluated=not selfimprove.is_there(workdir))
    known, improved = inputs.known, selfimprove.read(workdir, inputs)
    evaluations = {str(e.get("system")): e for e in inputs.evaluations}
    summary = summarise(inputs.evaluations, *describe(inputs.config))
    if improved:
        summary["selfimprove"] = selfimprove.summarise(improved)
    of_improved = selfimprove_section.section(improved, summary["selfimprove"]) if improved else None
    if improved and not evaluations:
        parts = {"improved": of_improved, "headline": selfimprove.headline(summary["selfimprove"])}
        inputs = inputs._replace(known=improved.known)
        return write_page(workdir, "selfimprove_page.html.j2", inputs, summary, **parts)
    mined = mining.read(workdir / "mined")
    summary["signatures"] = signatures(inputs, mined.statistics)
    asked = ASKED | inputs.config.get("evaluate", {})
    for system, knowledge in figures.summarise(evaluations, asked).items():
        summary["systems"][system]["knowledge"] = knowledge
    before, after = pair(summary, known)
    shown = [name for name in (before, after) if name]
    pictured = [evaluations[name] for name in shown]
    two = len(pictured) == 2
    idea = charts.idea(known, *pictured) if pictured else None
    bins, categories = by_popularity(inputs.evaluations), by_category(inputs.evaluations)
    path = write_page(
        workdir,
        "page.html.j2",
        inputs,
        summary,
        headline=headline(summary, known),
        reading=reading(summary, known),
        forgetting=forgetting(summary),
        best=best_cells(summary),
        group_rate=group_rate,
        before=before,
        after=after,
        idea=data_address(idea) if idea else None,
        curves=charts.curves(inputs.metrics, known),
        sampled=charts.curves(inputs.metrics, known, charts.SAMPLED),
        tradeoff=charts.tradeoff(summary, known),
        popularity=charts.accuracy(bins, list(evaluations), known),
        bins=bins,
        categories=categories,
        accuracies=[
            (head, *sheets(head, rows, evaluations, known))
            for head, rows in (("popularity", bins), ("category", categories))
            if rows
        ],
        asked=asked,
        rule=MATCH_RULES.get(asked["match"]),
        mining=mining.section(mined, known),
        knowledge=knowledge_section.section(summary, evaluations, known, shown),
        improved=of_improved,
        changes=changes(*pictured) if two else None,
    )
    if idea:
        write_bytes(path.with_name("idea.png"), idea)
    return path


def write_page(workdir: Path, name: str, inputs: Inputs, summary: Json, **parts: Any) -> Path:
    """Write a workdir's page and its summary for programs; gives the page's path.

    The summary is given what the harness found, and sentences on what is wrong with the evaluations.
    `parts` is what this template shows and no other.
    """
    known = inputs.known
    if wrong := contradictions(inputs.evaluations, known) + other_texts(inputs.evaluations, known):
        summary["contradictions"] = wrong
    harness = read_harness(workdir, known)
    for system in filter(summary["systems"].__contains__, harness):
        summary["systems"][system]["harness"] = main_results(harness[system])
    looks = drawing.looks(list(summary["systems"]), known)
    page = template(name).render(
        summary=summary,
        known=known,
        label=known.label,
        inputs=inputs,
        run=run,
        series=charts.series,
        ability=ability(harness, known),
        settings=settings(inputs.config),
        colours={system: look.color for system, look in looks.items()},
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
    environment.filters.update({filter: getattr(formats, filter) for filter in FORMATS})
    environment.filters["isolated"] = Markup("<bdi>{}</bdi>").format
    return environment.get_template(name)


def best_cells(summary: Json) -> dict[str, float]:
    """The highest value of every accuracy column, to be set in bold, where there is more than one system."""
    names = ("acc", "hr", "mrr", "prob", "unseen", "paraphrase", "held_out", "held_out_head", "head_kept")
    columns = {name: [figure(system, name) for system in summary["systems"].values()] for name in names}
    measured = {name: [v for v in values if v is not None] for name, values in columns.items()}
    return {name: max(values) for name, values in measured.items() if len(values) > 1}


def settings(config: Json) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Sections of the config: (name, value, differs from the default), nested names joined by dots."""
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    defaults = flat(resolved(Config()))
    for name, value in flat(config).items():
        section, _, rest = name.partition(".")
        changed = name in defaults and defaults[name] != value
        sections.setdefault(section if rest else "run", []).append((rest or section, text(value), changed))
    return list(sections.items())


def text(value: Any) -> str:
    """A setting's value as a reader sees it."""
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "–"
