import json
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from small import data

from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.hugging_face import read_params, read_shape
from pretrainrl_jax.trees.templates import ends_at
from pretrainrl_jax.trees.tokenization import load_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def peer(family="qwen3", **changes):
    """A random model of transformers: every weight random, norms included, and sure of its next token."""
    settings = {
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "tie_word_embeddings": False,
    } | changes
    kind = {"qwen3": "Qwen3", "llama": "Llama"}[family]
    config = getattr(transformers, f"{kind}Config")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0, 0.3) if "norm" in name else weight.normal_(0.0, 0.3)
    return model.eval()


def logits_of(model, tokens) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


TOKENS = np.random.default_rng(0).integers(0, 48, (2, 40))


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
        ("qwen3", {"num_key_value_heads": 4, "head_dim": 4, "num_hidden_layers": 3}),
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "head_dim": None, "num_key_value_heads": 4}),
        ("llama", {"rope_parameters": LLAMA3}),
    ],
)
def test_logits_equal_those_of_transformers(tmp_path, family, changes):
    theirs = peer(family, **changes)
    theirs.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    params = read_params(tmp_path, shape)
    assert shape.tied == ("head" not in params)
    wanted = logits_of(theirs, TOKENS)
    assert wanted.std() > 0.5  # it has something to be wrong about
    np.testing.assert_allclose(Model(shape).logits(params, TOKENS), wanted, atol=1e-4)


def test_shards_are_read_as_one(tmp_path):
    theirs = peer()
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    shape = read_shape(tmp_path)
    logits = Model(shape).logits(read_params(tmp_path, shape), TOKENS)
    np.testing.assert_allclose(logits, logits_of(theirs, TOKENS), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_become_float32_exactly(tmp_path, dtype):
    peer().to(dtype).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    params = read_params(tmp_path, shape)
    theirs = peer()  # in float32, with weights rounded to half precision
    theirs.load_state_dict({name: w.to(dtype).float() for name, w in theirs.state_dict().items()})
    assert params["embedding"].dtype == np.float32
    np.testing.assert_array_equal(params["embedding"], theirs.model.embed_tokens.weight.detach().numpy())
    np.testing.assert_allclose(Model(shape).logits(params, TOKENS), logits_of(theirs, TOKENS), atol=1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_config_as_transformers_4_wrote_it_means_the_same(tmp_path, scaled):
    peer("llama", **({"rope_parameters": LLAMA3} if scaled else {})).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if scaled else None
    path.write_text(json.dumps(config))
    assert read_shape(tmp_path) == shape
    assert (shape.rope_scaling is not None) == scaled
    assert shape.rope_theta == (500 if scaled else 100)


def test_a_shape_is_all_of_the_config(tmp_path):
    peer(num_key_value_heads=1, rms_norm_eps=1e-5).save_pretrained(tmp_path)
    shape = read_shape(tmp_path, "bfloat16")
    assert (shape.family, shape.vocabulary, shape.width, shape.layers) == ("qwen3", 48, 16, 2)
    assert (shape.heads, shape.kv_heads, shape.head_width, shape.mlp_width) == (4, 1, 8, 20)
    assert (shape.rope_theta, shape.norm_epsilon, shape.tied, shape.dtype) == (100, 1e-5, False, "bfloat16")


# A real model


@pytest.fixture(scope="module")
def stories():
    folder = data("models", "stories260K")
    shape = read_shape(folder)
    return Model(shape), read_params(folder, shape), load_tokenizer(folder)


def test_stories_logits_equal_those_of_transformers(stories):
    model, params, tokenizer = stories
    theirs = transformers.LlamaForCausalLM.from_pretrained(data("models", "stories260K")).eval()
    tokens = [tokenizer.start + tokenizer.encode("Once upon a time, there was a little girl named Lily.")]
    np.testing.assert_allclose(model.logits(params, tokens), logits_of(theirs, tokens), atol=1e-4)


def test_stories_tells_its_story(stories):
    model, params, tokenizer = stories
    ((told,),) = decode(
        model,
        params,
        [tokenizer.start],
        ends_at(tokenizer, 512, newline=False),
        beams=1,
        max_new_tokens=28,
        batch=1,
    )
    text = tokenizer.decode(told.tokens)
    assert text.startswith("Once upon a time, there was a little girl named Lily")


# What is refused


def refused(folder, shape=None) -> str:
    with pytest.raises(InputError) as caught:
        read_params(folder, shape) if shape else read_shape(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' (known: llama, qwen3)"),
        ({"model_type": None}, "model_type None"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "biases"),
        ({"mlp_bias": True}, "biases"),
        ({"use_sliding_window": True}, "sliding windows"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
    ],
)
def test_what_this_decoder_does_not_compute_is_refused(tmp_path, changes, named):
    config = json.loads(peer().config.to_json_string()) | {"model_type": "qwen3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path).family == "qwen3"
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert named in refused(tmp_path)


@pytest.mark.parametrize("text", [None, "{"])
def test_an_unreadable_config_is_refused(tmp_path, text):
    if text:
        (tmp_path / "config.json").write_text(text)
    assert "cannot read" in refused(tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    peer().save_pretrained(folder)
    return load_file(folder / "model.safetensors"), read_shape(folder)


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.layers.1.self_attn.q_norm.weight", "model.layers.0.mlp.up_proj.weight"]
)
def test_a_missing_tensor_is_named(tmp_path, weights, name):
    tensors, shape = weights
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "model.safetensors")
    assert f"no tensor {name}" in refused(tmp_path, shape)


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
    tensors, shape = weights
    wrong = np.ascontiguousarray(tensors[name][cut])
    save_file(tensors | {name: wrong}, tmp_path / "model.safetensors")
    assert re.search(f"{re.escape(name)} has shape {re.escape(str(wrong.shape))}", refused(tmp_path, shape))


def test_only_safetensors_are_read(tmp_path, weights):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no .safetensors file" in refused(tmp_path, weights[1])


def test_a_file_that_is_no_safetensors_is_refused(tmp_path, weights):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "cannot read" in refused(tmp_path, weights[1])
