"""What a decoder is made of: everything needed to build it, and nothing about where its weights lie."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrainrl_jax.config import ModelConfig
from pretrainrl_jax.config.declare import SWITCHED, Policy
from pretrainrl_jax.model.families import FAMILIES, Family
from pretrainrl_jax.model.lora import Lora

# What files call these fields: digests of mined data and older versions read them, too.
IN_FILES = {"d_model": "width", "head_dim": "head_width", "d_ff": "mlp_width"}
REMAT_IN_FILES = {word: switch == "true" for switch, word in SWITCHED.items()}


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

    family: str  # of FAMILIES
    vocabulary: int
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float
    norm_epsilon: float
    tied: bool
    dtype: str = "float32"  # compute dtype, whatever the parameters' is
    remat: Policy = "none"  # what a training recomputes; changes no result (`layers.KEPT`)
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    windows: tuple[int, ...] = ()  # of each layer, how many positions a token sees, itself included; 0: all
    lora: Lora | None = None  # adapters beside its matrices; no part of what files call a shape

    @property
    def traits(self) -> Family:
        """What the family does differently."""
        return FAMILIES[self.family]

    @property
    def sizes(self) -> dict[str, int]:
        """Of each logical axis."""
        adapters = {"rank": self.lora.rank} if self.lora else {}
        return adapters | {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "vocabulary": self.vocabulary,
            "mlp": self.d_ff,
            "model": self.d_model,
            "head": self.head_dim,
            "layers": self.layers,
        }


def from_settings(settings: ModelConfig, vocabulary: int) -> ModelShape:
    """The shape a configuration describes, with `vocabulary` rows of embedding where it names none."""
    names = {f.name for f in dataclasses.fields(ModelShape)}
    values = {k: v for k, v in _by_field(dataclasses.asdict(settings)).items() if k in names}
    values["vocabulary"] = settings.vocabulary or vocabulary
    return ModelShape(**values, qkv_bias=FAMILIES[settings.family].qkv_bias)


def to_json(shape: ModelShape) -> dict[str, Any]:
    """A plain dictionary that `from_json` reads back, without adapters."""
    values = dataclasses.asdict(shape) | {"remat": REMAT_IN_FILES.get(shape.remat, shape.remat)}
    return {IN_FILES.get(name, name): value for name, value in values.items() if name != "lora"}


def from_json(values: dict[str, Any]) -> ModelShape:
    """The shape written by `to_json`, in this version or an older one."""
    scaling, windows, remat = (
        values.get("rope_scaling"),
        values.get("windows", ()),
        values.get("remat", False),
    )
    words = {switch: word for word, switch in REMAT_IN_FILES.items()}
    read = {
        "rope_scaling": scaling and RopeScaling(**scaling),
        "windows": tuple(windows),
        "remat": words.get(remat, remat),
    }
    return ModelShape(**(_by_field(values) | read))


def _by_field(values: dict[str, Any]) -> dict[str, Any]:
    fields = {name: field for field, name in IN_FILES.items()}
    return {fields.get(name, name): value for name, value in values.items()}
