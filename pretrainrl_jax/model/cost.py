"""What a decoder costs: its parameters, and the floating-point operations of a token."""

from typing import NamedTuple

from pretrainrl_jax.model.shape import ModelShape


class Parameters(NamedTuple):
    """How many numbers each part of a decoder has."""

    embedding: int
    head: int  # 0 where it is the embedding
    layers: int  # all of them
    norm: int  # the last one

    @property
    def total(self) -> int:
        """Of the decoder."""
        return sum(self)


class Flops(NamedTuple):
    """Operations of the forward pass a token, of matrix products alone; multiplying and adding are two."""

    layers: int  # with their weights
    attention: float  # with keys and values
    head: int

    @property
    def total(self) -> float:
        """Of the forward pass."""
        return sum(self)

    @property
    def training(self) -> float:
        """Of the forward and the backward pass, without recomputation: each product has two gradients."""
        return 3 * self.total


def parameters(shape: ModelShape) -> Parameters:
    """The number of parameters of a decoder of any family."""
    s, table = shape, shape.vocabulary * shape.d_model
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    biases = s.qkv_bias * (queries + 2 * keys) + s.out_bias * s.d_model
    biases += s.mlp_bias * (2 * s.d_ff + s.d_model)
    of_heads = {"none": 0, "head": 2 * s.head_dim, "all": queries + keys}[s.traits.query_key_norm]
    layers = s.layers * (_matrices(s) + biases + of_heads + 2 * s.d_model)
    return Parameters(table, 0 if s.tied else table, layers, s.d_model)


def flops(shape: ModelShape, visible: float) -> Flops:
    """The forward pass of one token.

    Args:
        shape: of the decoder.
        visible: positions that a token attends to, itself included: the mean over tokens and layers.
    """
    s = shape
    attention = 4 * visible * s.layers * s.heads * s.head_dim  # scores, and the sum of values
    return Flops(2 * s.layers * _matrices(s), attention, 2 * s.vocabulary * s.d_model)


def _matrices(s: ModelShape) -> int:
    """Entries of a layer's matrices."""
    return s.d_model * (2 * (s.heads + s.kv_heads) * s.head_dim + 3 * s.d_ff)
