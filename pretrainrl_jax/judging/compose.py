"""A judge is a sum of parts. What each of them answers is checked, so no score is ever made up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real

from pretrainrl_jax.config import JudgeConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.judging.exact import facts
from pretrainrl_jax.judging.local import model_parts
from pretrainrl_jax.judging.protocol import Case, Judge, JudgeError, Part, Scores, Verdicts, shown
from pretrainrl_jax.judging.repetition import repetition
from pretrainrl_jax.training.loading import Loaded

PARTS = ("facts", "repetition", "quality", "safety", "factuality")  # settings of their weights


def make_judge(
    settings: JudgeConfig,
    statements: Statements | None,
    model: Loaded | None,
    seen: Counter[str] | None = None,
) -> Judge:
    """The judge that the settings describe.

    Args:
        statements: knows what is true; without it there is no part `facts`.
        model: what `settings.path` names, loaded on the mesh of the run; None where no part asks a model.
        seen: counts all statements that the part `facts` met by their verdict.

    Raises:
        InputError: if a part has a weight and what it asks is not there, or a prompt's file is not right.
    """
    parts: dict[str, Part] = {"repetition": repetition(settings.ngram)}
    if statements is not None:
        parts["facts"] = facts(statements, settings.silence, Counter() if seen is None else seen)
    if model is not None:
        parts |= model_parts(settings, model)
    weights = {name: getattr(settings, name) for name in PARTS}
    for name, weight in weights.items():
        if weight and name not in parts:
            missing = "no facts" if name == "facts" else "no model: give judge.path"
            raise InputError(f"judge.{name} is {weight:g}, and this run has {missing}")
    return compose({name: (weight, parts[name]) for name, weight in weights.items() if weight})


def verdicts_per_case(settings: JudgeConfig, candidates: int) -> int:
    """How many verdicts the model is asked for about one document of so many different candidates."""
    pairs = candidates * (candidates - 1) if settings.quality else 0
    return pairs + candidates * (bool(settings.safety) + bool(settings.factuality))


def compose(parts: Mapping[str, tuple[float, Part]]) -> Judge:
    """The judge that adds the scores of named parts by their weights.

    Parts of weight 0 are not asked. The judge raises JudgeError where a part gives the wrong number of
    scores, or one that is no finite number: no score is ever made up.
    """
    asked = {name: (weight, part) for name, (weight, part) in parts.items() if weight}

    def judge(cases: Sequence[Case]) -> Verdicts:
        scores = {name: checked(name, cases, part(cases)) for name, (_, part) in asked.items()}
        weights = [weight for weight, _ in asked.values()]
        total = [
            [
                # Exactly rounded, so that equal scores are equal in whatever order they were summed.
                math.fsum(w * part[number][place] for w, part in zip(weights, scores.values(), strict=True))
                for place in range(len(case.candidates))
            ]
            for number, case in enumerate(cases)
        ]
        return Verdicts(total, scores)

    return judge


def checked(part: str, cases: Sequence[Case], scores: Sequence[Sequence[float]]) -> Scores:
    """The scores that a part gave some cases, as floats.

    Raises:
        JudgeError: if a case or a candidate has no score, or one that is no finite number.
    """
    if len(scores) != len(cases):
        raise JudgeError(f"the judge's part {part} gave scores to {len(scores)} of {len(cases)} documents")
    for case, own in zip(cases, scores, strict=True):
        if len(own) != len(case.candidates):
            wrong = f"{len(own)} scores to {len(case.candidates)} candidates"
        elif ill := [score for score in own if not isinstance(score, Real) or not math.isfinite(score)]:
            wrong = f"the score {ill[0]!r}, which is no finite number,"
        else:
            continue
        raise JudgeError(f"the judge's part {part} gave {wrong} after {shown(case.prefix)}: mend the judge")
    return [list(map(float, own)) for own in scores]
