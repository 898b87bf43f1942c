"""What every term of an objective reads: log-probabilities summed by branch, and the batch's denominators."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainrl_jax.trees.anchors import AnchorBatch
from pretrainrl_jax.trees.batch import CANDIDATE, CHOSEN, PREFIX, REJECTED, PackedBatch


class Scored(NamedTuple):
    """Log-probabilities of some packed rows, in nats."""

    logps: jax.Array  # [..., targets] float32, of each target; 0 on padding
    sums: jax.Array  # [..., branches] float32, S: summed over a branch's targets
    lengths: jax.Array  # [..., branches] int32, predicted tokens of a branch


class Counts(NamedTuple):
    """Denominators: counts over the whole optimizer batch, all microsteps and devices. [] each.

    Every term divides by these, and so gives its rows' part of the whole: losses and metrics of microsteps
    and devices add up to the batch's.
    """

    trees: jax.Array
    chosen_trees: jax.Array  # with a chosen branch
    paired_trees: jax.Array  # with a pair
    pairs: jax.Array  # float32: by their weights
    question_tokens: jax.Array  # float32: predicted tokens of prefixes of trees with a chosen branch
    answer_tokens: jax.Array  # float32: predicted tokens of chosen branches, by their weights
    rejected: jax.Array  # rejected branches
    candidates: jax.Array  # candidate branches
    candidate_tokens: jax.Array  # predicted tokens of candidate branches
    anchor_tokens: jax.Array | int = 0  # anchor text that is read, each token of which predicts one


def count(batch: PackedBatch, anchors: AnchorBatch | None = None) -> Counts:
    """The denominators of a whole batch; its arrays may have any leading axes (microsteps, rows, …)."""
    lengths = _members(batch).sum(-2)
    tokens = lengths * batch.branch_share
    role = batch.branch_role
    return Counts(
        batch.trees.sum(),
        batch.chosen_trees.sum(),
        batch.paired_trees.sum(),
        batch.pair_weight.sum(),
        jnp.where(role == PREFIX, tokens, 0.0).sum(),
        jnp.where(role == CHOSEN, tokens, 0.0).sum(),
        (role == REJECTED).sum(),
        (role == CANDIDATE).sum(),
        jnp.where(role == CANDIDATE, lengths, 0).sum(),
        0 if anchors is None else (anchors.tree_id > 0).sum(),
    )


def score(logps: jax.Array, batch: PackedBatch) -> Scored:
    """Log-probabilities by target, [..., targets] float32, and by branch."""
    return Scored(logps, branch_sums(logps, batch), _members(batch).sum(-2))


def branch_sums(values: jax.Array, batch: PackedBatch) -> jax.Array:
    """Values of targets [..., targets] float32 summed by branch, [..., branches]; padding is left out.

    A comparison and a sum, not a scatter: compiled into one loop, and with a fixed order of summation on
    every device.
    """
    return jnp.where(_members(batch), values[..., None], 0.0).sum(-2)


def _members(batch: PackedBatch) -> jax.Array:
    """[..., targets, branches] bool: the target belongs to the branch."""
    branches = jnp.arange(batch.branch_role.shape[-1])
    return (batch.target_branch[..., None] == branches) & (batch.source_index >= 0)[..., None]


def ratio(total: jax.Array, number: jax.Array | int) -> jax.Array:
    """total / number, and 0 where there is nothing to average."""
    return total / jnp.where(number > 0, number, 1)
