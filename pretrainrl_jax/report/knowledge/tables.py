"""What the page shows of what each system knows and how well it can tell, from "knowledge" in summary.json.

Those of one row a system are data: columns, by `columns.sheet`.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from pretrainrl_jax.report import drawing
from pretrainrl_jax.report.columns import (
    Cell,
    Sheet,
    Told,
    area,
    at,
    changed,
    count,
    estimated,
    figure,
    gain,
    in_percent,
    likelihood,
    nats,
    p_value,
    plain,
    rate,
    rows_at,
    score,
    sheet,
)
from pretrainrl_jax.report.formats import Json, chance, percent
from pretrainrl_jax.report.knowledge import pictures, theory
from pretrainrl_jax.report.knowledge.figures import FALSEHOODS, OUTCOMES, STATES, answers, shown_as
from pretrainrl_jax.report.outcomes import GROUPS, grouped, truth
from pretrainrl_jax.report.summary import noun
from pretrainrl_jax.report.systems import Systems

VERDICTS = {
    "yes": Cell("yes", tone="right"),
    "unclear": Cell("within chance"),
    "no": Cell("no", tone="wrong"),
}


def way(told: Json) -> float | None:
    """How far an area lies from that of a random order (0) to that of the best (1); None where they agree."""
    room, area = told["random"] - told["ideal"], told["aurc"]["value"]
    return None if room <= 0 or area is None else (told["random"] - area) / room


def _shares(of: Json) -> str:
    return " / ".join(percent(of[each], "") for each in OUTCOMES)


KNOWN = {f"{state}, %": at(rate, "states", state) for state in STATES}
PROBABLE = {
    "probability of the truth": at(likelihood, "p_truth"),
    "of the strongest falsehood": at(likelihood, "p_falsehood"),
    "margin, nats": at(nats, "margin"),
    "truth above falsehood, %": at(rate, "above"),
    "truth first, %": at(rate, "first"),
    "among the beams, %": at(rate, "among"),
    "median rank there": at(partial(figure, places=1), "rank"),
}
ORDERED: dict[str, Told] = {
    "right, %": at(rate, "accuracy"),
    "area": at(area, "aurc"),
    "best order": at(figure, "ideal"),
    "random order": at(figure, "random"),
    "of the way from random to best, %": lambda told: in_percent(way(told)),
}
CALIBRATED = {
    "right, %": at(rate, "confidence", "accuracy"),
    "mean confidence, %": at(in_percent, "confidence", "mean"),
    "after T, %": at(in_percent, "calibrated", "mean"),
    "ECE": at(figure, "confidence", "ece"),
    "ECE after T": at(figure, "calibrated", "ece"),
    "Brier": at(area, "confidence", "brier"),
    "Brier after T": at(area, "calibrated", "brier"),
    "log loss": at(figure, "confidence", "log_loss"),
    "log loss after T": at(figure, "calibrated", "log_loss"),
}
TEMPERATURES = {
    "T": at(figure, "value"),
    "fitted on": at(count, "fitted_on"),
    "log loss before": at(figure, "log_loss", 0),
    "after": at(figure, "log_loss", -1),
    "not fitted": at(str, "reason"),
}
TARGETS = {
    "target t": at("{:g}".format, "threshold"),
    "penalty": at("{:.3g}".format, "penalty"),
    "answered, %": at(in_percent, "answered"),
    "right of these, %": at(rate, "accuracy"),
    "wrong of all, %": at(in_percent, "wrong"),
    "abstained, %": at(in_percent, "abstained"),
    "score": at(score, "score"),
    "right as often as t": at(VERDICTS.__getitem__, "kept"),
}
CONSISTENT = {
    "answered, %": at(rate, "answered"),
    "right, %": at(rate, "accuracy"),
    "area": at(area, "aurc"),
    "ECE": at(figure, "ece"),
    "Brier": at(area, "brier"),
}
RUBRICS = {
    "penalty": at("{:g}".format, "penalty"),
    "not stated: right / wrong / abstained, %": at(_shares, "closed_shares"),
    "stated: right / wrong / abstained, %": at(_shares, "open_shares"),
    "score, not stated": at(score, "closed"),
    "score, stated": at(score, "open"),
    "difference": at(gain, "gap"),
    "p": at(partial(p_value, least=0.002), "p"),
}
CHOICES = {
    "right among the allowed, %": at(rate, "accuracy"),
    "right greedily, %": at(rate, "greedy"),
    "questions": at(count, "accuracy", "questions"),
}
FLIPPED = {
    "facts": at(count, "questions"),
    "gained": at(count, "gained"),
    "lost": at(count, "lost"),
    "p (McNemar)": at(p_value, "p"),
}
UNTRAINED = {
    "questions": at(count, "questions"),
    "trained answer before": at(likelihood, "canonical", 0),
    "after": at(likelihood, "canonical", 1),
    "other true answers before": at(likelihood, "others", 0),
    "others after": at(likelihood, "others", 1),
    "others halved while it rose, %": at(rate, "suppressed"),
}
SUREST: dict[str, Told] = {
    "confidence": at(chance, "confidence"),
    "probability of the truth": lambda question: chance(truth(question)),
}
REPEATED = {
    "to questions": at(count, "said"),
    "right for": at(count, "true"),
    "mean confidence": at(chance, "confidence"),
}


TERMINAL = {
    "right\n%": at(rate, "confidence", "accuracy"),
    "knows\n%": at(rate, "states", "knows"),
    "misled\n%": at(rate, "states", "misled"),
    "AURC": at(area, "confidence", "aurc"),
    "ECE\nafter T": at(figure, "calibrated", "ece"),
    "Brier": at(area, "confidence", "brier"),
}


def terminal(summary: Json, known: Systems) -> str:
    """How each system's probability tells right from wrong, for a terminal of 100 columns; "" if unknown."""
    told = {name: s.get("knowledge", {}).get("trained", {}) for name, s in summary["systems"].items()}
    rows = [(known.label(name), own) for name, own in told.items() if "confidence" in own]
    if not rows:
        return ""
    targets = [(i, t["threshold"]) for i, t in enumerate(rows[-1][1]["targets"]) if t["threshold"]]
    scores = {f"score\nt={threshold:g}": at(nats, "targets", i, "score") for i, threshold in targets[:3]}
    title = f"Does it know the difference? Most probable answers to {noun(summary)}"
    return plain(title, sheet(TERMINAL | scores, rows, "system"), words=[18])


WAYS = {
    "two_agree": "two samples agree",
    "probability": "its own probability",
    "agreement": "agreement of {samples} samples",
    "confidence": "its own probability",
}


def consistency(systems: Mapping[str, Json], heads: Mapping[str, Cell], *ways: str) -> Sheet:
    """A row of each system and way of abstaining by samples; scores are by penalty."""
    told = rows_at(systems, heads, "consistency")
    rows = [(name, WAYS[way].format(**own), own[way]) for name, own in told for way in ways]
    scores = rows[0][-1].get("scores", ()) if rows else ()
    columns: dict[str, Told] = {
        f"score, penalty\u00a0{each['penalty']:.3g}": at(score, "scores", i) for i, each in enumerate(scores)
    }
    return sheet(CONSISTENT | columns, rows, "system", "confidence is")


def surest(evaluation: Json) -> Sheet:
    """The wrong answers that a system is surest of, the surest first."""
    wrong = [(q, said) for q, said in answers(evaluation) if not q["best_right"] and q["confidence"]]
    wrong.sort(key=lambda each: -each[0]["confidence"])
    rows = [
        (str(q.get("question") or ""), Cell(shown_as(said), tone="wrong"), str(q.get("answer") or ""), q)
        for q, said in wrong[:FALSEHOODS]
    ]
    return sheet(SUREST, rows, "question", "it says", "truth")


def repeated(wrong: Iterable[Json]) -> Sheet:
    """The wrong answers that a system gives again and again."""
    return sheet(REPEATED, [(row["answer"], row) for row in wrong], "it says")


def moved(states_before: Mapping[str, Mapping[str, int]]) -> Sheet:
    """How many facts of each state before, a row each, are in each state after, with their share of all."""
    total = sum(sum(row.values()) for row in states_before.values())

    def went(facts: int) -> Cell:
        return Cell(f"{facts:,}", percent(facts / total))

    columns = {f"after: {state}": at(went, state) for state in STATES}
    columns["all before"] = lambda row: count(sum(row.values()))
    sums = {other: sum(row[other] for row in states_before.values()) for other in STATES}
    return sheet(columns, [*states_before.items(), ("all after", sums)], "before")


def reached(groups: Mapping[str, Json], before: str, after: str) -> Sheet:
    """Accuracy before and after in every group of questions."""
    columns: dict[str, Told] = {
        "number": at(count, "questions"),
        f"{before}, %": estimated(in_percent, of="before"),
        f"{after}, %": estimated(in_percent, of="after"),
        "change, points": partial(changed, stacked=True),
    }
    return sheet(columns, [(GROUPS[group], told) for group, told in groups.items()], "questions")


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
        return sheet(columns, rows_at(told, heads, *path), "system")

    def by_set(columns: Mapping[str, Told], *path: str) -> list[tuple[str, Sheet]]:
        """A table of each set of questions for which there is any; the set is the `{}` of the path."""
        paths = {title: [which if key == "{}" else key for key in path] for which, title in titles.items()}
        made = {title: by_system(columns, *own) for title, own in paths.items()}
        return [(title, of) for title, of in made.items() if len(of.heads) > of.words]

    asked = {name: list(grouped(evaluations[name])["trained"].values()) for name in told}
    drawn = [
        (f"Reliability of {label(name)}", pictures.reliability(asked[name], heads[name])) for name in shown
    ]
    drawn.append(("Mistakes by how much is answered, one line a system", pictures.risk(asked, known)))
    changed = [name for name, own in told.items() if own.get("changes", {}).get("flips")]
    method = shown[-1] if shown[-1] in changed else next(iter(changed), "")
    changes = told[method]["changes"] if method else {}
    return {
        "states": by_set(KNOWN, "{}"),
        "meanings": STATES,
        "probable": by_set(PROBABLE, "{}"),
        "surest": [(label(name), surest(evaluations[name])) for name in shown],
        "repeated": [(label(name), repeated(told[name]["repeated"])) for name in shown],
        "pictures": [picture for picture in drawn if picture[1]],
        "ordered": by_set(ORDERED, "{}", "confidence"),
        "calibrated": by_set(CALIBRATED, "{}"),
        "temperatures": by_system(TEMPERATURES, "temperature"),
        "targets": by_system(TARGETS, "trained", "targets"),
        "scaled_targets": by_system(TARGETS, "trained", "calibrated_targets"),
        "agreeing": consistency(told, heads, "two_agree", "probability"),
        "agreement": consistency(told, heads, "agreement", "confidence"),
        "rubrics": by_system(RUBRICS, "rubric"),
        "choices": by_system(CHOICES, "trained", "choice"),
        "method": label(method),
        "moved": moved(changes["states"]) if "states" in changes else None,
        "flipped": by_set(FLIPPED, "changes", "flips", "{}"),
        "groups": reached(changes.get("groups", {}), label("base"), label(method)),
        "untrained": by_system(UNTRAINED, "changes", "suppressed"),
        "theory": theory.section({n: own.get("theory") or {} for n, own in told.items()}, heads, shown[-1]),
    }
