"""How well a model tells the chosen answer of each pair from the rejected one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.trees.tree import AnswerTree, total


class PairScore(NamedTuple):
    """A pair and the log-probabilities of its answers, nats, summed over their tokens."""

    prompt: str  # id
    weight: float
    chosen: float
    rejected: float
    reference_chosen: float  # the same of the base model
    reference_rejected: float

    @property
    def gap(self) -> float:
        """By how much the chosen answer is the more probable one."""
        return self.chosen - self.rejected

    @property
    def margin(self) -> float:
        """By how much the gap is wider than the base model's: DPO's reward margin divided by β."""
        return self.gap - (self.reference_chosen - self.reference_rejected)


def pair_scores(trees: Sequence[AnswerTree], scores: Sequence[Sequence[float]]) -> list[PairScore]:
    """Every pair of trees that have references, with the scores of their branches."""
    return [
        PairScore(
            tree.id.partition("/")[0],
            pair.weight,
            of_tree[pair.chosen],
            of_tree[pair.rejected],
            total(tree.branches[pair.chosen].reference_logp),
            total(tree.branches[pair.rejected].reference_logp),
        )
        for tree, of_tree in zip(trees, scores, strict=True)
        for pair in tree.preferences
    ]


def measures(pairs: Sequence[PairScore]) -> dict[str, Any]:
    """Means over pairs by their weights.

    `preference_accuracy`: the chosen answer is the more probable one; `reward_accuracy`: more so than under
    the base model, as TRL's rewards/accuracies (a tie is none); `margin`: by how much more, nats.
    """
    weight = sum(pair.weight for pair in pairs)

    def mean(values: Sequence[float]) -> float | None:
        weighted = sum(pair.weight * value for pair, value in zip(pairs, values, strict=True))
        return weighted / weight if weight else None

    return {
        "prompts": len({pair.prompt for pair in pairs}),
        "pairs": len(pairs),
        "preference_accuracy": mean([pair.gap > 0 for pair in pairs]),
        "reward_accuracy": mean([pair.margin > 0 for pair in pairs]),
        "margin": mean([pair.margin for pair in pairs]),
    }
