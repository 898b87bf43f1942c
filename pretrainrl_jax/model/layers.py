"""What a decoder's layer is made of.

Every matrix product of a layer, with its weight, its bias and its adapter (LoRA), is one call of `linear`;
those of a mixture's experts are in experts.py.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.model.attention import Kernel, Visible, attend, rotate, rotates_by_product
from pretrainrl_jax.model.experts import SIDES, Matrix, load, mix_experts, route
from pretrainrl_jax.model.lora import A, B
from pretrainrl_jax.model.mesh import Layout, constrain
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.splash import MIXED

KeysValues = tuple[jax.Array, jax.Array]  # keys and values
Source = tuple[jax.Array, jax.Array, Visible]  # keys, values and mask
Angles = tuple[jax.Array, jax.Array]  # cosine and sine
EVERYTHING = 2**31 - 1  # the window of a layer that sees all positions
STREAM = "stream"  # what a layer's MLP reads, where no norm of attention's own comes between
# What each policy keeps of a layer between the passes, by `checkpoint_name`; beside its input, [rows, time,
# model] in the compute dtype, which all do. What is not kept is recomputed. From little memory to much;
# "none" keeps whatever gradients read, norms and XLA's attention scores in float32 among it.
_ATTENTION = ("query", "key", "value", MIXED, "out", STREAM)
KEPT: dict[Policy, tuple[str, ...]] = {
    "full": (),
    # [rows, time, 2 heads · head + 2 kv_heads · head + model] more. The MLP is recomputed, but for its last
    # product, and what takes no product with a weight: norms, rotation, scores where XLA or cuDNN attends.
    "attention": _ATTENTION,
    # [rows, time, mlp] more: one product of three of the MLP is recomputed. Here and below the last one is
    # kept where something reads it: [rows, time, model] for a norm after the MLP, each choice of a mixture.
    "up": (*_ATTENTION, "up", "down"),
    # [rows, time, mlp] more still: no product with a weight is recomputed.
    "products": (*_ATTENTION, "gate", "up", "down"),
}
ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": partial(jax.nn.gelu, approximate=True)}
Auxiliary = dict[str, jax.Array]  # by name, what a layer reports; the same names and shapes from every layer


class Part(nn.Module):
    """Of a decoder of that shape: what it computes with, and where it lies."""

    shape: ModelShape
    layout: Layout
    kernel: Kernel = "xla"


def parameter(module: Any, name: str, initialiser: Any, axes: tuple[str, ...]) -> Any:
    """A float32 parameter of a module of a decoder's shape, with the logical names of its axes."""
    sizes = tuple(module.shape.sizes[axis] for axis in axes)
    return module.param(name, nn.with_logical_partitioning(initialiser, axes), sizes, jnp.float32)


def weight(module: Any, name: str, axes: tuple[str, ...], inner: int) -> Any:
    """A matrix of the module; products with it sum over `inner` entries."""
    return parameter(module, name, nn.initializers.normal(inner**-0.5), axes)


def _adapter(
    module: Any,
    name: str,
    takes: tuple[str, ...],
    gives: tuple[str, ...],
    inner: int,
    of_each: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """A and B beside a matrix, at first as peft has them: A uniform within 1 / √inner, and B zero.

    `of_each` names axes along which there are several such matrices.
    """

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(inner**-0.5), inner**-0.5)

    a = parameter(module, name + A, uniform, (*of_each, *takes, "rank"))
    return a, parameter(module, name + B, nn.initializers.zeros_init(), (*of_each, "rank", *gives))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axes, those named, computed in float32."""

    shape: ModelShape
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        over, offset = tuple(range(-len(self.axes), 0)), self.shape.traits.norm_offset
        scale = offset + parameter(self, "scale", nn.initializers.constant(1.0 - offset), self.axes)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, over, keepdims=True) + self.shape.norm_epsilon)
        return (wide * inverse * scale).astype(x.dtype)


def linear(
    module: Part, name: str, x: jax.Array, takes: tuple[str, ...], gives: tuple[str, ...], bias: bool
) -> jax.Array:
    """x [batch, time, *takes] times the module's weight [*takes, *gives] of this name, plus its bias.

    Where the shape says so, a low-rank product is added to the weight's.
    """
    lora, inner = module.shape.lora, math.prod(module.shape.sizes[axis] for axis in takes)
    kernel = weight(module, name, takes + gives, inner)
    y = jnp.tensordot(x, kernel.astype(x.dtype), len(takes))
    if lora and name in lora.targets:
        a, b = _adapter(module, name, takes, gives, inner)
        low = jnp.tensordot(x, a.astype(x.dtype), len(takes)) * lora.scale  # [batch, time, rank]
        y = y + jnp.tensordot(low, b.astype(x.dtype), 1)
    # Activations have the model axis whole.
    y = constrain(y, module.layout, "rows", None, *(None if axis == "model" else axis for axis in gives))
    if bias:
        shift = parameter(module, f"{name}_bias", nn.initializers.zeros_init(), gives)
        y = y + shift.astype(y.dtype)
    return checkpoint_name(y, name)


def layer_class(policy: Policy) -> Any:
    """`Layer`, whose backward pass recomputes what the policy does not keep."""
    if policy == "none":
        return Layer
    keep = jax.checkpoint_policies.save_only_these_names(*KEPT[policy])
    return nn.remat(Layer, prevent_cse=False, policy=keep)  # a scan's body: nothing to share it with


class Attention(Part):
    """Causal attention with grouped queries, rotary positions and a cache."""

    @nn.compact
    def __call__(
        self, x: jax.Array, angles: Angles, mask: Visible, cached: list[Source]
    ) -> tuple[jax.Array, KeysValues]:
        s, of_queries, of_keys = self.shape, ("heads", "head"), ("kv_heads", "head")
        queries = linear(self, "query", x, ("model",), of_queries, s.qkv_bias)
        keys = linear(self, "key", x, ("model",), of_keys, s.qkv_bias)
        values = linear(self, "value", x, ("model",), of_keys, s.qkv_bias)
        if s.traits.query_key_norm != "none":
            normed = slice(0 if s.traits.query_key_norm == "all" else 1, None)  # all heads together, or each
            queries = RMSNorm(s, of_queries[normed], name="query_norm")(queries)
            keys = RMSNorm(s, of_keys[normed], name="key_norm")(keys)
        turn = partial(rotate, by_product=rotates_by_product(self.layout, x.shape[1]))
        queries, keys = turn(queries, *angles), turn(keys, *angles)
        sources = [*cached, (keys, values, mask)]
        scale = (s.query_scale or s.head_dim) ** -0.5
        mixed = attend(queries, sources, scale, kernel=self.kernel, layout=self.layout)
        return linear(self, "out", mixed, of_queries, ("model",), s.out_bias), (keys, values)


class MLP(Part):
    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None) -> tuple[jax.Array, Auxiliary]:
        bias = self.shape.mlp_bias
        gate, up = (linear(self, name, x, ("model",), ("mlp",), bias) for name in ("gate", "up"))
        active = ACTIVATIONS[self.shape.traits.activation](gate) * up
        return linear(self, "down", active, ("mlp",), ("model",), bias), {}


class Mixture(Part):
    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array | None) -> tuple[jax.Array, Auxiliary]:
        """`real` bool [batch, time] is False on padding, which is no load of an expert."""
        s, lora = self.shape, self.shape.lora
        assert real is not None
        logits = linear(self, "router", x, ("model",), ("routes",), bias=False)
        routed = route(logits, s.experts_per_token, s.norm_topk_prob)

        def of_experts(name: str, takes: str, gives: str) -> Matrix:
            inner = s.sizes[takes]
            kernel = weight(self, name, ("experts", takes, gives), inner).astype(x.dtype)
            if lora is None or name not in lora.targets:
                return Matrix(kernel)
            low = _adapter(self, name, (takes,), (gives,), inner, of_each=("experts",))
            return Matrix(kernel, *(side.astype(x.dtype) for side in low))

        matrices = {name: of_experts(name, *sides) for name, sides in SIDES.items()}
        scale, activation = lora.scale if lora else 1.0, ACTIVATIONS[s.traits.activation]
        return mix_experts(x, routed, matrices, activation, self.layout, scale), load(routed, real)


class Layer(Part):
    """Attention and MLP, each added to the stream it reads."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        of_layer: tuple[list[KeysValues], jax.Array | None],
        angles: tuple[Angles, ...],
        masks: list[Any],
        distances: list[jax.Array],
        real: jax.Array | None,
    ) -> tuple[jax.Array, tuple[KeysValues, Auxiliary]]:
        """`of_layer` has the caches' keys and values, and the window. The last mask is of the new tokens.

        They are bool [batch, time, length] each, the last one what `attention.for_kernel` gives. `angles` are
        one for all layers, or two: of those with a window, and of the others. `real` is where there is no
        padding, bool [batch, time], where there are experts.
        """
        s = self.shape
        caches, window = of_layer
        if window is not None:
            masks = [mask & (far < window) for mask, far in zip(masks, distances, strict=True)]
        rotation = angles[0]
        if len(angles) == 2:
            assert window is not None
            is_local = window < EVERYTHING
            rotation = jax.tree.map(lambda local, of_all: jnp.where(is_local, local, of_all), *angles)
        sources = [(k, v, m) for (k, v), m in zip(caches, masks[:-1], strict=True)]
        (before_attention, after_attention), (before_mlp, after_mlp) = s.traits.norms

        def normed(x: jax.Array, name: str) -> jax.Array:
            return RMSNorm(s, ("model",), name=name)(x) if name else x

        attention = Attention(s, self.layout, self.kernel, name="attention")
        mixed, new = attention(normed(x, before_attention), rotation, masks[-1], sources)
        x = x + normed(mixed, after_attention)
        if not after_attention:  # else that norm's gradient reads `out`, which is kept
            x = checkpoint_name(x, STREAM)
        mlp = (Mixture if s.experts else MLP)(s, self.layout, name="mlp")
        fed, report = mlp(normed(x, before_mlp), real)
        return x + normed(fed, after_mlp), (new, report)
