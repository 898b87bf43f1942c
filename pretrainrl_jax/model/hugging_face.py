"""Hugging Face folders: one table per architecture, from their names to ours.

Weights are read from safetensors only; no code of the folder is ever run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.shape import ModelShape, RopeScaling


@dataclass(frozen=True)
class Weight:
    """Where one of their tensors stands with us; `{}` in a name is the layer number."""

    theirs: str
    ours: str
    to_ours: Callable[[np.ndarray, ModelShape], np.ndarray] = lambda w, s: w


def _heads_out(w: np.ndarray, s: ModelShape) -> np.ndarray:
    """[heads * head, model] to [model, heads, head]: projections into heads."""
    return w.T.reshape(s.width, -1, s.head_width)


def _heads_in(w: np.ndarray, s: ModelShape) -> np.ndarray:
    """[model, heads * head] to [heads, head, model]: the projection out of heads."""
    return w.T.reshape(-1, s.head_width, s.width)


def _transposed(w: np.ndarray, s: ModelShape) -> np.ndarray:
    return w.T


LLAMA = (
    Weight("model.embed_tokens.weight", "embedding"),
    Weight("model.norm.weight", "final_norm/scale"),
    Weight("model.layers.{}.input_layernorm.weight", "layers/attention_norm/scale"),
    Weight("model.layers.{}.post_attention_layernorm.weight", "layers/mlp_norm/scale"),
    Weight("model.layers.{}.self_attn.q_proj.weight", "layers/attention/query", _heads_out),
    Weight("model.layers.{}.self_attn.k_proj.weight", "layers/attention/key", _heads_out),
    Weight("model.layers.{}.self_attn.v_proj.weight", "layers/attention/value", _heads_out),
    Weight("model.layers.{}.self_attn.o_proj.weight", "layers/attention/out", _heads_in),
    Weight("model.layers.{}.mlp.gate_proj.weight", "layers/mlp/gate", _transposed),
    Weight("model.layers.{}.mlp.up_proj.weight", "layers/mlp/up", _transposed),
    Weight("model.layers.{}.mlp.down_proj.weight", "layers/mlp/down", _transposed),
)
QWEN3 = (
    *LLAMA,
    Weight("model.layers.{}.self_attn.q_norm.weight", "layers/attention/query_norm/scale"),
    Weight("model.layers.{}.self_attn.k_norm.weight", "layers/attention/key_norm/scale"),
)
HEAD = Weight("lm_head.weight", "head")
FAMILIES = {"llama": LLAMA, "qwen3": QWEN3}


def weights_of(shape: ModelShape) -> tuple[Weight, ...]:
    """The table of a model's architecture, with the head where it is not tied to the embedding."""
    return FAMILIES[shape.family] + (() if shape.tied else (HEAD,))


def read_shape(folder: Path, dtype: str = "float32") -> ModelShape:
    """The shape a folder's config.json describes.

    Raises:
        InputError: for an architecture, activation, bias or rotary scaling this decoder does not compute.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read {folder / 'config.json'}: {error}") from None
    family = config.get("model_type")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    for wrong, what in (
        (family not in FAMILIES, f"model_type {family!r} (known: {', '.join(FAMILIES)})"),
        (config.get("hidden_act", "silu") != "silu", f"hidden_act {config.get('hidden_act')!r}"),
        (config.get("attention_bias") or config.get("mlp_bias"), "biases"),
        (config.get("use_sliding_window"), "sliding windows"),
        (kind not in ("default", "llama3"), f"rope_type {kind!r}"),
    ):
        if wrong:
            raise InputError(f"{folder / 'config.json'}: this decoder does not compute {what}")
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    heads = config["num_attention_heads"]
    return ModelShape(
        family=family,
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=config.get("head_dim") or config["hidden_size"] // heads,
        mlp_width=config["intermediate_size"],
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)),
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        tied=bool(config.get("tie_word_embeddings", False)),
        dtype=dtype,
        rope_scaling=scaling,
    )


def read_params(folder: Path, shape: ModelShape) -> Params:
    """The folder's weights as parameters, float32 NumPy arrays.

    Raises:
        InputError: if there are no safetensors files, one cannot be read, a tensor is missing, or one has
            another shape.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"no .safetensors file in {folder}: only that format is read")
    where: dict[str, Any] = {}
    for file in files:
        try:
            opened = safe_open(str(file), framework="numpy")
        except SafetensorError as error:  # a Git LFS pointer, or a download cut short
            raise InputError(f"cannot read {file}: {error}") from None
        where |= dict.fromkeys(opened.keys(), opened)
    expected: dict[str, Any] = flax.traverse_util.flatten_dict(nn.unbox(Model(shape).abstract()), sep="/")

    def read(weight: Weight, name: str, wanted: tuple[int, ...]) -> np.ndarray:
        if name not in where:
            raise InputError(f"{folder} has no tensor {name}: the weights do not belong to its config.json")
        theirs = where[name].get_tensor(name).astype(np.float32)
        try:
            ours = weight.to_ours(theirs, shape)
        except ValueError:  # not even the number of values is right
            ours = None
        if ours is None or ours.shape != wanted:
            raise InputError(f"{folder}: {name} has shape {theirs.shape}, which is not what config.json says")
        return ours

    flat: dict[str, Any] = {}
    for weight in weights_of(shape):
        wanted = expected[weight.ours].shape
        if "{}" in weight.theirs:
            names = [weight.theirs.format(i) for i in range(shape.layers)]
            flat[weight.ours] = np.stack([read(weight, name, wanted[1:]) for name in names])
        else:
            flat[weight.ours] = read(weight, weight.theirs, wanted)
    return flax.traverse_util.unflatten_dict(flat, sep="/")
