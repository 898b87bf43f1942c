"""A judge is a sum of parts, each answer of a part is checked, and its scores decide what is learned."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging.protocol import Case, Judge, Part, Scores, Verdicts

SHOWN = 60  # last characters of a prefix that a message shows


class JudgeError(InputError):
    """A part of a judge gave what is no score: one line with the part and the case."""


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


def shown(prefix: str) -> str:
    """The end of a prefix, for a message of one line."""
    return repr(prefix if len(prefix) <= SHOWN else f"…{prefix[-SHOWN:]}")


def distinct(texts: Sequence[str]) -> list[int]:
    """Places of the texts that differ from all before them, in order: of equal texts the earliest stands."""
    places: dict[str, int] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, place)
    return list(places.values())


def select(scores: Sequence[float]) -> tuple[int, int] | None:
    """Places of the highest and of the lowest score, the earliest of equals; None where all are equal."""
    if len(set(scores)) < 2:
        return None
    best, worst = (pick(range(len(scores)), key=scores.__getitem__) for pick in (max, min))
    return best, worst
