"""How probable given continuations are, and whether greedy decoding would write them: multiple choice.

Continuations of one context are the branches of one tree, so a context is read once. Its own tokens are
read and never predicted: only the hidden states that predict a continuation meet the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainrl_jax.evaluation.generation import power_of_four
from pretrainrl_jax.model.beginnings import Before, few_sizes
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.objectives.scoring import score_trees, source_states
from pretrainrl_jax.objectives.sums import branch_sums
from pretrainrl_jax.objectives.token_logps import greedy_tokens, token_logps
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.packing import Capacity
from pretrainrl_jax.trees.tree import AnswerTree, Branch

SHORTEST_ROW = 256  # rows hold 256, 384, 512, 768, … tokens: few compilations however many lengths there are
FEWEST = 8  # branches that a tree may have however short it is

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation


@dataclass(frozen=True)
class Shared:
    """Some continuations of one context, as a tree, and the places they were asked at."""

    tree: AnswerTree
    numbers: tuple[int, ...]  # of its branches, in their order


def share(pairs: Sequence[Pair]) -> list[Shared]:
    """Trees of all pairs. Those with one context share a tree, as far as a row for the longest has room.

    Of a short context with very many continuations several trees are made: a row's targets and branches
    stay in proportion to its tokens. No context and no continuation is empty.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        by_context.setdefault(context, []).append(number)
    parts: list[list[int]] = []
    for context, numbers in by_context.items():
        room = few_sizes(len(context) + max(len(pairs[n][1]) for n in numbers) - 1, SHORTEST_ROW)
        part, used = [], 0
        for number in numbers:
            read = len(pairs[number][1]) - 1
            if not part or used + read > room or len(part) >= max(FEWEST, used):
                parts.append(part := [])
                used = len(context)
            part.append(number)
            used += read
    shared = []
    for part in parts:
        branches = tuple(Branch(pairs[number][1]) for number in part)
        shared.append(Shared(AnswerTree(str(part[0]), pairs[part[0]][0], branches), tuple(part)))
    return shared


def judge(
    model: Model,
    params: Params,
    shared: Sequence[Shared],
    *,
    tokens: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[tuple[float, bool]]:
    """Judge every continuation that `share` made a part of a tree, in the order they were asked.

    Of each the log-probability, summed over its tokens, nats; and whether each of them is the most probable.
    A batch has so many `tokens`, at least one row; `advance` is called with the number of trees finished.
    """
    results = score_by_length(
        model,
        params,
        [one.tree for one in shared],
        rows=lambda length: max(1, tokens // length),
        engine=judge_rows,
        advance=advance,
    )
    by_number: dict[int, tuple[float, bool]] = {}
    for one, branches in zip(shared, results, strict=True):
        for number, (logp, missed) in zip(one.numbers, branches, strict=True):
            by_number[number] = logp, missed == 0
    return [by_number[number] for number in range(len(by_number))]


def score_by_length(
    model: Model, params: Params, trees: Sequence[AnswerTree], *, rows: Callable[[int], int], **packing: Any
) -> list[list[Any]]:
    """`score_trees` of trees of any lengths, in few shapes: each in the shortest row that holds it.

    `rows` of a length are scored at a time.
    """
    by_length: dict[int, list[int]] = {}
    for number, tree in enumerate(trees):
        by_length.setdefault(few_sizes(tree.inputs, SHORTEST_ROW), []).append(number)
    scores: list[list[Any]] = [[] for _ in trees]
    for length, numbers in sorted(by_length.items()):
        together = [trees[number] for number in numbers]
        sizes = {"row_length": length, "rows": rows(length), "fit": fitted}
        results = score_trees(model, params, together, **sizes, **packing)
        for number, result in zip(numbers, results, strict=True):
            scores[number] = result
    return scores


def fitted(size: Capacity) -> Capacity:
    """16, 64, 256, … of everything: batches of like tasks compile once."""
    sources, *others = (power_of_four(n, 16) for n in size[1:])
    return Capacity(size.time, min(size.time, sources), *others)


@partial(jax.jit, static_argnums=0)
def judge_rows(model: Model, params: Params, batch: PackedBatch, earlier: Before | None = None) -> jax.Array:
    """Of every branch its summed log-probability and how many of its tokens are not greedy.

    float32 [rows, branches, 2], whole on every device.
    """
    hidden = source_states(model, params, batch, earlier).hidden
    head = model.head(params).astype(hidden.dtype)
    logps = token_logps(hidden, head, batch.source_index, batch.targets, layout=model.layout)
    likeliest = greedy_tokens(hidden, head, layout=model.layout)
    greedy = jnp.take_along_axis(likeliest, jnp.maximum(batch.source_index, 0), axis=1)
    missed = (greedy != batch.targets).astype(jnp.float32)  # `branch_sums` leaves padding out
    sums = [branch_sums(values, batch) for values in (logps, missed)]
    return constrain(jnp.stack(sums, axis=-1), model.layout)
