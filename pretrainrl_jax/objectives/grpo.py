"""Policy gradient on groups of sampled answers whose reward is known: GRPO, DAPO, Dr. GRPO."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.objectives.sums import Counts, Scored, branch_sums, ratio
from pretrainrl_jax.trees.batch import CANDIDATE, PackedBatch

FORMS = ("grpo", "dapo", "dr_grpo")
SPREAD = 1e-4  # added to a group's standard deviation


def advantages(rewards: Sequence[float], form: str = "grpo") -> np.ndarray:
    """Of a group's rewards [samples] their advantages, float64: (reward − mean) / (std + 1e-4).

    The standard deviation has n − 1 in its denominator; "dr_grpo" (arXiv 2503.20783) does not divide by it.
    A group of one, or of equal rewards, has advantages of 0.
    """
    values = np.asarray(rewards, np.float64)
    if values.min() == values.max():  # whose mean may be rounded
        return np.zeros(len(values))
    centred = values - values.mean()
    if form == "dr_grpo":
        return centred
    return centred / (values.std(ddof=1) + SPREAD)


def grpo(
    scored: Scored,
    batch: PackedBatch,
    coefficients: Mapping[str, jax.Array],
    counts: Counts,
    form: str = "dapo",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """−min(r·A, clip(r, 1 − low, 1 + high)·A) of every token of the candidates, r the ratio of probabilities.

    r = p / p_behaviour, where both are the softmax of logits divided by one temperature, of all tokens: what
    a sampler leaves out changes neither. Where no behaviour log-probability is known the policy is the one
    that sampled, and r is 1. `kl` adds kl · r · (exp(d) − d − 1) of every token, d = log p_reference − log p;
    with the ratio its gradient is that of the divergence (arXiv 2512.02556).

    - "grpo" (arXiv 2402.03300): the mean over a sample's tokens, then over samples.
    - "dapo" (arXiv 2503.14476): the mean over all tokens of the batch.
    - "dr_grpo" (arXiv 2503.20783): the sum over tokens by the longest a sample may be, then the mean.

    Args:
        scored: log-probabilities at the temperature.
        coefficients: `weight`, `clip_low`, `clip_high`, `max_new_tokens`, and `kl`, if wanted.
        form: static; one of `FORMS`.

    Returns:
        The loss; and `loss_grpo` without the weight, `ratio_max`, `clipped`, the share of tokens whose
        gradient is cut off, and `kl_reference`, the mean over tokens, where it is asked for.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}, and must be one of {', '.join(FORMS)}")
    of_candidate = jnp.take_along_axis(batch.branch_role, batch.target_branch, axis=-1) == CANDIDATE
    used = of_candidate & (batch.source_index >= 0)

    def at_used(values: jax.Array, otherwise: jax.Array | float) -> jax.Array:
        # What stands elsewhere may be no number: it is replaced before anything is computed of it.
        return jnp.where(used & jnp.isfinite(values), values, otherwise)

    logps = jnp.where(used, scored.logps, 0.0)
    behaviour = at_used(batch.behaviour_logp, jax.lax.stop_gradient(logps))
    advantage = at_used(batch.advantage, 0.0)
    r = jnp.exp(logps - behaviour)
    low, high = 1 - coefficients["clip_low"], 1 + coefficients["clip_high"]
    kept = jnp.minimum(r * advantage, jnp.clip(r, low, high) * advantage)

    def mean(values: jax.Array) -> jax.Array:
        """Of tokens [..., targets], by the form."""
        values = jnp.where(used, values, 0.0)
        if form == "dapo":
            return ratio(values.sum(), counts.candidate_tokens)
        if form == "dr_grpo":
            return ratio(values.sum(), counts.candidates) / coefficients["max_new_tokens"]
        of_branch = branch_sums(values, batch) / jnp.maximum(scored.lengths, 1)
        return ratio(of_branch.sum(), counts.candidates)

    def share(values: jax.Array) -> jax.Array:
        return ratio(jnp.where(used, values, 0.0).sum(), counts.candidate_tokens)

    loss = -mean(kept)
    cut = ((advantage > 0) & (r > high)) | ((advantage < 0) & (r < low))
    metrics = {"loss_grpo": loss, "ratio_max": jnp.where(used, r, 0.0).max()}
    metrics["clipped"] = share(cut.astype(jnp.float32))
    total = coefficients["weight"] * loss if "weight" in coefficients else jnp.float32(0)
    if "kl" in coefficients:
        d = jnp.where(used, batch.reference_logp, logps) - logps
        kl = r * (jnp.exp(d) - d - 1)
        total += coefficients["kl"] * mean(kl)
        metrics["kl_reference"] = share(kl)
    return total, metrics
