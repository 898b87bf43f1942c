"""Hugging Face folders: what is read of them, on which devices, and what is refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from helpers.forked import python
from helpers.models_and_trees import LLAMA3, small_shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.families import FAMILIES
from pretrainrl_jax.model.hugging_face import writing
from pretrainrl_jax.model.hugging_face.config import (
    COMPUTED,
    NEUTRAL,
    READ_OF_ALL,
    read_shape,
    write_config,
)
from pretrainrl_jax.model.hugging_face.reading import own_dtypes, parameters, read_params
from pretrainrl_jax.model.hugging_face.writing import tensors_of, write_weights
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import LinearScaling

QWEN3: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-3,
    "rope_theta": 100.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
LOCAL_LINEAR = {
    "full_attention": {"rope_type": "default", "rope_theta": 100.0},
    "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
}
LLAMA = QWEN3 | {"model_type": "llama"}


def config(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def random(model: Model, dtype: Any = np.float32) -> Params:
    rng = np.random.default_rng(0)
    abstract = nn.unbox(model.abstract())
    return jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape).astype(dtype)), abstract)


def read(folder: Path) -> Params:
    model = Model(read_shape(folder))
    return read_params(folder, model, parameter_shardings(model, None))


def assert_equal(read: Params, wanted: Params) -> None:
    for (path, a), b in zip(jax.tree.leaves_with_path(read), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, str(path))


# The description.


def test_a_shape_is_all_of_the_config(tmp_path):
    shape = read_shape(config(tmp_path, QWEN3 | {"num_key_value_heads": 1}), "bfloat16")
    assert (shape.family, shape.vocabulary, shape.d_model, shape.layers) == ("qwen3", 48, 16, 2)
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.d_ff) == (4, 1, 8, 20)
    assert (shape.rope_theta, shape.norm_epsilon, shape.tied, shape.dtype) == (100, 1e-3, False, "bfloat16")


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 500.0}, LLAMA3])
def test_both_spellings_of_a_config_mean_the_same(tmp_path, rope):
    plain = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    five = read_shape(config(tmp_path, plain | {"rope_parameters": rope, "dtype": "bfloat16"}))
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    old = {"rope_theta": 500.0, "rope_scaling": scaling if len(scaling) > 1 else None}
    four = read_shape(config(tmp_path, plain | old | {"torch_dtype": "bfloat16"}))
    older = {"rope_theta": 500.0, "rope_scaling": {"type": scaling.pop("rope_type"), **scaling}}
    assert five == four == read_shape(config(tmp_path, plain | older | {"torch_dtype": "torch.bfloat16"}))
    assert (five.rope_theta, five.dtype) == (500, "bfloat16")
    assert (five.rope_scaling is not None) == (rope is LLAMA3)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, ()),
        ({"sliding_window": 9, "use_sliding_window": False}, ()),
        ({"sliding_window": 9}, ()),  # transformers' default of use_sliding_window is false
        ({"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 1}, (0, 9)),
        ({"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 2}, ()),
        (
            {
                "sliding_window": 9,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (9, 0),
        ),
        ({"model_type": "mistral", "sliding_window": 9}, (9, 9)),
        ({"model_type": "mistral", "sliding_window": None}, ()),
        ({"model_type": "llama", "layer_types": ["full_attention"] * 2}, ()),
    ],
)
def test_windows_are_those_of_the_family(tmp_path, values, wanted):
    assert read_shape(config(tmp_path, QWEN3 | values)).windows == wanted


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("odd", [False, True])
def test_what_is_written_is_read_back(tmp_path, family, odd):
    traits = FAMILIES[family]
    biases = odd and family in ("llama", "qwen3", "olmo2")
    some = {"upper layers": (5, 0), "some layers": (0, 5)}
    windows = {"never": (), "every layer": (5, 5), **some}[traits.sliding_window]
    if traits.experts:
        own = traits.experts.normalised is not None
        more = {"experts": 4, "experts_per_token": 2, "norm_topk_prob": own or odd, "router_loss": 0.02}
    else:
        rope = {"local_rope_theta": 30.0} if traits.local_rope else {}
        more = rope | ({"query_scale": 9.0 if odd else 8.0} if traits.scaled_query else {})
    shape = small_shape(
        family=family,
        qkv_bias=traits.qkv_bias or biases,
        out_bias=biases,
        mlp_bias=odd and family == "llama",
        windows=windows if odd else (),
        tied=odd,
        dtype="bfloat16" if odd else "float32",
        rope_scaling=LinearScaling(4.0) if odd else None,
        **more,
    )
    origin = {"initializer_range": 0.1, "rope_parameters": LLAMA3, "dtype": "float16"}
    written = write_config(shape, origin, shape.dtype)
    assert read_shape(config(tmp_path, written)) == shape
    assert written["initializer_range"] == 0.1
    assert not {"rope_parameters", "dtype"} & written.keys()


# Weights, on any devices.


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("size", ["5GB", "3KB"])
def test_weights_come_back_in_their_dtype(tmp_path, dtype, size):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    params = random(model, dtype)
    write_weights(tmp_path, tensors_of(model, params), size)
    assert (len([*tmp_path.glob("*.safetensors")]) > 3) == (size == "3KB")
    assert_equal(read(tmp_path), params)


@pytest.mark.parametrize("family", ["qwen3", "mixtral"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_hosts_or_accelerators_hold_is_fetched_as_it_is_here(monkeypatch, tmp_path, family, dtype):
    """A mesh of one device stands for that of many hosts; an embedding comes in parts, the last is short."""
    monkeypatch.setattr(writing, "TOKENS", 7)
    values = QWEN3 | {"model_type": family, "num_local_experts": 3}
    model = Model(read_shape(config(tmp_path, values)))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params = jax.tree.map(jax.device_put, random(model, dtype), parameter_shardings(model, mesh))
    for name, tensor in tensors_of(model, params).items():
        here = tensor._layer()
        np.testing.assert_array_equal(tensor._from_all_hosts().view(np.uint8), here.view(np.uint8), name)
        if tensor.parameter.stacked:
            cut = writing._cut(tensor.value, np.asarray(tensor.place, np.int32))
            np.testing.assert_array_equal(cut, here, name)


def test_layers_of_different_dtypes_take_the_one_that_holds_both_and_are_written_in_their_own(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    write_weights(tmp_path, tensors_of(model, random(model)), "5GB")
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    half = ("model.layers.0.mlp.down_proj.weight", np.float16), ("model.layers.1.mlp.down_proj.weight", "bf")
    for other, dtype in half:
        tensors[other] = tensors[other].astype(ml_dtypes.bfloat16 if dtype == "bf" else dtype)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    params = read(tmp_path)
    up = params["layers"]["mlp"]["up"]
    assert up.dtype == params["layers"]["mlp"]["down"].dtype == np.float32
    assert params["final_norm"]["scale"].dtype == np.float16
    np.testing.assert_array_equal(up[1], tensors[name].astype(np.float32).T)
    own = own_dtypes(tmp_path, model)
    assert own == {name: "bfloat16", half[0][0]: "float16", half[1][0]: "bfloat16"}
    for other, written in tensors_of(model, params, "", own).items():
        assert (written.fetch().dtype, written.fetch().tobytes()) == (
            tensors[other].dtype,
            tensors[other].tobytes(),
        )
    assert {t.dtype.name for t in tensors_of(model, params, "float16", own).values()} == {"float16"}


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    params = random(model)
    write_weights(tmp_path, tensors_of(model, params), "3KB")
    (tmp_path / "consolidated.safetensors").write_bytes(b"another format of the same weights")
    assert_equal(read(tmp_path), params)


def test_a_single_file_goes_before_shards_beside_it(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    params = random(model)
    write_weights(tmp_path, tensors_of(model, jax.tree.map(lambda x: 2 * x, params)), "3KB")
    write_weights(tmp_path, tensors_of(model, params), "5GB")
    assert_equal(read(tmp_path), params)


def copied(folder: Path, name: str, value: np.ndarray, index: dict[str, str] | None = None) -> list[Path]:
    """Put a tensor into every other shard too, and change what the index says; gives the shards."""
    listing = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(folder.glob("model-*.safetensors"))
    for file in shards:
        if file.name != listing["weight_map"][name]:
            save_file(load_file(file) | {name: value}, file)
    if index is not None:
        listing["weight_map"] = index
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing))
    return shards


def test_the_index_says_which_of_two_copies_is_read(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    params, name = random(model), "model.layers.0.mlp.up_proj.weight"
    tensors = tensors_of(model, params)
    write_weights(tmp_path, tensors, "3KB")
    shards = copied(tmp_path, name, tensors[name].fetch() * 0.5)
    assert_equal(read(tmp_path), params)
    # Where it says nothing, and it is not one tensor: none is taken.
    named = dict.fromkeys(("a", "b"), shards[0].name) | {f"{n}": file.name for n, file in enumerate(shards)}
    copied(tmp_path, name, tensors[name].fetch(), named)
    said = refused(tmp_path)
    assert f"{name} is in {shards[0]} and in {shards[1]}" in said


def test_what_an_index_lists_and_no_file_has_is_missing_where_it_is_needed(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    params = random(model)
    write_weights(tmp_path, tensors_of(model, params), "3KB")
    path = tmp_path / "model.safetensors.index.json"
    listing = json.loads(path.read_text())
    shards = sorted({*listing["weight_map"].values()})
    listing["weight_map"]["model.rotary_emb.inv_freq"] = shards[0]
    path.write_text(json.dumps(listing))
    assert_equal(read(tmp_path), params)
    moved = listing["weight_map"]["model.norm.weight"]
    listing["weight_map"]["model.norm.weight"] = next(name for name in shards if name != moved)
    path.write_text(json.dumps(listing))
    assert "has no tensor model.norm.weight" in refused(tmp_path)


def test_an_adapter_beside_the_weights_is_refused(tmp_path, weights):
    (saved(tmp_path, weights) / "adapter_config.json").write_text("{}")
    assert "has adapter_config.json: an adapter to be added to its weights" in refused(tmp_path)


@pytest.mark.parametrize("same", [True, False])
def test_a_head_beside_a_tied_embedding_must_be_the_same(tmp_path, same):
    model = Model(read_shape(config(tmp_path, QWEN3 | {"tie_word_embeddings": True})))
    write_weights(tmp_path, tensors_of(model, random(model)), "5GB")
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] + (not same)
    save_file(tensors | {"lm_head.weight": head}, tmp_path / "model.safetensors")
    if same:
        assert "head" not in read(tmp_path)
    else:
        assert "lm_head.weight is not the embedding" in refused(tmp_path)


SHARDED = """
import sys
from pathlib import Path
import flax.linen as nn, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from safetensors import safe_open
from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.hugging_face import reading
from pretrainrl_jax.model.hugging_face.config import read_shape
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.mesh import make_mesh
taken, part = [], reading._read_part
def counted(*arguments):
    found, bad = part(*arguments)
    taken.append(found.nbytes)
    return found, bad
reading._read_part = counted
for folder in map(Path, sys.argv[1:]):
    model = Model(read_shape(folder))
    taken.clear()
    one = reading.read_params(folder, model, parameter_shardings(model, None))
    whole, meshes = sum(taken), [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]
    for sizes in meshes + [(1, 2, 1, 4)] * bool(model.shape.experts):
        taken.clear()
        shardings = parameter_shardings(model, make_mesh(MeshConfig(*sizes)))
        many = reading.read_params(folder, model, shardings)
        for a, b, place in zip(*map(jax.tree.leaves, (many, one, shardings)), strict=True):
            assert a.sharding == place
            for shard in a.addressable_shards:
                np.testing.assert_array_equal(shard.data, np.asarray(b)[shard.index])
        assert sum(taken) == whole, (sizes, sum(taken), whole)  # each part once, however many devices hold it
    print("same", model.shape.family)
"""


def test_devices_are_given_what_they_hold_and_each_part_is_read_once(tmp_path):
    values = QWEN3 | {"intermediate_size": 24, "num_attention_heads": 8, "tie_word_embeddings": True}
    folders = []
    for family in ("qwen3", "mixtral"):
        folder = tmp_path / family
        folder.mkdir()
        model = Model(read_shape(config(folder, values | {"model_type": family, "num_local_experts": 4})))
        write_weights(folder, tensors_of(model, random(model)), "3KB")
        folders.append(str(folder))
    ran = python(SHARDED, *folders)
    assert ran.out == "same qwen3\nsame mixtral\n", ran.err


def test_a_family_names_every_parameter_it_may_have():
    for family, traits in FAMILIES.items():
        more = {"experts": 3, "experts_per_token": 2} if traits.experts else {"mlp_bias": True}
        shape = small_shape(family=family, qkv_bias=True, out_bias=True, **more)
        declared = parameters(Model(shape))
        assert len({name for parameter in declared.values() for name in parameter.names}) == sum(
            len(parameter.names) for parameter in declared.values()
        )
        norms = [p.weight.theirs for path, p in declared.items() if path.endswith("_norm/scale")]
        named = (*(traits.before or ()), *(traits.after or ()))
        assert len(named) >= 2
        assert all(any(name in theirs for theirs in norms) for name in named)


# What is refused.


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"model_type": "gpt2"},
            "'gpt2'; the known ones are gemma3_text, llama, mistral, mixtral, olmo2, olmoe, qwen2, qwen3",
        ),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": "gemma3"}, "text_config is null"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"model_type": "llama", "mlp_bias": None}, "Field 'mlp_bias' expected bool"),
        ({"model_type": "llama", "sliding_window": 5}, "sliding_window is 5, which this decoder does not"),
        ({"model_type": "olmo2", "attention_chunk_size": 5}, "attention_chunk_size is 5"),
        ({"is_causal": False}, "is_causal is false"),
        ({"per_layer_config": {"1": {"head_dim": 4}}}, "per_layer_config is"),
        ({"transformers_weights": "other.safetensors"}, 'transformers_weights is "other.safetensors"'),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
            "'yarn'; the known ones are default, linear, llama3",
        ),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "olmoe", "clip_qkv": 8.0, "head_dim": 4}, "clip_qkv is 8.0"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers is [0]"),
        ({"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 5}, "5 of 4 experts"),
        ({"model_type": "mixtral", "router_jitter_noise": 0.1}, "router_jitter_noise is 0.1"),
        ({"model_type": "mixtral", "router_aux_loss_coef": -1.0}, "router_aux_loss_coef is -1.0"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "high_freq_factor"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "rope_type is 'mrope'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one for each kind of layer"),
        ({"rope_parameters": "llama3"}, "Field 'rope_parameters' expected dict"),
        (
            {"quantization_config": {"bits": 4}},
            'quantization_config is {"bits": 4}, and quantised weights are',
        ),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 2}, "layer_types is"),
        ({"layer_types": ["sliding_attention"] * 2}, "and a sliding window of 0"),
        ({"model_type": "llama", "layer_types": ["sliding_attention"] * 2}, "layer_types is"),
        ({"model_type": "mistral", "layer_types": ["sliding_attention", "full_attention"]}, "layer_types is"),
        (
            {"model_type": "llama", "num_attention_heads": 3},
            "is not a multiple of the number",
        ),
        ({"num_attention_heads": 3}, "3 attention heads and 2 key-value heads"),
        ({"num_attention_heads": 0}, "0 attention heads and 2 key-value heads"),
        ({"head_dim": -2}, "a head's width is -2: a rotary embedding takes an even number"),
        (
            {"model_type": "gemma3_text", "rope_parameters": LOCAL_LINEAR},
            "rope_type of sliding_attention is 'linear': it must be 'default'",
        ),
        ({"rope_theta": "wide"}, "a value is of the wrong kind: could not convert string to float: 'wide'"),
        ({"num_key_value_heads": 3}, "4 attention heads and 3 key-value heads"),
        ({"hidden_size": "wide"}, "Field 'hidden_size' expected int, got str (value: 'wide')"),
        ({"vocab_size": None}, "Field 'vocab_size' expected int"),
    ],
)
def test_what_this_decoder_does_not_compute_is_refused(tmp_path, changes, named):
    config(tmp_path, QWEN3)
    assert read_shape(tmp_path).family == "qwen3"
    config(tmp_path, QWEN3 | changes)
    assert named in refused(tmp_path)


def test_experts_of_no_width_are_refused(tmp_path):
    of_experts = QWEN3 | EXPERTS | {"model_type": "qwen3_moe"}
    config(tmp_path, of_experts)
    assert read_shape(tmp_path).d_ff == 12
    config(tmp_path, of_experts | {"moe_intermediate_size": 0})
    assert "an expert's width is 0: it must be 1 or more" in refused(tmp_path)


KEYS = sorted(
    {*COMPUTED, *NEUTRAL, *READ_OF_ALL, "model_type", "rope_scaling", "id2label", "to_dict", "self"}
)
ODD = st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text("a_", max_size=3)
ODD |= st.lists(ODD, max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "type", "1"]), ODD)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), ODD, min_size=1, max_size=2))
def test_whatever_a_key_says_it_is_read_or_refused_in_one_line(tmp_path, family, changes):
    config(tmp_path, QWEN3 | EXPERTS | {"model_type": family} | changes)
    said = ""
    try:
        shape = read_shape(tmp_path)
    except InputError as error:
        said = str(error)
    else:
        assert parameters(Model(shape))  # a decoder that can be made
    assert "\n" not in said


@pytest.mark.parametrize(
    "harmless",
    [
        {"logit_scale": 0.5, "my_training_note": "v3", "_model_name_or_path": "x", "is_llama_config": True},
        {"mlp_bias": True},  # Qwen 3 has none in transformers
        {"use_mrope": True, "rope_parameters": {"rope_theta": 100.0, "mrope_section": [1]}},
        {"temperature": 0.6, "max_length": 20, "eos_token_id": [1, 2], "pad_token_id": -1},  # of generation
        {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}},  # as with trust_remote_code=False
        {"attention_dropout": 0.1, "use_cache": False, "output_hidden_states": True, "hidden_act": "swish"},
        {"quantization_config": None, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    ],
)
def test_what_changes_nothing_is_let_through(tmp_path, harmless):
    assert read_shape(config(tmp_path, QWEN3 | harmless)) == read_shape(config(tmp_path, QWEN3))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_key_that_is_needed_is_named(tmp_path, key):
    config(tmp_path, {k: v for k, v in QWEN3.items() if k != key})
    assert f"does not state {key}" in refused(tmp_path)


def test_where_nothing_is_stated_the_class_of_transformers_decides(tmp_path):
    bare = {k: v for k, v in QWEN3.items() if k not in ("num_key_value_heads", "head_dim", "rope_theta")}
    bare |= {"rms_norm_eps": 1e-3, "num_attention_heads": 4}
    old = read_shape(config(tmp_path, bare | {"model_type": "llama", "head_dim": None}))
    assert (old.kv_heads, old.head_dim, old.rope_theta) == (4, 4, 10000)
    assert read_shape(config(tmp_path, bare | {"num_key_value_heads": 2})).head_dim == 128
    assert read_shape(
        config(tmp_path, bare | {"model_type": "mistral", "num_key_value_heads": 2})
    ).windows == (
        4096,
        4096,
    )


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_an_unreadable_config_is_refused(tmp_path, text):
    if text:
        (tmp_path / "config.json").write_text(text)
    assert re.search("cannot read|no JSON object", refused(tmp_path))


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """The tensors of a model of that description."""
    model = Model(small_shape(vocabulary=48, d_ff=20))
    return {name: tensor.fetch() for name, tensor in tensors_of(model, random(model)).items()}


def saved(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / "model.safetensors")
    return config(folder, QWEN3)


def test_missing_and_unknown_tensors_are_named_together(tmp_path, weights):
    gone = ["lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_norm.weight"]
    more = {"model.layers.2.mlp.up_proj.weight": np.zeros((2, 2), np.float32)}
    said = refused(saved(tmp_path, {n: t for n, t in weights.items() if n not in gone} | more))
    assert all(name in said for name in gone)
    assert "has model.layers.2.mlp.up_proj.weight that is no part of it" in said


def test_of_many_names_the_first_few_are_said(tmp_path, weights):
    assert "and 19 more" in refused(saved(tmp_path, {"model.norm.weight": weights["model.norm.weight"]}))


def test_what_old_checkpoints_derive_from_their_config_is_no_unknown_tensor(tmp_path, weights):
    saved(tmp_path, weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)})
    assert read(tmp_path)["embedding"].shape == (48, 16)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("model.embed_tokens.weight", np.s_[:40]),
        ("model.norm.weight", np.s_[:8]),
        ("model.layers.1.self_attn.q_proj.weight", np.s_[:16]),  # half the heads
        ("model.layers.1.self_attn.k_proj.weight", np.s_[:, :9]),  # no number of heads
        ("model.layers.0.self_attn.o_proj.weight", np.s_[:5]),
        ("model.layers.1.mlp.down_proj.weight", np.s_[:, :7]),
    ],
)
def test_a_tensor_of_another_shape_is_named(tmp_path, weights, name, cut):
    wrong = weights[name][cut]
    said = refused(saved(tmp_path, weights | {name: wrong}))
    assert f"{name} has shape {wrong.shape} and not {weights[name].shape}" in said


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.o_proj.weight"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, weights, name, value, dtype):
    wrong = weights[name].astype(dtype)
    wrong.flat[3] = value
    said = refused(saved(tmp_path, weights | {name: wrong}))
    assert f": {name} is not finite" in said


def test_integers_are_no_weights(tmp_path, weights):
    wrong = {"model.norm.weight": np.zeros(16, np.int8)}
    assert "model.norm.weight is I8 and not one of F32" in refused(saved(tmp_path, weights | wrong))


def test_only_safetensors_are_read(tmp_path):
    config(tmp_path, QWEN3)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no model.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1", ""])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, text):
    (config(tmp_path, QWEN3) / "model.safetensors").write_text(text)
    said = refused(tmp_path)
    assert str(tmp_path / "model.safetensors") in said
    assert "download it again" in said


def test_a_file_that_was_cut_short_is_refused(tmp_path, weights):
    file = saved(tmp_path, weights) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"cannot read {file}" in refused(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (config(tmp_path, QWEN3) / "model.safetensors.index.json").write_text(text)
    assert "is no index of safetensors" in refused(tmp_path)


def test_files_that_an_index_names_and_that_are_not_there_are_named(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    write_weights(tmp_path, tensors_of(model, random(model)), "3KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[0]
    gone.unlink()
    assert gone.name in refused(tmp_path)


def test_a_size_that_is_none_is_refused(tmp_path):
    model = Model(read_shape(config(tmp_path, QWEN3)))
    with pytest.raises(InputError, match="shard_size is 'large'"):
        write_weights(tmp_path, tensors_of(model, random(model)), "large")
