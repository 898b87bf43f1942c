"""The score engine: log-probabilities of given branches, in one forward pass over packed rows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from pretrainrl_jax.hosts.watch import waiting
from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import constrain, whole_rows
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.objectives.losses import slot_logps
from pretrainrl_jax.objectives.token_logps import token_logps
from pretrainrl_jax.trees.dataset import PackedRows, batches
from pretrainrl_jax.trees.rows import Rows
from pretrainrl_jax.trees.tree import AnswerTree


def row_hidden(model: Model, params: Params, rows: Rows) -> jax.Array:
    """Final hidden states of packed rows, [rows, time, model] in the compute dtype."""
    mask = tree_mask(rows.tree_id, rows.branch_id)
    return model.hidden(params, rows.tokens, rows.positions, mask).hidden


def row_logps(model: Model, params: Params, rows: Rows) -> jax.Array:
    """Log-probability of every target of packed rows, float32 [rows, targets]; 0 on padding."""
    hidden = row_hidden(model, params, rows)
    head = model.head(params).astype(hidden.dtype)
    return token_logps(hidden, head, rows.predictor, rows.targets, layout=model.layout)


@partial(jax.jit, static_argnums=0)
def score_rows(model: Model, params: Params, rows: Rows) -> jax.Array:
    """Summed log-probability of every slot of packed rows, float32 [rows, slots], whole on every device."""
    return constrain(slot_logps(row_logps(model, params, rows), rows), model.layout)


def score_trees(
    model: Model,
    params: Params,
    trees: Sequence[AnswerTree],
    *,
    row_length: int,
    rows: int,
    prepare: Callable[[Rows], Any] = lambda rows: rows,
    engine: Callable[[Model, Params, Any], jax.Array] = score_rows,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Any]]:
    """Summed log-probability of each branch of each tree, terminators included.

    Args:
        model: the decoder.
        params: its parameters.
        trees: the trees, each at most `row_length` input tokens.
        row_length: input tokens a row holds.
        rows: rows scored at a time, rounded up to what divides over the devices.
        prepare: what is made of a batch of rows before it is put on the devices.
        engine: gives [rows, slots, …], something of each slot, from what `prepare` gives, whole on every
            device; by default its summed log-probability.
        advance: called with the number of trees finished.

    Returns:
        For each tree, in order, the log-probability of each of its branches (nats), or what `engine` gives of
        it.

    Raises:
        ValueError: if a tree is longer than a row.
    """
    rows = whole_rows(model.mesh, rows)
    source = PackedRows(trees, row_length, seed=0, passes=1, rows=rows)
    scores: list[list[float]] = [[] for _ in trees]
    begun: list[tuple[int, jax.Array]] = []

    def collect() -> None:
        first, result = begun.pop(0)
        finished = 0
        with waiting("the scores of a batch"):
            every = jax.device_get(result)
        for of_row, row in zip(every, source.plan[first : first + rows], strict=False):
            slot = 0
            for index in row:
                count = len(trees[index].branches)
                scores[index] = of_row[slot + 1 : slot + 1 + count].tolist()
                slot += trees[index].slots
            finished += len(row)
        advance(finished)

    for number, batch in enumerate(batches(source)):
        batch = jax.tree.map(lambda x: place_rows(x, model.mesh), prepare(batch))
        begun.append((number * rows, engine(model, params, batch)))
        if len(begun) > 1:  # read a result only while the device already works on the next batch
            collect()
    while begun:
        collect()
    return scores
