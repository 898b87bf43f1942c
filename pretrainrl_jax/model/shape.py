"""What a decoder is made of: everything needed to build it, and nothing about where its weights lie."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrainrl_jax.config import ModelConfig
from pretrainrl_jax.config.declare import SWITCHED, Policy
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.families import FAMILIES, Family
from pretrainrl_jax.model.lora import Lora

# What files call these fields: digests of mined data and older versions read them, too.
IN_FILES = {"d_model": "width", "head_dim": "head_width", "d_ff": "mlp_width"}
LOCAL_ROPE_THETA = 10000.0  # of a model that is made here, as Gemma 3's
ROUTER_LOSS = 0.001  # the coefficient of a model that is made here, as Mixtral's and Qwen3's
# Fields that older versions have not, and values with which a model is what it was: not written, so that
# digests stay.
LATER: dict[str, Any] = {
    "local_rope_theta": 0.0, "query_scale": 0.0, "experts": 0, "experts_per_token": 0, "norm_topk_prob": True,
    "router_loss": 0.0,
}  # fmt: skip
REMAT_IN_FILES = {word: switch == "true" for switch, word in SWITCHED.items()}  # else the policy's name


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency-dependent stretching of the rotary embedding."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


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
    rope_scaling: RopeScaling | LinearScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    windows: tuple[int, ...] = ()  # of each layer, how many positions a token sees, itself included; 0: all
    local_rope_theta: float = 0.0  # of layers with a window, where the family has one for them
    query_scale: float = 0.0  # scores are divided by its root; 0: head_dim
    experts: int = 0  # MLPs of a mixture; 0: every token has the same one
    experts_per_token: int = 0
    norm_topk_prob: bool = True  # the weights of a token's experts add up to 1
    router_loss: float = 0.0  # coefficient, in training, of the loss that balances experts
    lora: Lora | None = None  # adapters beside its matrices; no part of what files call a shape

    @property
    def traits(self) -> Family:
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
            "experts": self.experts,
            "routes": self.experts,
        }


def from_settings(settings: ModelConfig, vocabulary: int) -> ModelShape:
    """The shape a configuration describes, with `vocabulary` rows of embedding where it names none."""
    names = {f.name for f in dataclasses.fields(ModelShape)}
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k in names}
    values["vocabulary"] = settings.vocabulary or vocabulary
    traits = FAMILIES[settings.family]
    if traits.experts is None:
        values |= {"router_loss": 0.0, "norm_topk_prob": True}
    elif traits.experts.normalised is not None:
        values["norm_topk_prob"] = traits.experts.normalised
    if traits.local_rope:
        values["local_rope_theta"] = LOCAL_ROPE_THETA
    if traits.scaled_query:
        values["query_scale"] = float(settings.head_dim)
    if values["router_loss"] < 0:
        values["router_loss"] = ROUTER_LOSS
    return ModelShape(**values, qkv_bias=traits.qkv_bias)


def in_training(shape: ModelShape, settings: ModelConfig) -> ModelShape:
    """A loaded shape as settings train it: what is recomputed, and the coefficient of the router's loss.

    Raises InputError where there is a coefficient, and no experts.
    """
    asked = settings.router_loss
    if asked > 0 and not shape.experts:
        raise InputError(f"model.router_loss is {asked}, and the model has no experts: remove it")
    router_loss = shape.router_loss if asked < 0 or not shape.experts else asked
    return dataclasses.replace(shape, remat=settings.remat, router_loss=router_loss)


def to_json(shape: ModelShape) -> dict[str, Any]:
    """A plain dictionary that `from_json` reads back, without adapters."""
    values = dataclasses.asdict(shape) | {"remat": REMAT_IN_FILES.get(shape.remat, shape.remat)}
    left_out = LATER | {"lora": values["lora"]}
    written = {k: v for k, v in values.items() if k not in left_out or v != left_out[k]}
    return {IN_FILES.get(name, name): value for name, value in written.items()}


def from_json(values: dict[str, Any]) -> ModelShape:
    """The shape written by `to_json`, in this version or an older one."""
    fields = {name: field for field, name in IN_FILES.items()}
    read = {fields.get(name, name): value for name, value in values.items()}
    scaling, remat = values.get("rope_scaling"), str(values.get("remat", False))
    read["rope_scaling"] = scaling and (LinearScaling if len(scaling) == 1 else RopeScaling)(**scaling)
    read["windows"] = tuple(values.get("windows", ()))
    read["remat"] = SWITCHED.get(remat.lower(), remat)
    return ModelShape(**read)
