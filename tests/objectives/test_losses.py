"""The objectives against a float64 brute force that loops over trees."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_model
from small import tree as small_tree

from pretrainrl_jax.objectives.losses import Counts, Weights, count, dpo, ntp, pretrainrl, slot_logps
from pretrainrl_jax.objectives.scoring import row_logps
from pretrainrl_jax.objectives.token_logps import token_logps
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.packing import stack
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE, PREFIX, Rows

VOCABULARY, MODEL = 23, 4
WEIGHTS = [
    Weights(1.0, 1.0, 1.0, 1.0),
    Weights(1.0, 1.0, 0.0, 0.1),
    Weights(0.0, 1.0, 0.0, 0.1),
    Weights(0.0, 0.0, 1.0, 0.1),
    Weights(0.3, 2.0, 0.7, 0.5),
    Weights(0.5, 0.0, 0.0, 0.1),
    Weights(0.0, 0.0, 1.0, 0.1, 1.0),
    Weights(0.3, 0.2, 0.7, 0.5, 0.9),
]


@dataclass
class Tree:
    """A tree, and where its targets went: (row, index among targets) for the prefix and each branch."""

    prefix: list[int]
    branches: list[list[int]]  # the gold answer first; terminators included
    references: list[float]
    places: list[list[tuple[int, int]]]


def random_trees(rng, number, most_negatives=3, document=False):
    """The first tree has no negatives."""

    def tokens(least, most):
        return rng.integers(0, VOCABULARY, rng.integers(least, most + 1)).tolist()

    trees = []
    for index in range(number):
        prefix = [] if document else tokens(1, 5)
        negatives = 0 if index == 0 or document else rng.integers(0, most_negatives + 1)
        branches = [tokens(2, 9) if document else tokens(1, 4) for _ in range(1 + negatives)]
        trees.append(Tree(prefix, branches, rng.normal(-8, 2, len(branches)).astype(np.float32).tolist(), []))
    return trees


def pack(trees, rows, time=48, targets=56, slots=20):
    """Rows of these trees, dealt out in turn; notes each target's place in its tree."""
    fields = {
        name: np.zeros((rows, size), np.int32)
        for size, names in (
            (time, ("tokens", "tree_id", "branch_id", "positions")),
            (targets, ("targets", "predictor", "target_slot")),
            (slots, ("slot_kind", "slot_tree", "slot_gold")),
        )
        for name in names
    }
    packed = Rows(**fields, slot_reference=np.full((rows, slots), np.nan, np.float32))
    packed.predictor[:] = packed.slot_gold[:] = -1
    for row in range(rows):
        at = target = slot = 0
        for number, tree in enumerate(trees[row::rows], 1):
            tree.places, gold, before = [], slot + 1, len(tree.prefix)
            for branch, tokens in enumerate([tree.prefix, *tree.branches]):
                inputs = tokens if branch == 0 else tokens[:-1]
                span = slice(at, at + len(inputs))
                packed.tokens[row, span], packed.tree_id[row, span] = inputs, number
                packed.branch_id[row, span] = branch
                packed.positions[row, span] = np.arange(len(inputs)) + (before if branch else 0)
                predictors, predicted = [*range(at, at + len(inputs))], tokens[1:]
                if branch == 0:
                    predictors, last = predictors[:-1], at + before - 1
                elif before:
                    predictors, predicted = [last, *predictors], tokens
                span = slice(target, target + len(predicted))
                packed.targets[row, span], packed.predictor[row, span] = predicted, predictors
                packed.target_slot[row, span] = slot
                tree.places.append([(row, n) for n in range(span.start, span.stop)])
                packed.slot_kind[row, slot] = PREFIX if branch == 0 else GOLD if branch == 1 else NEGATIVE
                packed.slot_tree[row, slot] = number
                packed.slot_gold[row, slot] = gold if branch > 1 else -1
                if branch:
                    packed.slot_reference[row, slot] = tree.references[branch - 1]
                at, target, slot = at + len(inputs), span.stop, slot + 1
    return packed


def brute_force(trees, logps, weights, scale):
    """Loss and metrics, tree by tree, in Python's float64."""
    asked, answered, means, preferred, margins, accuracies, negatives = [], [], [], [], [], [], []
    question_tokens = answer_tokens = 0
    for tree in trees:
        question, gold, *others = (sum(float(logps[place]) for place in places) for places in tree.places)
        question_tokens += len(tree.places[0])
        answer_tokens += len(tree.places[1])
        asked.append(-question)
        answered.append(-gold)
        means.append(-gold / max(len(tree.places[1]), 1))
        negatives += others
        moved = [
            weights.beta * ((gold - tree.references[0]) - (other - reference))
            for other, reference in zip(others, tree.references[1:], strict=True)
        ]
        if others:
            preferred.append(np.mean([np.log1p(np.exp(-margin)) for margin in moved]))
            margins.append(np.mean(moved))
            accuracies.append(np.mean([margin > 0 for margin in moved]))
    tokens = question_tokens * (weights.question != 0) + answer_tokens * (weights.answer != 0)
    denominator = len(trees) if scale == "sequence" else max(tokens, 1)
    loss_ntp = (weights.question * sum(asked) + weights.answer * sum(answered)) / denominator
    loss_ntp += weights.answer_mean * np.mean(means)
    loss_dpo = np.mean(preferred) if preferred else 0.0
    return {
        "loss": loss_ntp + weights.preference * loss_dpo,
        "loss_ntp": loss_ntp,
        "loss_dpo": loss_dpo,
        "logp_gold": -np.mean(answered),
        "logp_negative": np.mean(negatives) if negatives else 0.0,
        "reward_margin": np.mean(margins) if margins else 0.0,
        "reward_accuracy": np.mean(accuracies) if accuracies else 0.0,
    }


def dense_logps(hidden, head, rows):
    """Log-probabilities of all targets, float64."""
    logits = hidden @ head.T
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    values = logits[np.arange(len(hidden))[:, None], rows.predictor, rows.targets]
    return np.where(rows.predictor >= 0, values, 0.0)


def differences(function, array, step=1e-5):
    """The gradient of a float64 function by central differences."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        there, back = array.copy(), array.copy()
        there[index] += step
        back[index] -= step
        gradient[index] = (function(there) - function(back)) / (2 * step)
    return gradient


def random_logps(rng, rows):
    return np.where(rows.predictor >= 0, -rng.exponential(2, rows.predictor.shape), 0.0)


@jax.jit
def sequence_scale(logps, rows, weights):
    return jax.value_and_grad(pretrainrl, has_aux=True)(logps, rows, weights, count(rows), "sequence")


@jax.jit
def token_scale(logps, rows, weights):
    return jax.value_and_grad(pretrainrl, has_aux=True)(logps, rows, weights, count(rows), "token")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_loss_metrics_and_gradient(weights, scale):
    rng = np.random.default_rng(0)
    trees = random_trees(rng, 6)
    rows = pack(trees, 3)
    logps = random_logps(rng, rows)
    function = sequence_scale if scale == "sequence" else token_scale
    (loss, metrics), gradient = function(jnp.float32(logps), rows, weights)
    expected = brute_force(trees, logps, weights, scale)
    assert metrics.keys() == expected.keys()
    assert loss == metrics["loss"]
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    by_differences = differences(lambda x: brute_force(trees, x, weights, scale)["loss"], logps)
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_gradient_through_hidden_states_and_head(scale):
    rng = np.random.default_rng(1)
    trees = random_trees(rng, 3, most_negatives=2)
    rows = pack(trees, 2, time=20, targets=26, slots=9)
    hidden, head = rng.normal(size=(2, 20, MODEL)), rng.normal(size=(VOCABULARY, MODEL))
    weights = Weights(0.5, 1.0, 1.0, 0.7)

    @jax.jit
    def gradients(hidden, head):
        def loss(hidden, head):
            logps = token_logps(hidden, head, rows.predictor, rows.targets, block=8)
            return pretrainrl(logps, rows, weights, count(rows), scale)[0]

        return jax.grad(loss, (0, 1))(hidden, head)

    def dense(hidden, head):
        return brute_force(trees, dense_logps(hidden, head, rows), weights, scale)["loss"]

    dhidden, dhead = gradients(jnp.float32(hidden), jnp.float32(head))
    np.testing.assert_allclose(dhidden, differences(lambda x: dense(x, head), hidden), atol=2e-5)
    np.testing.assert_allclose(dhead, differences(lambda x: dense(hidden, x), head), atol=2e-5)


@pytest.mark.parametrize("scale", ["sequence", "token"])
@pytest.mark.parametrize("weights", [WEIGHTS[0], WEIGHTS[-1]])
def test_the_literal_template_gives_the_same_losses_and_gradients(weights, scale):
    """Real trees through a real model: the layout changes rows, and neither loss nor gradient."""
    model, params = small_model()
    made = [small_tree(3 + i % 3, 2, *([3, 1, 4][: i % 4]), id=str(i), first=1 + 7 * i) for i in range(6)]
    results = {}
    for layout in ("shared", "literal"):
        source = PackedRows(made, 64, seed=0, passes=1, rows=1, layout=layout)
        rows = stack([source[i] for i in range(len(source.plan))])

        @jax.jit
        def loss(params, rows):
            logps = row_logps(model, params, rows)
            return pretrainrl(logps, rows, weights, count(rows), scale)

        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, rows)
        results[layout] = metrics, gradient, count(rows), len(source.plan)
    shared, literal = results["shared"], results["literal"]
    assert literal[3] > shared[3]  # it takes more rows
    assert tuple(map(int, shared[2])) == tuple(map(int, literal[2]))
    for name, value in shared[0].items():
        np.testing.assert_allclose(literal[0][name], value, rtol=2e-6, atol=2e-6, err_msg=name)
    differ = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), shared[1], literal[1])
    whole = jax.tree.map(lambda a: (a**2).sum(), shared[1])
    assert sum(jax.tree.leaves(differ)) ** 0.5 < 1e-5 * sum(jax.tree.leaves(whole)) ** 0.5


def test_count():
    rng = np.random.default_rng(2)
    trees = random_trees(rng, 8)
    rows = pack(trees, 4)
    expected = Counts(
        questions=8,
        questions_with_negatives=sum(len(tree.branches) > 1 for tree in trees),
        question_tokens=sum(len(tree.prefix) - 1 for tree in trees),
        answer_tokens=sum(len(tree.branches[0]) for tree in trees),
        negatives=sum(len(tree.branches) - 1 for tree in trees),
    )
    assert 0 < expected.questions_with_negatives < 8
    microsteps = jax.tree.map(lambda x: x.reshape(2, 2, -1), rows)
    for batch in (rows, microsteps):
        assert tuple(int(x) for x in count(batch)) == tuple(expected)


def test_slot_logps():
    rng = np.random.default_rng(3)
    trees = random_trees(rng, 6)
    rows = pack(trees, 2)
    logps = random_logps(rng, rows)
    expected = np.zeros(rows.slot_kind.shape)
    for row in range(2):
        for n in range(rows.targets.shape[1]):
            expected[row, rows.target_slot[row, n]] += logps[row, n]
    np.testing.assert_allclose(slot_logps(jnp.float32(logps), rows), expected, rtol=1e-5, atol=1e-6)
    padding_is_nan = jnp.where(rows.predictor >= 0, logps, jnp.nan)
    assert np.isfinite(slot_logps(padding_is_nan, rows)).all()


def test_dpo_is_ln_2_at_the_reference():
    """Reference scores come from other rows and another block than training's, as they do in practice."""
    rng = np.random.default_rng(4)
    vocabulary, model = 5000, 64
    trees = random_trees(rng, 8)
    head = jnp.float32(rng.normal(size=(vocabulary, model)))
    states = rng.normal(size=(8, 48, model)).astype(np.float32)
    alone, together = pack(trees, 8), pack(trees, 2, time=96, targets=128, slots=40)
    hidden = np.zeros((2, 96, model), np.float32)
    for row in range(2):
        for number, tree in enumerate(range(row, 8, 2), 1):
            hidden[row, together.tree_id[row] == number] = states[tree, alone.tree_id[tree] == 1]
    scores = slot_logps(token_logps(states, head, alone.predictor, alone.targets), alone)
    for row in range(2):
        for number, tree in enumerate(range(row, 8, 2), 1):
            used = alone.slot_tree[tree] == 1
            together.slot_reference[row, together.slot_tree[row] == number] = scores[tree, used]
    logps = token_logps(hidden, head, together.predictor, together.targets, block=512)
    (_, metrics), _ = sequence_scale(logps, together, Weights(0.0, 0.0, 1.0, 0.1))
    assert float(metrics["logp_gold"]) < -10  # far from the trivial case
    assert abs(float(metrics["loss_dpo"]) - np.log(2)) <= 2e-6


@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_microsteps_add_up(scale):
    rng = np.random.default_rng(5)
    rows = pack(random_trees(rng, 12), 6)
    logps, weights, counts = jnp.float32(random_logps(rng, rows)), WEIGHTS[4], count(rows)
    step = jax.jit(jax.value_and_grad(pretrainrl, has_aux=True), static_argnums=4)
    (_, whole), gradient = step(logps, rows, weights, counts, scale)
    for size in (1, 2):
        total, gradients = {}, []
        for start in range(0, 6, size):
            part = jax.tree.map(lambda x, s=slice(start, start + size): x[s], rows)
            (_, metrics), d = step(logps[start : start + size], part, weights, counts, scale)
            total = {name: value + total.get(name, 0.0) for name, value in metrics.items()}
            gradients.append(d)
        for name, value in whole.items():
            np.testing.assert_allclose(total[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-5, atol=1e-7)


def test_document_loss_is_mean_nll_a_token():
    rng = np.random.default_rng(6)
    trees = random_trees(rng, 5, document=True)
    rows = pack(trees, 2)
    logps = random_logps(rng, rows)
    (loss, metrics), _ = token_scale(jnp.float32(logps), rows, Weights(0.0, 1.0, 0.0, 0.1))
    predicted = sum(len(tree.branches[0]) - 1 for tree in trees)
    assert (rows.predictor >= 0).sum() == predicted
    np.testing.assert_allclose(loss, -logps.sum() / predicted, rtol=1e-5)
    assert metrics["loss_dpo"] == metrics["logp_negative"] == 0


@pytest.mark.parametrize("weights", WEIGHTS)
def test_no_negatives(weights):
    rng = np.random.default_rng(7)
    trees = random_trees(rng, 4, most_negatives=0)
    rows = pack(trees, 2)
    logps = random_logps(rng, rows)
    (loss, metrics), gradient = sequence_scale(jnp.float32(logps), rows, weights)
    np.testing.assert_allclose(loss, brute_force(trees, logps, weights, "sequence")["loss"], rtol=1e-5)
    assert metrics["loss_dpo"] == 0
    without = sequence_scale(jnp.float32(logps), rows, weights._replace(preference=0.0))[1]
    np.testing.assert_array_equal(gradient, without)
    assert np.isfinite(gradient).all()


def test_empty_rows():
    """A microstep of nothing but padding, in a batch of nothing but padding."""
    rows = pack([], 2)
    (loss, metrics), gradient = sequence_scale(jnp.zeros(rows.targets.shape), rows, WEIGHTS[0])
    assert loss == 0
    assert not any(metrics.values())
    assert not np.any(gradient)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_missing_references(weights):
    """Without a preference nothing needs a reference; with one, a missing reference is never hidden."""
    rng = np.random.default_rng(8)
    trees = random_trees(rng, 6)
    rows = pack(trees, 3)
    logps = jnp.float32(random_logps(rng, rows))
    assert np.isnan(rows.slot_reference).any()  # unused slots and prefixes, in every test of this file
    scored = sequence_scale(logps, rows, weights)
    unscored = rows._replace(slot_reference=np.full_like(rows.slot_reference, np.nan))
    (loss, metrics), gradient = sequence_scale(logps, unscored, weights)
    if weights.preference:
        assert np.isnan(loss)
    else:
        assert loss == scored[0][0]
        assert all(np.isfinite(value) for value in metrics.values())
        np.testing.assert_array_equal(gradient, scored[1])


def test_other_values_on_unused_slots_change_nothing():
    rng = np.random.default_rng(9)
    rows = pack(random_trees(rng, 6), 3)
    logps = jnp.float32(random_logps(rng, rows))
    unused = (rows.slot_kind != GOLD) & (rows.slot_kind != NEGATIVE)
    first = sequence_scale(logps, rows, WEIGHTS[0])
    for value in (0.0, -np.inf, 1e30):
        other = rows._replace(slot_reference=np.where(unused, np.float32(value), rows.slot_reference))
        jax.tree.map(np.testing.assert_array_equal, sequence_scale(logps, other, WEIGHTS[0]), first)


def test_one_trace_for_all_weights():
    rng = np.random.default_rng(10)
    rows = pack(random_trees(rng, 4), 2)
    logps, traces = jnp.float32(random_logps(rng, rows)), []

    @jax.jit
    def loss(logps, rows, weights):
        traces.append(weights)
        return pretrainrl(logps, rows, weights, count(rows))[0]

    assert len({float(loss(logps, rows, weights)) for weights in WEIGHTS}) == len(WEIGHTS)
    assert len(traces) == 1


def test_terms_alone():
    """ntp and dpo are the terms of pretrainrl, and a scale that does not exist is refused."""
    rng = np.random.default_rng(11)
    rows = pack(random_trees(rng, 4), 2)
    logps, weights, counts = jnp.float32(random_logps(rng, rows)), WEIGHTS[4], count(rows)
    sums = slot_logps(logps, rows)
    loss, _ = pretrainrl(logps, rows, weights, counts)
    terms = ntp(sums, rows, weights, counts)[0] + weights.preference * dpo(sums, rows, weights, counts)[0]
    np.testing.assert_allclose(loss, terms, rtol=1e-6)
    with pytest.raises(ValueError, match="'sequence' or 'token'"):
        ntp(sums, rows, weights, counts, "mean")
