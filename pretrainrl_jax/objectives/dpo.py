"""Direct preference optimisation of one branch against another."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pretrainrl_jax.objectives.sums import Counts, Scored, ratio
from pretrainrl_jax.trees.batch import REJECTED, PackedBatch


def dpo(
    scored: Scored,
    batch: PackedBatch,
    coefficients: Mapping[str, jax.Array],
    counts: Counts,
    scale: str = "prompts",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """−log σ(β [(S_chosen − ref_chosen) − (S_rejected − ref_rejected)]), in nats (arXiv 2305.18290).

    ln 2 when sums and references agree; 0, with no gradient, where no tree has a pair. A missing reference
    (NaN) makes the loss NaN.

    Args:
        coefficients: `weight` of the loss, and `beta`, 1/nats.
        scale: static; "prompts": the mean over a tree's pairs by their weights, then over the trees that have
            any (counts.paired_trees); "pairs": the mean over all pairs by their weights (counts.pairs).

    Returns:
        The weighted loss; and `loss_dpo`, without the weight, `reward_margin`, the argument of σ, and
        `reward_accuracy`, whether it is positive, all three averaged like the loss; `logp_negative`, the mean
        S of rejected branches.
    """
    if scale not in ("prompts", "pairs"):
        raise ValueError(f"scale is {scale!r}, and must be 'prompts' or 'pairs'")
    of_trees, of_pairs = (batch.pair_share, counts.paired_trees), (batch.pair_weight, counts.pairs)
    shares, n = of_trees if scale == "prompts" else of_pairs
    used = shares > 0

    def gained(index: jax.Array) -> jax.Array:
        # What stands at padding may be no number: it is set to 0 before anything is computed of it.
        of_branch = [jnp.take_along_axis(x, index, axis=-1) for x in (scored.sums, batch.branch_reference)]
        return jnp.where(used, of_branch[0] - of_branch[1], 0.0)

    margin = coefficients["beta"] * (gained(batch.pair_chosen) - gained(batch.pair_rejected))  # [..., pairs]

    def mean(value: jax.Array) -> jax.Array:
        return ratio((shares * value).sum(), n)

    loss = mean(-jax.nn.log_sigmoid(margin))
    rejected = jnp.where(batch.branch_role == REJECTED, scored.sums, 0.0)
    return coefficients["weight"] * loss, {
        "loss_dpo": loss,
        "reward_margin": mean(margin),
        "reward_accuracy": mean((margin > 0).astype(jnp.float32)),
        "logp_negative": ratio(rejected.sum(), counts.rejected),
    }
