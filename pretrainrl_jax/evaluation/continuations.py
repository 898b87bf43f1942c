"""How probable given continuations are, and whether greedy decoding would write them: multiple choice.

Continuations of one context are the branches of one tree, so a context is read once. Its own tokens are
read and never predicted: only the hidden states that predict a continuation meet the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.objectives.losses import slot_logps
from pretrainrl_jax.objectives.scoring import row_hidden, score_trees
from pretrainrl_jax.objectives.token_logps import greedy_tokens, token_logps
from pretrainrl_jax.trees.rows import GOLD, Rows
from pretrainrl_jax.trees.tree import AnswerTree, Branch

SHORTEST_ROW = 256  # rows hold 256, 384, 512, 768, … tokens: few compilations however many lengths there are
FEWEST = 8  # branches that a tree may have however short it is

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation


@dataclass(frozen=True)
class Shared:
    """Some continuations of one context, as a tree, and the places they were asked at."""

    tree: AnswerTree
    numbers: tuple[int, ...]  # of its branches, in their order


class Judged(NamedTuple):
    """A continuation under a model."""

    logp: float  # summed over its tokens, nats
    greedy: bool  # each of its tokens is the most probable one


class Asked(NamedTuple):
    """Rows whose prefixes are not predicted."""

    rows: Rows  # `predictor` is an index in `states`
    states: Any  # int32 [rows, states], index in `time` of every hidden state that predicts something


def row_length(tokens: int) -> int:
    """The length of the rows that a tree of so many input tokens is laid in."""
    power = max(SHORTEST_ROW, 1 << (tokens - 1).bit_length())
    return power * 3 // 4 if SHORTEST_ROW <= tokens <= power * 3 // 4 else power


def share(pairs: Sequence[Pair]) -> list[Shared]:
    """Trees of all pairs. Those with one context share a tree, as far as a row for the longest has room.

    Of a short context with very many continuations several trees are made: a row's targets and slots stay in
    proportion to its tokens.

    Args:
        pairs: contexts and continuations, none empty.
    """
    by_context: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        by_context.setdefault(context, []).append(number)
    found = []
    for context, numbers in by_context.items():
        room = row_length(len(context) + max(len(pairs[n][1]) for n in numbers) - 1)
        part: list[int] = []
        used = len(context)
        for number in numbers:
            read = len(pairs[number][1]) - 1
            if part and (used + read > room or len(part) >= max(FEWEST, used)):
                found.append(_shared(context, part, pairs))
                part, used = [], len(context)
            part.append(number)
            used += read
        found.append(_shared(context, part, pairs))
    return found


def _shared(context: tuple[int, ...], numbers: Sequence[int], pairs: Sequence[Pair]) -> Shared:
    branches = tuple(Branch(pairs[number][1], GOLD) for number in numbers)
    return Shared(AnswerTree(str(numbers[0]), context, branches), tuple(numbers))


def judge(
    model: Model,
    params: Params,
    shared: Sequence[Shared],
    *,
    tokens: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Judged]:
    """Judge every continuation.

    Args:
        model: the decoder.
        params: its parameters.
        shared: what `share` made of the pairs.
        tokens: tokens of a batch of rows, at least one row.
        advance: called with the number of trees finished.

    Returns:
        For each pair, in the order they were asked, its log-probability and whether it is greedy.
    """
    found: dict[int, Judged] = {}
    by_length: dict[int, list[Shared]] = {}
    for of in shared:
        by_length.setdefault(row_length(of.tree.inputs), []).append(of)
    for length, together in sorted(by_length.items()):
        results = score_trees(
            model,
            params,
            [of.tree for of in together],
            row_length=length,
            rows=max(1, tokens // length),
            prepare=branches_alone,
            engine=judge_rows,
            advance=advance,
        )
        for of, branches in zip(together, results, strict=True):
            for number, (logp, missed) in zip(of.numbers, branches, strict=True):
                found[number] = Judged(logp, missed == 0)
    return [found[number] for number in range(len(found))]


def branches_alone(rows: Rows) -> Asked:
    """A batch of rows, on the host, without the prefixes' targets.

    Sizes go in steps of four: batches of like tasks compile once.
    """
    of_branch = np.take_along_axis(rows.slot_kind, rows.target_slot, 1) == GOLD
    kept = [np.flatnonzero(row) for row in (rows.predictor >= 0) & of_branch]
    wanted = [np.unique(of[at], return_inverse=True) for of, at in zip(rows.predictor, kept, strict=True)]
    count, time = rows.tokens.shape
    targets = _fitted(max(len(at) for at in kept))
    states = np.zeros((count, min(time, _fitted(max(len(s) for s, _ in wanted)))), np.int32)
    predictor = np.full((count, targets), -1, np.int32)
    target, slot = (np.zeros((count, targets), np.int32) for _ in range(2))
    for row, (at, (distinct, which)) in enumerate(zip(kept, wanted, strict=True)):
        states[row, : len(distinct)] = distinct
        predictor[row, : len(at)] = which
        target[row, : len(at)], slot[row, : len(at)] = rows.targets[row, at], rows.target_slot[row, at]
    more = _fitted(rows.slot_kind.shape[1]) - rows.slot_kind.shape[1]
    slots = {
        name: np.pad(getattr(rows, name), ((0, 0), (0, more)))
        for name in ("slot_kind", "slot_tree", "slot_gold", "slot_reference")
    }
    return Asked(rows._replace(targets=target, predictor=predictor, target_slot=slot, **slots), states)


def _fitted(n: int) -> int:
    """16, 64, 256, …: the first that holds n."""
    size = 16
    while size < n:
        size *= 4
    return size


@partial(jax.jit, static_argnums=0)
def judge_rows(model: Model, params: Params, asked: Asked) -> jax.Array:
    """Of every slot its summed log-probability and how many of its tokens are not greedy.

    float32 [rows, slots, 2], whole on every device.
    """
    rows = asked.rows
    hidden = jnp.take_along_axis(row_hidden(model, params, rows), asked.states[..., None], axis=1)
    hidden = constrain(hidden, model.layout, "rows", None, None)
    head = model.head(params).astype(hidden.dtype)
    logps = token_logps(hidden, head, rows.predictor, rows.targets, layout=model.layout)
    likeliest = greedy_tokens(hidden, head, layout=model.layout)
    greedy = jnp.take_along_axis(likeliest, jnp.maximum(rows.predictor, 0), axis=1)
    missed = (greedy != rows.targets).astype(jnp.float32)  # `slot_logps` leaves padding out
    return constrain(jnp.stack([slot_logps(logps, rows), slot_logps(missed, rows)], axis=-1), model.layout)
