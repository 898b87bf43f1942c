"""The sampler's log-probabilities against the trainer's."""

import jax
import numpy as np
import pytest
from helpers.models_and_trees import small_model

from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import capacity, pack
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch

PREFIXES = [(1, 2, 3), (4, 5), (7, 8, 9, 10, 11)]


def test_decoding_and_one_pass_over_rows_give_the_same_log_probabilities():
    model, params = small_model(sharpness=3.0)
    eos = (3, 17)
    how = {"temperature": 0.7, "top_p": 0.8, "seed": 5, "batch": 2, "numbers": [9, 4, 2], "shortest": 4}
    loaded = Loaded(model, params, Tokenizer(None, None, eos), Template("bare"))
    rollouts = loaded.rollouts(PREFIXES, samples=12, max_new_tokens=9, **how)
    for of_prefix in rollouts:
        for tokens, logps in of_prefix:
            assert len(tokens) == len(logps)
            assert len(tokens) == 9 or tokens[-1] in eos
            assert not set(tokens[:-1]) & set(eos)
    lengths = {len(tokens) for of_prefix in rollouts for tokens, _ in of_prefix}
    assert 9 in lengths
    assert min(lengths) < 9

    trees = [
        AnswerTree("x", prefix, tuple(Branch(t, behaviour_logp=logps) for t, logps in own))
        for prefix, own in zip(PREFIXES, rollouts, strict=True)
    ]
    sizes = [size(tree, question=False) for tree in trees]
    rows = pack([[tree] for tree in trees], capacity(sizes, [[0], [1], [2]], 128), question=False)
    logps, _ = jax.jit(target_logps, static_argnums=0)(model, params, rows)

    @jax.jit
    def compared(rows):
        return total_loss(logps, rows, {"sampler": {}}, count(rows))

    def gaps(rows) -> dict[str, float]:
        loss, metrics = compared(rows)
        assert float(loss) == 0.0
        return {name: float(value) for name, value in metrics.items() if name.startswith("logp_gap")}

    same = gaps(rows)
    assert same["logp_gap_tokens"] == sum(len(t) for own in rollouts for t, _ in own)
    assert same["logp_gap_max"] < 1e-5
    moved = gaps(rows._replace(behaviour_logp=np.where(np.arange(rows.targets.shape[-1]) == 4, -9.0, np.nan)))
    wanted = np.abs(np.asarray(logps)[:, 4] + 9.0)
    assert moved["logp_gap_tokens"] == 3
    assert moved["logp_gap_max"] == pytest.approx(wanted.max(), rel=1e-6)
    assert moved["logp_gap_total"] == pytest.approx(wanted.sum(), rel=1e-6)
