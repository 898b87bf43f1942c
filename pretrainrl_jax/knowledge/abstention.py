"""When a model says that it does not know, and what its answers are worth where a mistake costs something.

Open and closed rubric: Why Language Models Hallucinate (Nature 2026, doi 10.1038/s41586-026-10549-w). In the
open one the prompt states what a mistake costs; in the closed one it says nothing, and the same answers are
scored by each cost, never asked again.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from pretrainrl_jax.facts.matching import normalise

Verdict = Literal["right", "wrong", "abstained"]

# Normalised answers that are an "I don't know" as they are, and beginnings that make one of any answer.
WHOLE = frozenset({"unknown", "unsure", "not sure", "not known", "idk", "no idea", "no answer", "abstain"})
BEGINNINGS = (
    "i dont know", "i do not know", "dont know", "do not know", "i have no idea", "i am not sure",
    "im not sure", "i cannot answer", "i cant answer", "i am unsure", "im unsure", "i am unable to answer",
)  # fmt: skip


def is_idk(answer: str) -> bool:
    """Whether an answer is an "I don't know": normalised, it is one of `WHOLE`, or begins as `BEGINNINGS`."""
    text = normalise(answer.replace("’", "'"))
    return text in WHOLE or any(f"{text} ".startswith(f"{begin} ") for begin in BEGINNINGS)


def verdict(answer: str, right: bool) -> Verdict:
    """What an answer counts as; a right one is right, whatever it reads like."""
    return "right" if right else "abstained" if is_idk(answer) else "wrong"


def score(verdicts: Iterable[Verdict], penalty: float) -> float:
    """Mean over questions: right 1, abstained 0, wrong -penalty; NaN without questions."""
    worth = {"right": 1.0, "abstained": 0.0, "wrong": -penalty}
    values = [worth[each] for each in verdicts]
    return float(np.mean(values)) if values else float("nan")


def rule(penalty: float) -> str:
    """What a prompt of the open rubric states."""
    cost = "costs nothing" if penalty == 0 else f"costs {penalty:g} point{'s' * (penalty != 1)}"
    return (
        f"A correct answer earns 1 point and a wrong answer {cost}. "
        'If you are not sure, answer "I don\'t know", which earns 0 points.'
    )


def two_agree(samples: Sequence[str | None], right: Sequence[bool]) -> tuple[bool, bool]:
    """Whether the first two samples, normalised and with an end, agree; and whether they are right."""
    agree = samples[0] is not None and samples[0] == samples[1]
    return agree, agree and right[0]


def agreement(samples: Sequence[str | None], right: Sequence[bool]) -> tuple[float, bool]:
    """The share of samples that give the most frequent answer, and whether that is right.

    Of equally frequent answers the one drawn first. (0, False) where no sample has an end.
    """
    ended = [sample for sample in samples if sample is not None]
    if not ended:
        return 0.0, False
    most = max(dict.fromkeys(ended), key=ended.count)
    return ended.count(most) / len(samples), right[samples.index(most)]
