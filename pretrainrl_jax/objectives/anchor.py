"""The anchor: on text that the base model wrote, stay as it was. Our own (docs/methods.md)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pretrainrl_jax.objectives.sums import Counts, ratio
from pretrainrl_jax.trees.anchors import AnchorBatch

FLOOR = -46.0
"""Log-probability (nats, 1e-20) of the rest below which it is taken to be this, and has no gradient."""


def bucketed_kl(base: tuple[jax.Array, jax.Array], policy: tuple[jax.Array, jax.Array]) -> jax.Array:
    """KL(base ‖ policy) in nats where all tokens but k are one bucket.

    A lower bound of the full divergence, by the log-sum inequality: what moves among the tokens of the
    bucket is not seen.

    Args:
        base: log-probabilities [..., k] of the tokens, 0 of probability 0 where there is none (-inf), and of
            the rest [...], float32.
        policy: the same of the same tokens.

    Returns:
        [...] float32; the policy's rest counts as `FLOOR` where it is less, without a gradient.
    """
    (tokens, rest), (own, own_rest) = base, policy

    def part(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
        there = log_p > -jnp.inf
        p = jnp.where(there, jnp.exp(jnp.where(there, log_p, 0.0)), 0.0)
        return jnp.where(there, p * (jnp.where(there, log_p, 0.0) - log_q), 0.0)

    floored = jnp.where(own_rest > FLOOR, own_rest, FLOOR)
    return part(tokens, own).sum(-1) + part(rest, floored)


def anchor(
    policy: tuple[jax.Array, jax.Array],
    anchors: AnchorBatch,
    coefficients: Mapping[str, jax.Array],
    counts: Counts,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The bucketed KL(base ‖ policy), summed over the anchor tokens of the batch, a question of the batch.

    A mean over tokens would be weaker by as many tokens as there are to a question. 0 at the base model, with
    a gradient of 0. The policy's log-probabilities of the anchors' tokens and of the rest are those of
    `bucket_logps`; `anchors` are rows of anchor text, with the base model's; the coefficient is `weight`.

    Returns:
        The weighted loss; and `loss_anchor` without the weight, `anchor_kl`, its mean over anchor tokens.
    """
    used = anchors.tree_id > 0
    kl = jnp.where(used, bucketed_kl((anchors.top_logps, anchors.rest_logp), policy), 0.0).sum()
    loss = ratio(kl, counts.trees)
    return coefficients["weight"] * loss, {"loss_anchor": loss, "anchor_kl": ratio(kl, counts.anchor_tokens)}
