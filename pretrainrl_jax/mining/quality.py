"""How plausible and how varied the negatives of questions are."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining.statistics import rejected
from pretrainrl_jax.trees.tree import AnswerTree, Branch, total

# A truth less probable than this counts as so probable: any nonsense is as probable as the truth of a fact
# that the model has never seen, and what can be gained from a negative is the probability it holds.
LEAST_TRUTH = 0.01


def quality(trees: Sequence[AnswerTree], facts: Sequence[Fact]) -> dict[str, Any]:
    """Of the questions that have negatives, how much these hold, as plain values for JSON.

    `odds` counts them by the whole part of log10 of the probability that all negatives of a question hold,
    divided by that of its truth or by `LEAST_TRUTH`. `most_believed` is, of each category, the text that is
    the most probable negative of the most questions. Reference log-probabilities of the trees count all
    terminators here; `facts` are all that are known, those of the trees among them.
    """
    by_id = {fact.id: fact for fact in facts}
    asked = [(by_id[tree.id], negatives, tree) for tree in trees if (negatives := rejected(tree))]
    odds = Counter[int]()
    commonest: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for fact, negatives, tree in asked:
        held = max(sum(math.exp(total(b.reference_logp)) for b in negatives), 1e-300)
        truth = max(math.exp(total(chosen(tree).reference_logp)), LEAST_TRUTH)
        odds[math.floor(math.log10(held / truth))] += 1
        commonest[fact.category][normalise(negatives[0].text)] += 1
    return {
        "questions": len(asked),
        "odds": {str(power): count for power, count in sorted(odds.items())},
        "most_believed": {
            category: {"text": text, "questions": count, "of": counts.total()}
            for category, counts in commonest.items()
            for text, count in counts.most_common(1)
        },
    }


def chosen(tree: AnswerTree) -> Branch:
    """A tree's true answer."""
    return next(branch for branch in tree.branches if branch.role == "chosen")
