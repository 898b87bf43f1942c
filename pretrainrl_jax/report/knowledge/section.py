"""Everything that the page shows of knowledge."""

from collections.abc import Mapping

from pretrainrl_jax.knowledge.state import STATES
from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import Sheet, Told, sheet
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.knowledge import charts, falsehoods, tables, theory
from pretrainrl_jax.report.outcomes import grouped
from pretrainrl_jax.report.summary import noun
from pretrainrl_jax.report.systems import Systems


def section(summary: Json, evaluations: Mapping[str, Json], known: Systems, shown: list[str]) -> Json | None:
    """What the page shows; None where no system lists questions.

    The questions of the systems `shown` (base, and the method) are looked at.
    """
    told = {n: s["knowledge"] for n, s in summary["systems"].items() if s.get("knowledge", {}).get("trained")}
    if not told:
        return None
    shown = [name for name in shown if name in told] or [*told][-1:]
    heads, label = drawing.heads(list(evaluations), known), known.label
    titles = {"trained": noun(summary), "held_out": "held-out facts"}

    def by_system(columns: Mapping[str, Told], *path: str) -> Sheet:
        return sheet(columns, tables.rows_at(told, heads, *path), "system")

    def by_set(columns: Mapping[str, Told], *path: str) -> list[tuple[str, Sheet]]:
        """A table of each set of questions for which there is any; the set is the `{}` of the path."""
        paths = {title: [which if key == "{}" else key for key in path] for which, title in titles.items()}
        made = {title: by_system(columns, *own) for title, own in paths.items()}
        return [(title, of) for title, of in made.items() if len(of.heads) > of.words]

    asked = {name: list(grouped(evaluations[name])["trained"].values()) for name in told}
    pictures = [
        (f"Reliability of {label(name)}", charts.reliability(asked[name], heads[name])) for name in shown
    ]
    pictures.append(("Mistakes by how much is answered, one line a system", charts.risk(asked, known)))
    changed = [name for name, own in told.items() if own.get("changes", {}).get("flips")]
    method = shown[-1] if shown[-1] in changed else next(iter(changed), "")
    changes = told[method]["changes"] if method else {}
    return {
        "states": by_set(tables.KNOWN, "{}"),
        "meanings": STATES,
        "probable": by_set(tables.PROBABLE, "{}"),
        "surest": [(label(name), tables.surest(falsehoods.surest(evaluations[name]))) for name in shown],
        "repeated": [
            (
                label(n),
                sheet(tables.REPEATED, [(row["answer"], row) for row in told[n]["repeated"]], "it says"),
            )
            for n in shown
        ],
        "pictures": [picture for picture in pictures if picture[1]],
        "ordered": by_set(tables.ORDERED, "{}", "confidence"),
        "calibrated": by_set(tables.CALIBRATED, "{}"),
        "temperatures": by_system(tables.TEMPERATURES, "temperature"),
        "targets": by_system(tables.TARGETS, "trained", "targets"),
        "scaled_targets": by_system(tables.TARGETS, "trained", "calibrated_targets"),
        "agreeing": tables.consistency(told, heads, "two_agree", "probability"),
        "agreement": tables.consistency(told, heads, "agreement", "confidence"),
        "rubrics": by_system(tables.RUBRICS, "rubric"),
        "choices": by_system(tables.CHOICES, "trained", "choice"),
        "method": label(method),
        "moved": tables.moved(changes["states"]) if "states" in changes else None,
        "flipped": by_set(tables.FLIPPED, "changes", "flips", "{}"),
        "groups": tables.reached(changes.get("groups", {}), label("base"), label(method)),
        "untrained": by_system(tables.UNTRAINED, "changes", "suppressed"),
        "theory": theory.section({n: own.get("theory") or {} for n, own in told.items()}, heads, shown[-1]),
    }
