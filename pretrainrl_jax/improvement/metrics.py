"""What a step of self-improvement looked like, in numbers for metrics.jsonl."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.evaluation.truthfulness import variety
from pretrainrl_jax.improvement.learning import Candidate
from pretrainrl_jax.judging.protocol import Counts, total
from pretrainrl_jax.trees.tree import AnswerTree

KINDS = ("original", "rewrite", "rollout")


class Judged(NamedTuple):
    """A document, what may continue it, and what the judge says."""

    cut: Cut
    prefix: str  # its text
    candidates: tuple[Candidate, ...]
    scores: tuple[float | None, ...]  # none where nobody judges; None of a candidate that is left out
    parts: Mapping[str, tuple[float | None, ...]]
    tree: AnswerTree | None  # what is learned of it; None: nothing
    counts: Counts = MappingProxyType({})  # what happened while it was judged, as "quality.comparisons"


Metrics = dict[str, float | None]  # None: there was nothing to measure


def verdict_metrics(judged: Sequence[Judged]) -> Metrics:
    """Shares of chosen and rejected candidates by kind, over learned documents; mean scores; ties."""
    learned = [one.tree for one in judged if one.tree]
    metrics: Metrics = {"learned": float(len(learned)), "dropped_ties": float(len(judged) - len(learned))}
    branches = [branch for one in judged if one.tree and one.scores for branch in one.tree.branches]
    for role in ("chosen", "rejected"):
        sources = [branch.source for branch in branches if branch.role == role]
        for kind in KINDS:
            metrics[f"{role}_{kind}"] = _mean(source == kind for source in sources)
    for kind in KINDS:
        metrics[f"score_{kind}"] = _mean(
            score
            for one in judged
            for candidate, score in zip(one.candidates, one.scores, strict=bool(one.scores))
            if candidate.kind == kind and score is not None
        )
    for part in judged[0].parts if judged else ():
        known = (score for one in judged for score in one.parts[part] if score is not None)
        metrics[f"score_part_{part}"] = _mean(known)
    metrics["left_out"] = float(sum(one.scores.count(None) for one in judged))
    return metrics | asking_metrics(judged)


SHARES = {  # of a metric, what is counted and of how many
    "first_wins": ("quality.first_won", "quality.comparisons"),
    "longer_wins": ("quality.longer_won", "quality.unequal"),
    "orders_differ": ("quality.orders_differ", "quality.orders"),
    "rewrites_used": ("rewrite.used", "rewrite.asked"),
    "safe_copied": ("rewrite.safe_copied", "rewrite.safe"),
}


def asking_metrics(judged: Sequence[Judged]) -> Metrics:
    """What the step's verdicts say of judge and rewriter: shares, and verdicts that could not be read."""
    counts = total(one.counts for one in judged)
    metrics: Metrics = {
        name: counts[part] / counts[whole] if counts.get(whole) else None
        for name, (part, whole) in SHARES.items()
        if whole in counts
    }
    for what in ("verdicts", "malformed", "unreadable"):
        own = [count for name, count in counts.items() if name.endswith(f".{what}")]
        metrics |= {what: float(sum(own))} if own else {}
    if asked := metrics.get("verdicts"):
        metrics["unreadable_share"] = (metrics["unreadable"] or 0.0) / asked
    return metrics


def rollout_metrics(judged: Iterable[Judged]) -> Metrics:
    """Length, entropy and variety of the step's rollouts.

    `rollout_entropy` is the mean of −log p of sampled tokens, nats a token. `distinct_ngrams` is the share of
    distinct ones among the 3-grams of tokens of all rollouts. `same_text` is the share of documents that have
    the commonest text of all rollouts among theirs; below two documents there is none.
    """
    documents = [[c for c in one.candidates if c.kind == "rollout"] for one in judged]
    rollouts = [rollout for of_document in documents for rollout in of_document]
    texts = Counter(text for own in documents for text in {rollout.text for rollout in own})
    written = [of_document for of_document in documents if of_document]
    return {
        "rollout_tokens": _mean(len(rollout.tokens) for rollout in rollouts),
        "rollout_entropy": _mean(-logp for rollout in rollouts for logp in rollout.logps),
        "distinct_ngrams": variety([rollout.tokens for rollout in rollouts])["distinct_ngrams"],
        "same_text": max(texts.values()) / len(written) if len(written) > 1 else None,
    }


def gap_metrics(metrics: Mapping[str, float]) -> Metrics:
    """Sampler against trainer, nats a token, from what the term `sampler` adds up; None without rollouts."""
    tokens = metrics.get("logp_gap_tokens", 0.0)
    known = tokens > 0
    return {
        "logp_gap_mean": float(metrics["logp_gap_total"] / tokens) if known else None,
        "logp_gap_max": float(metrics["logp_gap_max"]) if known else None,
    }


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return float(np.mean(listed)) if listed else None
