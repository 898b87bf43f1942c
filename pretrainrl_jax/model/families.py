"""Architectures as data: what sets one family of decoders apart from others, and the names of its tensors.

A new family is one entry in `FAMILIES`, its name in `config.Model.family`, and its parity test.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How a family's decoder differs from Llama's."""

    architecture: str  # transformers' class, written on export
    norms: Literal["before", "after"] = "before"  # RMS norm of what a sublayer reads, or of what it gives
    norm_names: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")  # attention's, MLP's
    query_key_norm: Literal["none", "head", "all"] = "none"  # of each head, or of all heads together
    qkv_bias: bool = False  # queries, keys and values always have biases
    sliding_window: Literal["never", "every layer", "upper layers"] = "never"  # which layers may have one


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", sliding_window="every layer"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, sliding_window="upper layers"),
    "qwen3": Family("Qwen3ForCausalLM", query_key_norm="head", sliding_window="upper layers"),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        norms="after",
        norm_names=("post_attention_layernorm", "post_feedforward_layernorm"),
        query_key_norm="all",
    ),
}


@dataclass(frozen=True)
class Weight:
    """A tensor under both names, and its axes as they lie in theirs, by our logical names.

    `{}` in theirs is the layer's number; ours has all layers stacked. Two names in one axis lie flattened in
    it, those left out that the parameter does not have (a norm of each head has no axis of heads).
    """

    theirs: str
    ours: str
    axes: tuple[str, ...]


_ATTENTION, _MLP = "model.layers.{}.self_attn.", "model.layers.{}.mlp."
_WEIGHTS = (
    Weight("model.embed_tokens.weight", "embedding", ("vocabulary", "model")),
    Weight("lm_head.weight", "head", ("vocabulary", "model")),
    Weight("model.norm.weight", "final_norm/scale", ("model",)),
    Weight(_ATTENTION + "q_proj.weight", "layers/attention/query", ("heads head", "model")),
    Weight(_ATTENTION + "k_proj.weight", "layers/attention/key", ("kv_heads head", "model")),
    Weight(_ATTENTION + "v_proj.weight", "layers/attention/value", ("kv_heads head", "model")),
    Weight(_ATTENTION + "o_proj.weight", "layers/attention/out", ("model", "heads head")),
    Weight(_ATTENTION + "q_proj.bias", "layers/attention/query_bias", ("heads head",)),
    Weight(_ATTENTION + "k_proj.bias", "layers/attention/key_bias", ("kv_heads head",)),
    Weight(_ATTENTION + "v_proj.bias", "layers/attention/value_bias", ("kv_heads head",)),
    Weight(_ATTENTION + "o_proj.bias", "layers/attention/out_bias", ("model",)),
    Weight(_ATTENTION + "q_norm.weight", "layers/attention/query_norm/scale", ("heads head",)),
    Weight(_ATTENTION + "k_norm.weight", "layers/attention/key_norm/scale", ("kv_heads head",)),
    Weight(_MLP + "gate_proj.weight", "layers/mlp/gate", ("mlp", "model")),
    Weight(_MLP + "up_proj.weight", "layers/mlp/up", ("mlp", "model")),
    Weight(_MLP + "down_proj.weight", "layers/mlp/down", ("model", "mlp")),
    Weight(_MLP + "gate_proj.bias", "layers/mlp/gate_bias", ("mlp",)),
    Weight(_MLP + "up_proj.bias", "layers/mlp/up_bias", ("mlp",)),
    Weight(_MLP + "down_proj.bias", "layers/mlp/down_bias", ("model",)),
)


def weights_of(family: str) -> dict[str, Weight]:
    """Every tensor a model of the family may have, by our name; read in both directions."""
    attention, mlp = FAMILIES[family].norm_names
    norms = (
        Weight(f"model.layers.{{}}.{attention}.weight", "layers/attention_norm/scale", ("model",)),
        Weight(f"model.layers.{{}}.{mlp}.weight", "layers/mlp_norm/scale", ("model",)),
    )
    return {weight.ours: weight for weight in (*_WEIGHTS, *norms)}
