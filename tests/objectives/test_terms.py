"""The objectives against a float64 brute force that loops over trees and knows nothing of packing.

Every token of these trees is another one, so that a table gives each its log-probability wherever it is laid.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model

from pretrainrl_jax.objectives.dpo import dpo
from pretrainrl_jax.objectives.loss import asks, total_loss
from pretrainrl_jax.objectives.ntp import ntp
from pretrainrl_jax.objectives.scoring import target_logps
from pretrainrl_jax.objectives.sums import Counts, Scored, branch_sums, count, ratio, score
from pretrainrl_jax.objectives.token_logps import token_logps
from pretrainrl_jax.trees.batch import UNUSED, PackedBatch
from pretrainrl_jax.trees.packing import Capacity, pack
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, document

NTP = {"question": 0.3, "answer": 2.0, "answer_mean": 0.9}
DPO = {"weight": 0.7, "beta": 0.5}
SUBSETS = [dict(ntp) for n in range(4) for ntp in itertools.combinations(NTP.items(), n)]
TERMS = [
    ({"ntp": names} if names else {}) | ({"dpo": DPO} if compared else {})
    for names in SUBSETS
    for compared in (False, True)
    if names or compared
]
ALL = {"ntp": NTP, "dpo": DPO}
SPACE = Capacity(160, 130, 160, 64, 48)  # one for all, and not as many sources as tokens
ROLES = ("chosen", "rejected", "candidate", "anchor")


def some_trees(rng: np.random.Generator, number: int) -> list[AnswerTree]:
    """One of each kind, then any: several chosen or none, other roles beside, pairs named or not."""
    fresh = itertools.count()
    kinds = [
        (("chosen", "rejected", "rejected"), None),
        (("chosen",), None),
        (("rejected", "candidate"), None),
        (("chosen", "anchor", "rejected", "chosen", "rejected"), None),
        # One text is chosen in one pair and rejected in another; a pair of weight 0; one of other roles.
        (
            ("chosen", "candidate", "rejected"),
            (Pair(0, 1), Pair(1, 2, 3.0), Pair(2, 0, 0.0), Pair(1, 2, 0.5)),
        ),
        (("candidate", "anchor"), (Pair(0, 1, 2.0),)),
        (("chosen", "rejected"), ()),
        (("chosen", "rejected"), (Pair(0, 1, 0.0),)),
    ]
    made = []
    for index in range(number):
        drawn = tuple(rng.choice(ROLES, rng.integers(1, 5)).tolist()), None
        roles, pairs = kinds[index] if index < len(kinds) else drawn
        branches = []
        for role in roles:
            length = int(rng.integers(1, 5))
            each = tuple(rng.normal(-2, 1, length).tolist())
            branches.append(
                Branch(
                    tuple(itertools.islice(fresh, length)),
                    role,
                    weight=float(rng.choice([1.0, 2.0, 0.25])),
                    reference_logp=each if rng.random() < 0.5 else sum(each),
                    behaviour_logp=tuple(rng.normal(-2, 1, length).tolist()),
                    advantage=float(rng.normal()) if rng.random() < 0.5 else tuple(rng.normal(size=length)),
                )
            )
        prefix = tuple(itertools.islice(fresh, int(rng.integers(1, 6))))
        made.append(AnswerTree(str(index), prefix, tuple(branches), pairs))
    nothing = Branch((next(fresh),), "chosen", weight=0.0, reference_logp=-1.0)
    return [*made, AnswerTree("none of weight", (next(fresh),), (nothing,))]


def dealt(made: list[AnswerTree], rows: int, space: Capacity = SPACE, layout="shared", question=True):
    """The trees dealt out to rows in turn."""
    return pack([made[row::rows] for row in range(rows)], space, layout, question)


def random_table(rng: np.random.Generator) -> np.ndarray:
    """A log-probability of every token."""
    return -rng.exponential(2, 300)


def laid(table, batch: PackedBatch):
    """The log-probability of every target."""
    return jnp.where(batch.source_index >= 0, jnp.asarray(table)[batch.targets], 0.0)


def brute_force(made: list[AnswerTree], table: np.ndarray, coefficients, scale: str) -> dict[str, float]:
    """Loss and metrics, tree by tree, in Python's float64."""

    def logp(tree: AnswerTree, place: int) -> float:
        return sum(float(table[t]) for t in tree.branches[place].tokens[not tree.prefix :])

    def gain(tree: AnswerTree, place: int) -> float:
        known = tree.branches[place].reference_logp
        return logp(tree, place) - (sum(known[not tree.prefix :]) if isinstance(known, tuple) else known)

    sums = {"question": 0.0, "answer": 0.0, "answer_mean": 0.0}
    tokens = {"question": 0.0, "answer": 0.0}
    answered, paired, losses, margins, right, rejected = 0, 0, [], [], [], []
    for tree in made:
        rejected += [logp(tree, i) for i, b in enumerate(tree.branches) if b.role == "rejected"]
        chosen = [i for i, b in enumerate(tree.branches) if b.role == "chosen"]
        weight = sum(tree.branches[i].weight for i in chosen)
        if weight:
            answered += 1
            sums["question"] -= sum(float(table[t]) for t in tree.prefix[1:])
            tokens["question"] += max(len(tree.prefix) - 1, 0)
        for i in chosen if weight else ():
            share, length = tree.branches[i].weight / weight, len(tree.branches[i].tokens) - (not tree.prefix)
            sums["answer"] -= share * logp(tree, i)
            sums["answer_mean"] -= share * logp(tree, i) / max(length, 1)
            tokens["answer"] += share * length
        pairs = tree.pairs
        if pairs is None:
            pairs = [(i, j, 1.0) for i in chosen for j, b in enumerate(tree.branches) if b.role == "rejected"]
        weights = sum(w for _, _, w in pairs)
        if weights:
            paired += 1
            for i, j, w in pairs:
                margin = coefficients.get("dpo", DPO)["beta"] * (gain(tree, i) - gain(tree, j))
                losses.append(w / weights * np.logaddexp(0, -margin))
                margins.append(w / weights * margin)
                right.append(w / weights * (margin > 0))
    metrics = {"loss": 0.0, "logp_gold": -sums["answer"] / max(answered, 1)}
    if "ntp" in coefficients:
        given_weights = coefficients["ntp"]
        given = [name for name in tokens if name in given_weights]
        n = answered if scale == "sequence" else sum(tokens[name] for name in given)
        loss = sum(given_weights[name] * sums[name] for name in given) / max(n, 1)
        loss += given_weights.get("answer_mean", 0.0) * sums["answer_mean"] / max(answered, 1)
        metrics |= {"loss_ntp": loss, "loss": metrics["loss"] + loss}
    if "dpo" in coefficients:
        of_pairs = {"loss_dpo": losses, "reward_margin": margins, "reward_accuracy": right}
        metrics |= {name: sum(values) / max(paired, 1) for name, values in of_pairs.items()}
        metrics["logp_negative"] = sum(rejected) / max(len(rejected), 1)
        metrics["loss"] += coefficients["dpo"]["weight"] * metrics["loss_dpo"]
    return metrics


def differences(function, array, step=1e-5):
    """The gradient of a float64 function by central differences."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        there, back = array.copy(), array.copy()
        there[index] += step
        back[index] -= step
        gradient[index] = (function(there) - function(back)) / (2 * step)
    return gradient


def graded(table, batch, coefficients, scale="sequence"):
    """Loss, metrics, and the gradient by the table; not compiled, which takes longer than to run."""

    def loss(table):
        return total_loss(laid(table, batch), batch, coefficients, count(batch), scale)

    return jax.value_and_grad(loss, has_aux=True)(table)


compiled = jax.jit(graded, static_argnums=3)  # for those who call it often


def agree(metrics, expected, rtol=2e-5, atol=1e-6):
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("coefficients", TERMS, ids=lambda terms: "+".join(itertools.chain(*terms.values())))
@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_loss_metrics_and_gradient(coefficients, scale):
    rng = np.random.default_rng(0)
    made, table = some_trees(rng, 12), random_table(rng)
    batch = dealt(made, 3, question=asks(coefficients))
    (loss, metrics), gradient = graded(np.float32(table), batch, coefficients, scale)
    agree(metrics, brute_force(made, table, coefficients, scale))
    assert loss == metrics["loss"]
    used = table[: batch.targets.max() + 1]
    wanted = differences(lambda x: brute_force(made, x, coefficients, scale)["loss"], used)
    np.testing.assert_allclose(gradient[: len(used)], wanted, rtol=1e-4, atol=1e-6)
    assert not gradient[len(used) :].any()


@pytest.mark.parametrize("scale", ["sequence", "token"])
@pytest.mark.parametrize("question", [True, False])
def test_the_literal_template_against_the_brute_force(scale, question):
    """Copies count once, whatever is named; a gradient reaches a token wherever it is laid."""
    rng = np.random.default_rng(1)
    made, table = some_trees(rng, 12), random_table(rng)
    coefficients = ALL if question else ALL | {"ntp": {"answer": 2.0, "answer_mean": 0.9}}
    space = Capacity(250, 200, 200, 64, 48)
    literal = dealt(made, 3, space, "literal", question)
    (_, metrics), gradient = graded(np.float32(table), literal, coefficients, scale)
    agree(metrics, brute_force(made, table, coefficients, scale))
    _, expected = graded(np.float32(table), dealt(made, 3, space, "shared", question), coefficients, scale)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_gradient_through_hidden_states_and_head(scale):
    rng = np.random.default_rng(2)
    made = some_trees(rng, 5)
    batch = dealt(made, 2, Capacity(48, 40, 48, 16, 16))
    hidden, head = rng.normal(size=(2, 40, 3)), rng.normal(size=(90, 3))
    assert batch.targets.max() < 90

    @jax.jit
    def gradients(hidden, head):
        def loss(hidden, head):
            logps = token_logps(hidden, head, batch.source_index, batch.targets, block=8)
            return total_loss(logps, batch, ALL, count(batch), scale)[0]

        return jax.grad(loss, (0, 1))(hidden, head)

    used = batch.source_index >= 0

    def dense(hidden, head):
        logits = hidden @ head.T
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        table = np.zeros(90)  # each token is a target once
        table[batch.targets[used]] = logits[
            np.nonzero(used)[0], batch.source_index[used], batch.targets[used]
        ]
        return brute_force(made, table, ALL, scale)["loss"]

    dhidden, dhead = gradients(jnp.float32(hidden), jnp.float32(head))
    np.testing.assert_allclose(dhidden, differences(lambda x: dense(x, head), hidden), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(dhead, differences(lambda x: dense(hidden, x), head), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_layouts_and_sources_change_no_loss_and_no_gradient_of_a_model(scale):
    """Through a real model: the question once or for each pair; all hidden states or those that predict."""
    model, params = small_model(vocabulary=300)
    made = some_trees(np.random.default_rng(3), 6)  # one with named pairs, one with several chosen
    narrow, all_sources = Capacity(120, 110, 128, 32, 16), Capacity(120, 120, 128, 32, 16)
    unasked = ALL | {"ntp": {"answer": 2.0, "answer_mean": 0.9}}

    @jax.jit
    def graded(params, batch, coefficients):
        def loss(params):
            logps, _ = target_logps(model, params, batch)
            return total_loss(logps, batch, coefficients, count(batch), scale)

        return jax.value_and_grad(loss, has_aux=True)(params)

    cases = [(ALL, dealt(made, 2, narrow), dealt(made, 2, narrow, "literal"))]
    if scale == "sequence":
        cases.append((ALL, dealt(made, 2, narrow), dealt(made, 2, all_sources)))
        cases.append((unasked, dealt(made, 2, narrow), dealt(made, 2, narrow, question=False)))
    for coefficients, one, other in cases:
        ((_, metrics), gradient), ((_, expected), wanted) = (
            graded(params, x, coefficients) for x in (one, other)
        )
        agree(metrics, expected, 2e-6, 2e-6)
        differ = jax.tree.map(lambda a, b: ((a - b) ** 2).sum(), gradient, wanted)
        size = jax.tree.map(lambda a: (a**2).sum(), wanted)
        assert sum(jax.tree.leaves(differ)) ** 0.5 < 1e-5 * sum(jax.tree.leaves(size)) ** 0.5


def test_prefixes_that_are_not_predicted_change_only_the_question():
    rng = np.random.default_rng(4)
    made, table = some_trees(rng, 12), np.float32(random_table(rng))
    asked, unasked = dealt(made, 3), dealt(made, 3, question=False)
    for scale in ("sequence", "token"):
        for weights in ({"answer": 1.0}, {"answer_mean": 1.0}):
            coefficients = {"ntp": weights, "dpo": DPO}
            one, other = (graded(table, batch, coefficients, scale) for batch in (asked, unasked))
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), one, other)
    assert asks(ALL)
    assert not asks({"ntp": {"answer": 1.0}, "dpo": DPO})
    assert not asks({"dpo": DPO})


def test_dpo_over_pairs_is_the_mean_over_all_of_them_by_their_weights():
    rng = np.random.default_rng(7)
    made, table = some_trees(rng, 12), np.float32(random_table(rng))

    def loss(trees: list[AnswerTree], rows: int, scale: str) -> float:
        batch = dealt(trees, rows)
        coefficients = {"dpo": DPO}
        return float(total_loss(laid(table, batch), batch, coefficients, count(batch), dpo_scale=scale)[0])

    paired = [tree for tree in made if tree.preferences]
    each = [loss([tree], 1, "prompts") for tree in paired]
    weights = [sum(pair.weight for pair in tree.preferences) for tree in paired]
    assert len(set(weights)) > 2
    assert loss(made, 3, "prompts") == pytest.approx(np.mean(each), rel=1e-5)
    assert loss(made, 3, "pairs") == pytest.approx(np.average(each, weights=weights), rel=1e-5)
    light = replace(paired[0], pairs=(Pair(*paired[0].preferences[0][:2], 0.25),))  # weights below 1 in all
    assert loss([light], 1, "pairs") == pytest.approx(loss([light], 1, "prompts"), rel=1e-6)
    assert loss([made[-1]], 1, "pairs") == 0  # without a pair
    with pytest.raises(ValueError, match="'prompts' or 'pairs'"):
        loss(made, 3, "questions")


def test_count():
    made = some_trees(np.random.default_rng(5), 12)
    counted = brute = Counts(13, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0)
    for tree in made:
        chosen = [b for b in tree.branches if b.role == "chosen" and b.weight]
        weight = sum(b.weight for b in chosen)
        counted = brute._replace(
            chosen_trees=brute.chosen_trees + bool(chosen),
            paired_trees=brute.paired_trees
            + (
                any(p.weight for p in tree.pairs)
                if tree.pairs is not None
                else {"chosen", "rejected"} <= {b.role for b in tree.branches}
            ),
            pairs=brute.pairs + sum(pair.weight for pair in tree.preferences),
            question_tokens=brute.question_tokens + (len(tree.prefix) - 1) * bool(chosen),
            answer_tokens=brute.answer_tokens + sum(b.weight / weight * len(b.tokens) for b in chosen),
            rejected=brute.rejected + sum(b.role == "rejected" for b in tree.branches),
            candidates=brute.candidates + sum(b.role == "candidate" for b in tree.branches),
            candidate_tokens=brute.candidate_tokens
            + sum(len(b.tokens) for b in tree.branches if b.role == "candidate"),
        )
        brute = counted
    assert 0 < brute.paired_trees < brute.chosen_trees < 13
    for layout in ("shared", "literal"):
        batch = dealt(made, 4, Capacity(250, 200, 200, 64, 48), layout)
        microsteps = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
        for rows in (batch, microsteps):
            np.testing.assert_allclose([float(x) for x in count(rows)], brute, rtol=1e-6)


def test_branch_sums():
    rng = np.random.default_rng(6)
    batch = dealt(some_trees(rng, 8), 2)
    logps = laid(random_table(rng), batch)
    expected, lengths = np.zeros(batch.branch_role.shape), np.zeros(batch.branch_role.shape)
    for row, n in zip(*np.nonzero(batch.source_index >= 0), strict=True):
        expected[row, batch.target_branch[row, n]] += logps[row, n]
        lengths[row, batch.target_branch[row, n]] += 1
    scored = score(logps, batch)
    np.testing.assert_allclose(scored.sums, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scored.lengths, lengths)
    padding_is_nan = jnp.where(batch.source_index >= 0, logps, jnp.nan)
    np.testing.assert_array_equal(branch_sums(padding_is_nan, batch), scored.sums)


def scored_branch(branch: Branch, logp: np.floating) -> Branch:
    return replace(branch, reference_logp=float(logp))


def scored_by(made: list[AnswerTree], sums: np.ndarray) -> list[AnswerTree]:
    """The trees with reference log-probabilities as they lie in rows of one tree each, without prefixes."""
    return [
        replace(t, branches=tuple(map(scored_branch, t.branches, known)))
        for t, known in zip(made, sums, strict=True)
    ]


def test_dpo_is_ln_2_at_the_reference():
    """Reference scores come from other rows and another block than training's, as they do in practice."""
    rng = np.random.default_rng(7)
    vocabulary, model = 5000, 64
    made = some_trees(rng, 12)
    head = jnp.float32(rng.normal(size=(vocabulary, model)))
    alone = dealt(made, len(made), Capacity(48, 48, 64, 16, 16), question=False)
    states = rng.normal(size=(len(made), 48, model)).astype(np.float32)
    sums = branch_sums(token_logps(states, head, alone.source_index, alone.targets), alone)
    made = scored_by(made, np.asarray(sums))
    together = dealt(made, 2, Capacity(160, 160, 160, 64, 48))
    hidden = np.zeros((2, 160, model), np.float32)
    for row in range(2):
        for number, tree in enumerate(range(row, len(made), 2), 1):
            hidden[row, together.tree_id[row] == number] = states[tree, alone.tree_id[tree] == 1]
    logps = token_logps(hidden, head, together.source_index, together.targets, block=512)
    _, metrics = jax.jit(total_loss)(logps, together, {"dpo": {"weight": 1.0, "beta": 0.1}}, count(together))
    assert float(metrics["logp_gold"]) < -10  # far from the trivial case
    assert abs(float(metrics["loss_dpo"]) - np.log(2)) <= 2e-6


@pytest.mark.parametrize("scale", ["sequence", "token"])
def test_microsteps_add_up(scale):
    rng = np.random.default_rng(8)
    batch = dealt(some_trees(rng, 12), 6)
    logps, counts = laid(np.float32(random_table(rng)), batch), count(batch)
    step = jax.jit(jax.value_and_grad(total_loss, has_aux=True), static_argnums=4)
    (_, metrics_of_all), gradient = step(logps, batch, ALL, counts, scale)
    for size in (1, 2):
        total, gradients = {}, []
        for start in range(0, 6, size):
            part = jax.tree.map(lambda x, s=slice(start, start + size): x[s], batch)
            (_, metrics), d = step(logps[start : start + size], part, ALL, counts, scale)
            total = {name: value + total.get(name, 0.0) for name, value in metrics.items()}
            gradients.append(d)
        agree(total, metrics_of_all, 1e-5)
        np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bos", [None, 299])
def test_document_loss_is_mean_nll_a_token(bos):
    rng = np.random.default_rng(9)
    made = [document(str(n), tuple(range(20 * n, 20 * n + 2 + 3 * n)), bos) for n in range(5)]
    table, coefficients = random_table(rng), {"ntp": {"answer": 1.0}}
    (loss, metrics), _ = graded(np.float32(table), dealt(made, 2), coefficients, "token")
    predicted = [t for tree in made for t in tree.branches[0].tokens[bos is None :]]
    np.testing.assert_allclose(loss, -np.mean(table[predicted]), rtol=1e-5)
    agree(metrics, brute_force(made, table, coefficients, "token"))


def test_nothing_to_compare():
    rng = np.random.default_rng(10)
    made = [replace(t, pairs=()) for t in some_trees(rng, 8)]
    batch, table = dealt(made, 3), random_table(rng)
    (_, metrics), gradient = graded(np.float32(table), batch, ALL)
    agree(metrics, brute_force(made, table, ALL, "sequence"))
    assert metrics["loss_dpo"] == metrics["reward_margin"] == metrics["reward_accuracy"] == 0
    (_, without), expected = graded(np.float32(table), batch, {"ntp": NTP})
    np.testing.assert_allclose(metrics["loss"], without["loss"], rtol=1e-6)
    np.testing.assert_array_equal(gradient, expected)


def test_empty_rows():
    """A microstep of nothing but padding, in a batch of nothing but padding."""
    batch = dealt([], 3)
    (loss, metrics), gradient = graded(np.full(300, -1.0, np.float32), batch, ALL)
    assert loss == 0
    assert not any(metrics.values())
    assert not np.any(gradient)


def test_missing_references():
    """Only a branch of a pair needs a reference; there a missing one is never hidden."""
    rng = np.random.default_rng(11)
    made, table = some_trees(rng, 12), np.float32(random_table(rng))
    (loss, metrics), gradient = compiled(table, dealt(made, 3), ALL)
    assert all(np.isfinite(value) for value in metrics.values())

    def without(needed: bool) -> list[list[AnswerTree]]:
        """The trees without one reference, for each branch that is, or is not, in a pair that counts."""
        left = []
        for number, tree in enumerate(made):
            for place, branch in enumerate(tree.branches):
                if (place in {p for pair in tree.preferences for p in pair[:2]}) == needed:
                    branches = list(tree.branches)
                    branches[place] = replace(branch, reference_logp=math.nan)
                    left.append(
                        [*made[:number], replace(tree, branches=tuple(branches)), *made[number + 1 :]]
                    )
        return left

    assert min(len(without(True)), len(without(False))) > 5
    expected = compiled(table, dealt(made, 3), {"ntp": NTP})
    for unscored in without(True):
        assert np.isnan(compiled(table, dealt(unscored, 3), ALL)[0][0])
        lacking = compiled(table, dealt(unscored, 3), {"ntp": NTP})
        jax.tree.map(np.testing.assert_array_equal, lacking, expected)
    for unscored in without(False):
        (same, _), other = compiled(table, dealt(unscored, 3), ALL)
        assert same == loss
        np.testing.assert_array_equal(other, gradient)


@pytest.mark.parametrize("value", [0, -3, 7])
def test_what_stands_at_unused_places_changes_nothing(value):
    rng = np.random.default_rng(12)
    batch, table = dealt(some_trees(rng, 12), 3), np.float32(random_table(rng))
    before = compiled(table, batch, ALL)
    padding = {"targets": batch.source_index < 0, "branches": batch.branch_role == UNUSED}
    padding["pairs"] = batch.pair_share == 0
    assert all(places.any() for places in padding.values())
    place = abs(value)
    fields = {
        "targets": {
            "targets": place,
            "target_branch": place,
            "reference_logp": value / 0.1,
            "advantage": np.inf,
        },
        "branches": {"branch_reference": [np.inf, np.nan, 1e30][value % 3], "branch_share": 0.0},
        "pairs": {"pair_chosen": place, "pair_rejected": 2 * place},
    }
    for axis, fills in fields.items():
        for name, fill in fills.items():
            old = getattr(batch, name)
            other = batch._replace(**{name: np.where(padding[axis], fill, old).astype(old.dtype)})
            jax.tree.map(np.testing.assert_array_equal, compiled(table, other, ALL), before)


def test_one_program_for_a_set_of_terms_and_a_shape():
    rng = np.random.default_rng(13)
    logps, traces = random_table(rng), []

    @jax.jit
    def loss(batch, coefficients):
        traces.append(jax.tree.structure(coefficients))
        return total_loss(laid(logps, batch), batch, coefficients, count(batch))[0]

    batch = dealt(some_trees(rng, 6), 2)
    scaled = [jax.tree.map(lambda x, by=by: x * by, ALL) for by in (1.0, 0.0, 0.5, -2.0)]
    assert len({float(loss(batch, terms)) for terms in scaled}) == 4
    loss(dealt(some_trees(rng, 6), 2), ALL)
    assert len(traces) == 1
    for terms in TERMS:
        loss(batch, terms)
    assert len(traces) == len(set(traces)) == len(TERMS)
    loss(dealt(some_trees(rng, 6), 3), ALL)
    assert len(traces) == len(TERMS) + 1


def test_terms_alone():
    """ntp and dpo are the terms of the whole, and what does not exist is refused."""
    rng = np.random.default_rng(14)
    batch = dealt(some_trees(rng, 6), 2)
    logps, counts = laid(np.float32(random_table(rng)), batch), count(batch)
    scored = score(logps, batch)
    loss, metrics = total_loss(logps, batch, ALL, counts)
    one, other = ntp(scored, batch, NTP, counts), dpo(scored, batch, DPO, counts)
    np.testing.assert_allclose(loss, one[0] + other[0], rtol=1e-6)
    assert metrics.keys() == {"loss", "logp_gold"} | one[1].keys() | other[1].keys()
    with pytest.raises(ValueError, match="'sequence' or 'token'"):
        ntp(scored, batch, NTP, counts, "mean")
    with pytest.raises(ValueError, match="no coefficient answers"):
        ntp(scored, batch, {"answers": 1.0}, counts)


# A term of one's own


def clipped_gain(scored: Scored, batch: PackedBatch, coefficients, counts: Counts):
    """GRPO's clipped surrogate with a penalty of the distance from the reference (arXiv 2402.03300)."""
    written = (batch.source_index >= 0) & ~jnp.isnan(batch.advantage)
    now, old, reference, advantage = (
        jnp.where(written, x, 0.0)
        for x in (scored.logps, batch.behaviour_logp, batch.reference_logp, batch.advantage)
    )
    moved = jnp.exp(now - old)
    clip = coefficients["clip"]
    gain = jnp.minimum(moved * advantage, jnp.clip(moved, 1 - clip, 1 + clip) * advantage)
    distance = jnp.exp(reference - now) - (reference - now) - 1
    tokens = jnp.take_along_axis(scored.lengths, batch.target_branch, axis=-1)
    each = jnp.where(written, (gain - coefficients["kl"] * distance) / jnp.maximum(tokens, 1), 0.0)
    return -ratio(each.sum(), counts.trees), {}


@pytest.mark.parametrize("question", [True, False])
def test_a_term_a_token_is_a_few_lines(question):
    rng = np.random.default_rng(15)
    made = []
    for tree in some_trees(rng, 9):
        branches = []
        for b in tree.branches:
            if b.role == "candidate" or b.weight == 0:
                b = replace(b, reference_logp=math.nan, behaviour_logp=math.nan, advantage=math.nan)
            else:
                b = replace(b, reference_logp=tuple(rng.normal(-2, 1, len(b.tokens)).tolist()))
            branches.append(b)
        made.append(replace(tree, branches=tuple(branches)))
    table = random_table(rng)
    coefficients = {"clip": 0.2, "kl": 0.04}

    def brute(table):
        total = 0.0
        for tree in made:
            for b in tree.branches:
                if not isinstance(b.behaviour_logp, tuple):
                    continue
                for n, token in enumerate(b.tokens):
                    advantage = b.advantage[n] if isinstance(b.advantage, tuple) else b.advantage
                    moved = math.exp(table[token] - b.behaviour_logp[n])
                    gain = min(moved * advantage, min(max(moved, 0.8), 1.2) * advantage)
                    off = b.reference_logp[n] - table[token]
                    total -= (gain - 0.04 * (math.exp(off) - off - 1)) / len(b.tokens)
        return total / len(made)

    batch = dealt(made, 2, question=question)

    @jax.jit
    def term(table):
        return clipped_gain(score(laid(table, batch), batch), batch, coefficients, count(batch))[0]

    value, gradient = jax.value_and_grad(term)(np.float32(table))
    np.testing.assert_allclose(value, brute(table), rtol=2e-5)
    np.testing.assert_allclose(gradient, differences(brute, table), rtol=1e-3, atol=1e-5)
