"""From candidates and their scores to the tree that is learned."""

import math
from collections.abc import Sequence

from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.improvement.candidates import Candidate
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Role, document

# Of the objective of each update, by term: `objectives.loss.total_loss`. "sampler" has no loss: it compares.
COEFFICIENTS = {
    "online_dpo": {"dpo": {"weight": 1.0}, "sampler": {}},
    "rf_nll": {"ntp": {"answer": 1.0}, "sampler": {}},
    "next_token": {"ntp": {"answer": 1.0}},
}


def coefficients(method: MethodConfig) -> dict[str, dict[str, float]]:
    """What a method minimises.

    online_dpo: −log σ(β [(S_chosen − ref_chosen) − (S_rejected − ref_rejected)]), summed log-probabilities,
    mean over documents. rf_nll and next_token: the mean NLL of a learned token.
    """
    named = {term: dict(weights) for term, weights in COEFFICIENTS[method.update].items()}
    if "dpo" in named:
        named["dpo"]["beta"] = method.beta
    return named


def best_and_worst(scores: Sequence[float | None]) -> tuple[int, int] | None:
    """Places of the highest and of the lowest score, the earliest of equals; None where all are equal.

    What has no score is left out.
    """
    known = {place: score for place, score in enumerate(scores) if score is not None}
    if len({*known.values()}) < 2:
        return None
    best, worst = (pick(known, key=known.__getitem__) for pick in (max, min))
    return best, worst


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
