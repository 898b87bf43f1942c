"""What a decoder costs: its parameters, and the floating-point operations of a token."""

from typing import NamedTuple

from pretrainrl_jax.model.shape import ModelShape


class Parameters(NamedTuple):
    """How many numbers each part of a decoder has."""

    embedding: int
    head: int  # 0 where it is the embedding
    layers: int  # all of them
    norm: int  # the last one
    adapters: int = 0  # beside the layers' matrices

    @property
    def total(self) -> int:
        return sum(self)

    @property
    def learned(self) -> int:
        """Of what learns: the adapters where there are some, else all."""
        return self.adapters or self.total


class Flops(NamedTuple):
    """Operations of the forward pass a token, of matrix products alone; multiplying and adding are two."""

    layers: float  # with their weights
    attention: float  # with keys and values
    head: float
    adapters: float = 0.0  # with theirs

    @property
    def total(self) -> float:
        return sum(self)

    @property
    def training(self) -> float:
        """Of the forward and the backward pass, without recomputation.

        Each product has two gradients; of weights that do not learn, beside adapters, one.
        """
        return 3 * self.total - (self.layers + self.head if self.adapters else 0.0)


def parameters(shape: ModelShape, expert: int = 1) -> Parameters:
    """Those of any family's decoder; `expert` devices share a mixture's experts, and have all else whole."""
    s, table, mlps = shape, shape.vocabulary * shape.d_model, mlps_of(shape, expert)
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    biases = s.qkv_bias * (queries + 2 * keys) + s.out_bias * s.d_model
    biases += s.mlp_bias * (2 * s.d_ff + s.d_model)
    norms = sum(bool(name) for names in s.traits.norms for name in names) * s.d_model
    of_heads = {"none": 0, "head": 2 * s.head_dim, "all": queries + keys}[s.traits.query_key_norm]
    layers = s.layers * (matrices(s, mlps) + biases + of_heads + norms)
    adapters = s.layers * _adapters(s, mlps)
    return Parameters(table, 0 if s.tied else table, layers, s.d_model, adapters)


def flops(shape: ModelShape, visible: float) -> Flops:
    """The forward pass of a token; it attends to `visible` positions, itself among them, in the mean."""
    s = shape
    attention = 4 * visible * s.layers * s.heads * s.head_dim  # scores, and the sum of values
    layers, adapters = (2 * s.layers * of(s, s.experts_per_token or 1) for of in (matrices, _adapters))
    return Flops(layers, attention, 2 * s.vocabulary * s.d_model, adapters)


def _adapters(s: ModelShape, mlps: int) -> int:
    """Entries of a layer's adapters, of so many MLPs."""
    if s.lora is None:
        return 0
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    attention = {"query": queries, "key": keys, "value": keys, "out": queries}  # the side that is not d_model
    of_attention = sum(s.d_model + attention[name] for name in s.lora.targets if name in attention)
    of_mlp = sum(s.d_model + s.d_ff for name in s.lora.targets if name not in attention)
    return s.lora.rank * (of_attention + mlps * of_mlp)


def mlps_of(shape: ModelShape, expert: int = 1) -> int:
    """MLPs of a layer that a device has, where so many share the experts of a mixture."""
    return shape.experts // expert or 1


def matrices(s: ModelShape, mlps: int) -> int:
    """Entries of a layer's matrices, of so many MLPs, and of the router."""
    return s.d_model * (2 * (s.heads + s.kv_heads) * s.head_dim + 3 * mlps * s.d_ff + s.experts)
