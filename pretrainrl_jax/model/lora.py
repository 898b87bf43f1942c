"""Low-rank adapters (LoRA, arXiv 2106.09685): beside a weight W that stays as it is, A · B learns.

A product with the weight gives x·W + scale · x·A·B (equation 3). B begins at 0, so that the model begins as
it was; without its adapters it is that at any time, which is how the reference of DPO comes for nothing.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from pretrainrl_jax.config import LoraConfig

A, B = "_lora_a", "_lora_b"  # after a matrix's name: A [*takes, rank], B [rank, *gives]


@dataclass(frozen=True)
class Lora:
    """Which matrices have adapters, and what these are."""

    rank: int
    alpha: float
    targets: tuple[str, ...]  # names of a decoder's matrices, in a layer's order
    rank_stabilised: bool = False

    @property
    def scale(self) -> float:
        """What A · B is multiplied by: alpha / rank, rank-stabilised (arXiv 2312.03732) alpha / √rank."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


def lora_of(settings: LoraConfig) -> Lora | None:
    s = settings
    return Lora(s.rank, s.alpha, s.matrices, s.rank_stabilised) if s.rank else None


def split(lora: Lora | None, params: Any) -> tuple[Any, Any]:
    """What stays as it is of a model's parameters, and what learns: adapters alone, or all without any."""
    if lora is None:
        return {}, params
    flat = flax.traverse_util.flatten_dict(params)
    adapters = {path: x for path, x in flat.items() if path[-1].endswith((A, B))}
    frozen = {path: x for path, x in flat.items() if path not in adapters}
    return flax.traverse_util.unflatten_dict(frozen), flax.traverse_util.unflatten_dict(adapters)


def join(frozen: Any, trained: Any) -> Any:
    """All parameters again, of the parts that `split` gave."""
    if not frozen:
        return trained
    parts = (flax.traverse_util.flatten_dict(part) for part in (frozen, trained))
    return flax.traverse_util.unflatten_dict({path: x for part in parts for path, x in part.items()})


def merged(lora: Lora, params: Any) -> Any:
    """Parameters of the plain decoder that computes the same: W + scale · A · B in the place of each W."""
    frozen: Any
    adapters: Any
    frozen, adapters = (flax.traverse_util.flatten_dict(part) for part in split(lora, params))
    for path, a in adapters.items():
        if path[-1].endswith(A):
            *above, name = path
            name = name.removesuffix(A)
            kernel, b = frozen[*above, name], adapters[*above, name + B]
            # All of float32, on any device; of each layer.
            of_each = jax.vmap(partial(jnp.tensordot, axes=1, precision=jax.lax.Precision.HIGHEST))
            if a.ndim + b.ndim - kernel.ndim == 4:  # both have the axis of experts, too
                of_each = jax.vmap(of_each)
            frozen[*above, name] = kernel + lora.scale * of_each(a, b)
    return flax.traverse_util.unflatten_dict(frozen)
