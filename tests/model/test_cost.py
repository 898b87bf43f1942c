"""Parameters against those declared, operations against a count of every matrix product traced."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.models_and_trees import small_shape

from pretrainrl_jax.config.machine import MATRICES
from pretrainrl_jax.model.cost import flops, parameters
from pretrainrl_jax.model.decoder import Model, project
from pretrainrl_jax.model.families import FAMILIES
from pretrainrl_jax.model.lora import Lora, join, split

ODDITIES: dict[str, dict[str, Any]] = {
    "plain": {"tied": True},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "kv_heads": 1},
    "deep": {"layers": 5, "remat": "full", "windows": (0, 0, 3, 3, 3)},
    "adapted": {"lora": Lora(3, 6.0, MATRICES), "kv_heads": 1},
}
BATCH, TIME = 3, 7


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_declared(family: str, oddity: str) -> None:
    shape = small_shape(**({"family": family, "qkv_bias": FAMILIES[family].qkv_bias} | ODDITIES[oddity]))
    declared: Any = nn.unbox(Model(shape).abstract())
    parts = split(Lora(1, 1.0, ()), declared)  # adapters are told by their names
    sizes, adapters = ({name: total(part) for name, part in parts_of.items()} for parts_of in parts)
    counted, of_adapters = parameters(shape), sum(adapters.values())
    of_others = sizes["embedding"], sizes.get("head", 0), sizes["layers"], sizes["final_norm"]
    assert counted == (*of_others, of_adapters)
    assert (of_adapters > 0) == (oddity == "adapted")
    assert counted.total == total(declared)
    assert counted.learned == (of_adapters or counted.total)


def total(part: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(part))


def products(jaxpr: Any) -> int:
    """Operations of the matrix products that a program traces to."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            entries = math.prod(equation.invars[0].aval.shape[axis] for axis in summed)
            total += 2 * entries * math.prod(equation.outvars[0].aval.shape)
        inner = sum(products(getattr(p, "jaxpr", p)) for p in equation.params.values() if _is_program(p))
        total += inner * equation.params.get("length", 1)  # a scan's
    return total


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


@pytest.mark.parametrize("lora", [None, Lora(3, 6.0, ("query", "value", "out", "up", "down"))])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_traced(family: str, kv_heads: int, lora: Lora | None) -> None:
    """Of the forward pass, and of the gradient with it. Masked positions are computed, too."""
    shape = small_shape(family=family, kv_heads=kv_heads, layers=3, lora=lora)
    model = Model(shape)
    params: Any = nn.unbox(model.abstract())
    tokens = jnp.zeros((BATCH, TIME), jnp.int32)

    frozen, trained = split(lora, params)

    def loss(trained: Any, frozen: Any) -> jax.Array:
        params = join(frozen, trained)
        mask = jnp.ones((BATCH, TIME, TIME), bool)
        return project(model.hidden(params, tokens, tokens, mask).hidden, model.head(params)).sum()

    counted = flops(shape, TIME)
    traced = products(jax.make_jaxpr(loss)(trained, frozen).jaxpr)
    assert traced == BATCH * TIME * counted.total
    both = jax.make_jaxpr(jax.value_and_grad(loss))(trained, frozen).jaxpr
    assert products(both) == BATCH * TIME * counted.training
    without = flops(shape, 0)
    assert without.attention == 0
    assert without.layers + without.head + without.adapters == counted.total - counted.attention
