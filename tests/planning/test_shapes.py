"""Shapes by name have as many parameters as their authors state."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.models_and_trees import small_shape
from safetensors.numpy import save_file

from pretrainrl_jax.config import Config, ModelConfig, TokenizerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.cost import parameters
from pretrainrl_jax.model.shape import to_json
from pretrainrl_jax.planning.shapes import KNOWN, shape_for, shape_of

STATED = {  # billions, of the models' pages
    "Qwen3-0.6B-Base": 0.596,
    "Qwen3-1.7B-Base": 1.721,
    "Qwen3-4B-Base": 4.022,
    "Qwen3-8B-Base": 8.191,
    "Qwen3-14B-Base": 14.768,
    "Qwen3-32B": 32.762,
    "Meta-Llama-3-8B": 8.030,
    "Llama-3.1-8B": 8.030,
    "Qwen3-30B-A3B": 30.532,
    "Mixtral-8x7B-v0.1": 46.703,
    "OLMoE-1B-7B-0924": 6.919,
    "gemma-3-1b-pt": 1.000,
    "SmolLM2-135M": 0.1345,
}


@pytest.mark.parametrize("name", STATED)
def test_a_known_shape_has_the_stated_number_of_parameters(name: str) -> None:
    assert parameters(KNOWN[name]).total / 1e9 == pytest.approx(STATED[name], rel=1e-3)


def test_a_checkpoint_says_its_own_shape(tmp_path: Path) -> None:
    shape = small_shape()
    (tmp_path / "model.json").write_text(json.dumps(to_json(shape)))
    assert asdict(shape_of(str(tmp_path), "model.path")) == asdict(shape)


def test_a_folder_of_hugging_face_and_adapters_say_their_models_shape(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "vocab_size": 48, "hidden_size": 16, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-3,
    }  # fmt: skip
    folder, adapter = tmp_path / "model", tmp_path / "adapter"
    for each in (folder, adapter):
        each.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shape = shape_of(str(folder), "model.path")
    assert (shape.vocabulary, shape.d_model, shape.layers, shape.d_ff) == (48, 16, 3, 20)
    query = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({query: np.zeros((2, 16), np.float32)}, adapter / "adapter_model.safetensors")
    named = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    for base, wanted in ((str(folder), shape), ("someone/Qwen3-8B-Base", KNOWN["Qwen3-8B-Base"])):
        named["base_model_name_or_path"] = base
        (adapter / "adapter_config.json").write_text(json.dumps(named))
        assert shape_of(str(adapter), "model.path") == wanted


def test_a_model_made_here_has_the_vocabulary_of_a_known_tokenizer() -> None:
    tokenizer = TokenizerConfig(path="models/Qwen3-8B-Base", vocabulary=500)
    assert shape_for(Config(tokenizer=tokenizer)).vocabulary == 151936
    assert shape_for(Config(tokenizer=replace(tokenizer, path="models/own"))).vocabulary == 500
    assert shape_for(Config(tokenizer=tokenizer, model=ModelConfig(vocabulary=600))).vocabulary == 600


def test_a_shape_takes_dtype_and_remat_of_the_settings() -> None:
    settings = ModelConfig(path="somewhere/Qwen3-8B-Base", dtype="bfloat16", remat="products")
    shape = shape_for(Config(model=settings))
    assert (shape.d_model, shape.dtype) == (4096, "bfloat16")
    assert shape.remat == "products"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"model.path=nowhere: .* known: Qwen3-0.6B-Base, "):
        shape_of("nowhere", "model.path")
