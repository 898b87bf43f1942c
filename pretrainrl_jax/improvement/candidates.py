"""Candidates for the suffix of a document: the original, a rewrite of it, and the policy's own rollouts."""

from collections.abc import Sequence
from typing import NamedTuple

from pretrainrl_jax.decoding.rollouts import Rollout
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.judging.protocol import Kind, RewriteCase
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after, tokens_after


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
