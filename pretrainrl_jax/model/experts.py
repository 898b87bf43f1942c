"""A mixture of experts (arXiv 1701.06538): of many MLPs a router chooses a few for each token.

The tokens are sorted by expert and multiplied group by group (`grouped_product`). No expert has a capacity,
so that no token is dropped, whatever the router chooses.

Along the mesh's axis `expert` each device has some of the experts, and rows of its own. It gathers the rows
of the others on the axis, lets its experts work on them, and gives each its part of the sum back.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.model.mesh import Layout

LOAD, PROBABILITY = "expert_load", "expert_probability"  # of a layer's experts, over real tokens; [experts]
TILE = 256  # rows that megablox takes at a time
SIDE = 2048  # bytes of a side of the part of a matrix that it makes at a time: VMEM holds a few such squares
LANES = 128


class Routed(NamedTuple):
    experts: jax.Array  # int32 [rows, time, experts a token]: the most probable ones
    weights: jax.Array  # float32, the same shape: what their outputs are multiplied by
    probabilities: jax.Array  # float32 [rows, time, experts]


class Matrix(NamedTuple):
    """A matrix of each expert; with an adapter (LoRA) a product is x · weight + scale · x · a · b."""

    weight: Any  # [experts, inputs, outputs]
    a: Any = None  # [experts, inputs, rank]
    b: Any = None  # [experts, rank, outputs]


# Of a gated MLP for each expert, by name: the axes from which and to which each matrix leads.
SIDES = {"gate": ("model", "mlp"), "up": ("model", "mlp"), "down": ("mlp", "model")}
Matrices = dict[str, Matrix]


class Axes(NamedTuple):
    """Axes of the mesh along which there are several devices, where a function runs on one of them."""

    experts: str | None = None  # each has some of the experts, and rows of its own
    model: str | None = None  # each has a part of every matrix, to be gathered
    mlp: str | None = None  # each has a part of every expert's hidden units


def route(logits: jax.Array, per_token: int, normalised: bool) -> Routed:
    """The experts of each token: the most probable `per_token`, by a softmax of logits [rows, time, experts].

    `normalised`: the weights of the chosen ones add up to 1; else they are their probabilities.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), -1)
    weights, experts = jax.lax.top_k(probabilities, per_token)
    if normalised:
        weights = weights / weights.sum(-1, keepdims=True)
    return Routed(experts, weights, probabilities)


def load(routed: Routed, real: jax.Array) -> dict[str, jax.Array]:
    """How many tokens chose each expert, and the sum of their probabilities for it.

    Of tokens that are `real`, bool [rows, time]: False on padding.
    """
    count = routed.probabilities.shape[-1]
    chosen = jax.nn.one_hot(routed.experts, count, dtype=jnp.float32).sum(-2)  # [rows, time, experts]
    return {
        LOAD: jnp.einsum("rte,rt->e", chosen, real.astype(jnp.float32)),
        PROBABILITY: jnp.einsum("rte,rt->e", routed.probabilities, real.astype(jnp.float32)),
    }


def balance_loss(auxiliary: dict[str, jax.Array]) -> jax.Array:
    """The loss that keeps experts equally busy (Switch Transformer, arXiv 2101.03961, equations 4 to 6).

    experts · Σ share of tokens · mean probability, over the experts; both are means over all layers together,
    as transformers has it. Equal shares give the number of experts a token, which is the least. What layers
    report, `auxiliary`, is [layers, experts] each.
    """
    loads, probabilities = auxiliary[LOAD].sum(0), auxiliary[PROBABILITY].sum(0)
    tokens = jnp.maximum(jax.lax.stop_gradient(probabilities.sum()), 1.0)
    return loads.shape[0] * jnp.sum(loads / tokens * probabilities / tokens)


def mix_experts(
    x: jax.Array,
    routed: Routed,
    matrices: Matrices,
    activation: Callable[[jax.Array], jax.Array],
    layout: Layout,
    scale: float = 1.0,
) -> jax.Array:
    """The weighted sum of what each token's experts give of x [rows, time, model], of its shape and dtype.

    The matrices, of that dtype, are of all experts; `activation` is the gate's, `scale` that of adapters.
    Rows of x lie as a batch's do, experts, model and mlp as parameters'.
    """
    rules, several, rows = layout.rules, layout.several, layout.spec("rows", None, None)
    axes = Axes(*(axis if axis in several else None for axis in (rules.experts, rules.model, rules.mlp)))
    of_device = partial(_of_device, axes, activation=activation, scale=scale, platform=layout.platform)

    def specs(matrix: Matrix, takes: str, gives: str) -> Matrix:
        low = matrix.a is not None
        a, b = (layout.spec("experts", takes, "rank"), layout.spec("experts", "rank", gives))
        return Matrix(layout.spec("experts", takes, gives), a if low else None, b if low else None)

    of_matrices = {name: specs(matrix, *SIDES[name]) for name, matrix in matrices.items()}
    mix = layout.on_each_device(of_device, (rows, rows, rows, of_matrices), rows)
    return mix(x, routed.experts, routed.weights, matrices)


def _of_device(
    axes: Axes,
    x: jax.Array,
    experts: jax.Array,
    weights: jax.Array,
    matrices: Matrices,
    *,
    activation: Callable[[jax.Array], jax.Array],
    scale: float,
    platform: str,
) -> jax.Array:
    """The same on a device's rows, with its experts; its share of the sum where others have the rest."""
    if axes.experts:
        gather = partial(jax.lax.all_gather, axis_name=axes.experts, axis=0, tiled=True)
        x, experts, weights = gather(x), gather(experts), gather(weights)
    rows, time, model = x.shape
    per_token, own = experts.shape[-1], matrices["gate"].weight.shape[0]
    first = jax.lax.axis_index(axes.experts) * own if axes.experts else 0
    expert = experts.reshape(-1) - first  # [choices], of which each token has `per_token`, one after another
    expert = jnp.where((expert >= 0) & (expert < own), expert, own)  # those of other devices come last
    order = jnp.argsort(expert)
    inverse = jnp.argsort(order)
    sizes = (expert[:, None] == jnp.arange(own)).sum(0, dtype=jnp.int32)  # choices of each expert
    here = (jnp.arange(expert.size) < sizes.sum())[:, None]

    # What a grouped product makes of the rows after its groups, forward or backward, is not said: 0 goes on.
    def product(x: jax.Array, name: str) -> jax.Array:
        matrix, model_axis = matrices[name], 2 if name == "down" else 1
        y = _grouped(x, matrix, sizes, scale, axes, model_axis, platform)
        return checkpoint_name(jnp.where(here, y, 0), name)

    choices = jnp.where(here, _take(per_token, x.reshape(-1, model), order, inverse), 0)
    active = activation(product(choices, "gate")) * product(choices, "up")
    given: jax.Array = _take(1, product(active, "down"), inverse, order)
    mixed = jnp.einsum(
        "tkm,tk->tm",
        given.reshape(-1, per_token, model),
        weights.reshape(-1, per_token),
        preferred_element_type=jnp.float32,
    )
    mixed = mixed.reshape(rows, time, model).astype(x.dtype)
    if axes.mlp:
        mixed = jax.lax.psum(mixed, axes.mlp)
    if axes.experts:
        mixed = jax.lax.psum_scatter(mixed, axes.experts, scatter_dimension=0, tiled=True)
    return mixed


def _grouped(
    x: jax.Array, matrix: Matrix, sizes: jax.Array, scale: float, axes: Axes, model_axis: int, platform: str
) -> jax.Array:
    """x [choices, inputs], sorted by expert, times the matrix of each one's expert."""

    def times(x: jax.Array, weight: jax.Array, model_axis: int | None) -> jax.Array:
        if axes.model and model_axis is not None:
            weight = jax.lax.all_gather(weight, axes.model, axis=model_axis, tiled=True)
        return grouped_product(x, weight, sizes, platform)

    y = times(x, matrix.weight, model_axis)
    if matrix.a is None:
        return y
    of_a, of_b = (1, None) if model_axis == 1 else (None, 2)
    return y + times(times(x, matrix.a, of_a) * scale, matrix.b, of_b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take(times: int, x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """The rows of x [rows, model], each so many times, in an order; the gradient is gathered, not scattered.

    The order is int32 [rows · times], of rows counted as often as they are taken; `inverse` undoes it.
    """
    return x[order // times]


def _take_backward(times: int, inverse: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    back = gradient[inverse].reshape(-1, times, gradient.shape[-1])
    return back.sum(1, dtype=jnp.float32).astype(gradient.dtype), None, None


_take.defvjp(lambda times, x, order, inverse: (x[order // times], inverse), _take_backward)


def grouped_product(x: jax.Array, matrices: jax.Array, sizes: jax.Array, platform: str) -> jax.Array:
    """Each row times its group's matrix; what rows after the last group become is not said.

    x [rows, inputs], one group's rows after another's; matrices [groups, inputs, outputs]; sizes int32
    [groups], rows of each. It is compiled for `platform`.
    """
    if platform == "tpu":
        return with_megablox(x, matrices, sizes, False)
    return jax.lax.ragged_dot(x, matrices, sizes)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def with_megablox(x: jax.Array, matrices: jax.Array, sizes: jax.Array, interpret: bool) -> jax.Array:
    """The same, whose gradient of the matrices is megablox's; `interpret`: on a device that is no TPU.

    On TPUs `jax.lax.ragged_dot`, and its gradient of the rows, is a kernel that multiplies each row with its
    group's matrix alone. Of its gradient of the matrices libtpu (0.0.42) makes a product of all rows with
    each group, masked, as many times the work as there are groups.
    """
    return jax.lax.ragged_dot(x, matrices, sizes)


def _backward(interpret: bool, saved: tuple[Any, Any, Any], gradient: jax.Array) -> tuple[Any, Any, None]:
    x, matrices, sizes = saved
    (of_x,) = jax.vjp(lambda x: jax.lax.ragged_dot(x, matrices, sizes), x)[1](gradient)
    return of_x, gradient_of_matrices(x, gradient, sizes, interpret), None


with_megablox.defvjp(
    lambda x, matrices, sizes, interpret: (jax.lax.ragged_dot(x, matrices, sizes), (x, matrices, sizes)),
    _backward,
)


def gradient_of_matrices(
    x: jax.Array, gradient: jax.Array, sizes: jax.Array, interpret: bool = False
) -> jax.Array:
    """Of each group the sum over its rows of x · gradient, [groups, inputs, outputs]."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    longest = SIDE // x.dtype.itemsize
    sides = (min(longest, -(-y.shape[1] // LANES) * LANES) for y in (x, gradient))
    x, gradient = (jnp.pad(y, ((0, -len(y) % TILE), (0, 0))) for y in (x, gradient))
    tiling: Any = (TILE, *sides)
    return tgmm(x.swapaxes(0, 1), gradient, sizes, x.dtype, tiling, interpret=interpret)
