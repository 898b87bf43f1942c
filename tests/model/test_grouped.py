"""Products of groups of rows, and their gradients, by the definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainrl_jax.model.experts import gradient_of_matrices, grouped_product, with_megablox

SIZES = ([5, 0, 120, 171], [0, 0, 0, 0], [300, 0, 0, 0], [0, 256, 1, 0])  # of 300 rows


def drawn(inputs: int, outputs: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(inputs)
    shapes = (300, inputs), (4, inputs, outputs)
    x, matrices = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return x, matrices


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_kernel_that_tpus_have_sums_each_groups_rows(sizes: list[int]) -> None:
    """Interpreted; groups begin and end within its tiles, some are empty, and rows are left over."""
    x, gradient = drawn(7, 4)[0], drawn(5, 4)[0]
    ours = gradient_of_matrices(x, gradient, jnp.asarray(sizes, jnp.int32), interpret=True)
    ends = np.cumsum(sizes)
    groups = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    wanted = np.stack([np.asarray(x)[rows].T @ np.asarray(gradient)[rows] for rows in groups])
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_both_give_the_same_gradients(sizes: list[int]) -> None:
    x, matrices = drawn(6, 3)
    counted = (jnp.arange(len(x)) < sum(sizes))[:, None]

    def loss(product: Any, x: jax.Array, matrices: jax.Array) -> jax.Array:
        y = product(x, matrices, jnp.asarray(sizes, jnp.int32))
        return (jnp.where(counted, y, 0) ** 2).sum()

    def of_tpus(*arguments: Any) -> jax.Array:
        return with_megablox(*arguments, True)

    def of_others(*arguments: Any) -> jax.Array:
        return grouped_product(*arguments, "cpu")

    ours, wanted = (
        jax.grad(lambda *a, product=product: loss(product, *a), (0, 1))(x, matrices)
        for product in (of_tpus, of_others)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, wanted)
    np.testing.assert_allclose(loss(of_tpus, x, matrices), loss(of_others, x, matrices), rtol=1e-5)
