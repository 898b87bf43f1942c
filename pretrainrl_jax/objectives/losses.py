"""The objectives over answer trees: NTP, DPO, and PretrainRL, their weighted sum (arXiv 2602.01875).

Each is a few lines over S, the summed log-probability of a slot. Every denominator is a count over the
whole optimizer batch (`Counts`), and every function returns its rows' part of the whole: losses and metrics
of microsteps and devices add up to the batch's. Every tree has one prefix slot and one gold slot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.trees.rows import GOLD, NEGATIVE, PREFIX, Rows


class Weights(NamedTuple):
    """question * NTP(question) + answer * NTP(gold) + answer_mean * NTP(a token of gold) + preference * DPO.

    Traced scalars: one compiled step serves all objectives.
    """

    question: jax.Array | float  # [] float32
    answer: jax.Array | float  # [] float32
    preference: jax.Array | float  # [] float32
    beta: jax.Array | float  # [] float32, 1/nats
    answer_mean: jax.Array | float = 0.0  # [] float32


class Counts(NamedTuple):
    """Denominators: counts over the whole optimizer batch, all microsteps and devices. [] int32 each."""

    questions: jax.Array  # trees: one gold slot each
    questions_with_negatives: jax.Array
    question_tokens: jax.Array  # predicted tokens of prefixes
    answer_tokens: jax.Array  # predicted tokens of gold answers, terminators included
    negatives: jax.Array


def count(rows: Rows) -> Counts:
    """The denominators of a whole batch; its arrays may have any leading axes (microsteps, rows, …)."""
    kind = jnp.where(rows.predictor >= 0, jnp.take_along_axis(rows.slot_kind, rows.target_slot, axis=-1), 0)
    return Counts(
        questions=jnp.sum(rows.slot_kind == GOLD),
        questions_with_negatives=jnp.sum((rows.slot_kind == GOLD) & (_siblings(rows) > 0)),
        question_tokens=jnp.sum(kind == PREFIX),
        answer_tokens=jnp.sum(kind == GOLD),
        negatives=jnp.sum(rows.slot_kind == NEGATIVE),
    )


def slot_logps(logps: jax.Array, rows: Rows) -> jax.Array:
    """S: the summed log-probability of each slot, in nats.

    `logps` [..., targets] float32 -> [..., slots] float32. A comparison and a sum, not a scatter: compiled
    into one loop, and with a fixed order of summation on every device.
    """
    return jnp.where(_members(rows), logps[..., None], 0.0).sum(-2)


def ntp(
    sums: jax.Array, rows: Rows, weights: Weights, counts: Counts, scale: str = "sequence"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Next-token prediction on question and gold answer, in nats.

    With Q and A the sums of −log p over all predicted question tokens and all gold answer tokens of the
    batch, the loss is weights.question * Q/n + weights.answer * A/m. The denominators are

    A third term, weights.answer_mean * M / counts.questions, sums over questions the mean of −log p over the
    gold answer's own tokens, its terminator included, whatever the scale: the length-normalised loss of the
    winner in iterative RPO (arXiv 2404.19733).

    - scale "sequence" (eq. 5: a sum over a sequence's tokens): n = m = counts.questions.
    - scale "token": n = m = the number of predicted tokens whose weight is not zero, which is
      counts.question_tokens (if weights.question ≠ 0) + counts.answer_tokens (if weights.answer ≠ 0).
      A document is a tree with an empty prefix; with weights 0 and 1 the loss is its mean NLL a token.

    Args:
        sums: [..., slots] float32, from `slot_logps`.
        rows: the rows of these sums.
        weights: only `question`, `answer` and `answer_mean` are read.
        counts: denominators of the whole optimizer batch.
        scale: static; see above.

    Returns:
        The loss, and metrics: `loss_ntp`, the same; `logp_gold`, S summed over gold answers /
        counts.questions.
    """
    question = jnp.where(rows.slot_kind == PREFIX, sums, 0.0).sum()
    gold = jnp.where(rows.slot_kind == GOLD, sums, 0.0).sum()
    if scale == "sequence":
        denominator = counts.questions
    elif scale == "token":
        denominator = jnp.where(weights.question != 0, counts.question_tokens, 0)
        denominator += jnp.where(weights.answer != 0, counts.answer_tokens, 0)
    else:
        raise ValueError(f"scale is {scale!r}, and must be 'sequence' or 'token'")
    lengths = jnp.maximum(_slot_lengths(rows), 1)
    mean = jnp.where(rows.slot_kind == GOLD, sums / lengths, 0.0).sum()
    loss = -_ratio(weights.question * question + weights.answer * gold, denominator)
    loss -= weights.answer_mean * _ratio(mean, counts.questions)
    return loss, {"loss_ntp": loss, "logp_gold": _ratio(gold, counts.questions)}


def dpo(
    sums: jax.Array, rows: Rows, weights: Weights, counts: Counts
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Direct preference optimisation of the gold answer against the mined negatives, in nats.

    −log σ(β [(S_gold − ref_gold) − (S_negative − ref_negative)]), averaged over a question's negatives
    (denominator: all negatives of its tree), then over the questions that have any (denominator:
    counts.questions_with_negatives); 0, with no gradient, where no question has. ln 2 when sums and
    references agree. With weights.preference 0, pairs that lack a reference are left out of the metrics;
    otherwise a missing reference (NaN) makes the loss NaN.

    Args:
        sums: [..., slots] float32, from `slot_logps`.
        rows: the rows of these sums, with the reference log-probabilities.
        weights: `beta` is read, and of `preference` only whether it is 0: the loss is not weighted by it.
        counts: denominators of the whole optimizer batch.

    Returns:
        The loss, and metrics: `loss_dpo`, the same; `reward_margin`, the argument of σ, and
        `reward_accuracy`, whether it is positive, both averaged like the loss; `logp_negative`, S summed over
        negatives / counts.negatives.
    """
    negative = rows.slot_kind == NEGATIVE
    gold_slot = jnp.maximum(rows.slot_gold, 0)
    gold_sums, gold_reference = (
        jnp.take_along_axis(of_gold, gold_slot, axis=-1) for of_gold in (sums, rows.slot_reference)
    )
    siblings = _siblings(rows)
    # Unscored is NaN: such a pair is set to 0 before log σ, whose gradient would spread it, and is then left
    # out of the mean.
    scored = ~jnp.isnan(rows.slot_reference) & ~jnp.isnan(gold_reference)
    used = negative & (rows.slot_gold >= 0) & (scored | (weights.preference != 0))
    margin = (gold_sums - gold_reference) - (sums - rows.slot_reference)
    margin = weights.beta * jnp.where(used, margin, 0.0)  # [..., slots]

    def mean(value: jax.Array) -> jax.Array:
        value = jnp.where(used, value / jnp.maximum(siblings, 1), 0.0)
        return _ratio(value.sum(), counts.questions_with_negatives)

    loss = mean(-jax.nn.log_sigmoid(margin))
    return loss, {
        "loss_dpo": loss,
        "reward_margin": mean(margin),
        "reward_accuracy": mean((margin > 0).astype(jnp.float32)),
        "logp_negative": _ratio(jnp.where(negative, sums, 0.0).sum(), counts.negatives),
    }


def pretrainrl(
    logps: jax.Array, rows: Rows, weights: Weights, counts: Counts, scale: str = "sequence"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = L_NTP + weights.preference * L_DPO: see `ntp` and `dpo` for every term and denominator.

    Weights (1, 1, 1) are the paper's loss with λ = 1, (1, 1, 0) its NTP baseline (continued training),
    (0, 1, 0) fine-tuning on answers, and (0, 0, 1) its DPO baseline; preference 1 and answer_mean α is
    iterative RPO's DPO + α · NLL of the winner (arXiv 2404.19733).

    Args:
        logps: [..., targets] float32, from `token_logps`.
        rows: the rows these were computed for; any part of the optimizer batch.
        weights: traced scalars.
        counts: denominators of the whole optimizer batch, from `count`.
        scale: static; the denominator of NTP.

    Returns:
        This part's loss, and metrics that add up over parts like it: `loss`, `loss_ntp` (weighted),
        `loss_dpo` (not weighted), `logp_gold`, `logp_negative`, `reward_margin`, `reward_accuracy`.
    """
    sums = slot_logps(logps, rows)
    loss_ntp, metrics_ntp = ntp(sums, rows, weights, counts, scale)
    loss_dpo, metrics_dpo = dpo(sums, rows, weights, counts)
    loss = loss_ntp + weights.preference * loss_dpo
    return loss, {"loss": loss, **metrics_ntp, **metrics_dpo}


def _members(rows: Rows) -> jax.Array:
    """[..., targets, slots] bool: the target's log-probability is summed into the slot."""
    slots = jnp.arange(rows.slot_kind.shape[-1])
    return (rows.target_slot[..., None] == slots) & (rows.predictor >= 0)[..., None]


def _slot_lengths(rows: Rows) -> jax.Array:
    """[..., slots] int32: predicted tokens of each slot."""
    return _members(rows).sum(-2)


def _siblings(rows: Rows) -> jax.Array:
    """[..., slots] int32: how many negatives the slot's tree has."""
    same_tree = rows.slot_tree[..., :, None] == rows.slot_tree[..., None, :]
    negative = (rows.slot_kind == NEGATIVE) & (rows.slot_gold >= 0)
    return (same_tree & negative[..., None, :]).sum(-1)


def _ratio(total: jax.Array, number: jax.Array) -> jax.Array:
    """total / number, and 0 where there is nothing to average."""
    return total / jnp.maximum(number, 1)
