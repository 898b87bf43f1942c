"""Next-token prediction on prefixes and chosen branches."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pretrainrl_jax.objectives.sums import Counts, Scored, ratio
from pretrainrl_jax.trees.batch import CHOSEN, PREFIX, PackedBatch


def ntp(
    scored: Scored,
    batch: PackedBatch,
    coefficients: Mapping[str, jax.Array],
    counts: Counts,
    scale: str = "sequence",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """−log p of prefixes and chosen branches, in nats: PretrainRL's L_NTP (arXiv 2602.01875, eq. 5).

    With −log p summed over a branch's predicted tokens, a tree has Q of its prefix, A, the mean of its chosen
    branches by their weights, and M, the mean of the same divided by each one's number of tokens, terminator
    included (the length-normalised loss of the winner in iterative RPO, arXiv 2404.19733). Trees without a
    chosen branch take no part. The loss is

        (question · ΣQ + answer · ΣA) / n + answer_mean · ΣM / trees

    - scale "sequence" (eq. 5: a sum over a sequence's tokens): n = trees, all that have a chosen branch.
    - scale "token": n = the predicted tokens of prefixes, if `question` is given, and those of chosen
      branches by their weights, if `answer` is. A document is a tree with an empty prefix; with
      `answer` 1 the loss is its mean NLL a token.

    What of `question`, `answer` and `answer_mean` has no coefficient is not computed. The scale is static.
    """
    if scale not in ("sequence", "token"):
        raise ValueError(f"scale is {scale!r}, and must be 'sequence' or 'token'")
    if unknown := set(coefficients) - {"question", "answer", "answer_mean"}:
        raise ValueError(f"NTP has no coefficient {', '.join(sorted(unknown))}")
    shares = {
        "question": jnp.where(batch.branch_role == PREFIX, batch.branch_share, 0.0),
        "answer": jnp.where(batch.branch_role == CHOSEN, batch.branch_share, 0.0),
    }
    tokens = {"question": counts.question_tokens, "answer": counts.answer_tokens}
    given = [name for name in shares if name in coefficients]
    n = counts.chosen_trees if scale == "sequence" else sum(tokens[name] for name in given)
    loss = jnp.float32(0)
    for name in given:
        loss -= coefficients[name] * ratio((shares[name] * scored.sums).sum(), n)
    if "answer_mean" in coefficients:
        mean = shares["answer"] * scored.sums / jnp.maximum(scored.lengths, 1)
        loss -= coefficients["answer_mean"] * ratio(mean.sum(), counts.chosen_trees)
    return loss, {"loss_ntp": loss}
