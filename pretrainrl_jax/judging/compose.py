"""A judge is a sum of parts, what facts say among them. What each answers is checked: no score is made up."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real

from pretrainrl_jax.config import JudgeConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.judging.parts import Ask, paired, pairwise, pointwise
from pretrainrl_jax.judging.prompts import prompts_of
from pretrainrl_jax.judging.protocol import Case, Judge, JudgeError, Part, Scored, Scores, Verdicts
from pretrainrl_jax.judging.repetition import repetition

PARTS = ("facts", "repetition", "quality", "safety", "factuality")  # settings of their weights


def facts(statements: Statements, silence: float) -> Part:
    """The part that scores a text by true / (true + false), its statements counted.

    A statement belongs to a candidate if it is complete there, by its full stop or by the text's own end:
    that the candidate completes a sentence of the prefix counts, what the prefix said before does not.
    Unknown statements are not counted. `silence` is the score of a text that states nothing true and nothing
    false.
    """

    def judge(cases: Sequence[Case]) -> Scores:
        return [[score(case, place) for place in range(len(case.candidates))] for case in cases]

    def score(case: Case, place: int) -> float:
        text, ended = case.prefix + case.candidates[place], bool(case.ended) and case.ended[place]
        found = statements.find(text, since=len(case.prefix), ended=ended)
        verdicts = [statement.verdict for statement in found]
        right, wrong = verdicts.count("true"), verdicts.count("false")
        return right / (right + wrong) if right or wrong else silence

    return judge


def make_judge(settings: JudgeConfig, statements: Statements | None, ask: Ask | None) -> Judge:
    """The judge that the settings describe.

    Without `statements` there is no part `facts`; `ask` asks the model, None where no part does. Raises
    InputError if a part has a weight and what it asks is not there, or a prompt's file is not right.
    """
    parts: dict[str, Part] = {"repetition": repetition(settings.ngram)}
    if statements is not None:
        parts["facts"] = facts(statements, settings.silence)
    if ask:
        compare = partial(pairwise, pairs=settings.pairs, opponents=settings.opponents)
        for name, prompt in prompts_of(settings).items():
            parts[name] = compare(partial(ask, prompt)) if name == "quality" else pointwise(prompt, ask)
    weights = {name: getattr(settings, name) for name in PARTS}
    for name, weight in weights.items():
        if weight and name not in parts:
            missing = "no facts" if name == "facts" else "no model: give judge.path or judge.server.url"
            raise InputError(f"judge.{name} is {weight:g}, and this run has {missing}")
    return compose({name: (weight, parts[name]) for name, weight in weights.items() if weight})


def verdicts_per_case(settings: JudgeConfig, candidates: int) -> int:
    """How many verdicts the model is asked for about one document of so many different candidates."""
    pairs = 2 * len(paired(candidates, settings.pairs, settings.opponents)) if settings.quality else 0
    each = candidates * (bool(settings.safety) + bool(settings.factuality))
    return (pairs + each) * (settings.samples if settings.server.url else 1)


def compose(parts: Mapping[str, tuple[float, Part]]) -> Judge:
    """The judge that adds the scores of named parts by their weights.

    Parts of weight 0 are not asked. A candidate that a part has no score for has none in all. The judge
    raises JudgeError where a part gives the wrong number of scores, or one that is no finite number: no score
    is ever made up.
    """
    asked = {name: (weight, part) for name, (weight, part) in parts.items() if weight}

    def judge(cases: Sequence[Case]) -> Verdicts:
        scores: dict[str, Scores] = {}
        counts: list[dict[str, float]] = [{} for _ in cases]
        for name, (_, part) in asked.items():
            given = part(cases)
            scored = given if isinstance(given, Scored) else Scored(given, [{}] * len(cases))
            scores[name] = checked(name, cases, scored.scores)
            for own, of_part in zip(counts, scored.counts, strict=True):
                own |= {f"{name}.{what}": count for what, count in of_part.items()}
        total: list[list[float | None]] = [[] for _ in cases]
        for number, case in enumerate(cases):
            for place in range(len(case.candidates)):
                own = [(weight, scores[name][number][place]) for name, (weight, _) in asked.items()]
                known = [weight * score for weight, score in own if score is not None]
                # Exactly rounded, so that equal scores are equal in whatever order they were summed.
                total[number].append(math.fsum(known) if len(known) == len(own) else None)
        return Verdicts(total, scores, counts)

    return judge


def checked(part: str, cases: Sequence[Case], scores: Scores) -> list[list[float | None]]:
    """The scores that a part gave some cases, as floats.

    Raises JudgeError if a case or a candidate has no score, or one that is no finite number.
    """
    gave = f"the judge's part {part} gave"
    if len(scores) != len(cases):
        raise JudgeError(f"{gave} scores to {len(scores)} of {len(cases)} documents")
    for case, own in zip(cases, scores, strict=True):
        after = f"after {case.prefix[-60:]!r}: mend the judge"
        if len(own) != len(case.candidates):
            raise JudgeError(f"{gave} {len(own)} scores to {len(case.candidates)} candidates {after}")
        if ill := [s for s in own if s is not None and not (isinstance(s, Real) and math.isfinite(s))]:
            raise JudgeError(f"{gave} the score {ill[0]!r}, which is no finite number, {after}")
    return [[None if score is None else float(score) for score in own] for own in scores]
