"""The decoder as pure functions of its parameters.

Each parameter is declared once, with its shape, initialiser and logical axes; shardings and the mapping to
Hugging Face names derive from that. Layers are stacked and scanned, so any depth traces as one layer.
Hidden states and head are separate functions, which lets a loss walk the vocabulary without logits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.model.attention import Kernel, attend, causal_mask, rotary_angles, rotate
from pretrainrl_jax.model.mesh import constrain
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.vocabulary import look_up

Params = Any  # the nested dictionary of parameters
Pair = tuple[jax.Array, jax.Array]  # keys and values
Source = tuple[jax.Array, jax.Array, jax.Array]  # keys, values and mask
Angles = tuple[jax.Array, jax.Array]  # cosine and sine
EVERYTHING = 2**31 - 1  # the window of a layer that sees all positions


class KVCache(NamedTuple):
    """Keys and values computed earlier, read and never written by the decoder."""

    # [layers, batch, length, kv_heads, head], which all present tokens may see, or [layers, batch, time,
    # length, kv_heads, head], where each present token has its own.
    keys: jax.Array
    values: jax.Array
    mask: jax.Array  # bool [batch, time, length]: which of them each present token sees
    positions: jax.Array  # int32 [batch, length]: where they stand; sliding windows are measured by it


class HiddenStates(NamedTuple):
    """What the decoder computes of some tokens."""

    hidden: jax.Array  # [batch, time, model] in the compute dtype, normalised and ready for the head
    keys: jax.Array  # [layers, batch, time, kv_heads, head] of these tokens
    values: jax.Array  # the same
    auxiliary: dict[str, jax.Array]  # what layers report beside, by name; empty where none does


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axes, those named, computed in float32."""

    epsilon: float
    axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initialiser = nn.with_logical_partitioning(nn.initializers.ones_init(), self.axes)
        over = tuple(range(-len(self.axes), 0))
        scale: Any = self.param("scale", initialiser, x.shape[-len(self.axes) :], jnp.float32)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, over, keepdims=True) + self.epsilon)
        return (wide * inverse * scale).astype(x.dtype)


def _weight(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int) -> Any:
    initialiser = nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes)
    return module.param(name, initialiser, shape, jnp.float32)


def _add_bias(module: nn.Module, name: str, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """x with a bias over its last axes, those named."""
    initialiser = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes)
    bias: Any = module.param(f"{name}_bias", initialiser, x.shape[-len(axes) :], jnp.float32)
    return x + bias.astype(x.dtype)


class Attention(nn.Module):
    shape: ModelShape
    mesh: Mesh | None
    kernel: Kernel

    @nn.compact
    def __call__(
        self, x: jax.Array, angles: Angles, mask: jax.Array, past: list[Source]
    ) -> tuple[jax.Array, Pair]:
        s = self.shape
        query = _weight(self, "query", (s.width, s.heads, s.head_width), ("model", "heads", "head"), s.width)
        key = _weight(
            self, "key", (s.width, s.kv_heads, s.head_width), ("model", "kv_heads", "head"), s.width
        )
        value = _weight(
            self, "value", (s.width, s.kv_heads, s.head_width), ("model", "kv_heads", "head"), s.width
        )
        inner = s.heads * s.head_width
        out = _weight(self, "out", (s.heads, s.head_width, s.width), ("heads", "head", "model"), inner)

        queries = jnp.einsum("btd,dhk->bthk", x, query.astype(x.dtype))
        keys = jnp.einsum("btd,dhk->bthk", x, key.astype(x.dtype))
        values = jnp.einsum("btd,dhk->bthk", x, value.astype(x.dtype))
        queries = constrain(queries, self.mesh, "rows", None, "heads", "head")
        keys, values = (constrain(of, self.mesh, "rows", None, "kv_heads", "head") for of in (keys, values))
        if s.qkv_bias:
            queries = _add_bias(self, "query", queries, ("heads", "head"))
            keys = _add_bias(self, "key", keys, ("kv_heads", "head"))
            values = _add_bias(self, "value", values, ("kv_heads", "head"))
        if s.traits.query_key_norm != "none":
            of_all = s.traits.query_key_norm == "all"
            query_axes, key_axes = (("heads", "head"), ("kv_heads", "head")) if of_all else (("head",),) * 2
            queries = RMSNorm(s.norm_epsilon, query_axes, name="query_norm")(queries)
            keys = RMSNorm(s.norm_epsilon, key_axes, name="key_norm")(keys)
        queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        mixed = attend(queries, [*past, (keys, values, mask)], scale=s.head_width**-0.5, kernel=self.kernel)
        mixed = jnp.einsum("bthk,hkd->btd", mixed, out.astype(x.dtype))
        mixed = constrain(mixed, self.mesh, "rows", None, None)
        return (_add_bias(self, "out", mixed, ("model",)) if s.out_bias else mixed), (keys, values)


class MLP(nn.Module):
    shape: ModelShape
    mesh: Mesh | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = self.shape
        gate = _weight(self, "gate", (s.width, s.mlp_width), ("model", "mlp"), s.width)
        up = _weight(self, "up", (s.width, s.mlp_width), ("model", "mlp"), s.width)
        down = _weight(self, "down", (s.mlp_width, s.width), ("mlp", "model"), s.mlp_width)
        gated, raised = x @ gate.astype(x.dtype), x @ up.astype(x.dtype)
        gated, raised = (constrain(of, self.mesh, "rows", None, "mlp") for of in (gated, raised))
        if s.mlp_bias:
            gated, raised = _add_bias(self, "gate", gated, ("mlp",)), _add_bias(self, "up", raised, ("mlp",))
        lowered = (nn.silu(gated) * raised) @ down.astype(x.dtype)
        lowered = constrain(lowered, self.mesh, "rows", None, None)
        return _add_bias(self, "down", lowered, ("model",)) if s.mlp_bias else lowered


class Layer(nn.Module):
    shape: ModelShape
    mesh: Mesh | None
    kernel: Kernel

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        of_layer: tuple[list[Pair], jax.Array | None],
        angles: Angles,
        masks: list[jax.Array],
        distances: list[jax.Array],
    ) -> tuple[jax.Array, Pair]:
        """`of_layer` has the past's keys and values, and the window. The last mask is the present's."""
        s = self.shape
        past, window = of_layer
        if window is not None:
            masks = [mask & (far < window) for mask, far in zip(masks, distances, strict=True)]
        sources = [(k, v, m) for (k, v), m in zip(past, masks[:-1], strict=True)]
        before = s.traits.norms == "before"
        attention_norm = RMSNorm(s.norm_epsilon, ("model",), name="attention_norm")
        mlp_norm = RMSNorm(s.norm_epsilon, ("model",), name="mlp_norm")
        mixed, present = Attention(s, self.mesh, self.kernel, name="attention")(
            attention_norm(x) if before else x, angles, masks[-1], sources
        )
        x = x + (mixed if before else attention_norm(mixed))
        if before:
            return x + MLP(s, self.mesh, name="mlp")(mlp_norm(x)), present
        return x + mlp_norm(MLP(s, self.mesh, name="mlp")(x)), present


class Decoder(nn.Module):
    shape: ModelShape
    mesh: Mesh | None
    kernel: Kernel

    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array, mask: jax.Array, past: tuple[KVCache, ...]
    ) -> tuple[jax.Array, Pair]:
        s = self.shape
        embedding = _weight(self, "embedding", (s.vocabulary, s.width), ("vocabulary", "model"), s.width)
        if not s.tied:  # declared here, read by `Model.head`
            _weight(self, "head", (s.vocabulary, s.width), ("vocabulary", "model"), s.width)
        x = look_up(embedding, tokens, s.dtype, self.mesh)
        angles = rotary_angles(positions, s.head_width, s.rope_theta, s.rope_scaling)
        masks = [*(p.mask for p in past), mask]
        windows, distances = None, []
        if any(s.windows):
            windows = jnp.array([window or EVERYTHING for window in s.windows], jnp.int32)
            places = [*(p.positions for p in past), positions]
            distances = [positions[:, :, None] - of[:, None] for of in places]
        layers = nn.scan(
            nn.remat(Layer, prevent_cse=False) if s.remat else Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),  # type: ignore[arg-type]
            length=s.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(s, self.mesh, self.kernel, name="layers")
        x, present = layers(x, ([(p.keys, p.values) for p in past], windows), angles, masks, distances)
        return RMSNorm(s.norm_epsilon, ("model",), name="final_norm")(x), present


@dataclass(frozen=True)
class Model:
    """A decoder: its shape and the pure functions over its parameters. Hashable, so it can be static.

    On a mesh its parameters lie as `partitioning.parameter_shardings` says, batches along data and fsdp, and
    heads and MLP along tensor.
    """

    shape: ModelShape
    mesh: Mesh | None = None  # where its parameters and batches lie; None: one device
    kernel: Kernel = "xla"  # of attention, where it can compute it

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.shape, self.mesh, self.kernel)

    def _init(self, key: jax.Array) -> Any:
        one = jnp.zeros((1, 1), jnp.int32)
        alone = Decoder(self.shape, None, "xla")  # the one token does not divide over a mesh
        return alone.init(key, one, one, jnp.ones((1, 1, 1), bool), ())["params"]

    def init(self, key: jax.Array) -> Params:
        """Random parameters, float32."""
        return nn.unbox(self._init(key))

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, each boxed with its logical axes; computes nothing."""
        return jax.eval_shape(self._init, jax.random.key(0))

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        past: tuple[KVCache, ...] = (),
    ) -> HiddenStates:
        """Final hidden states, and the keys and values of the same tokens.

        Args:
            params: the parameters, float32.
            tokens: int32 [batch, time].
            positions: int32 [batch, time].
            mask: bool [batch, time, time], which present tokens each present token sees
                (`attention.tree_mask` for packed trees).
            past: caches that are also seen.
        """
        hidden, (keys, values) = self._decoder.apply({"params": params}, tokens, positions, mask, past)  # type: ignore[misc]
        return HiddenStates(hidden, keys, values, {})

    def head(self, params: Params) -> jax.Array:
        """The output matrix, float32 [vocabulary, model]: logits are hidden · headᵀ."""
        return params["embedding" if self.shape.tied else "head"]

    def logits(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Logits of plain sequences, float32 [batch, time, vocabulary]: for looking, never for training."""
        return _logits(self, params, jnp.asarray(tokens, jnp.int32))


def project(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Logits float32 [..., vocabulary] of a few hidden states [..., model]: decoding's last step."""
    return jnp.einsum("...d,vd->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


@jax.jit(static_argnums=0)
def _logits(model: Model, params: Params, tokens: jax.Array) -> jax.Array:
    batch, time = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(time), (batch, time))
    mask = causal_mask(jnp.full((batch,), time), time)
    hidden = model.hidden(params, tokens, positions, mask).hidden
    return project(hidden, model.head(params))
