"""The report of a workdir: one HTML file that needs nothing else, and the summary for programs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pretrainrl_jax.config import Config
from pretrainrl_jax.report import charts, formats, mining
from pretrainrl_jax.report.ability import ability, in_words, main_results, read_harness
from pretrainrl_jax.report.formats import Json, percent
from pretrainrl_jax.report.inputs import Inputs, describe_data, describe_model, read_inputs
from pretrainrl_jax.report.outcomes import changes, example
from pretrainrl_jax.report.run import run_section
from pretrainrl_jax.report.summary import forgetting, group_rate, summarise
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.tables import by_category, by_popularity
from pretrainrl_jax.report.words import headline, reading
from pretrainrl_jax.report.worse import worse
from pretrainrl_jax.workdir import flat, resolved

MATCH_RULES = {
    "exact": "normalised, the answer equals a true answer",
    "contains": "normalised, the answer contains a true answer",
}
FORMATS = ("bounds", "brief", "chance", "change", "decimals", "percent", "signed", "span")


def write_report(workdir: Path) -> Path:
    """Write a workdir's `report/summary.json`, `report/index.html` and the idea's picture beside them.

    Gives the path of the page.

    Raises:
        InputError: if the workdir is not evaluated, or a file of it cannot be read.
    """
    inputs = read_inputs(workdir)
    summary = summarise(inputs.evaluations, describe_data(inputs.config), describe_model(inputs.config))
    harness = read_harness(workdir, inputs.known)
    for system, record in harness.items():
        if system in summary["systems"]:
            summary["systems"][system]["harness"] = main_results(record)
    page = render(summary, inputs, mining.read(workdir / "mined"), harness)
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", "utf-8")
    by_name = {evaluation["system"]: evaluation for evaluation in inputs.evaluations}
    before, after = pair(summary, inputs.known)
    if before is not None:
        charts.save_idea(
            folder / "idea.png", inputs.known, by_name[before], by_name[after] if after else None
        )
    return write_page(folder / "index.html", page)


def write_page(path: Path, page: str) -> Path:
    """Write a page; gives its path."""
    # "replace": a model may write half of a surrogate pair, which has no UTF-8.
    path.write_bytes(page.encode("utf-8", errors="replace"))
    return path


def render(summary: Json, inputs: Inputs, mined: mining.Mined, harness: dict[str, Json] | None = None) -> str:
    """The page as HTML. Everything that came from a model or a file is escaped by the template engine."""
    by_system = {e["system"]: e for e in inputs.evaluations}
    known = inputs.known
    before, after = pair(summary, known)
    shown = [by_system[name] for name in (before, after) if name]
    bins, categories = by_popularity(inputs.evaluations), by_category(inputs.evaluations)
    fallen = worse(shown[0], shown[1], summary, bins, categories) if len(shown) == 2 else None
    return template("page.html.j2").render(
        summary=summary,
        label=known.label,
        headline=headline(summary, known),
        reading=reading(summary, known),
        forgetting=forgetting(summary),
        best=best_cells(summary),
        group_rate=group_rate,
        before=before,
        after=after,
        run=run_section(inputs, summary),
        idea=charts.idea(known, *shown) if shown else [],
        curves=charts.curves(inputs.metrics, known),
        sampled=charts.curves(inputs.metrics, known, charts.SAMPLED),
        tradeoff=charts.tradeoff(summary, known),
        popularity=charts.accuracy(bins, list(by_system), known),
        bins=bins,
        categories=categories,
        facts=run_facts(inputs.config),
        unfinished=unfinished_line(summary, known),
        mining=mining.section(mined, known),
        ability=ability(harness or {}),
        ability_cell=in_words,
        changes=changes(*shown) if len(shown) == 2 else None,
        worse=fallen,
        lost=[example(*two) for two in fallen.lost] if fallen else [],
        settings=settings(inputs.config),
        colours={name: look.color for name, look in charts.looks(list(by_system), known).items()},
    )


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


def pair(summary: Json, known: Systems) -> tuple[str | None, str | None]:
    """The systems of the pictures before and after: base, and the method or else the most accurate one."""
    systems = summary["systems"]
    trained = {n: s["acc"] for n, s in systems.items() if n != "base"}
    after = max(trained, key=lambda n: -1.0 if trained[n] is None else trained[n], default=None)
    after = known.method(trained) or after
    return ("base", after) if "base" in systems else (after, None)


def best_cells(summary: Json) -> dict[str, float]:
    """The highest value of every accuracy column, to be set in bold, where there is more than one system."""
    systems = list(summary["systems"].values())
    columns: dict[str, list[float | None]] = {
        r: [s[r] for s in systems] for r in ("acc", "hr", "mrr", "prob")
    }
    for group in ("unseen", "paraphrase", "held_out", "held_out_head"):
        columns[group] = [group_rate(s, group) for s in systems]
    measured = {name: [v for v in values if v is not None] for name, values in columns.items()}
    return {name: max(values) for name, values in measured.items() if len(values) > 1}


def run_facts(config: Json) -> Json:
    """How this run asked and judged: what a reader needs beside the numbers."""
    evaluate = config.get("evaluate", {})
    match = evaluate.get("match", "not recorded")
    return {
        "seed": config.get("seed", "not recorded"),
        "sample": evaluate.get("sample", "Some"),
        "k": evaluate.get("beams", "k"),
        "template": evaluate.get("template", "not recorded"),
        "match": match,
        "rule": MATCH_RULES.get(match),
    }


def unfinished_line(summary: Json, known: Systems) -> str:
    """The share of beams without an end, by system; empty where none was counted."""
    shares = [(known.label(name), s["unfinished_beams"]) for name, s in summary["systems"].items()]
    return ", ".join(f"{name} {percent(share)}" for name, share in shares if share is not None)


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
