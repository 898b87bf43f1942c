"""What mining found, in numbers: diversity, entropy, what the filters took, the commonest falsehoods."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from pretrainrl_jax.decoding.answers import Answer
from pretrainrl_jax.facts.matching import Truths, normalise, why_dropped
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.mining.pools import Agreement, Tallies, distinct_answers, tally
from pretrainrl_jax.trees.tree import AnswerTree, Branch, total

Json = dict[str, Any]
COMMONEST = 20  # falsehoods shown of each category
EXAMPLES = 12  # questions shown


def answer_diversity(answers: Sequence[Answer]) -> tuple[int, float]:
    """Distinct answers among a question's finished beams, and their entropy in nats.

    The entropy is that of the beams' probabilities divided by their sum: how undecided the model is among
    what it would say. 0 where there is one answer or none.
    """
    distinct = distinct_answers(answers)
    p = np.exp(np.array([a.logp for a in distinct.values()]))
    if not p.sum():
        return len(distinct), 0.0
    p = p / p.sum()
    return len(distinct), float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def describe(
    facts: Sequence[Fact],
    trees: Sequence[AnswerTree],
    decoded: Sequence[tuple[Fact, Sequence[Answer]]],
    known: Truths,
    dropped: Mapping[str, Counter[str]],
    pools: Mapping[str, Sequence[str]],
    agreements: Mapping[str, Agreement],
) -> Json:
    """The statistics of a mining run, as plain values for JSON: its own, and those of each category.

    Args:
        trees: those of the facts asked for; here a reference log-probability counts all terminators.
        decoded: questions with their beams; fewer than `facts` where a pool was collected from a sample.
        dropped: by source, how many candidates each reason took.
        pools: the values of each category's pool; empty without one.
        agreements: of each category whose pool was compared with a smaller sample's.
    """
    of_trees = [rejected(tree) for tree in trees]
    negatives, without = list(chain(*of_trees)), of_trees.count([])
    tokens = sum(len(b.tokens) for b in negatives)
    measured = [(fact.category, *answer_diversity(answers)) for fact, answers in decoded]
    # An answer that overlaps a truth counts as neither true nor false.
    commonest = tally(decoded, lambda fact, answer: not why_dropped(answer.text, fact, known, True))
    return {
        "questions": len(facts),
        "trees": len(trees),
        "decoded": len(decoded),
        "without_negatives": without,
        "with_negatives": len(trees) - without,
        "negatives": len(negatives),
        "by_source": dict(Counter(b.source for b in negatives)),
        "dropped": {source: dict(reasons) for source, reasons in dropped.items()},
        "distinct_answers": _mean([d for _, d, _ in measured]),
        "distinct_histogram": dict(sorted(Counter(d for _, d, _ in measured).items())),
        "entropy": _mean([e for _, _, e in measured]),
        "perplexity": math.exp(-sum(total(b.reference_logp) for b in negatives) / tokens) if tokens else None,
        "categories": _categories(facts, trees, measured, commonest, pools, agreements),
        "pool_agreement": _overall(agreements),
        "examples": examples(facts, trees),
    }


def _categories(
    facts: Sequence[Fact],
    trees: Sequence[AnswerTree],
    measured: Sequence[tuple[str, int, float]],
    commonest: Mapping[str, Tallies],
    pools: Mapping[str, Sequence[str]],
    agreements: Mapping[str, Agreement],
) -> Json:
    """Each category's metrics, by name, the largest first."""
    bare = Counter(fact.category for fact, negatives in _paired(facts, trees) if not negatives)
    answered: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for category, number, entropy in measured:
        answered[category].append((number, entropy))
    example = {fact.category: fact.question for fact in reversed(facts)}  # the first one's
    described: Json = {}
    for category, questions in Counter(f.category for f in facts).most_common():
        described[category] = {
            "example": example[category],
            "questions": questions,
            "without_negatives": bare[category],
            "distinct_answers": _mean([d for d, _ in answered[category]]),
            "entropy": _mean([e for _, e in answered[category]]),
            "falsehoods": _shown(commonest.get(category, {})),
            "pool": list(pools.get(category, [])),
        }
        if category in agreements:
            of_category = vars(agreements[category]).items()
            described[category]["agreement"] = {k: v if math.isfinite(v) else None for k, v in of_category}
    return described


def _shown(tallies: Tallies) -> list[Json]:
    """The commonest values: text, questions that gave it, mean probability there."""
    ranked = sorted(tallies.values(), key=lambda t: (-t.questions, -t.probability, t.text))
    means = ((t, _digits(t.probability / t.questions)) for t in ranked[:COMMONEST])
    return [{"text": t.text, "questions": t.questions, "probability": mean} for t, mean in means]


def examples(facts: Sequence[Fact], trees: Sequence[AnswerTree]) -> list[Json]:
    """A few questions with their negatives and probabilities, from the most to the least believed."""
    asked = [(fact, negatives) for fact, negatives in _paired(facts, trees) if negatives]
    believed = sorted(asked, key=lambda pair: -total(pair[1][0].reference_logp))
    return [
        {
            "question": fact.question,
            "answer": fact.answer,
            "negatives": [[b.text, _digits(math.exp(total(b.reference_logp)))] for b in negatives],
        }
        for fact, negatives in believed[:: max(1, len(believed) // EXAMPLES)][:EXAMPLES]
    ]


def rejected(tree: AnswerTree) -> list[Branch]:
    """A tree's negatives, the most believed first."""
    return sorted((b for b in tree.branches if b.role == "rejected"), key=lambda b: -total(b.reference_logp))


def _paired(facts: Sequence[Fact], trees: Sequence[AnswerTree]) -> list[tuple[Fact, list[Branch]]]:
    by_id = {fact.id: fact for fact in facts}
    return [(by_id[tree.id], rejected(tree)) for tree in trees]


def _overall(agreements: Mapping[str, Agreement]) -> Json | None:
    """Means over the categories, as the paper reports them."""
    if not agreements:
        return None
    categories = agreements.values()
    return {
        "questions": max(a.questions for a in categories),
        "categories": len(categories),
        "cosine": _mean([a.cosine for a in categories if math.isfinite(a.cosine)]),
        "spearman": _mean([a.spearman for a in categories if math.isfinite(a.spearman)]),
    }


def share_of(answers: Iterable[str], trees: Sequence[AnswerTree]) -> float | None:
    """The share of negatives that are one of the answers, normalised; None without negatives or answers."""
    shown = {normalise(answer) for answer in answers}
    negatives = [normalise(b.text) for tree in trees for b in rejected(tree)]
    return _mean([text in shown for text in negatives]) if shown else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _digits(p: float) -> float:
    return float(f"{p:.4g}")
