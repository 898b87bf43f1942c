"""config.json of a Hugging Face folder, in both directions.

Both spellings are read, that of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of
transformers 5 (`rope_parameters`, `dtype`). The first is written, which both understand: transformers 4
passes over the second without a word, and computes with another rope_theta.
"""

import copy
import json
import math
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.families import FAMILIES, Experts, Family
from pretrainrl_jax.model.hugging_face.files import INDEX, SINGLE
from pretrainrl_jax.model.shape import LinearScaling, ModelShape, RopeScaling

Json = dict[str, Any]
SIZES = {  # and our names
    "vocab_size": "vocabulary", "hidden_size": "d_model", "intermediate_size": "d_ff",
    "num_hidden_layers": "layers", "num_attention_heads": "heads",
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": "experts_per_token", "router_aux_loss_coef": "router_loss"}
SCALING = {  # of llama3's rotary embedding, and our names
    "factor": "factor", "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor", "original_max_position_embeddings": "original_length",
}  # fmt: skip
# Keys of a class of transformers that `read_shape` turns into a shape.
COMPUTED = {
    *SIZES, "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "tie_word_embeddings",
    "rope_parameters", "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window",
    "max_window_layers", "layer_types", "hidden_activation", "query_pre_attn_scalar", *EXPERTS, "num_experts",
    "num_local_experts", "norm_topk_prob", "moe_intermediate_size",
}  # fmt: skip
# Keys of these classes, beside those of their base, that change nothing a forward pass computes. Where an
# older transformers heeds pretraining_tp, it cuts products in parts whose sum is the same.
NEUTRAL = {
    "initializer_range", "attention_dropout", "use_cache", "max_position_embeddings", "pretraining_tp",
    "bos_token_id", "eos_token_id", "pad_token_id", "output_router_logits",
}  # fmt: skip
# Keys that transformers reads whether or not a class has them, and their values that change nothing.
READ_OF_ALL: dict[str, tuple[Any, ...]] = {
    "sliding_window": (None, 0), "is_causal": (True,), "per_layer_config": (None, {}),
    "attention_chunk_size": (None,), "kv_sharing_modes": (None,), "fusion_config": (None,),
    "transformers_weights": (None, SINGLE, INDEX), "configuration_files": (None, []),
}  # fmt: skip
# Of each function the key that names it, and its names there; the first is written.
ACTIVATIONS = {
    "silu": ("hidden_act", ("silu", "swish")),
    "gelu_tanh": ("hidden_activation", ("gelu_pytorch_tanh",)),
}
TEXT_PARTS = {"gemma3": "gemma3_text"}  # of models of text and images the family of their text
OF_ALL_PARTS = ("torch_dtype", "dtype", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
RESPELLED = {"rope_parameters", "dtype", "transformers_version"}  # written otherwise
ROPES = {"default": set[str](), "linear": {"factor"}, "llama3": {*SCALING}}
FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers


def read_config(folder: Path, name: str = "config.json") -> Json:
    """config.json, or another of a folder's JSON files, as it is written.

    Of a model of text and images config.json is read as if it had its text part alone, as `files.stored`
    reads its weights. Raises InputError if it is missing, or is no JSON object.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is no JSON object: download it again")
    return _text_part(path, config) if str(config.get("model_type")) in TEXT_PARTS else config


def _text_part(path: Path, config: Json) -> Json:
    """What a model of text and images says of its text; the class's defaults where that states no size."""
    from transformers import CONFIG_MAPPING

    family = TEXT_PARTS[config["model_type"]]
    defaults, stated = vars(CONFIG_MAPPING[family]()), config.get("text_config")
    if not isinstance(stated, dict):
        raise InputError(f"{path}: text_config is {_short(stated)}: download it again")
    of_all = {key: config[key] for key in OF_ALL_PARTS if key in config}
    return {key: defaults[key] for key in SIZES} | of_all | stated | {"model_type": family}


def read_shape(folder: Path, dtype: str = "") -> ModelShape:
    """The shape a folder's config.json describes.

    `dtype` is the compute dtype; empty takes the one the weights are stored in, float32 for float16. Raises
    InputError if a key is missing or no number, or one changes what is computed in a way this decoder does
    not know.
    """
    path, config = folder / "config.json", read_config(folder)
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(f"{path}: model_type is {name!r}; the known ones are {', '.join(sorted(FAMILIES))}")
    own = "bfloat16" if stored_dtype(config) == "bfloat16" else "float32"
    try:
        return _shape(path, config, name, dtype or own)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: a value is of the wrong kind: {error}") from None


def _shape(path: Path, config: Json, name: str, dtype: str) -> ModelShape:
    family = FAMILIES[name]
    if missing := [key for key in SIZES if key not in config]:
        raise InputError(f"{path} does not state {', '.join(missing)}: add what the model was trained with")
    given, declared = _as_transformers(path, config, name)
    _refuse_unknown(path, config, given, declared)
    sizes: Json = {ours: getattr(given, theirs) for theirs, ours in SIZES.items()}
    heads, kv_heads = sizes["heads"], given.num_key_value_heads
    if min(*sizes.values(), kv_heads) < 1 or heads % kv_heads:
        raise InputError(
            f"{path}: {heads} attention heads and {kv_heads} key-value heads on a width of "
            f"{given.hidden_size}, or another size: the second must divide the first, and none be below 1"
        )
    head_dim = index(getattr(given, "head_dim", None) or given.hidden_size // heads)
    if head_dim < 1 or head_dim % 2:
        raise InputError(f"{path}: a head's width is {head_dim}: a rotary embedding takes an even number")
    of_kinds: Json = given.rope_parameters  # of layers that see everything, and of those with a window
    rope, local = (_rope(path, of_kinds[k] if family.local_rope else of_kinds) for k in (FULL, SLIDING))
    theta, epsilon = float(rope["rope_theta"]), float(given.rms_norm_eps)
    thetas = theta, float(local["rope_theta"])
    if not (0 < min(thetas) <= max(thetas) < math.inf and 0 <= epsilon < math.inf):
        raise InputError(f"{path}: rope_theta is {theta} and rms_norm_eps {epsilon}: both must be positive")
    if family.local_rope and local["rope_type"] != "default":
        raise InputError(f"{path}: rope_type of {SLIDING} is {local['rope_type']!r}: it must be 'default'")
    sizes["d_ff"] = index(getattr(given, family.experts.width)) if family.experts else sizes["d_ff"]
    biases = {key: key in declared and bool(getattr(given, key)) for key in ("attention_bias", "mlp_bias")}
    return ModelShape(
        **sizes,
        family=name,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=theta,
        norm_epsilon=epsilon,
        tied=bool(given.tie_word_embeddings),
        dtype=dtype,
        rope_scaling=_scaling(rope),
        qkv_bias=family.qkv_bias or biases["attention_bias"],
        out_bias=biases["attention_bias"],
        mlp_bias=biases["mlp_bias"],
        local_rope_theta=thetas[1] if family.local_rope else 0.0,
        query_scale=float(given.query_pre_attn_scalar) if family.scaled_query else 0.0,
        **_experts(path, given, family),
        windows=_windows(path, given, family),
    )


def _as_transformers(path: Path, config: Json, name: str) -> tuple[Any, Json]:
    """What the architecture's class of transformers makes of config.json, and the class's keys with defaults.

    The class decides what two spellings of one thing mean, and what holds where nothing is stated.
    """
    from transformers import CONFIG_MAPPING
    from transformers.utils import logging

    logging.set_verbosity_error()
    values = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    try:
        return CONFIG_MAPPING[name](**copy.deepcopy(values)), vars(CONFIG_MAPPING[name]())
    except Exception as error:  # of many kinds
        why = " ".join(str(error).split())
        raise InputError(f"{path}: transformers cannot read it: {why or type(error).__name__}") from None


def _refuse_unknown(path: Path, config: Json, given: Any, declared: Json) -> None:
    """Raises InputError for what the class of transformers computes and this decoder does not.

    A key that the class does not have changes nothing.
    """
    from transformers import PreTrainedConfig

    if config.get("quantization_config"):
        raise InputError(
            f"{path}: quantization_config is {_short(config['quantization_config'])}, and quantised weights "
            "are not read: take the model's folder in bfloat16, or write one (transformers: "
            "model.dequantize(), model.save_pretrained(FOLDER))"
        )
    ours = COMPUTED | NEUTRAL | vars(PreTrainedConfig()).keys()
    theirs = {key: (value,) for key, value in declared.items() if key not in ours and key[0] != "_"}
    of_all = {key: values for key, values in READ_OF_ALL.items() if key not in declared}
    for key, harmless in (theirs | of_all).items():
        value = getattr(given, key) if key in theirs else config.get(key, harmless[0])
        if value not in harmless:
            raise InputError(
                f"{path}: {key} is {_short(value)}, which this decoder does not compute for "
                f"{given.model_type}; remove it if the model was trained without it"
            )
    key, names = ACTIVATIONS[FAMILIES[given.model_type].activation]
    if (value := getattr(given, key)) not in names:
        raise InputError(f"{path}: {key} is {value!r}, and this decoder computes {names[0]!r} alone")


def _rope(path: Path, rope: Json) -> Json:
    """The parameters of the rotary embedding, of a kind that this decoder computes."""
    kind = rope.get("rope_type", "one for each kind of layer")
    if kind not in ROPES:
        raise InputError(f"{path}: rope_type is {kind!r}; the known ones are {', '.join(sorted(ROPES))}")
    if missing := sorted(ROPES[kind] - rope.keys()):
        raise InputError(f"{path}: rope_type {kind} does not state {', '.join(missing)}")
    if (part := rope.get("partial_rotary_factor", 1)) not in (None, 1):
        raise InputError(f"{path}: partial_rotary_factor is {part}, and this decoder rotates whole heads")
    return rope


def _experts(path: Path, given: Any, family: Family) -> Json:
    """What a shape says of experts; nothing where the family has none."""
    if family.experts is None:
        return {}
    names = family.experts
    count, chosen = index(getattr(given, names.count)), index(given.num_experts_per_tok)
    if not 1 <= chosen <= count:
        raise InputError(f"{path}: {chosen} of {count} experts for each token: there must be 1 or more")
    if (width := index(getattr(given, names.width))) < 1:
        raise InputError(f"{path}: an expert's width is {width}: it must be 1 or more")
    coefficient = float(given.router_aux_loss_coef)
    if not 0 <= coefficient < math.inf:
        raise InputError(f"{path}: router_aux_loss_coef is {coefficient}: it must be 0 or more")
    normalised = bool(given.norm_topk_prob if names.normalised is None else names.normalised)
    said = {"experts": count, "experts_per_token": chosen, "router_loss": coefficient}
    return said | {"norm_topk_prob": normalised}


def _scaling(rope: Json) -> RopeScaling | LinearScaling | None:
    if rope["rope_type"] == "llama3":
        factor, low, high, length = (rope[key] for key in SCALING)
        return RopeScaling(float(factor), float(low), float(high), int(length))
    return LinearScaling(float(rope["factor"])) if rope["rope_type"] == "linear" else None


def _windows(path: Path, given: Any, family: Family) -> tuple[int, ...]:
    """Each layer's sliding window, 0 where it has none; empty where no layer has one."""
    window, layers = getattr(given, "sliding_window", None) or 0, given.num_hidden_layers
    kinds = [SLIDING if window else FULL] * layers
    stated = getattr(given, "layer_types", None) or kinds
    either = [FULL, SLIDING][: 1 + bool(window)]
    may = {"never": [FULL], "every layer": kinds[:1], "upper layers": either, "some layers": either}
    if window < 0 or len(stated) != layers or not {*stated} <= {*may[family.sliding_window]}:
        raise InputError(
            f"{path}: layer_types is {_short(stated)} for {layers} layers and a sliding window of {window}: "
            f"this decoder knows {FULL}, and {SLIDING} where the family has it"
        )
    windows = tuple(window if kind == SLIDING else 0 for kind in stated)
    return windows if any(windows) else ()


def stored_dtype(config: Mapping[str, Any]) -> str:
    """The dtype that config.json states for the weights; empty where it states none."""
    stated = config.get("dtype") or config.get("torch_dtype") or ""
    return str(stated).removeprefix("torch.")


def ending(bos: int | None, eos: tuple[int, ...]) -> Json:
    """What config.json and generation_config.json say of a tokenizer's ids; no BOS where it adds none."""
    stated: Json = {"eos_token_id": eos[0] if len(eos) == 1 else list(eos)}
    return stated if bos is None else stated | {"bos_token_id": bos}


def write_config(shape: ModelShape, origin: Json, dtype: str) -> Json:
    """The config.json of a model, but for its tokenizer's special ids; `dtype` is that of the weights.

    `origin` is config.json of the model it was imported from, whose other keys are kept; empty without one.
    """
    scaling, window, traits = shape.rope_scaling, max(shape.windows, default=0), shape.traits
    activation_key, activations = ACTIVATIONS[traits.activation]
    config: Json = {
        "architectures": [shape.traits.architecture],
        "model_type": shape.family,
        **{theirs: getattr(shape, ours) for theirs, ours in SIZES.items()},
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        activation_key: activations[0],
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": shape.tied,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "torch_dtype": dtype,
    }
    if isinstance(scaling, LinearScaling):
        config["rope_scaling"] = {"rope_type": "linear", "factor": scaling.factor}
    elif scaling is not None:
        values = {theirs: getattr(scaling, ours) for theirs, ours in SCALING.items()}
        config["rope_scaling"] = {"rope_type": "llama3", **values}
    biases = {"attention_bias": shape.out_bias, "mlp_bias": shape.mlp_bias}
    config |= {key: True for key, there in biases.items() if there}
    if traits.experts is not None:
        config |= _written_experts(shape, traits.experts, origin)
    if traits.sliding_window == "every layer":
        config["sliding_window"] = window or None
    elif traits.sliding_window != "never":
        config["sliding_window"] = window or origin.get("sliding_window")
        windows = shape.windows or (0,) * shape.layers
        config["layer_types"] = [SLIDING if size else FULL for size in windows]
    if traits.switched_window:
        config["use_sliding_window"] = window > 0
    if traits.sliding_window == "upper layers":
        config["max_window_layers"] = origin.get("max_window_layers", shape.layers)
    if traits.local_rope:
        config["rope_local_base_freq"] = shape.local_rope_theta
    if traits.scaled_query:
        scale = shape.query_scale
        config["query_pre_attn_scalar"] = int(scale) if scale.is_integer() else scale
    kept = {key: value for key, value in origin.items() if key not in RESPELLED}
    return kept | {"max_position_embeddings": kept.get("max_position_embeddings", 2048)} | config


def _written_experts(shape: ModelShape, names: Experts, origin: Json) -> Json:
    written: Json = {theirs: getattr(shape, ours) for theirs, ours in EXPERTS.items()}
    written |= {names.count: shape.experts, names.width: shape.d_ff}
    if names.width != "intermediate_size":  # which is of layers without experts, of which there are none
        written["intermediate_size"] = origin.get("intermediate_size", shape.d_ff * shape.experts_per_token)
    return written | ({"norm_topk_prob": shape.norm_topk_prob} if names.normalised is None else {})


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
