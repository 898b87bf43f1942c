"""Shapes of models that configurations name, so that one is planned before it is downloaded."""

import json
from dataclasses import replace
from pathlib import Path

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.hugging_face.adapters import is_adapter
from pretrainrl_jax.model.hugging_face.adapters import read_config as read_adapter_config
from pretrainrl_jax.model.hugging_face.config import read_shape
from pretrainrl_jax.model.shape import ModelShape, RopeScaling, from_json, from_settings


def _qwen3(d_model: int, layers: int, heads: int, d_ff: int, tied: bool) -> ModelShape:
    return ModelShape("qwen3", 151936, d_model, layers, heads, 8, 128, d_ff, 1e6, 1e-6, tied)


_LLAMA_3 = ModelShape("llama", 128256, 4096, 32, 32, 8, 128, 14336, 5e5, 1e-5, False)
_LLAMA_31 = replace(_LLAMA_3, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))
_MIXTRAL = ModelShape("mixtral", 32000, 4096, 32, 32, 8, 128, 14336, 1e6, 1e-5, False)
_OLMOE = ModelShape("olmoe", 50304, 2048, 16, 16, 16, 128, 1024, 1e4, 1e-5, False)
_QWEN3_MOE = ModelShape("qwen3_moe", 151936, 2048, 48, 32, 4, 128, 768, 1e6, 1e-6, False)
_GEMMA_3 = ModelShape("gemma3_text", 262144, 1152, 26, 4, 1, 256, 6912, 1e6, 1e-6, True)
KNOWN = {  # as config.json of each states it
    "Qwen3-0.6B-Base": _qwen3(1024, 28, 16, 3072, True),
    "Qwen3-1.7B-Base": _qwen3(2048, 28, 16, 6144, True),
    "Qwen3-4B-Base": _qwen3(2560, 36, 32, 9728, True),
    "Qwen3-8B-Base": _qwen3(4096, 36, 32, 12288, False),
    "Qwen3-14B-Base": _qwen3(5120, 40, 40, 17408, False),
    "Qwen3-32B": _qwen3(5120, 64, 64, 25600, False),
    "Meta-Llama-3-8B": _LLAMA_3,
    "Llama-3.1-8B": _LLAMA_31,
    "Llama-3.1-8B-Instruct": _LLAMA_31,
    "judge-8b": _LLAMA_31,  # configs/selfimprove_*: a judge of that shape
    # The 1.4B of configs/selfimprove_*: Llama 2's form, 24 layers of 2,048.
    "llama2-1.4b": ModelShape("llama", 32000, 2048, 24, 16, 16, 128, 5632, 1e4, 1e-5, False),
    "Qwen3-30B-A3B": replace(_QWEN3_MOE, experts=128, experts_per_token=8, router_loss=0.001),
    "Mixtral-8x7B-v0.1": replace(_MIXTRAL, experts=8, experts_per_token=2, router_loss=0.02),
    "OLMoE-1B-7B-0924": replace(
        _OLMOE, experts=64, experts_per_token=8, norm_topk_prob=False, router_loss=0.01
    ),
    "gemma-3-1b-pt": replace(  # every sixth layer sees all positions
        _GEMMA_3,
        windows=tuple(512 * ((layer + 1) % 6 != 0) for layer in range(26)),
        local_rope_theta=1e4,
        query_scale=256.0,
    ),
    "SmolLM2-135M": ModelShape("llama", 49152, 576, 30, 9, 3, 64, 1536, 1e5, 1e-5, True),
}


def shape_of(path: str, setting: str) -> ModelShape:
    """The shape of the model that a folder holds, or that its name says where there is no folder.

    Raises InputError if there is neither.
    """
    folder = Path(path)
    if is_adapter(folder):
        return shape_of(read_adapter_config(folder)[1], setting)
    if (folder / "config.json").is_file():
        return read_shape(folder)
    if (folder / "model.json").is_file():
        return from_json(json.loads((folder / "model.json").read_text(encoding="utf-8")))
    if folder.name in KNOWN:
        return KNOWN[folder.name]
    raise InputError(
        f"{setting}={path}: there is no folder with a config.json, and its shape is not known by that name; "
        f"known: {', '.join(KNOWN)}"
    )


def shape_for(config: Config) -> ModelShape:
    """The shape of the model that a configuration trains; raises InputError as `shape_of`."""
    settings = config.model
    if settings.path:
        shape = shape_of(settings.path, "model.path")
        return replace(shape, dtype=settings.dtype, remat=settings.remat)
    vocabulary = config.tokenizer.vocabulary
    if (path := config.tokenizer.path) and Path(path).name in KNOWN:
        vocabulary = KNOWN[Path(path).name].vocabulary
    return from_settings(settings, vocabulary)
