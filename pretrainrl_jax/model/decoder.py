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

from pretrainrl_jax.model.attention import attend, causal_mask, rotary_angles, rotate
from pretrainrl_jax.model.shape import ModelShape

Params = Any  # the nested dictionary of parameters
Pair = tuple[jax.Array, jax.Array]  # keys and values
Source = tuple[jax.Array, jax.Array, jax.Array]  # keys, values and mask
Angles = tuple[jax.Array, jax.Array]  # cosine and sine


class Past(NamedTuple):
    """Keys and values computed earlier, read and never written by the decoder."""

    keys: jax.Array  # [layers, batch, length, kv_heads, head]
    values: jax.Array  # [layers, batch, length, kv_heads, head]
    mask: jax.Array  # bool [batch, time, length]: which of them each present token sees


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    epsilon: float
    axis: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initialiser = nn.with_logical_partitioning(nn.initializers.ones_init(), (self.axis,))
        scale: Any = self.param("scale", initialiser, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (wide * inverse * scale).astype(x.dtype)


def _weight(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int) -> Any:
    initialiser = nn.with_logical_partitioning(nn.initializers.normal(fan_in**-0.5), axes)
    return module.param(name, initialiser, shape, jnp.float32)


class Attention(nn.Module):
    shape: ModelShape

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
        if s.query_key_norm:
            queries = RMSNorm(s.norm_epsilon, "head", name="query_norm")(queries)
            keys = RMSNorm(s.norm_epsilon, "head", name="key_norm")(keys)
        queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        mixed = attend(queries, [*past, (keys, values, mask)], scale=s.head_width**-0.5)
        return jnp.einsum("bthk,hkd->btd", mixed, out.astype(x.dtype)), (keys, values)


class MLP(nn.Module):
    shape: ModelShape

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        s = self.shape
        gate = _weight(self, "gate", (s.width, s.mlp_width), ("model", "mlp"), s.width)
        up = _weight(self, "up", (s.width, s.mlp_width), ("model", "mlp"), s.width)
        down = _weight(self, "down", (s.mlp_width, s.width), ("mlp", "model"), s.mlp_width)
        return (nn.silu(x @ gate.astype(x.dtype)) * (x @ up.astype(x.dtype))) @ down.astype(x.dtype)


class Layer(nn.Module):
    shape: ModelShape

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        past_arrays: list[Pair],
        angles: Angles,
        mask: jax.Array,
        past_masks: list[jax.Array],
    ) -> tuple[jax.Array, Pair]:
        past = [(k, v, m) for (k, v), m in zip(past_arrays, past_masks, strict=True)]
        normed = RMSNorm(self.shape.norm_epsilon, "model", name="attention_norm")(x)
        mixed, present = Attention(self.shape, name="attention")(normed, angles, mask, past)
        x = x + mixed
        normed = RMSNorm(self.shape.norm_epsilon, "model", name="mlp_norm")(x)
        return x + MLP(self.shape, name="mlp")(normed), present


class Decoder(nn.Module):
    shape: ModelShape

    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array, mask: jax.Array, past: tuple[Past, ...]
    ) -> tuple[jax.Array, Pair]:
        s = self.shape
        embedding = _weight(self, "embedding", (s.vocabulary, s.width), ("vocabulary", "model"), s.width)
        if not s.tied:  # declared here, read by `Model.head`
            _weight(self, "head", (s.vocabulary, s.width), ("vocabulary", "model"), s.width)
        x = embedding[tokens].astype(s.dtype)
        angles = rotary_angles(positions, s.head_width, s.rope_theta, s.rope_scaling)
        layers = nn.scan(
            nn.remat(Layer, prevent_cse=False) if s.remat else Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),  # type: ignore[arg-type]
            length=s.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(s, name="layers")
        x, present = layers(x, [(p.keys, p.values) for p in past], angles, mask, [p.mask for p in past])
        return RMSNorm(s.norm_epsilon, "model", name="final_norm")(x), present


@dataclass(frozen=True)
class Model:
    """A decoder: its shape and the pure functions over its parameters. Hashable, so it can be static."""

    shape: ModelShape

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.shape)

    def _init(self, key: jax.Array) -> Any:
        one = jnp.zeros((1, 1), jnp.int32)
        return self._decoder.init(key, one, one, jnp.ones((1, 1, 1), bool), ())["params"]

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
        past: tuple[Past, ...] = (),
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Final hidden states, normalised and ready for the head.

        Args:
            params: the parameters, float32.
            tokens: int32 [batch, time].
            positions: int32 [batch, time].
            mask: bool [batch, time, time], which present tokens each present token sees
                (`attention.tree_mask` for packed trees).
            past: caches that are also seen.

        Returns:
            hidden [batch, time, model] in the compute dtype, and the present tokens' keys and values, each
            [layers, batch, time, kv_heads, head].
        """
        return self._decoder.apply({"params": params}, tokens, positions, mask, past)  # type: ignore[return-value]

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
    hidden, _ = model.hidden(params, tokens, positions, mask)
    return project(hidden, model.head(params))
