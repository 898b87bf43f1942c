"""How far the trainer's log-probabilities are from the sampler's: no loss, only what is compared."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pretrainrl_jax.objectives.sums import Counts, Scored
from pretrainrl_jax.trees.batch import PackedBatch


def sampler(
    scored: Scored, batch: PackedBatch, coefficients: Mapping[str, jax.Array], counts: Counts
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """|log p of the trainer − log p as it was sampled| of every token whose `behaviour_logp` is known.

    On the parameters that sampled them the two are one number computed in two ways: by decoding with a cache,
    and by one pass over packed rows. Gives 0, and in nats `logp_gap_total` and `logp_gap_max` over the rows'
    tokens, which are `logp_gap_tokens`; 0 where there are none.
    """
    known = jnp.isfinite(batch.behaviour_logp) & (batch.source_index >= 0)
    gap = jnp.abs(scored.logps - jnp.where(known, batch.behaviour_logp, scored.logps))
    gap = jax.lax.stop_gradient(gap)
    return jnp.float32(0), {
        "logp_gap_total": gap.sum(),
        "logp_gap_max": gap.max(),
        "logp_gap_tokens": known.sum().astype(jnp.float32),
    }
