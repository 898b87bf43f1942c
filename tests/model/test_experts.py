"""Mixtures of experts against their definition, against transformers, and on eight devices."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import expert_results
from helpers.eight_devices import asked_meshes, distance, results
from helpers.expert_results import KINDS, MESHES, ONE
from helpers.mesh_results import COEFFICIENTS, SCHEDULE, SETTINGS, trees
from helpers.models_and_trees import small_model
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from pretrainrl_jax.config import MeshConfig, ModelConfig
from pretrainrl_jax.config.machine import MIXTURES
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.attention import TreeRows, tree_mask
from pretrainrl_jax.model.experts import (
    LOAD,
    PROBABILITY,
    Matrices,
    Matrix,
    balance_loss,
    load,
    mix_experts,
    route,
)
from pretrainrl_jax.model.families import FAMILIES
from pretrainrl_jax.model.mesh import ONE_DEVICE, check_model, make_mesh
from pretrainrl_jax.model.shape import from_settings
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.dataset import PackedRows

MODEL, HIDDEN, TOLERANCE = 6, 5, 1e-5


def drawn(seed: int, rows: int, time: int, experts: int, skew: float = 1.0) -> tuple[Any, Any, Matrices]:
    """Tokens, a router's logits for them, and experts' matrices."""
    rng = np.random.default_rng(seed)
    shapes = {"gate": (MODEL, HIDDEN), "up": (MODEL, HIDDEN), "down": (HIDDEN, MODEL)}
    matrices = {
        name: Matrix(jnp.asarray(rng.normal(size=(experts, *shape)), jnp.float32))
        for name, shape in shapes.items()
    }
    x, logits = rng.normal(size=(rows, time, MODEL)), skew * rng.normal(size=(rows, time, experts))
    return jnp.asarray(x, jnp.float32), jnp.asarray(logits, jnp.float32), matrices


def every_expert(x: jax.Array, routed: Any, matrices: Matrices, activation: Any) -> jax.Array:
    """The mixture by its definition, each expert on every token, without adapters. x [rows, time, model]."""
    count = routed.probabilities.shape[-1]
    weights = (jax.nn.one_hot(routed.experts, count) * routed.weights[..., None]).sum(-2)
    gate, up = (jnp.einsum("rtm,emf->rtef", x, w.weight) for w in (matrices["gate"], matrices["up"]))
    return jnp.einsum("rtef,efm,rte->rtm", activation(gate) * up, matrices["down"].weight, weights)


@partial(jax.jit, static_argnums=(3, 4))
def mixed(x: Any, logits: Any, matrices: Matrices, chosen: int, normalised: bool) -> Any:
    """A mixture as it is computed, and by its definition."""
    routed = route(logits, chosen, normalised)
    ours = mix_experts(x, routed, matrices, jax.nn.silu, ONE_DEVICE)
    return ours, every_expert(x, routed, matrices, jax.nn.silu)


# Rows, time, experts, chosen ones, and whether their weights add up to 1: each is compiled once.
MIXED = [
    (1, 1, 1, 1, True), (1, 9, 7, 1, False), (3, 1, 4, 4, True), (2, 5, 3, 2, False), (3, 9, 7, 5, True),
    (3, 7, 2, 2, False),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "time", "experts", "chosen", "normalised"), MIXED)
@pytest.mark.parametrize("skew", [0.1, 30.0])
def test_a_mixture_is_what_each_expert_gives_of_each_token(
    rows: int, time: int, experts: int, chosen: int, normalised: bool, skew: float
) -> None:
    """However unequally they are chosen: no token is dropped. In float64 by NumPy."""
    for seed in range(3):
        assert_mixed(*drawn(seed, rows, time, experts, skew), chosen, normalised)


def assert_mixed(x: Any, logits: Any, matrices: Matrices, chosen: int, normalised: bool) -> None:
    ours, reference = mixed(x, logits, matrices, chosen, normalised)
    rows, time, _ = x.shape
    of_names = (matrices[name].weight for name in ("gate", "up", "down"))
    wide, (gate, up, down) = np.asarray(x, np.float64), (np.asarray(w, np.float64) for w in of_names)
    wanted, router = np.zeros_like(wide), np.asarray(logits, np.float64)
    for row, at in np.ndindex(rows, time):
        scores = np.exp(router[row, at])
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:chosen]
        for expert in best:
            open_to = wide[row, at] @ gate[expert]
            given = (open_to / (1 + np.exp(-open_to)) * (wide[row, at] @ up[expert])) @ down[expert]
            wanted[row, at] += given * scores[expert] / (scores[best].sum() if normalised else 1.0)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(reference, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_its_gradients_are_those_of_the_definition() -> None:
    x, logits, matrices = drawn(1, 3, 7, 5)

    def loss(mix: Any, *arguments: Any) -> jax.Array:
        x, logits, matrices = arguments
        return (mix(x, route(logits, 2, True), matrices, jax.nn.silu) ** 2).sum()

    def grouped(*arguments: Any) -> jax.Array:
        return mix_experts(*arguments, ONE_DEVICE)

    ours, wanted = (
        jax.jit(jax.grad(lambda *a, mix=mix: loss(mix, *a), (0, 1, 2)))(x, logits, matrices)
        for mix in (grouped, every_expert)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, wanted)


def test_adapters_of_experts_are_merged_into_what_they_compute() -> None:
    x, logits, matrices = drawn(2, 2, 5, 4)
    rng = np.random.default_rng(3)

    def adapted(matrix: Matrix) -> Matrix:
        experts, takes, gives = matrix.weight.shape
        a, b = rng.normal(size=(experts, takes, 2)), rng.normal(size=(experts, 2, gives))
        return Matrix(matrix.weight, jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))

    beside = {name: adapted(matrices[name]) for name in ("gate", "up", "down")}
    merged = {
        name: Matrix(m.weight + 0.3 * jnp.einsum("eir,ero->eio", m.a, m.b)) for name, m in beside.items()
    }

    @partial(jax.jit, static_argnames="scale")
    def mix(matrices: Matrices, scale: float = 1.0) -> jax.Array:
        return mix_experts(x, route(logits, 2, True), matrices, jax.nn.silu, ONE_DEVICE, scale=scale)

    ours, wanted = mix(beside, scale=0.3), mix(merged)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_that_balances_them_is_that_of_transformers(padded: bool) -> None:
    layers, rows, time, experts, chosen = 3, 2, 8, 6, 2
    logits = np.random.default_rng(4).normal(size=(layers, rows, time, experts)).astype(np.float32)
    real = np.arange(time) < np.array([[5], [8 - 3 * padded]]) if padded else np.ones((rows, time), bool)
    loads = [load(route(jnp.asarray(one), chosen, True), jnp.asarray(real)) for one in logits]
    ours = balance_loss({name: jnp.stack([one[name] for one in loads]) for name in (LOAD, PROBABILITY)})
    of_layers = tuple(torch.tensor(one).reshape(-1, experts) for one in logits)
    wanted = load_balancing_loss_func(of_layers, experts, chosen, torch.tensor(real).long())
    np.testing.assert_allclose(ours, wanted.item(), rtol=1e-6)
    assert float(ours) > chosen  # which equal shares would give


def test_experts_that_are_equally_busy_cost_the_least() -> None:
    even = {LOAD: jnp.full((2, 4), 6.0), PROBABILITY: jnp.full((2, 4), 3.0)}  # 12 tokens, 2 experts each
    np.testing.assert_allclose(balance_loss(even), 2.0)


def test_a_prefix_counts_once_and_padding_not_at_all() -> None:
    """Pairs would count it for each answer, which is where the loss differs from transformers'."""
    model, params = small_model(family="qwen3_moe", experts=4, experts_per_token=2)
    tree_id = np.array([[1, 1, 1, 1, 1, 0, 0]])
    branch_id, positions = np.array([[0, 0, 1, 1, 2, 0, 0]]), np.array([[0, 1, 2, 3, 2, 0, 0]])
    tokens = np.array([[5, 6, 7, 8, 9, 1, 1]])
    rows = TreeRows(jnp.asarray(tree_id), jnp.asarray(branch_id))
    for visible in (rows, tree_mask(tree_id, branch_id)):
        states = jax.jit(model.hidden)(params, jnp.asarray(tokens), jnp.asarray(positions), visible)
        np.testing.assert_allclose(states.auxiliary[LOAD].sum(-1), [5 * 2] * 2, rtol=1e-6)
        np.testing.assert_allclose(states.auxiliary[PROBABILITY].sum(-1), [5] * 2, rtol=1e-6)


def test_a_step_adds_the_loss_that_balances_them() -> None:
    """By the architecture's coefficient, and shows it; without, the loss is that of the terms alone."""
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    batch = next(iter(Feed(PackedRows(trees(20), 48, seed=1, passes=1, rows=2), mesh)))
    lines = []
    for coefficient in (0.0, 0.25):
        model, params = small_model(**(expert_results.MIXTURE | {"router_loss": coefficient}))
        state = init_sharded_state(model, params, SETTINGS, mesh)
        step = compile_step(model, SETTINGS, "sequence", mesh)
        lines.append(step(state, batch, COEFFICIENTS, SCHEDULE)[1])
    without, beside = lines
    assert float(beside["router_loss"]) == pytest.approx(float(without["router_loss"]), rel=1e-6)
    assert float(beside["router_loss"]) > 3  # experts a token
    assert float(beside["loss"] - without["loss"]) == pytest.approx(
        0.25 * float(beside["router_loss"]), rel=1e-4
    )
    assert float(beside["grad_norm"]) != float(without["grad_norm"])


def test_a_mesh_of_experts_needs_some() -> None:
    dense, mixture = (
        small_model(family=family, **more)[0].shape
        for family, more in (("qwen3", {}), ("qwen3_moe", {"experts": 6, "experts_per_token": 2}))
    )
    mesh: Any = jax.sharding.AbstractMesh((1, 1, 4, 1), ("data", "fsdp", "expert", "tensor"))
    with pytest.raises(InputError, match=r"mesh\.expert is 4 and the model has no experts"):
        check_model(dense, mesh)
    with pytest.raises(InputError, match=r"mesh\.expert is 4 and does not divide the model's 6 experts"):
        check_model(mixture, mesh)


def test_settings_know_which_families_have_experts() -> None:
    assert {family for family, traits in FAMILIES.items() if traits.experts} == set(MIXTURES)


@pytest.mark.parametrize(
    ("family", "asked", "router_loss", "normalised"),
    [
        ("mixtral", -1.0, 0.001, True),
        ("qwen3_moe", -1.0, 0.001, False),
        ("olmoe", 0.5, 0.5, False),
        ("olmoe", 0.0, 0.0, False),
        ("qwen3", -1.0, 0.0, True),
    ],
)
def test_settings_make_a_mixture_with_what_its_family_has(
    family: Any, asked: float, router_loss: float, normalised: bool
) -> None:
    experts = {"experts": 4, "experts_per_token": 2} if family in MIXTURES else {}
    settings = ModelConfig(family=family, router_loss=asked, norm_topk_prob=normalised, **experts)
    shape = from_settings(settings, 77)
    assert (shape.router_loss, shape.norm_topk_prob) == (router_loss, normalised)


# Eight devices.

each_mesh = pytest.mark.parametrize(
    "mesh",
    [mesh if mesh == "all but data" else pytest.param(mesh, marks=pytest.mark.slow) for mesh in MESHES],
)


@pytest.fixture(scope="module")
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each mesh computes that is asked about, and one device."""
    meshes = [ONE, *asked_meshes(request, MESHES)]
    return results(expert_results, tmp_path_factory.mktemp("experts") / "computed", *meshes)


@pytest.mark.parametrize("kind", KINDS)
@each_mesh
def test_eight_devices_train_as_one(computed: dict[str, Any], mesh: str, kind: str) -> None:
    ours, expected = computed[mesh]["training"][kind], computed[ONE]["training"][kind]
    assert len(ours["lines"]) == len(expected["lines"]) > 3
    for name in ("loss", "router_loss", "grad_norm"):
        both = ([line[name] for line in of["lines"]] for of in (ours, expected))
        np.testing.assert_allclose(*both, rtol=1e-4)
    assert all(line["router_loss"] > 3 for line in expected["lines"])  # three experts a token
    assert distance(ours["gradient"], expected["gradient"]) < TOLERANCE
    assert distance(ours["params"], expected["params"]) < 3e-4


@each_mesh
def test_experts_lie_along_their_axis(computed: dict[str, Any], mesh: str) -> None:
    specs = computed[mesh]["training"]["all"]["specs"]
    assert specs["['layers']['mlp']['gate']"] == (None, "expert", "fsdp", "tensor")
    assert specs["['layers']['mlp']['down']"] == (None, "expert", "tensor", "fsdp")
    assert specs["['layers']['mlp']['router']"] == (None, "fsdp", None)


@each_mesh
def test_eight_devices_answer_as_one(computed: dict[str, Any], mesh: str) -> None:
    ours, expected = computed[mesh], computed[ONE]
    for one, other in zip(ours["beams"], expected["beams"], strict=True):
        assert {beam.tokens for beam in one} == {beam.tokens for beam in other}
        for beam, of_other in zip(one, other, strict=True):
            assert math.isclose(beam.logp, of_other.logp, rel_tol=0, abs_tol=1e-4)
    drawn, wanted = ([[s.tokens for s in of] for of in which["samples"]] for which in (ours, expected))
    assert drawn == wanted
    for one, other in zip(ours["scores"], expected["scores"], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
