"""Architectures as data: what sets one family of decoders apart from others, and the names of its tensors.

A new family is one entry in `FAMILIES`, its name in `config.ModelConfig.family`, and its parity test.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Experts:
    """Experts in the place of the MLP: what their tensors and their keys of config.json are called."""

    router: str  # tensors of a layer
    gate: str  # and of an expert
    up: str
    down: str
    count: str  # key of the number of experts
    width: str  # key of an expert's hidden size
    normalised: bool | None = None  # the chosen experts' weights add up to 1; None: norm_topk_prob says


_EXPERT = "mlp.experts.{}."
_BY_PROJECTION = ("mlp.gate", _EXPERT + "gate_proj", _EXPERT + "up_proj", _EXPERT + "down_proj")
_BY_NUMBER = ("gate", "experts.{}.w1", "experts.{}.w3", "experts.{}.w2")


@dataclass(frozen=True)
class Family:
    """How a family's decoder differs from Llama's."""

    architecture: str  # transformers' class, written on export
    before: tuple[str, str] | None = ("input_layernorm", "post_attention_layernorm")  # norms of what is read
    after: tuple[str, str] | None = None  # and of what is given, by attention and MLP: their names
    norm_offset: float = 0.0  # what is added to the weights of norms
    query_key_norm: Literal["none", "head", "all"] = "none"  # of each head, or of all heads together
    qkv_bias: bool = False  # queries, keys and values always have biases
    # Which layers may have one.
    sliding_window: Literal["never", "every layer", "upper layers", "some layers"] = "never"
    switched_window: bool = False  # a window counts only where use_sliding_window is true
    local_rope: bool = False  # layers with a window rotate by a base of their own
    scaled_query: bool = False  # scores are divided by the root of a number that config.json states
    activation: Literal["silu", "gelu_tanh"] = "silu"  # of the MLP's gate
    scaled_embedding: bool = False  # embeddings are multiplied by the root of their size
    experts: Experts | None = None  # of which a router chooses some for each token

    @property
    def norms(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Our names of the norms of what attention reads and of what it gives, then the MLP's; or none."""
        if self.after is None:
            return ("attention_norm", ""), ("mlp_norm", "")
        if self.before is None:
            return ("", "attention_norm"), ("", "mlp_norm")
        return ("attention_norm", "attention_after_norm"), ("mlp_norm", "mlp_after_norm")


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", sliding_window="every layer"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, sliding_window="upper layers", switched_window=True),
    "qwen3": Family(
        "Qwen3ForCausalLM", query_key_norm="head", sliding_window="upper layers", switched_window=True
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        before=None,
        after=("post_attention_layernorm", "post_feedforward_layernorm"),
        query_key_norm="all",
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        sliding_window="every layer",
        experts=Experts(
            *(f"block_sparse_moe.{name}" for name in _BY_NUMBER),
            count="num_local_experts",
            width="intermediate_size",
            normalised=True,
        ),
    ),
    "olmoe": Family(
        "OlmoeForCausalLM",
        query_key_norm="all",
        experts=Experts(*_BY_PROJECTION, count="num_experts", width="intermediate_size"),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        query_key_norm="head",
        sliding_window="every layer",
        switched_window=True,
        experts=Experts(*_BY_PROJECTION, count="num_experts", width="moe_intermediate_size"),
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        before=("input_layernorm", "pre_feedforward_layernorm"),
        after=("post_attention_layernorm", "post_feedforward_layernorm"),
        norm_offset=1.0,
        query_key_norm="head",
        sliding_window="some layers",
        local_rope=True,
        scaled_query=True,
        activation="gelu_tanh",
        scaled_embedding=True,
    ),
}


@dataclass(frozen=True)
class Weight:
    """A tensor under both names, and its axes as they lie in theirs, by our logical names.

    `{}` in theirs is the layer's number, a second one the expert's; ours has all of them stacked. Two names
    in one axis lie flattened in it, those left out that the parameter does not have (a norm of each head has
    no axis of heads).
    """

    theirs: str
    ours: str
    axes: tuple[str, ...]


_LAYER = "model.layers.{}."
_ATTENTION, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."
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
)
_OF_MLP = (
    Weight(_MLP + "gate_proj.weight", "layers/mlp/gate", ("mlp", "model")),
    Weight(_MLP + "up_proj.weight", "layers/mlp/up", ("mlp", "model")),
    Weight(_MLP + "down_proj.weight", "layers/mlp/down", ("model", "mlp")),
    Weight(_MLP + "gate_proj.bias", "layers/mlp/gate_bias", ("mlp",)),
    Weight(_MLP + "up_proj.bias", "layers/mlp/up_bias", ("mlp",)),
    Weight(_MLP + "down_proj.bias", "layers/mlp/down_bias", ("model",)),
)


def weights_of(family: str) -> dict[str, Weight]:
    """Every tensor a model of the family may have, by our name; read in both directions."""
    traits = FAMILIES[family]
    norms = [
        Weight(f"{_LAYER}{theirs}.weight", f"layers/{ours}/scale", ("model",))
        for names, of_ours in zip((traits.before, traits.after), zip(*traits.norms, strict=True), strict=True)
        for theirs, ours in zip(names or (), of_ours, strict=False)
    ]
    mlp = _OF_MLP if traits.experts is None else _of_mixture(traits.experts)
    return {weight.ours: weight for weight in (*_WEIGHTS, *mlp, *norms)}


def _of_mixture(experts: Experts) -> tuple[Weight, ...]:
    return (
        Weight(f"{_LAYER}{experts.router}.weight", "layers/mlp/router", ("routes", "model")),
        Weight(f"{_LAYER}{experts.gate}.weight", "layers/mlp/gate", ("mlp", "model")),
        Weight(f"{_LAYER}{experts.up}.weight", "layers/mlp/up", ("mlp", "model")),
        Weight(f"{_LAYER}{experts.down}.weight", "layers/mlp/down", ("model", "mlp")),
    )
