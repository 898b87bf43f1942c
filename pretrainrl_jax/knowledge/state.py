"""What a model knows of one fact, from how its question was answered."""

import math
from collections.abc import Mapping
from typing import Any

STATES = {
    "knows": "its most probable answer is right, and at least as probable as not",
    "unsure": "its most probable answer is right, and less probable than that",
    "misled": "its most probable answer is wrong, and at least as probable as not",
    "in reach": "its most probable answer is wrong, and a true one is among its beams",
    "unknown": "none of these: no true answer is among its beams",
}
SURE = 0.5  # the confidence from which an answer is believed: more probable than everything else together


def state_of(question: Mapping[str, Any]) -> str:
    """One of `STATES`, of a question of an evaluation (it has `confidence`)."""
    sure = question["confidence"] >= SURE
    if question["best_right"]:
        return "knows" if sure else "unsure"
    if sure:
        return "misled"
    return "in reach" if question["rank"] else "unknown"


def margin(question: Mapping[str, Any]) -> float | None:
    """How much more probable what is true is than the strongest falsehood: log of their ratio, nats.

    None where no falsehood was found among the beams, or one of the two has no probability at all.
    """
    truth, falsehood = question.get("p_aliases"), question.get("p_falsehood")
    return math.log(truth / falsehood) if truth and falsehood else None
