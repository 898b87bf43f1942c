"""The score engine against sequences one by one."""

import jax
import numpy as np
import pytest
from helpers.models_and_trees import small_model, tree

from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.trees.packing import Capacity
from pretrainrl_jax.trees.tree import AnswerTree, Branch, document

TREES = [
    tree(3, 2, 4, 1),
    tree(1, 1, id="1", start=20),
    tree(7, 5, 5, 3, 2, id="2", start=30),
    AnswerTree("3", (50, 51), ()),
    document("4", (60, 61, 62, 63), None),
    tree(0, 1, 3, id="5", start=70),  # a lone terminator with nothing before it is not predicted
    *(tree(4, 3, 2, id=str(6 + i), start=80) for i in range(4)),
]


def one_by_one(model, params) -> list[list[float]]:
    """The summed log-probability of each branch after its prefix, from logits of plain sequences."""
    sequences = [(t.prefix, b.tokens) for t in TREES for b in t.branches]
    tokens = np.zeros((len(sequences), 16), np.int32)
    for row, (prefix, branch) in zip(tokens, sequences, strict=True):
        row[: len(prefix) + len(branch)] = prefix + branch
    logits = np.float64(model.logits(params, tokens))
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums = iter(
        sum(each[at - 1, row[at]] for at in range(max(len(prefix), 1), len(prefix) + len(branch)))
        for each, row, (prefix, branch) in zip(logps, tokens, sequences, strict=True)
    )
    return [[next(sums) for _ in t.branches] for t in TREES]


@pytest.mark.parametrize(("row_length", "rows"), [(64, 1), (24, 2), (200, 3)])
def test_scores_are_those_of_sequences_one_by_one(row_length, rows):
    model, params = small_model(sharpness=3.0)
    finished, fitted = [], []

    def fit(smallest: Capacity) -> Capacity:
        fitted.append(smallest)
        return smallest._replace(targets=128)

    scores = score_trees(
        model, params, TREES, row_length=row_length, rows=rows, fit=fit, advance=finished.append
    )
    wanted = one_by_one(model, params)
    assert [len(scored) for scored in scores] == [len(scored) for scored in wanted]
    for scored, expected in zip(scores, wanted, strict=True):
        np.testing.assert_allclose(scored, expected, rtol=1e-5, atol=1e-5)
    assert scores[5][0] == 0
    assert min(map(min, filter(None, scores))) < -20  # far from the trivial case
    assert sum(finished) == len(TREES)
    assert [size.time for size in fitted] == [row_length]


def test_a_row_holds_the_longest_tree():
    model, params = small_model()
    lengths = []

    def fit(smallest: Capacity) -> Capacity:
        lengths.append(smallest.time)
        return smallest

    for row_length in (17, 18, 24):
        score_trees(model, params, TREES, row_length=row_length, rows=1, fit=fit)
    assert lengths == [18, 18, 24]


def test_tokens_of_a_shared_beginning_are_checked_too():
    model, params = small_model()
    trees = [AnswerTree(str(n), (1, 100, *[3] * 40, n), (Branch((2, 0)),)) for n in range(40)]
    with pytest.raises(InputError, match="token 100 has no row"):
        score_trees(model, params, trees, row_length=64, rows=4)


def test_no_trees_have_no_scores():
    model, params = small_model()
    assert score_trees(model, params, [], row_length=8, rows=1) == []
    assert jax.tree.leaves(score_trees(model, params, TREES[3:4], row_length=8, rows=1)) == []


def test_a_token_without_a_row_is_refused_and_never_anothers():
    model, params = small_model()
    beyond = model.shape.vocabulary
    for prefix, branch in (((1, beyond), (2, 0)), ((1,), (2, beyond))):
        tree = AnswerTree("0", prefix, (Branch(branch),))
        with pytest.raises(InputError, match=f"token {beyond} has no row"):
            score_trees(model, params, [tree], row_length=8, rows=1)
    with pytest.raises(InputError, match="has no row"):
        decode(model, params, [(beyond,)], np.ones(beyond, bool), beams=1, max_new_tokens=1, batch=1)
