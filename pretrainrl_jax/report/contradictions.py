"""Numbers of an evaluation that cannot all be true: what a reader is told before anything else."""

from collections.abc import Collection

from pretrainrl_jax.report.formats import Json, decimals, number, percent
from pretrainrl_jax.report.outcomes import trained, truth
from pretrainrl_jax.report.systems import Systems

UNLIKELY = 0.25  # share of right answers that may look less probable than a wrong one, by their spelling
AGAIN = "remove its file in evaluations/ and run `evaluate` again"  # what is finished is skipped


def contradictions(evaluations: Collection[Json], known: Systems) -> list[str]:
    """A sentence on each thing that is wrong with the evaluations; none where their numbers fit together.

    One answer has one probability, whether beam search found it or it was teacher-forced. Where the first
    beam is right, the truth is about as probable as it, so not far below the strongest falsehood. What is
    right greedily is rarely missed by a wider search. And two systems are compared by one rule.
    """
    sentences = [s for e in evaluations for s in _of_system(e, known.label(str(e.get("system"))))]
    older = [known.label(str(e.get("system"))) for e in evaluations if "measured_twice" not in e]
    if older and len(older) < len(evaluations):
        sentences.append(
            f"{', '.join(older)}: evaluated by an older version, whose probabilities are not those of the "
            f"other systems: {AGAIN}"
        )
    return sentences


def other_texts(evaluations: Collection[Json], known: Systems) -> list[str]:
    """A sentence where the text loss of some systems of a workdir is of other texts than that of one."""
    measured = [e for e in evaluations if e.get("texts") and number(e.get("text_nll")) is not None]
    others = [known.label(str(e["system"])) for e in measured if e["texts"] != measured[0]["texts"]]
    if not others:
        return []
    one = known.label(str(measured[0]["system"]))
    return [f"{', '.join(others)}: the text loss is of other texts than that of {one}: {AGAIN}"]


def _of_system(evaluation: Json, label: str) -> list[str]:
    sentences = []
    twice = evaluation.get("measured_twice") or {}
    apart, tolerance = number(twice.get("apart")), number(twice.get("tolerance"))
    if apart is not None and tolerance is not None and apart > tolerance:
        sentences.append(
            f"{label}: of {twice['answers']} answers that were found by beam search and teacher-forced, too, "
            f"one has two probabilities, {decimals(apart, 2)} nats apart: {AGAIN}"
        )
    found = [q for q in trained(evaluation).values() if q.get("rank") == 1]
    asked = [(truth(question), number(question.get("p_falsehood"))) for question in found]
    both = [(true, false) for true, false in asked if true is not None and false is not None]
    below = sum(true < false / 2 for true, false in both)
    if below > max(2, UNLIKELY * len(both)):
        sentences.append(
            f"{label}: {below} of {len(both)} questions whose best beam is right show the truth as less "
            f"probable than the falsehood: {AGAIN}"
        )
    rates = (evaluation.get("groups") or {}).get("trained") or {}
    acc, hr, count = (number(rates.get(name)) for name in ("acc", "hr", "count"))
    if acc is not None and hr is not None and count and acc - hr > max(0.02, 2 / count):
        sentences.append(
            f"{label}: {percent(acc)} of the greedy answers are right, and {percent(hr)} of the questions "
            f"have a right answer among all beams: {AGAIN}"
        )
    return sentences
