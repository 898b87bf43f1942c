"""config.json of a Hugging Face folder, in both directions.

Both spellings are read, that of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of
transformers 5 (`rope_parameters`, `dtype`). The first is written, which both understand: transformers 4
passes over the second without a word, and computes with another rope_theta.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.families import FAMILIES, Family
from pretrainrl_jax.model.shape import ModelShape, RopeScaling

Json = dict[str, Any]
SIZES = {  # and our names
    "vocab_size": "vocabulary", "hidden_size": "d_model", "intermediate_size": "d_ff",
    "num_hidden_layers": "layers", "num_attention_heads": "heads",
}  # fmt: skip
SCALING = {  # of llama3's rotary embedding, and our names
    "factor": "factor", "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor", "original_max_position_embeddings": "original_length",
}  # fmt: skip
# What `read_shape` reads of every family, and writes.
READ = {
    *SIZES, "model_type", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "attention_bias",
    "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "dtype",
    "torch_dtype",
}  # fmt: skip
# Changes nothing that a forward pass computes.
NEUTRAL = {
    "architectures", "transformers_version", "_name_or_path", "name_or_path", "initializer_range",
    "use_cache", "max_position_embeddings", "attention_dropout", "pretraining_tp", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id",
    "return_dict", "output_attentions", "output_hidden_states", "return_dict_in_generate",
    "output_scores", "is_decoder", "is_encoder_decoder", "id2label", "label2id", "problem_type",
    "finetuning_task", "task_specific_params", "tokenizer_class", "prefix", "chunk_size_feed_forward",
    "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation", "_commit_hash", "max_length", "min_length",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
    "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "suppress_tokens", "begin_suppress_tokens",
    "exponential_decay_length_penalty", "auto_map", "unsloth_version", "unsloth_fixed",
    "base_model_tp_plan", "base_model_pp_plan",
}  # fmt: skip
ROPE_KEYS = {"default": set[str](), "llama3": {*SCALING}}
INACTIVE = (None, False, [], {})  # an option with such a value is switched off


def read_config(folder: Path, name: str = "config.json") -> Json:
    """config.json, or another of a folder's JSON files, as it is written.

    Raises:
        InputError: if it is missing, or is no JSON object.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is no JSON object: download it again")
    return config


def read_shape(folder: Path, dtype: str = "") -> ModelShape:
    """The shape a folder's config.json describes.

    Args:
        folder: of a Hugging Face model.
        dtype: the compute dtype; empty takes the one the weights are stored in, float32 for float16.

    Raises:
        InputError: if a key is missing or no number, or one changes what is computed in a way this decoder
            does not know.
    """
    path, config = folder / "config.json", read_config(folder)
    name = config.get("model_type")
    if name not in FAMILIES:
        raise InputError(f"{path}: model_type is {name!r}; the known ones are {', '.join(sorted(FAMILIES))}")
    try:
        return _shape(path, config, name, dtype or compute_dtype(config))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a value is of the wrong kind: {error}") from None


def _shape(path: Path, config: Json, name: str, dtype: str) -> ModelShape:
    family = FAMILIES[name]
    missing = [key for key in (*SIZES, *family.needed) if key not in config]
    if missing:
        raise InputError(f"{path} does not state {', '.join(missing)}: add what the model was trained with")
    _refuse_unknown(path, config, family)
    kind, rope = _rope(path, config)
    d_model, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if min(d_model, heads, kv_heads) < 1 or heads % kv_heads:
        raise InputError(
            f"{path}: {heads} attention heads and {kv_heads} key-value heads on a width of {d_model}: the "
            "second must divide the first"
        )
    head_dim = int(config.get("head_dim") or d_model // heads)
    layers = int(config["num_hidden_layers"])
    scaling = None
    if kind == "llama3":
        factor, low, high, length = (rope[key] for key in SCALING)
        scaling = RopeScaling(float(factor), float(low), float(high), int(length))
    bias = bool(config.get("attention_bias"))
    return ModelShape(
        family=name,
        vocabulary=int(config["vocab_size"]),
        d_model=d_model,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=int(config["intermediate_size"]),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        norm_epsilon=float(config.get("rms_norm_eps", family.norm_epsilon)),
        tied=bool(config.get("tie_word_embeddings", False)),
        dtype=dtype,
        rope_scaling=scaling,
        qkv_bias=family.qkv_bias or bias,
        out_bias=bias,
        mlp_bias=bool(config.get("mlp_bias")),
        windows=_windows(path, config, family, layers),
    )


def _refuse_unknown(path: Path, config: Json, family: Family) -> None:
    """Raises InputError for what this decoder does not compute, and for what nobody here has heard of."""
    for key, value in config.items():
        known = key in READ or key in NEUTRAL
        if key in ("attention_bias", "mlp_bias"):
            known = key in family.keys
        if key in ("sliding_window", "use_sliding_window"):
            known = family.sliding_window != "never"
        if not known and value not in INACTIVE:
            raise InputError(
                f"{path}: {key} is {_short(value)}, which this decoder does not compute for "
                f"{family.architecture}; remove it if it changes nothing that the model computes"
            )
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise InputError(f"{path}: hidden_act is {activation!r}, and this decoder computes 'silu' alone")


def _rope(path: Path, config: Json) -> tuple[str, Json]:
    """The kind of rotary embedding, and its parameters."""
    stated = [config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key)]
    rope = stated[0] if stated else {}
    if not isinstance(rope, dict):
        raise InputError(f"{path}: the rotary embedding is {_short(rope)}: it must be a JSON object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_KEYS:
        known = ", ".join(sorted(ROPE_KEYS))
        raise InputError(f"{path}: rope_type is {kind!r}; the known ones are {known}")
    if missing := sorted(ROPE_KEYS[kind] - rope.keys()):
        raise InputError(f"{path}: rope_type {kind} does not state {', '.join(missing)}")
    wanted = {"rope_type", "type", "rope_theta"} | ROPE_KEYS[kind]
    for key, value in rope.items():
        rotates_all = key == "partial_rotary_factor" and value == 1
        if key not in wanted and not rotates_all and value not in INACTIVE:
            raise InputError(f"{path}: rope_type {kind} has {key}, which this decoder does not compute")
    return kind, rope


def _windows(path: Path, config: Json, family: Family, layers: int) -> tuple[int, ...]:
    """Each layer's sliding window, 0 where it has none; empty where no layer has one."""
    window = int(config.get("sliding_window") or 0)
    if family.sliding_window == "upper layers" and not config.get("use_sliding_window"):
        window = 0
    begin = {"never": layers, "every layer": 0, "upper layers": int(config.get("max_window_layers", 28))}
    full, sliding = "full_attention", "sliding_attention"
    kinds = [sliding if window and i >= begin[family.sliding_window] else full for i in range(layers)]
    stated = config.get("layer_types", kinds)
    windowed = family.sliding_window == "upper layers" and window
    if len(stated) != layers or not {*stated} <= {full, sliding} or not (windowed or stated == kinds):
        raise InputError(
            f"{path}: layer_types is {_short(stated)} for {layers} layers and a sliding window of {window}: "
            f"this decoder knows {full}, and {sliding} where the family has it"
        )
    windows = tuple(window if kind == sliding else 0 for kind in stated)
    return windows if any(windows) else ()


def stored_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that config.json states for the weights; empty where it states none."""
    stated = config.get("dtype") or config.get("torch_dtype") or ""
    return str(stated).removeprefix("torch.")


def compute_dtype(config: Mapping[str, Any]) -> str:
    """What a model of that config computes in: bfloat16 where it is stored so, else float32."""
    return "bfloat16" if stored_dtype(config) == "bfloat16" else "float32"


def ending(bos: int | None, eos: tuple[int, ...]) -> Json:
    """What config.json and generation_config.json say of a tokenizer's special ids.

    Args:
        bos: id of BOS; None where the tokenizer adds none, and nothing is said of it.
        eos: ids that end a text.
    """
    stated: Json = {"eos_token_id": eos[0] if len(eos) == 1 else list(eos)}
    return stated if bos is None else stated | {"bos_token_id": bos}


def write_config(shape: ModelShape, origin: Json, dtype: str) -> Json:
    """The config.json of a model, but for its tokenizer's special ids.

    Args:
        shape: of the model.
        origin: config.json of the model it was imported from, whose other keys are kept; empty without one.
        dtype: of the weights beside it.
    """
    scaling, window = shape.rope_scaling, max(shape.windows, default=0)
    config: Json = {
        "architectures": [shape.traits.architecture],
        "model_type": shape.family,
        **{theirs: getattr(shape, ours) for theirs, ours in SIZES.items()},
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": shape.tied,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "torch_dtype": dtype,
    }
    if scaling is not None:
        values = {theirs: getattr(scaling, ours) for theirs, ours in SCALING.items()}
        config["rope_scaling"] = {"rope_type": "llama3", **values}
    if "attention_bias" in shape.traits.keys:
        config["attention_bias"] = shape.out_bias
    if "mlp_bias" in shape.traits.keys:
        config["mlp_bias"] = shape.mlp_bias
    if shape.traits.sliding_window != "never":
        config["sliding_window"] = window or None
    if shape.traits.sliding_window == "upper layers":
        config["use_sliding_window"] = window > 0
        config["max_window_layers"] = origin.get("max_window_layers", shape.layers)
        windows = shape.windows or (0,) * shape.layers
        config["layer_types"] = ["sliding_attention" if size else "full_attention" for size in windows]
    kept = {key: value for key, value in origin.items() if key not in READ and key != "transformers_version"}
    return kept | {"max_position_embeddings": kept.get("max_position_embeddings", 2048)} | config


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
