"""What an answer to a fact's question earns: rewards that need no judge."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pretrainrl_jax.facts.matching import matches, normalise
from pretrainrl_jax.knowledge.abstention import is_idk

Reward = Literal["match", "partial", "ternary"]


def reward(
    answer: str | None, truths: Iterable[str], kind: Reward, rule: Literal["exact", "contains"] = "exact"
) -> float:
    """The reward of an answer; None is one without an end.

    - "match": 1 if it is right by `rule` (`matching.matches`), else 0.
    - "partial": the largest F1 of its words with those of a truth, both normalised; 1 if it is right.
    - "ternary" (TruthRL, arXiv 2509.25760): right 1, "I don't know" 0, wrong −1.
    """
    truths = tuple(truths)
    right = answer is not None and matches(answer, truths, rule)
    if kind == "match" or right:
        return float(right)
    if kind == "partial":
        return max((words_in_common(answer, truth) for truth in truths), default=0.0) if answer else 0.0
    return 0.0 if answer is not None and is_idk(answer) else -1.0


def words_in_common(answer: str, truth: str) -> float:
    """F1 of the words of two texts, normalised: 2 · common / (words of both); 0 where one has none."""
    one, other = (Counter(normalise(text).split()) for text in (answer, truth))
    common = (one & other).total()
    return 2 * common / (one.total() + other.total()) if common else 0.0
