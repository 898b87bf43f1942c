"""Shapes by name have as many parameters as their authors state."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.models_and_trees import small_shape

from pretrainrl_jax.config import Config, ModelConfig
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


def test_a_shape_takes_dtype_and_remat_of_the_settings() -> None:
    settings = ModelConfig(path="somewhere/Qwen3-8B-Base", dtype="bfloat16", remat="products")
    shape = shape_for(Config(model=settings))
    assert (shape.d_model, shape.dtype) == (4096, "bfloat16")
    assert shape.remat == "products"


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"model.path=nowhere: .* known: Qwen3-0.6B-Base, "):
        shape_of("nowhere", "model.path")
