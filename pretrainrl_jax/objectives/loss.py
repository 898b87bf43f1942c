"""An objective: a sum of named terms over the log-probabilities of branches, one file a term."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainrl_jax.objectives.anchor import anchor
from pretrainrl_jax.objectives.dpo import dpo
from pretrainrl_jax.objectives.grpo import grpo
from pretrainrl_jax.objectives.ntp import ntp
from pretrainrl_jax.objectives.sums import Counts, Scored, ratio, score
from pretrainrl_jax.trees.anchors import AnchorBatch
from pretrainrl_jax.trees.batch import CHOSEN, PackedBatch

# A term is a function of log-probabilities, the rows these are of (the optimizer batch or a part of it), its
# coefficients, and the denominators of the whole batch; it gives the rows' part of its loss, and its metrics.

# By term, by name: traced scalars, float32. Which there are is static: it is the dictionary's structure.
Coefficients = Mapping[str, Mapping[str, jax.Array | float]]


def total_loss(
    logps: jax.Array,
    batch: PackedBatch,
    coefficients: Coefficients,
    counts: Counts,
    ntp_scale: str = "sequence",
    dpo_scale: str = "prompts",
    grpo_form: str = "dapo",
    anchored: tuple[AnchorBatch, tuple[jax.Array, jax.Array]] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of the terms that have coefficients: see each term's file for its denominators.

    {"ntp": {"question": λ, "answer": λ}, "dpo": {"weight": 1, "beta": β}} is PretrainRL's L_DPO + λ L_NTP
    (arXiv 2602.01875); without "dpo" its NTP baseline (continued training), with "answer" alone fine-tuning
    on answers; {"ntp": {"answer_mean": α}, "dpo": …} is iterative RPO's DPO + α · NLL of the winner
    (arXiv 2404.19733). One program is compiled for each set of names and batch shape, whatever the numbers.

    Args:
        logps: [..., targets] float32, from `token_logps`; for GRPO at its temperature.
        batch: the rows these were computed for; any part of the optimizer batch.
        counts: denominators of the whole optimizer batch, from `sums.count`.
        ntp_scale, dpo_scale, grpo_form: static, as the terms take them.
        anchored: rows of anchor text, and what `bucket_logps` gives of them, for the term "anchor".

    Returns:
        This part's loss, and metrics that add up over parts like it (of those in `_max` the largest counts):
        `loss`, `logp_gold`, the mean S of chosen branches (by their weights, then over trees), and those of
        each term.
    """
    terms: dict[str, Any] = {"ntp": partial(ntp, scale=ntp_scale), "dpo": partial(dpo, scale=dpo_scale)}
    terms |= {"sampler": sampler, "grpo": partial(grpo, form=grpo_form)}
    if anchored:
        rows, policy = anchored
        terms["anchor"] = lambda _, __, weights, counts: anchor(policy, rows, weights, counts)
    scored = score(logps, batch)
    chosen = jnp.where(batch.branch_role == CHOSEN, batch.branch_share * scored.sums, 0.0)
    loss, metrics = jnp.float32(0), {"logp_gold": ratio(chosen.sum(), counts.chosen_trees)}
    for name, weights in coefficients.items():
        of_term, more = terms[name](scored, batch, weights, counts)
        loss, metrics = loss + of_term, metrics | more
    return loss, {"loss": loss} | metrics


def temperature(coefficients: Coefficients) -> jax.Array | float | None:
    """What logits are divided by: of answers that were sampled so; None where nothing divides them."""
    return coefficients.get("grpo", {}).get("temperature")


def asks(coefficients: Coefficients) -> bool:
    """Whether a term reads the prefixes' own log-probabilities."""
    return "question" in coefficients.get("ntp", {})


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
