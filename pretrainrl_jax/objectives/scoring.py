"""The score engine: log-probabilities of given branches, in one forward pass over packed rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.model.attention import TreeRows
from pretrainrl_jax.model.beginnings import Before, Beginnings, cache_before, read_beginnings
from pretrainrl_jax.model.decoder import HiddenStates, KVCache, Model, Params
from pretrainrl_jax.model.layers import Auxiliary
from pretrainrl_jax.model.mesh import constrain, round_up_rows
from pretrainrl_jax.model.partitioning import place_rows, replicate, results
from pretrainrl_jax.model.vocabulary import check_tokens
from pretrainrl_jax.objectives.bucketed import bucket_logps
from pretrainrl_jax.objectives.sums import branch_sums
from pretrainrl_jax.objectives.token_logps import token_and_ending_logps, token_logps
from pretrainrl_jax.trees.anchors import AnchorBatch
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.layouts import Capacity, size
from pretrainrl_jax.trees.packing import capacity, pack, plan
from pretrainrl_jax.trees.tree import AnswerTree

ROWS = 16  # scored at a time, unless a caller says otherwise


def source_states(
    model: Model, params: Params, batch: PackedBatch, earlier: Before | None = None
) -> HiddenStates:
    """What the decoder computes; `hidden` of the states that predict something, [rows, sources, model]."""
    rows = TreeRows(batch.tree_id, batch.branch_id, longest=batch.targets.shape[-1])  # each token is one
    positions: Any = batch.positions
    caches: tuple[KVCache, ...] = ()
    if earlier is not None:
        cache, lengths = cache_before(model, earlier, batch.tokens.shape[1])
        positions, caches = positions + lengths[:, None], (cache,)
    states = model.hidden(params, batch.tokens, positions, rows, caches)
    if batch.sources.shape[-1] == batch.tokens.shape[-1]:
        return states
    hidden = jnp.take_along_axis(states.hidden, batch.sources[..., None], axis=1)
    return states._replace(hidden=constrain(hidden, model.layout, "rows", None, None))


def target_logps(
    model: Model,
    params: Params,
    batch: PackedBatch,
    temperature: jax.Array | float | None = None,
    earlier: Before | None = None,
) -> tuple[jax.Array, Auxiliary]:
    """Log-probability of every target of packed rows, float32 [rows, targets]; 0 on padding.

    A temperature, above 0, divides every logit. The second is what layers report (`HiddenStates.auxiliary`).
    """
    states = source_states(model, params, batch, earlier)
    hidden = states.hidden if temperature is None else _divided(states.hidden, temperature)
    head = model.head(params).astype(hidden.dtype)
    logps = token_logps(hidden, head, batch.source_index, batch.targets, layout=model.layout)
    return logps, states.auxiliary


def _divided(hidden: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """States whose logits, products with them, are divided by a temperature."""
    return (hidden / temperature).astype(hidden.dtype)


def anchor_states(model: Model, params: Params, anchors: AnchorBatch) -> jax.Array:
    """The final hidden states of rows of anchor text, [rows, time, model] in the compute dtype."""
    rows = TreeRows(anchors.tree_id)
    return model.hidden(params, anchors.tokens, anchors.positions, rows).hidden


def anchor_logps(model: Model, params: Params, anchors: AnchorBatch) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of each state's `top_tokens`, float32 [rows, time, top], and of all other tokens."""
    hidden = anchor_states(model, params, anchors)
    head = model.head(params).astype(hidden.dtype)
    return bucket_logps(hidden, head, anchors.top_tokens, layout=model.layout)


@partial(jax.jit, static_argnums=0)
def score_rows(model: Model, params: Params, batch: PackedBatch, earlier: Before | None = None) -> jax.Array:
    """Summed log-probability of every branch of packed rows, float32 [rows, branches], on every device."""
    logps, _ = target_logps(model, params, batch, earlier=earlier)
    return constrain(branch_sums(logps, batch), model.layout)


@partial(jax.jit, static_argnums=0)
def score_endings(
    model: Model,
    params: Params,
    batch: PackedBatch,
    terminators: jax.Array,
    earlier: Before | None = None,
    temperatures: jax.Array | None = None,
) -> jax.Array:
    """Of every branch of packed rows its summed log-probability, and its probability as an answer.

    The second counts every terminator at the place of its own: an answer ends as probably as all of them
    together. It is what is shown and compared, whatever terminator a model was taught to end with. Every
    branch's own is among `terminators`, bool [vocabulary]. They are float32 [rows, branches, 2], in nats, on
    every device; with `temperatures`, float32 and above 0, which divide every logit, the second at each of
    them: [rows, branches, temperatures], of one forward pass.
    """
    hidden = source_states(model, params, batch, earlier).hidden

    def of_states(hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        head = model.head(params).astype(hidden.dtype)
        arguments = hidden, head, batch.source_index, batch.targets, terminators
        logps, endings = token_and_ending_logps(*arguments, layout=model.layout)
        there = jnp.pad(batch.target_branch + (batch.source_index >= 0), ((0, 0), (0, 1)))
        last = there[:, :-1] != there[:, 1:]  # a branch's targets stand together, its terminator last
        answers = jnp.where(last, jnp.maximum(endings, logps), logps)  # nor less probable than its own
        return branch_sums(logps, batch), branch_sums(answers, batch)

    if temperatures is None:
        return constrain(jnp.stack(of_states(hidden), -1), model.layout)
    answers = jax.lax.map(lambda by: of_states(_divided(hidden, by))[1], temperatures)
    return constrain(jnp.moveaxis(answers, 0, -1), model.layout)


def score_answers(
    model: Model,
    params: Params,
    trees: Sequence[AnswerTree],
    terminators: np.ndarray,
    temperatures: Sequence[float] = (),
    **packing: Any,
) -> list[list[list[float]]]:
    """`score_trees` by `score_endings`: of each branch both; with `temperatures` what it gives at each."""
    ends, by = replicate((terminators, np.array(temperatures, np.float32)), model.mesh)

    def engine(model: Model, params: Params, batch: PackedBatch, earlier: Before | None) -> jax.Array:
        return score_endings(model, params, batch, ends, earlier, by if temperatures else None)

    return score_trees(model, params, trees, engine=engine, **packing)


def score_trees(
    model: Model,
    params: Params,
    trees: Sequence[AnswerTree],
    *,
    row_length: int,
    rows: int,
    fit: Callable[[Capacity], Capacity] = lambda smallest: smallest,
    engine: Callable[[Model, Params, PackedBatch, Before | None], jax.Array] = score_rows,
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Any]]:
    """Summed log-probability of each branch of each tree, in nats, terminators included.

    Prefixes are only read. What many begin with is read once; trees that share a row go on with the same.

    Args:
        row_length: input tokens a row holds, or as many as the longest tree has beside what it shares.
        rows: rows scored at a time, rounded up to what divides over the devices.
        fit: the sizes of rows to compile for, from the smallest that hold these trees.
        engine: gives [rows, branches, …], something of each branch, whole on every device.
        advance: called with the number of trees finished.
    """
    rows = round_up_rows(model.mesh, rows)
    read = max((max(tree.prefix, default=0) for tree in trees), default=0)
    check_tokens(read, model.shape.vocabulary)  # of what is shared, too
    begun_with = read_beginnings(model, params, [tree.prefix for tree in trees], decoding=False)
    trees = [replace(tree, prefix=tree.prefix[begun_with.shared.length(i) :]) for i, tree in enumerate(trees)]
    sizes = [size(tree, question=False) for tree in trees]
    row_length = max([row_length, *(taken.time for taken in sizes)])
    batches = _batches(sizes, begun_with, row_length, rows)
    holds = fit(capacity(sizes, [row for together in batches for row in together], row_length))

    def begun() -> Iterator[tuple[list[list[int]], jax.Array]]:
        for together in batches:
            filled = [*together, *[[]] * (rows - len(together))]
            batch = pack([[trees[i] for i in row] for row in filled], holds, question=False)
            check_tokens(int(max(batch.tokens.max(), batch.targets.max())), model.shape.vocabulary)
            batch = jax.tree.map(lambda x: place_rows(x, model.mesh), batch)
            earlier = begun_with.before([row[0] if row else None for row in filled])
            yield together, engine(model, params, batch, earlier)

    scores: list[list[Any]] = [[] for _ in trees]
    for together, every in results(begun(), "the scores of a batch"):
        for of_row, row in zip(every, together, strict=False):
            place = 0
            for index in row:
                scores[index] = of_row[place : place + sizes[index].branches].tolist()
                place += sizes[index].branches
        advance(sum(map(len, together)))
    return scores


def _batches(
    sizes: Sequence[Capacity], begun_with: Beginnings, row_length: int, rows: int
) -> list[list[list[int]]]:
    """Batches of rows of trees: those of a row go on with one beginning, those of a batch with like ones."""
    alike: dict[tuple[int, int], list[int]] = {}
    for index, of in enumerate(begun_with.shared.of):
        alike.setdefault((begun_with.size(index), of), []).append(index)
    planned: dict[int, list[list[int]]] = {}
    for (before, _), own in sorted(alike.items()):
        packed = plan([sizes[index].time for index in own], row_length)
        planned.setdefault(before, []).extend([own[i] for i in row] for row in packed)
    return [of_size[at : at + rows] for of_size in planned.values() for at in range(0, len(of_size), rows)]
