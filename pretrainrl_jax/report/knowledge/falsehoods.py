"""What a system believes falsely: the wrong answers it is surest of, and those it gives again and again."""

from collections.abc import Sequence

import numpy as np

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.outcomes import grouped, right

SHOWN = 8


def asked_once(evaluation: Json) -> list[Json]:
    """Each fact once: the trained and the held-out questions in their trained wording."""
    groups = grouped(evaluation)
    return [question for name in ("trained", "held_out") for question in groups[name].values()]


def shown_as(said: str) -> str:
    """An answer as a reader sees it."""
    return said if said.strip() else "(no text)"


def answer(question: Json) -> tuple[str | None, bool, float | None]:
    """What the model says, whether it is right, and how sure it is; of an older version the greedy answer.

    An answer without text ends at once; None is no answer, as none of its beams ends.
    """
    if "best_right" in question:
        return question.get("best"), bool(question["best_right"]), number(question.get("confidence"))
    greedy = str(question.get("prediction") or "")
    same = normalise(greedy) == normalise(str(question.get("falsehood") or ""))
    return greedy, right(question), number(question.get("p_falsehood")) if same else None


def surest(evaluation: Json, shown: int = SHOWN) -> list[Json]:
    """The questions whose wrong answer the model is most confident of, the surest first."""
    wrong = []
    for question in asked_once(evaluation):
        said, hit, sure = answer(question)
        if said is not None and not hit and sure:
            wrong.append({"question": question, "said": shown_as(said), "confidence": sure})
    return sorted(wrong, key=lambda each: -each["confidence"])[:shown]


def repeated(questions: Sequence[Json], shown: int = SHOWN) -> list[Json]:
    """The answers most often given wrongly, spellings as one: how often said, how often true, how surely."""
    given: dict[str, list[tuple[str, bool, float | None]]] = {}
    for question in questions:
        said, hit, sure = answer(question)
        if said is not None:
            given.setdefault(normalise(said), []).append((said, hit, sure))
    told = []
    for every in given.values():
        wrong, sure = sum(not hit for _, hit, _ in every), [p for _, _, p in every if p is not None]
        if wrong > 1:
            spellings = [text for text, _, _ in every]
            told.append(
                {
                    "answer": shown_as(max(dict.fromkeys(spellings), key=spellings.count)),
                    "said": len(every),
                    "true": len(every) - wrong,
                    "confidence": float(np.mean(sure)) if sure else None,
                }
            )
    return sorted(told, key=lambda each: (each["true"] - each["said"], each["answer"]))[:shown]
