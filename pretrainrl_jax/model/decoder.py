"""The decoder as pure functions of its parameters.

Each parameter is declared once, with its shape, initialiser and logical axes; shardings and the mapping to
Hugging Face names derive from that. Layers are stacked and scanned, so any depth traces as one layer.
Hidden states and head are separate functions, which lets a loss fold over the vocabulary without logits.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh

from pretrainrl_jax.model import splash
from pretrainrl_jax.model.attention import Kernel, TreeRows, Visible, causal_mask, for_kernel, rotary_angles
from pretrainrl_jax.model.layers import EVERYTHING, Auxiliary, KeysValues, Part, RMSNorm, layer_class, weight
from pretrainrl_jax.model.mesh import Layout, Rules
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.model.vocabulary import check_tokens, embed

Params = Any  # the nested dictionary of parameters


class KVCache(NamedTuple):
    """Keys and values computed earlier, read and never written by the decoder."""

    # [layers, batch, length, kv_heads, head], which all new tokens may see, or [layers, batch, time,
    # length, kv_heads, head], where each new token has its own.
    keys: jax.Array
    values: jax.Array
    mask: jax.Array  # bool [batch, time, length]: which of them each new token sees
    positions: jax.Array  # int32 [batch, length]: where they stand; sliding windows are measured by it


class HiddenStates(NamedTuple):
    hidden: jax.Array  # [batch, time, model] in the compute dtype, normalised and ready for the head
    keys: jax.Array  # [layers, batch, time, kv_heads, head] of these tokens
    values: jax.Array  # the same
    auxiliary: Auxiliary  # what layers report beside, by name, each [layers, …]; empty where they do not


class Decoder(Part):
    @nn.compact
    def __call__(
        self, tokens: jax.Array, positions: jax.Array, visible: Visible, caches: tuple[KVCache, ...]
    ) -> tuple[jax.Array, tuple[KeysValues, Auxiliary]]:
        s = self.shape
        embedding = weight(self, "embedding", ("vocabulary", "model"), s.d_model)
        if not s.tied:  # declared here, read by `Model.head`
            weight(self, "head", ("vocabulary", "model"), s.d_model)
        x = embed(embedding, tokens, s.dtype, self.layout)
        if s.traits.scaled_embedding:
            x = x * jnp.asarray(s.d_model**0.5, x.dtype)
        angles = (rotary_angles(positions, s.head_dim, s.rope_theta, s.rope_scaling),)
        if s.traits.local_rope and any(s.windows):
            angles = (rotary_angles(positions, s.head_dim, s.local_rope_theta, None), *angles)
        seen = for_kernel(visible, self.kernel, s, self.layout, cached=bool(caches))
        masks = [*(cache.mask for cache in caches), seen]
        real = None
        if s.experts:  # which tokens are no padding, bool [batch, time]: those that see themselves
            is_rows = isinstance(visible, TreeRows)
            real = visible.tree_id > 0 if is_rows else jnp.diagonal(visible, axis1=1, axis2=2)
        windows, distances = None, []
        if any(s.windows):
            windows = jnp.array([window or EVERYTHING for window in s.windows], jnp.int32)
            places = [*(cache.positions for cache in caches), positions]
            distances = [positions[:, :, None] - place[:, None] for place in places]
        layers = nn.scan(
            layer_class(s.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *[nn.broadcast] * 4),  # type: ignore[arg-type]
            length=s.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
            # That traces a layer twice. To make parameters it stays, or a seed would make others than before.
            check_constancy_invariants=self.is_initializing(),
        )(s, self.layout, self.kernel, name="layers")
        stored = [(cache.keys, cache.values) for cache in caches]
        x, of_layers = layers(x, (stored, windows), angles, masks, distances, real)
        return RMSNorm(s, ("model",), name="final_norm")(x), of_layers


class Chosen(NamedTuple):
    """What is chosen for a kind of device (platforms.py)."""

    kernel: Kernel = "xla"  # of attention
    room: float = 0.0  # bytes of a device for a copy of the weights to decode from


PLAIN = Chosen()


@dataclass(frozen=True)
class Model:
    """A decoder: its shape and the pure functions over its parameters. Hashable, so it can be static.

    On a mesh its parameters and activations lie as `rules` say, and batches along data and fsdp.
    """

    shape: ModelShape
    mesh: Mesh | None = None  # where its parameters and batches lie; None: one device
    kernel: Kernel = "xla"  # of attention, where it can compute it
    rules: Rules = Layout.rules  # which axis of the mesh each logical axis lies along
    room: float = 0.0  # bytes of a device for a copy of the weights to decode from (`whole.takes_copy`)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.rules)

    @cached_property
    def plain(self) -> "Model":
        """The same without adapters: what it was before they learned. It passes theirs over."""
        return replace(self, shape=replace(self.shape, lora=None))

    def suitable_row(self, time: int) -> int:
        """Tokens of a row for so many that the kernel of attention reads well."""
        row = splash.suitable_row(time)
        return row if self.kernel == "splash" and splash.suits(self.shape, row) else time

    def _init(self, key: jax.Array) -> Any:
        one = jnp.zeros((1, 1), jnp.int32)
        alone = Decoder(self.shape, Layout())  # the one token does not divide over a mesh
        return alone.init(key, one, one, jnp.ones((1, 1, 1), bool), ())["params"]

    def init(self, key: jax.Array) -> Params:
        """Random parameters, float32."""
        return nn.unbox(self._init(key))

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, each boxed with its logical axes; computes nothing."""
        return jax.tree.map(lambda leaf: leaf, _abstract(self.shape))  # a tree of the caller's own

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        visible: Visible,
        caches: tuple[KVCache, ...] = (),
    ) -> HiddenStates:
        """Final hidden states of tokens int32 [batch, time] at such positions, and their keys and values.

        `visible` says which of these tokens each of them sees: a mask, bool [batch, time, time], or rows.
        `caches` are of earlier tokens that are also seen; params float32.
        """
        decoder = Decoder(self.shape, self.layout, self.kernel)
        computed: Any = decoder.apply({"params": params}, tokens, positions, visible, caches)
        hidden, ((keys, values), auxiliary) = computed
        return HiddenStates(hidden, keys, values, auxiliary)

    def head(self, params: Params) -> jax.Array:
        """The output matrix, float32 [vocabulary, model]: logits are hidden · headᵀ."""
        return params["embedding" if self.shape.tied else "head"]

    def logits(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Logits of plain sequences, float32 [batch, time, vocabulary]: for looking, never for training.

        Raises InputError for a token that has no row in the embedding, where tokens are not traced.
        """
        tokens = jnp.asarray(tokens, jnp.int32)
        if not isinstance(tokens, Tracer):
            check_tokens(int(tokens.max(initial=0)), self.shape.vocabulary)
        return _logits(self, params, tokens)


@cache
def _abstract(shape: ModelShape) -> Any:
    return jax.eval_shape(Model(shape)._init, jax.random.key(0))  # pyright: ignore[reportPrivateUsage]


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
