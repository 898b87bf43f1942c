"""What a system believes falsely: the wrong answers it is surest of, and those it gives again and again."""

from collections.abc import Sequence

import numpy as np

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.outcomes import grouped

SHOWN = 8


def asked_once(evaluation: Json) -> list[Json]:
    """Each fact once: the trained and the held-out questions in their trained wording."""
    groups = grouped(evaluation)
    return [question for name in ("trained", "held_out") for question in groups[name].values()]


def answers(questions: Sequence[Json]) -> list[tuple[Json, str]]:
    """The questions that are answered, with what is said; an answer without text ends at once.

    None of an older version, which knew no best answer.
    """
    known = [question for question in questions if "best_right" in question]
    return [(question, question["best"]) for question in known if question["best"] is not None]


def shown_as(said: str) -> str:
    """An answer as a reader sees it."""
    return said if said.strip() else "(no text)"


def surest(evaluation: Json, shown: int = SHOWN) -> list[Json]:
    """The questions whose wrong answer the model is most confident of, the surest first."""
    wrong: list[Json] = [
        {"question": question, "said": shown_as(said), "confidence": question["confidence"]}
        for question, said in answers(asked_once(evaluation))
        if not question["best_right"] and question["confidence"]
    ]
    return sorted(wrong, key=lambda each: -each["confidence"])[:shown]


def repeated(questions: Sequence[Json], shown: int = SHOWN) -> list[Json]:
    """The answers most often given wrongly, spellings as one: how often said, how often true, how surely."""
    given: dict[str, list[tuple[Json, str]]] = {}
    for question, said in answers(questions):
        given.setdefault(normalise(said), []).append((question, said))
    told: list[Json] = []
    for every in given.values():
        true, spellings = (
            sum(bool(question["best_right"]) for question, _ in every),
            [said for _, said in every],
        )
        if len(every) - true > 1:
            told.append(
                {
                    "answer": shown_as(max(dict.fromkeys(spellings), key=spellings.count)),
                    "said": len(every),
                    "true": true,
                    "confidence": float(np.mean([question["confidence"] for question, _ in every])),
                }
            )
    return sorted(told, key=lambda each: (each["true"] - each["said"], each["answer"]))[:shown]
