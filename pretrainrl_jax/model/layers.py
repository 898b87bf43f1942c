"""What a decoder's layer is made of.

Every matrix product of a layer, with its weight, its bias and its adapter (LoRA), is one call of `linear`.
Another MLP is a module that is called as `MLP` is, chosen in `Layer`. What it reports of
its own work, such as the load of a mixture's experts, it gives beside its result; the decoder stacks that
over layers in `HiddenStates.auxiliary`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainrl_jax.config.declare import Policy
from pretrainrl_jax.model.attention import MIXED, Kernel, Visible, attend, rotate
from pretrainrl_jax.model.lora import A, B
from pretrainrl_jax.model.mesh import Layout, constrain
from pretrainrl_jax.model.shape import ModelShape

KeysValues = tuple[jax.Array, jax.Array]  # keys and values
Source = tuple[jax.Array, jax.Array, Visible]  # keys, values and mask
Angles = tuple[jax.Array, jax.Array]  # cosine and sine
# What each policy keeps of a layer between the passes, by `checkpoint_name`; beside its input, [rows, time,
# model] in the compute dtype, which all do. What is not kept is recomputed. From little memory to much;
# "none" keeps whatever gradients read, norms and XLA's attention scores in float32 among it.
_ATTENTION = ("query", "key", "value", MIXED, "out")
KEPT: dict[Policy, tuple[str, ...]] = {
    "full": (),
    # [rows, time, 2 heads · head + 2 kv_heads · head + model] more. The MLP is recomputed, but for its last
    # product, and what takes no product with a weight: norms, rotation, scores where XLA or cuDNN attends.
    "attention": _ATTENTION,
    # [rows, time, 2 mlp] more still: no product with a weight is recomputed.
    "products": (*_ATTENTION, "gate", "up", "down"),
}
Auxiliary = dict[str, jax.Array]  # by name, what a layer reports; the same names and shapes from every layer


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axes, those named, computed in float32."""

    epsilon: float
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, over = x.shape[-len(self.axes) :], tuple(range(-len(self.axes), 0))
        scale = parameter(self, "scale", nn.initializers.ones_init(), shape, self.axes)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, over, keepdims=True) + self.epsilon)
        return (wide * inverse * scale).astype(x.dtype)


def parameter(
    module: nn.Module, name: str, initialiser: Any, shape: tuple[int, ...], axes: tuple[str, ...]
) -> Any:
    """A float32 parameter of the module, with the logical names of its axes."""
    return module.param(name, nn.with_logical_partitioning(initialiser, axes), shape, jnp.float32)


def weight(module: nn.Module, name: str, sizes: dict[str, int], axes: tuple[str, ...], inner: int) -> Any:
    """A matrix of the module; products with it sum over `inner` entries."""
    shape = tuple(sizes[axis] for axis in axes)
    return parameter(module, name, nn.initializers.normal(inner**-0.5), shape, axes)


def _adapter(
    module: nn.Module,
    name: str,
    sizes: dict[str, int],
    takes: tuple[str, ...],
    gives: tuple[str, ...],
    inner: int,
) -> tuple[Any, Any]:
    """A and B beside a matrix, at first as peft has them: A uniform within 1 / √inner, and B zero."""

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(inner**-0.5), inner**-0.5)

    def declare(suffix: str, initialiser: Any, axes: tuple[str, ...]) -> Any:
        return parameter(module, name + suffix, initialiser, tuple(sizes[axis] for axis in axes), axes)

    return declare(A, uniform, (*takes, "rank")), declare(B, nn.initializers.zeros_init(), ("rank", *gives))


def linear(
    module: "Attention | MLP",
    name: str,
    x: jax.Array,
    takes: tuple[str, ...],
    gives: tuple[str, ...],
    bias: bool,
) -> jax.Array:
    """x [batch, time, *takes] times the module's weight [*takes, *gives] of this name, plus its bias.

    Where the shape says so, a low-rank product is added to the weight's.
    """
    sizes, lora = module.shape.sizes, module.shape.lora
    inner = math.prod(sizes[axis] for axis in takes)
    kernel = weight(module, name, sizes, takes + gives, inner)
    y = jnp.tensordot(x, kernel.astype(x.dtype), len(takes))
    if lora and name in lora.targets:
        a, b = _adapter(module, name, sizes, takes, gives, inner)
        low = jnp.tensordot(x, a.astype(x.dtype), len(takes)) * lora.scale  # [batch, time, rank]
        y = y + jnp.tensordot(low, b.astype(x.dtype), 1)
    # Activations have the model axis whole.
    y = constrain(y, module.layout, "rows", None, *(None if axis == "model" else axis for axis in gives))
    if bias:
        shift = parameter(module, f"{name}_bias", nn.initializers.zeros_init(), y.shape[2:], gives)
        y = y + shift.astype(y.dtype)
    return checkpoint_name(y, name)


def rematerialised(layer: Any, policy: Policy) -> Any:
    """The class of a layer whose backward pass recomputes what the policy does not keep."""
    if policy == "none":
        return layer
    keep = jax.checkpoint_policies.save_only_these_names(*KEPT[policy])
    return nn.remat(layer, prevent_cse=False, policy=keep)  # a scan's body: nothing to share it with


class Attention(nn.Module):
    """Causal attention with grouped queries, rotary positions and a cache."""

    shape: ModelShape
    layout: Layout
    kernel: Kernel

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
            queries = RMSNorm(s.norm_epsilon, of_queries[normed], name="query_norm")(queries)
            keys = RMSNorm(s.norm_epsilon, of_keys[normed], name="key_norm")(keys)
        queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        where = {"kernel": self.kernel, "layout": self.layout}
        mixed = attend(queries, [*cached, (keys, values, mask)], scale=s.head_dim**-0.5, **where)
        return linear(self, "out", mixed, of_queries, ("model",), s.out_bias), (keys, values)


class MLP(nn.Module):
    """The gated feed-forward network."""

    shape: ModelShape
    layout: Layout

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, Auxiliary]:
        bias = self.shape.mlp_bias
        gate, up = (linear(self, name, x, ("model",), ("mlp",), bias) for name in ("gate", "up"))
        return linear(self, "down", nn.silu(gate) * up, ("mlp",), ("model",), bias), {}


class Layer(nn.Module):
    """Attention and MLP, each added to the stream it reads."""

    shape: ModelShape
    layout: Layout
    kernel: Kernel

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        of_layer: tuple[list[KeysValues], jax.Array | None],
        angles: Angles,
        masks: list[Any],
        distances: list[jax.Array],
    ) -> tuple[jax.Array, tuple[KeysValues, Auxiliary]]:
        """`of_layer` has the caches' keys and values, and the window. The last mask is of the new tokens.

        They are bool [batch, time, length] each, the last one what `attention.for_kernel` gives.
        """
        s = self.shape
        caches, window = of_layer
        if window is not None:
            masks = [mask & (far < window) for mask, far in zip(masks, distances, strict=True)]
        sources = [(k, v, m) for (k, v), m in zip(caches, masks[:-1], strict=True)]
        before = s.traits.norms == "before"
        attention_norm = RMSNorm(s.norm_epsilon, ("model",), name="attention_norm")
        mlp_norm = RMSNorm(s.norm_epsilon, ("model",), name="mlp_norm")
        mixed, new = Attention(s, self.layout, self.kernel, name="attention")(
            attention_norm(x) if before else x, angles, masks[-1], sources
        )
        x = x + (mixed if before else attention_norm(mixed))
        fed, report = MLP(s, self.layout, name="mlp")(mlp_norm(x) if before else x)
        return x + (fed if before else mlp_norm(fed)), (new, report)
