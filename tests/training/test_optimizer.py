"""AdamW and its schedule against NumPy in float64."""
# ruff: noqa: B023 (the closures over loop variables are called at once)

import jax
import jax.numpy as jnp
import numpy as np
from helpers.models_and_trees import small_model

from pretrainrl_jax.config import OptimizerConfig
from pretrainrl_jax.training.optimizer import Schedule, adamw


def test_adamw_is_the_textbook_one_with_decay_on_matrices_only():
    settings = OptimizerConfig(weight_decay=0.1, beta1=0.9, beta2=0.95, clip=1.0)
    rng = np.random.default_rng(0)
    params = {"embedding": rng.normal(size=(5, 4)), "norm": {"scale": rng.normal(size=4)}}
    optimizer = adamw(settings)
    ours = jax.tree.map(jnp.float32, params)
    opt_state, update = optimizer.init(ours), jax.jit(optimizer.update)
    mu, second = jax.tree.map(np.zeros_like, params), jax.tree.map(np.zeros_like, params)
    for step in range(1, 6):
        gradient = jax.tree.map(lambda x: rng.normal(size=x.shape) * 3 ** (step - 3), params)
        direction, opt_state = update(jax.tree.map(jnp.float32, gradient), opt_state, ours)
        ours = jax.tree.map(lambda p, d: p - 0.01 * d, ours, direction)
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda g: g / max(norm, 1.0), gradient)
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, gradient)
        second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g**2, second, gradient)
        scaled = jax.tree.map(
            lambda m, v: (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8), mu, second
        )
        params = {
            "embedding": params["embedding"] - 0.01 * (scaled["embedding"] + 0.1 * params["embedding"]),
            "norm": {"scale": params["norm"]["scale"] - 0.01 * scaled["norm"]["scale"]},
        }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), ours, params)


def test_every_matrix_of_the_model_decays_and_no_norm_does():
    _, params = small_model()
    optimizer = adamw(OptimizerConfig(weight_decay=0.5))

    @jax.jit
    def still(params):
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]

    for path, value in jax.tree.leaves_with_path(still(params)):
        decays = float(np.abs(value).max()) > 0
        assert decays == ("norm" not in jax.tree_util.keystr(path)), path


def test_schedule_warms_up_and_ends_at_its_final_share():
    schedule = Schedule(peak=2.0, steps=100, warmup=0.03, final=0.1)
    rate = jax.jit(schedule.rate)
    rates = np.array([float(rate(jnp.int32(i))) for i in range(100)])
    np.testing.assert_allclose(rates[:3], [2 / 3, 4 / 3, 2.0], rtol=1e-6)
    progress = np.arange(1, 98) / 97
    np.testing.assert_allclose(rates[3:], 2 * (0.1 + 0.45 * (1 + np.cos(np.pi * progress))), rtol=1e-5)
    assert abs(rates[-1] - 0.2) < 1e-6
    assert float(Schedule(2.0, 1, 0.03, 0.1).rate(jnp.int32(0))) == 2.0
