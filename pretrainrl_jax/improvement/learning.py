"""Candidates for the suffix of a document, and from their scores the tree that is learned."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging.protocol import Kind, RewriteCase
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after, tokens_after
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Role, document


class Candidate(NamedTuple):
    """One continuation of a prefix."""

    kind: Kind
    tokens: tuple[int, ...]  # what is trained
    text: str  # what is judged
    logps: tuple[float, ...] = ()  # of each token as the policy sampled it; empty of what it did not write


def rewrite_case(tokenizer: Tokenizer, cut: Cut) -> RewriteCase:
    """Prefix and suffix of a document as texts."""
    return RewriteCase(tokenizer.decode(cut.prefix), text_after(tokenizer, cut.prefix, cut.suffix))


def candidates_of(
    cut: Cut, kinds: Sequence[str], tokenizer: Tokenizer, rollouts: Sequence[Rollout]
) -> tuple[Candidate, ...]:
    """The candidates of a document that need no rewriter, of equal texts the first alone: original, rollouts.

    A rollout is trained as the tokens that were sampled.
    """
    listed: list[Candidate] = []
    if "original" in kinds:
        listed.append(Candidate("original", cut.suffix, text_after(tokenizer, cut.prefix, cut.suffix)))
    for tokens, logps in rollouts:
        listed.append(Candidate("rollout", tokens, text_after(tokenizer, cut.prefix, tokens), logps))
    return _different(listed)


def rewritten(cut: Cut, tokenizer: Tokenizer, rewrite: str | None) -> Candidate | None:
    """A rewrite of the suffix as a candidate; None, an empty one, or one with a control token is none.

    It is text: it is tokenised as a continuation of the prefix and cut to as many tokens as the original has.
    """
    try:
        tokens = tokens_after(tokenizer, cut.prefix, rewrite)[: len(cut.suffix)] if rewrite else ()
    except InputError:
        tokens = ()
    return Candidate("rewrite", tokens, text_after(tokenizer, cut.prefix, tokens)) if tokens else None


def with_rewrite(candidates: Sequence[Candidate], rewrite: Candidate | None) -> tuple[Candidate, ...]:
    """The candidates with a rewrite behind the original, of equal texts the first alone."""
    originals = [candidate for candidate in candidates if candidate.kind == "original"]
    rollouts = [candidate for candidate in candidates if candidate.kind != "original"]
    return _different([*originals, *([rewrite] if rewrite else []), *rollouts])


def _different(listed: Sequence[Candidate]) -> tuple[Candidate, ...]:
    first = {candidate.text: candidate for candidate in reversed(listed)}
    return tuple(candidate for candidate in listed if first[candidate.text] is candidate)


def coefficients(method: MethodConfig) -> dict[str, dict[str, float]]:
    """What a method minimises, by term: `objectives.loss.total_loss`. "sampler" has no loss: it compares.

    online_dpo: −log σ(β [(S_chosen − ref_chosen) − (S_rejected − ref_rejected)]), summed log-probabilities,
    mean over documents. rf_nll and next_token: the mean NLL of a learned token.
    """
    if method.contrasts:
        return {"dpo": {"weight": 1.0, "beta": method.beta}, "sampler": {}}
    return {"ntp": {"answer": 1.0}} | ({"sampler": {}} if method.judged else {})


def best_and_worst(scores: Sequence[float | None]) -> tuple[int, int] | None:
    """Places of the highest and of the lowest score, the earliest of equals; None where all are equal.

    What has no score is left out.
    """
    known = {place: score for place, score in enumerate(scores) if score is not None}
    if len({*known.values()}) < 2:
        return None
    return max(known, key=known.__getitem__), min(known, key=known.__getitem__)


def judged_tree(
    cut: Cut, candidates: Sequence[Candidate], scores: Sequence[float | None], contrasts: bool
) -> AnswerTree | None:
    """The best candidate chosen and the worst rejected, the first of equals; nothing else is packed.

    None where all scores are equal: such a document teaches nothing. Without contrast the best one stands
    alone.
    """
    selected = best_and_worst(scores)
    if selected is None:
        return None
    roles: tuple[Role, ...] = ("chosen", "rejected") if contrasts else ("chosen",)
    branches = (_branch(candidates[place], role) for place, role in zip(selected, roles, strict=False))
    return AnswerTree(cut.name, cut.prefix, tuple(branches))


def _branch(candidate: Candidate, role: Role) -> Branch:
    behaviour = candidate.logps or math.nan
    return Branch(candidate.tokens, role, candidate.text, behaviour_logp=behaviour, source=candidate.kind)


def plain_tree(
    cut: Cut, kind: str, candidates: Sequence[Candidate], bos: int | None, eos: int, length: int
) -> AnswerTree | None:
    """What next-token training learns of a document: its first candidate, or all of it with its end.

    Of a document that is longer than `length` tokens, BOS and EOS counted, it learns so many first ones. None
    without a candidate.
    """
    if kind == "document":
        return document(cut.name, (*cut.document, eos)[: length - (bos is not None)], bos)
    if not candidates:
        return None
    return AnswerTree(cut.name, cut.prefix, (_branch(candidates[0], "chosen"),))
