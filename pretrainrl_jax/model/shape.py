"""What a decoder is made of: everything needed to build it, and nothing about where its weights lie."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrainrl_jax.config import Model as ModelSettings


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency-dependent stretching of the rotary embedding."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes and constants of a decoder. Hashable: the static argument of every compiled function."""

    family: str  # "qwen3" or "llama"
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float
    norm_epsilon: float
    tied: bool
    dtype: str = "float32"  # compute dtype; parameters are float32
    remat: bool = False
    rope_scaling: RopeScaling | None = None

    @property
    def query_key_norm(self) -> bool:
        """Qwen3 normalises each head's queries and keys; Llama does not."""
        return self.family == "qwen3"


def from_settings(settings: ModelSettings, vocabulary: int) -> ModelShape:
    """The shape a configuration describes, with `vocabulary` rows of embedding where it names none."""
    names = {f.name for f in dataclasses.fields(ModelShape)}
    values: dict[str, Any] = {k: v for k, v in dataclasses.asdict(settings).items() if k in names}
    values["vocabulary"] = settings.vocabulary or vocabulary
    return ModelShape(**values)


def to_json(shape: ModelShape) -> dict[str, Any]:
    """A plain dictionary that `from_json` reads back."""
    return dataclasses.asdict(shape)


def from_json(values: dict[str, Any]) -> ModelShape:
    """The shape written by `to_json`."""
    scaling = values.get("rope_scaling")
    changed: dict[str, Any] = {"rope_scaling": RopeScaling(**scaling) if scaling else None}
    return ModelShape(**(values | changed))
