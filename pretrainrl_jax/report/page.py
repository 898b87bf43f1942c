"""The report of a workdir: one HTML file that needs nothing else, and the summary for programs."""

import dataclasses
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report import charts, mining
from pretrainrl_jax.report.summary import (
    Json,
    chance,
    decimals,
    forgetting,
    group_rate,
    headline,
    label,
    number,
    percent,
    reading,
    signed,
    spread,
    summarise,
)

EXAMPLES = 10

MATCH_RULES = {
    "exact": "normalised, the answer equals a true answer",
    "contains": "normalised, the answer contains a true answer",
}


def write_report(workdir: Path) -> Path:
    """Write a workdir's `report/summary.json`, `report/index.html` and the idea's picture beside them.

    Gives the path of the page.
    """
    config = _read_json(workdir / "config.json")
    evaluations = _read_evaluations(workdir)
    summary = summarise(evaluations, describe_data(config), describe_model(config))
    page = render(
        summary,
        evaluations,
        config,
        read_metrics(workdir / "metrics.jsonl"),
        mining.read(workdir / "mined"),
    )
    folder = workdir / "report"
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", "utf-8")
    by_name = {evaluation["system"]: evaluation for evaluation in evaluations}
    before, after = pair(summary)
    if before is not None:
        charts.save_idea(folder / "idea.png", by_name[before], by_name[after] if after else None)
    path = folder / "index.html"
    # "replace": a model may write half of a surrogate pair, which has no UTF-8.
    path.write_bytes(page.encode("utf-8", errors="replace"))
    return path


def _read_json(path: Path) -> Json:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run the stages of this workdir before its report") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return found


def _read_evaluations(workdir: Path) -> list[Json]:
    paths = sorted((workdir / "evaluations").glob("*.json"))
    if not paths:
        raise InputError(f"{workdir / 'evaluations'} holds no evaluation: run evaluate before report")
    return sorted(map(_read_json, paths), key=_place)


def _place(evaluation: Json) -> tuple[int, str]:
    """Systems in the order in which they are told: base first, the controls, then the method."""
    order, name = list(charts.STYLES), str(evaluation.get("system"))
    return (order.index(name) if name in order else len(order), name)


def read_metrics(path: Path) -> list[Json]:
    """The lines of metrics.jsonl; none without the file. A last line cut off by an interrupt is left out."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    metrics = []
    for index, line in enumerate(lines):
        try:
            metrics.append(json.loads(line))
        except ValueError:
            if index < len(lines) - 1:
                raise InputError(f"{path} line {index + 1} is not JSON") from None
    return [m for m in metrics if isinstance(m, dict)]


def describe_data(config: Json) -> str:
    """The data set in a few words: its given name, or the last part of its path."""
    path = str(config.get("facts", {}).get("path") or "")
    return str(config.get("name") or Path(path).name or "small world")


def describe_model(config: Json) -> str:
    """The model in a few words, from the resolved config."""
    model = config.get("model", {})
    if model.get("path"):
        return Path(model["path"]).name
    return f"{model.get('family')} with {model.get('layers')} layers of width {model.get('width')}"


def render(
    summary: Json, evaluations: list[Json], config: Json, metrics: list[Json], mined: mining.Mined
) -> str:
    """The page as HTML. Everything that came from a model or a file is escaped by the template engine."""
    by_system = {e["system"]: e for e in evaluations}
    before, after = pair(summary)
    shown = [by_system[name] for name in (before, after) if name]
    return _template().render(
        summary=summary,
        headline=headline(summary),
        reading=reading(summary),
        forgetting=forgetting(summary),
        best=best_cells(summary),
        group_rate=group_rate,
        before=before,
        after=after,
        idea=charts.idea(*shown) if shown else None,
        curves=charts.curves(metrics),
        popularity=charts.popularity(summary),
        tradeoff=charts.tradeoff(summary),
        pretraining=pretraining(metrics),
        facts=run_facts(config),
        unfinished=unfinished_line(summary),
        mining=mining.section(mined),
        changes=changes(*shown) if len(shown) == 2 else None,
        settings=settings(config),
        colours={name: colour for name, (colour, _) in charts.styles(list(by_system)).items()},
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, chance=chance, decimals=decimals, signed=signed, label=label)
    text = resources.files("pretrainrl_jax.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(text)


def pair(summary: Json) -> tuple[str | None, str | None]:
    """The systems of the pictures before and after: base, and PretrainRL or else the most accurate one."""
    systems = summary["systems"]
    trained = {n: s["acc"] for n, s in systems.items() if n != "base"}
    after = max(trained, key=lambda n: -1.0 if trained[n] is None else trained[n], default=None)
    after = "pretrainrl" if "pretrainrl" in trained else after
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


def pretraining(metrics: list[Json]) -> dict[str, float] | None:
    """Updates and first and last loss of pretraining, if this workdir pretrained."""
    found = [(number(m.get("step")), number(m.get("loss"))) for m in metrics if m.get("stage") == "pretrain"]
    known = [(step, loss) for step, loss in found if step is not None and loss is not None]
    return {"updates": known[-1][0], "first": known[0][1], "last": known[-1][1]} if known else None


def run_facts(config: Json) -> Json:
    """How this run asked and judged: what a reader needs beside the numbers."""
    evaluate = config.get("evaluate", {})
    match = evaluate.get("match", "not recorded")
    return {
        "seed": config.get("seed", "not recorded"),
        "k": evaluate.get("beams", "k"),
        "template": evaluate.get("template", "not recorded"),
        "match": match,
        "rule": MATCH_RULES.get(match),
    }


def unfinished_line(summary: Json) -> str:
    """The share of beams without an end, by system; empty where none was counted."""
    shares = [(label(name), s["unfinished_beams"]) for name, s in summary["systems"].items()]
    return ", ".join(f"{name} {percent(share)}" for name, share in shares if share is not None)


def changes(before: Json, after: Json) -> dict[str, Json]:
    """Questions a system gets right that the base got wrong, and the reverse, with examples of both.

    Gains are counted on trained facts. Losses are counted on held-out facts too, since training can only
    take those away; paraphrases are left out, as they are the same facts again.
    """
    old = {q["id"]: q for q in before.get("questions") or [] if q.get("group") != "paraphrase"}
    new = {q["id"]: q for q in after.get("questions") or [] if q.get("group") != "paraphrase"}
    both = [(q, new[i]) for i, q in old.items() if i in new]
    both.sort(key=lambda two: number(two[0].get("popularity")) or 0.0)
    trained = [two for two in both if two[0].get("group") in ("trained", "unseen")]
    kinds = {
        "gained": [two for two in trained if not two[0].get("correct") and two[1].get("correct")],
        "lost": [two for two in both if two[0].get("correct") and not two[1].get("correct")],
    }
    asked = {
        "gained": sum(not one.get("correct") for one, _ in trained),
        "lost": sum(bool(one.get("correct")) for one, _ in both),
    }
    return {
        kind: {
            "count": len(found),
            "of": asked[kind],
            "rows": [_change(one, two) for one, two in spread(found, EXAMPLES)],
        }
        for kind, found in kinds.items()
    }


def _change(before: Json, after: Json) -> Json:
    return {
        **{key: before.get(key) for key in ("question", "answer", "category")},
        "group": "held out" if str(before.get("group")).startswith("held_out") else "trained",
        "right_before": bool(before.get("correct")),
        "right_after": bool(after.get("correct")),
        "before": before.get("prediction"),
        "after": after.get("prediction"),
        "p_before": number(before.get("p_truth")),
        "p_after": number(after.get("p_truth")),
    }


def settings(config: Json) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Sections of the config: (name, value, differs from the default), nested names joined by dots."""
    default = json.loads(json.dumps(dataclasses.asdict(Config())))
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    defaults = dict(_flatten(default))
    for name, value in _flatten(config):
        section, _, rest = name.partition(".")
        changed = name in defaults and defaults[name] != value
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        sections.setdefault(section if rest else "run", []).append((rest or section, text or "–", changed))
    return list(sections.items())


def _flatten(tree: Json, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
