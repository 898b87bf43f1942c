"""The training step against separate, unpacked sequences, and against itself cut up."""

import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import END, small_model

from pretrainrl_jax.config import MeshConfig, OptimizerConfig
from pretrainrl_jax.model import splash
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.loss import total_loss
from pretrainrl_jax.objectives.scoring import score_trees, target_logps
from pretrainrl_jax.objectives.sums import count
from pretrainrl_jax.stages.shards import with_references
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state, train_step
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import PackedRows, ProcessShard
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, document

SETTINGS = OptimizerConfig(clip=0.7)
SCHEDULE = Schedule(1e-2, 10, 0.3, 0.1)
OBJECTIVES = {
    "ntp": {"ntp": {"question": 1.0, "answer": 1.0}},
    "ntp_answer": {"ntp": {"answer": 1.0}},
    "dpo": {"dpo": {"weight": 1.0, "beta": 0.1}},
    "pretrainrl": {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 1.0}},
    "all": {"ntp": {"question": 0.5, "answer": 2.0, "answer_mean": 0.6}, "dpo": {"weight": 0.7, "beta": 0.3}},
}


def some_trees(number: int, seed: int = 0) -> list[AnswerTree]:
    """Questions with 0 to 4 rejected answers and made-up references; some with more chosen, some named."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, END) for _ in range(rng.randint(low, high)))

    def branch(role: str) -> Branch:
        weight = rng.choice((1.0, 2.0))
        return Branch((*tokens(1, 3), END), role, weight=weight, reference_logp=-rng.uniform(3, 12))

    made = []
    for i in range(number):
        roles = ["chosen", *["rejected"] * rng.randint(0, 4)]
        if i % 4 == 3:
            roles += ["chosen", "candidate"]
        named = (Pair(0, 1), Pair(1, len(roles) - 1, 2.0)) if i % 8 == 7 else None
        made.append(AnswerTree(str(i), tokens(1, 7), tuple(map(branch, roles)), named))
    return made


def packed(trees: list[AnswerTree], rows: int, row_length: int = 48) -> PackedBatch:
    """All trees in one batch of `rows` rows, with a microstep axis of one."""
    source = PackedRows(trees, row_length, seed=1, passes=1, rows=rows)
    assert source.batches == 1
    return next(ProcessShard(source, 1, tuple(range(rows))).batches())


class Separate(NamedTuple):
    """Trees as plain sequences, one a branch, padded to one length; and what of them counts how much."""

    sequences: np.ndarray  # [branches, time], every token
    question: np.ndarray  # [branches, time - 1] of each token but the first; 1 in a tree's first branch
    of_branch: np.ndarray  # the same, 1 in the branch
    share: np.ndarray  # [branches] of the chosen ones, by their weights
    length: np.ndarray  # [branches] in tokens
    reference: np.ndarray  # [branches]
    pairs: np.ndarray  # [pairs, 2] branches, the better one first
    weight: np.ndarray  # [pairs], of a tree's pairs together 1
    compared: int  # trees that have pairs


def separate(trees: list[AnswerTree]) -> Separate:
    """One by one, without packing."""
    branches = [(tree, number) for tree in trees for number in range(len(tree.branches))]
    time = max(len(tree.prefix) + len(tree.branches[number].tokens) for tree, number in branches)
    count = len(branches)
    sequences = np.zeros((count, time), np.int32)
    question, of_branch = np.zeros((2, count, time - 1), np.float32)
    share, length, reference = np.zeros((3, count), np.float32)
    pairs, weights, compared, first = [], [], 0, 0
    for tree in trees:
        split = len(tree.prefix) - 1
        chosen = [i for i, b in enumerate(tree.branches) if b.role == "chosen"]
        total_weight = sum(tree.branches[i].weight for i in chosen)
        for i, branch in enumerate(tree.branches):
            at, tokens = first + i, (*tree.prefix, *branch.tokens)
            sequences[at, : len(tokens)] = tokens
            question[at, :split] = i == 0
            of_branch[at, split : len(tokens) - 1] = 1
            share[at] = branch.weight / total_weight if i in chosen else 0
            length[at], reference[at] = len(branch.tokens), branch.reference_logp
        rejected = [i for i, b in enumerate(tree.branches) if b.role == "rejected"]
        of_tree = tree.pairs or [(i, j, 1.0) for i in chosen for j in rejected]
        compared += bool(of_tree)
        pairs += [(first + i, first + j) for i, j, _ in of_tree]
        weights += [weight / sum(p[2] for p in of_tree) for *_, weight in of_tree]
        first += len(tree.branches)
    of_pairs = np.array(pairs), np.array(weights, np.float32), compared
    return Separate(sequences, question, of_branch, share, length, reference, *of_pairs)


@jax.jit(static_argnums=0)
def unpacked_loss(model, params, plain, weights, n, trees):
    """The objective and its gradient from plain sequences, without trees, packing or fused log-probabilities.

    NTP is divided by `n`; what an objective has not weighs nothing.
    """

    def loss(params):
        every = jax.nn.log_softmax(model.logits(params, plain.sequences))[:, :-1]
        logps = jnp.take_along_axis(every, plain.sequences[:, 1:, None], -1)[..., 0]
        sums = (logps * plain.of_branch).sum(-1)
        question, answer = -(logps * plain.question).sum(), -(plain.share * sums).sum()
        mean = -(plain.share * sums / plain.length).sum()
        ratios = sums - plain.reference
        better, worse = ratios[plain.pairs].T
        preference = (plain.weight * jnp.log1p(jnp.exp(-weights["beta"] * (better - worse)))).sum()
        return (
            (weights["question"] * question + weights["answer"] * answer) / n
            + weights["answer_mean"] * mean / trees
            + weights["weight"] * preference / plain.compared
        )

    return jax.value_and_grad(loss)(params)


def distance(one, other) -> float:
    """Relative difference of two parameter trees, by whole-tree norm."""
    ones, others = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (one, other))
    return float(np.linalg.norm(ones - others) / np.linalg.norm(others))


@jax.jit(static_argnums=0)
def rows_logps(model, params, rows):
    return target_logps(model, params, rows)[0]


@jax.jit(static_argnums=0)
def pulled_back(model, params, rows, of_logps):
    """Gradients of parameters from those of log-probabilities."""
    return jax.vjp(lambda params: target_logps(model, params, rows)[0], params)[1](of_logps)[0]


@jax.jit(static_argnames="scale")
def loss_of_logps(logps, rows, coefficients, scale):
    return jax.value_and_grad(lambda x: total_loss(x, rows, coefficients, count(rows), scale)[0])(logps)


def packed_loss(model, params, rows, coefficients, scale):
    """The loss and its gradient; only what differs between objectives is compiled for each of them."""
    loss, of_logps = loss_of_logps(rows_logps(model, params, rows), rows, coefficients, scale)
    return loss, pulled_back(model, params, rows, of_logps)


@pytest.mark.parametrize("scale", ["sequence", "token"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_trees_equal_separate_sequences(name, scale):
    model, params = small_model()
    trees, coefficients = some_trees(8), OBJECTIVES[name]
    rows = jax.tree.map(lambda x: x[0], packed(trees, rows=6))

    loss, gradient = packed_loss(model, params, rows, coefficients, scale)
    plain, ntp = separate(trees), coefficients.get("ntp", {})
    counted = {"question": plain.question.sum(), "answer": (plain.share * plain.length).sum()}
    n = sum(size for part, size in counted.items() if part in ntp) if scale == "token" else len(trees)
    nothing = dict.fromkeys(("question", "answer", "answer_mean", "weight", "beta"), 0.0)
    weights = nothing | ntp | coefficients.get("dpo", {})
    expected, oracle = unpacked_loss(model, params, plain, weights, max(float(n), 1.0), len(trees))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert distance(gradient, oracle) < 1e-5


@pytest.mark.slow
def test_one_by_eight_is_eight_by_one():
    """Microsteps share the whole batch's denominators: cutting a batch changes rounding only."""
    model, params = small_model()
    rows = packed(some_trees(20), rows=8)
    coefficients = OBJECTIVES["all"]
    results = {}
    one_step = jax.jit(train_step, static_argnums=(0, 1, 2))
    for microsteps in (1, 8):
        cut = PackedBatch(*(x.reshape(microsteps, 8 // microsteps, *x.shape[2:]) for x in rows))
        for scale in ("sequence", "token"):
            state = init_state(params, adamw(SETTINGS))
            state, metrics = one_step(model, SETTINGS, scale, state, cut, coefficients, SCHEDULE)
            results[microsteps, scale] = state.opt_state[1].mu, metrics  # clipped gradients, up to a factor
    for (_, scale), (gradient, metrics) in results.items():
        expected_gradient, expected = results[1, scale]
        assert distance(gradient, expected_gradient) < 1e-5
        for key in (
            "loss",
            "loss_dpo",
            "loss_ntp",
            "reward_margin",
            "logp_gold",
            "logp_negative",
            "grad_norm",
        ):
            np.testing.assert_allclose(metrics[key], expected[key], rtol=2e-5, atol=1e-5, err_msg=key)


def test_dpo_is_ln_2_at_step_0():
    """References from the score engine, policy from the training step: they agree to float32's rounding."""
    model, params = small_model()
    trees = some_trees(30)
    scores = score_trees(model, params, trees, row_length=64, rows=3)  # packed otherwise than in training
    rows = packed(with_references(trees, scores), rows=20)
    one_step = jax.jit(train_step, static_argnums=(0, 1, 2))
    state = init_state(params, adamw(SETTINGS))
    _, metrics = one_step(model, SETTINGS, "sequence", state, rows, OBJECTIVES["dpo"], SCHEDULE)
    assert abs(float(metrics["loss_dpo"]) - math.log(2)) <= 2e-6
    assert float(metrics["loss"]) == float(metrics["loss_dpo"])


def test_dpo_at_step_0_in_bfloat16():
    """In bfloat16 too: measured 3e-7 on a CPU, where a token's rounding does not depend on its packing."""
    model, params = small_model(dtype="bfloat16")
    trees = some_trees(30)
    scores = score_trees(model, params, trees, row_length=64, rows=3)
    rows = packed(with_references(trees, scores), rows=20)
    state = init_state(params, adamw(SETTINGS))
    one_step = jax.jit(train_step, static_argnums=(0, 1, 2))
    state, metrics = one_step(model, SETTINGS, "sequence", state, rows, OBJECTIVES["dpo"], SCHEDULE)
    assert abs(float(metrics["loss_dpo"]) - math.log(2)) <= 2e-5
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))


def numbers(*values):
    """As arrays of float32: one program for all of these tests, which have the same shapes."""
    return jax.tree.map(jnp.float32, values)


def test_one_compiled_step_for_a_set_of_terms():
    """Whatever the coefficients, the schedule and the trees; and the same settings give the same step."""
    model, params = small_model()
    step = compile_step(model, SETTINGS, "sequence", make_mesh(MeshConfig()))
    assert compile_step(model, SETTINGS, "sequence", make_mesh(MeshConfig())) is step
    step.clear_cache()  # whatever tests came before
    batches = packed(some_trees(9), rows=9), packed(some_trees(9)[::-1], rows=9)
    sets = [OBJECTIVES[name] for name in ("ntp", "pretrainrl")]
    for number, batch in enumerate(batches):
        for coefficients in sets:
            scaled = jax.tree.map(lambda x, by=number: jnp.float32(x * by), coefficients)
            rate = jax.tree.map(jnp.float32, SCHEDULE._replace(peak=1e-3 * (1 + number)))
            _, metrics = step(init_state(params, adamw(SETTINGS)), batch, scaled, rate)
            assert (metrics["loss"] > 0) == (number > 0)
    assert step._cache_size() == len(sets)


def test_the_step_donates_its_state():
    model, params = small_model()
    step = compile_step(model, SETTINGS, "sequence", make_mesh(MeshConfig()))
    state = init_state(params, adamw(SETTINGS))
    step(state, packed(some_trees(9), rows=9), *numbers(OBJECTIVES["ntp"], SCHEDULE))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)))
    assert not any(x.is_deleted() for x in jax.tree.leaves(params))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_changes_nothing_but_the_step(bad: float):
    """And the next one is the one it would have been: moments and their bias correction are untouched."""
    model, params = small_model()
    step = compile_step(model, SETTINGS, "sequence", make_mesh(MeshConfig()))
    always = Schedule(1e-2, 10, 0.0, 1.0)  # so that the rate does not depend on the step
    asked = numbers(OBJECTIVES["pretrainrl"], always)
    trees = some_trees(9)
    gold = replace(trees[4].branches[0], reference_logp=bad)
    spoilt = [*trees[:4], replace(trees[4], branches=(gold, *trees[4].branches[1:])), *trees[5:]]
    assert len(trees[4].branches) > 1  # its reference is read
    batch = {
        "first": packed(trees, rows=9),
        "bad": packed(spoilt, rows=9),
        "last": packed(trees[::-1], rows=9),
    }

    def trained(*names: str):
        state, skipped = init_state(params, adamw(SETTINGS)), []
        for name in names:
            state, metrics = step(state, batch[name], *asked)
            skipped.append(float(metrics["skipped"]))
        return state, skipped

    expected, none = trained("first", "last")
    state, skipped = trained("first", "bad", "last")
    assert (none, skipped) == ([0, 0], [0, 1, 0])
    assert (int(expected.step), int(state.step)) == (2, 3)
    for one, other in zip(jax.tree.leaves(expected[1:]), jax.tree.leaves(state[1:]), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert distance(trained("first")[0].params, state.params) > 1e-4  # the last one did change them


def test_no_logits_in_the_compiled_step():
    """Temporaries grow with the vocabulary only as the head does: [tokens, vocabulary] is never held."""
    tokens, width = 4 * 256, 16
    sizes = {}
    for vocabulary in (8192, 32768):
        model, params = small_model(vocabulary=vocabulary, tied=True)
        rows = packed(some_trees(40), rows=4, row_length=256)
        step = compile_step(model, SETTINGS, "sequence", make_mesh(MeshConfig()))
        compiled = step.lower(init_state(params, adamw(SETTINGS)), rows, OBJECTIVES["pretrainrl"], SCHEDULE)
        sizes[vocabulary] = compiled.compile().memory_analysis().temp_size_in_bytes
    growth = sizes[32768] - sizes[8192]
    more = 32768 - 8192
    assert growth <= 6 * 4 * more * width  # gradients and updates of the head
    assert growth < 0.5 * 4 * more * tokens


MESH = """
import sys, jax
sys.path.insert(0, sys.argv[1])
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.training.optimizer import adamw
from pretrainrl_jax.training.step import compile_step, init_state
from helpers.models_and_trees import small_model
from test_step import OBJECTIVES, SCHEDULE, SETTINGS, packed, some_trees, distance

model, params = small_model(vocabulary=104)
rows = packed(some_trees(20), rows=8)
results = []
one = make_mesh(MeshConfig(data=1), jax.devices()[:1])
for mesh in (one, make_mesh(MeshConfig()), make_mesh(MeshConfig(fsdp=4)),
             make_mesh(MeshConfig(fsdp=2, tensor=2))):
    place = parameter_shardings(model, mesh)
    state = init_state(jax.device_put(params, place), adamw(SETTINGS))
    step = compile_step(model, SETTINGS, "sequence", mesh)
    state, metrics = step(state, rows, OBJECTIVES["pretrainrl"], SCHEDULE)
    query = state.params["layers"]["attention"]["query"]
    shard = query.addressable_shards[0].data.size
    assert shard * mesh.shape["fsdp"] * mesh.shape["tensor"] == query.size, (mesh, query.sharding)
    results.append((jax.device_get(state.opt_state[1].mu), float(metrics["loss"])))
for gradient, loss in results[1:]:
    assert abs(loss - results[0][1]) < 1e-5 * abs(loss), (loss, results[0][1])
    assert distance(gradient, results[0][0]) < 1e-5
print("equal on every mesh")
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(request):
    paths = f"{request.config.rootpath / 'tests'}"
    code = MESH.replace(
        "sys.path.insert(0, sys.argv[1])", f"sys.path[:0] = [{paths!r}, {paths + '/training'!r}]"
    )
    fast = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=fast)
    assert done.stdout.strip() == "equal on every mesh", done.stderr[-2000:]


def texts(number: int) -> list[AnswerTree]:
    """Documents of many lengths."""
    rng = np.random.default_rng(4)
    made = (rng.integers(1, END, rng.integers(3, 120)).tolist() for _ in range(number))
    return [document(str(n), (*tokens, END), bos=None) for n, tokens in enumerate(made)]


def first_step(kernel: str, trees: list[AnswerTree], sequences: bool, monkeypatch) -> tuple[float, object]:
    """The loss of a step, and its gradient, of rows of 256 tokens; splash may take them."""
    monkeypatch.setattr(splash, "MIN_TIME", 256)
    model, params = small_model(head_dim=64, heads=2, kv_heads=1, remat="attention")
    model, mesh = replace(model, kernel=kernel), make_mesh(MeshConfig(), jax.devices()[:1])
    source = PackedRows(trees, 256, seed=1, passes=1, rows=4, question=False, sequences=sequences)
    assert source.batches == 1
    batch = next(ProcessShard(source, 1, tuple(range(4))).batches())
    unclipped = OptimizerConfig(clip=1e9)  # so that the first moments are the gradient
    step = compile_step(model, unclipped, "token", mesh)
    state, metrics = step(init_state(params, adamw(unclipped)), batch, OBJECTIVES["ntp_answer"], SCHEDULE)
    return float(metrics["loss"]), state.opt_state[1].mu


def counted(monkeypatch) -> list[int]:
    """Grows when splash attention is asked."""
    taken, attend = [], splash.attend
    monkeypatch.setattr(splash, "attend", lambda *args: taken.append(1) or attend(*args))
    return taken


def test_a_step_on_documents_is_the_same_by_either_kernel(monkeypatch):
    taken = counted(monkeypatch)
    loss, gradient = first_step("splash", texts(12), True, monkeypatch)
    assert taken
    taken.clear()
    wanted, oracle = first_step("xla", texts(12), True, monkeypatch)
    assert not taken
    other, _ = first_step("splash", texts(12), False, monkeypatch)  # as trees of a branch and no prefix
    np.testing.assert_allclose([loss, other], wanted, rtol=1e-6)
    assert distance(gradient, oracle) < 1e-5


def test_a_step_on_trees_is_the_same_by_either_kernel(monkeypatch):
    trees, taken = some_trees(8), counted(monkeypatch)
    loss, gradient = first_step("splash", trees, False, monkeypatch)
    assert taken
    taken.clear()
    wanted, oracle = first_step("xla", trees, False, monkeypatch)
    assert not taken
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert distance(gradient, oracle) < 1e-5
    with pytest.raises(ValueError, match=r"^tree \d has \d branches and is no sequence"):
        first_step("splash", trees, True, monkeypatch)
