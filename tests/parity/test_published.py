"""config.json as published models have it: each opens, and means what transformers makes of it."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.transformers_models import ours, randomise, relative_error

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.families import FAMILIES
from pretrainrl_jax.model.hugging_face import config as ours_of
from pretrainrl_jax.model.hugging_face.config import read_shape, write_config
from pretrainrl_jax.model.hugging_face.reading import parameters

Json = dict[str, Any]
# Of published models and of fine-tunes, in the spelling of the transformers that wrote each.
PUBLISHED: dict[str, Json] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "hugging_face" / "published_configs.json").read_text()
)
SMALLER = {"vocab_size": 53, "hidden_size": 32, "intermediate_size": 28, "num_hidden_layers": 2}
TOKENS = np.random.default_rng(0).integers(0, SMALLER["vocab_size"], (2, 40))


def folder(path: Path, config: Json) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def peer_config(config: Json) -> Any:
    """As transformers reads it; it changes what it is given."""
    return transformers.AutoConfig.for_model(**copy.deepcopy(config))


def model_of(config: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def shrunk(config: Json) -> Json:
    """The same keys with small sizes, grouped queries kept; its window within the tests' sequences."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    changes: Json = SMALLER | {"num_attention_heads": 4, "torch_dtype": "float32", "dtype": "float32"}
    changes["num_key_value_heads"] = 4 if kv_heads == heads else 2
    changes |= {"head_dim": 16, "layer_types": ["full_attention"] * 2}
    if config.get("sliding_window"):
        config = config | {"sliding_window": 7}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        changes[key] = None
    return config | {key: value for key, value in changes.items() if key in config or key in SMALLER}


def stored(peer: Any, family: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of tensors in a folder: in memory transformers has those of all experts in one."""
    sizes = {name: tuple(x.shape) for name, x in peer.state_dict().items()}
    for name in [name for name in sizes if ".experts." in name]:
        (experts, rows, columns), (layer, kind) = sizes.pop(name), name.split("mlp.experts.")
        kinds, rows = (["gate", "up"], rows // 2) if kind == "gate_up_proj" else (["down"], rows)
        where = "block_sparse_moe" if family == "mixtral" else "mlp"
        called = {"gate": "w1", "up": "w3", "down": "w2"} if family == "mixtral" else {}
        for expert in range(experts):
            for one in kinds:
                of_expert = f"{layer}{where}.experts.{expert}.{called.get(one, one + '_proj')}.weight"
                sizes[of_expert] = (rows, columns)
    router = ".mlp.gate.weight"
    moved = "block_sparse_moe.gate.weight" if family == "mixtral" else router[1:]
    return {n.replace(router[1:], moved) if n.endswith(router) else n: size for n, size in sizes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_has_the_name_and_the_shape_of_transformers(name: str, tmp_path: Path) -> None:
    config = PUBLISHED[name]
    shape, given = read_shape(folder(tmp_path, config)), peer_config(config)
    with torch.device("meta"):
        peer = model_of(given)
    tied = {"lm_head.weight"} if given.tie_word_embeddings else set()
    wanted = {n: size for n, size in stored(peer, shape.family).items() if n not in tied}
    assert {n: p.theirs for p in parameters(Model(shape)).values() for n in p.names} == wanted
    rope = given.rope_parameters
    if shape.traits.local_rope:
        assert shape.local_rope_theta == rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    assert (shape.rope_theta, shape.norm_epsilon) == (rope["rope_theta"], given.rms_norm_eps)
    assert (shape.rope_scaling is None) == (rope["rope_type"] == "default")
    assert shape.dtype == ("bfloat16" if "bfloat16" in str(given.dtype) else "float32")


REPRESENTATIVE = (
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "decapoda-research/llama-7b-hf",
    "unsloth/Llama-3.2-1B-Instruct",
    "HuggingFaceH4/zephyr-7b-beta",
    "a Qwen2.5 14B merged by Unsloth",
    "google/gemma-3-1b-pt",
    "mistralai/Mixtral-8x7B-v0.1",
    "allenai/OLMoE-1B-7B-0924",
    "Qwen/Qwen3-30B-A3B-Base",
    "Qwen/Qwen3-8B-Base",
    "allenai/OLMo-2-1124-7B",
)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_its_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    config = shrunk(PUBLISHED[name])
    peer = randomise(model_of(peer_config(config)).float())
    peer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))  # as it is spelled there
    model, params = ours(tmp_path)
    with torch.no_grad():
        wanted = peer(torch.tensor(TOKENS)).logits.numpy()
    assert relative_error(model.logits(params, TOKENS), wanted) < 1e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_keys_are_kept_on_export(name: str, tmp_path: Path) -> None:
    config = PUBLISHED[name]
    shape = read_shape(folder(tmp_path, config))
    written = write_config(shape, config, ours_of.stored_dtype(config))
    respelled = {"rope_parameters", "dtype", "transformers_version", "architectures"}
    missing = object()
    changed = {key for key, value in config.items() if written.get(key, missing) != value} - respelled
    assert not changed
    assert read_shape(folder(tmp_path, written)) == shape
    before, after = peer_config(config).to_dict(), peer_config(written).to_dict()
    assert {key for key in before if before[key] != after.get(key)} <= {"architectures", "head_dim"}


# What decides.


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_key_that_transformers_reads_is_computed_harmless_or_refused(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of its models is the oracle: what it asks of a configuration, with and without a cache."""
    base = transformers.PreTrainedConfig
    plain, seen = base.__getattribute__, set[str]()

    def recorded(self: Any, key: str) -> Any:
        seen.add(key)
        return plain(self, key)

    config = peer_config(
        {"model_type": family, **SMALLER, "num_attention_heads": 4, "num_key_value_heads": 2}
        | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    )
    monkeypatch.setattr(base, "__getattribute__", recorded)
    model, tokens = model_of(config).eval(), torch.tensor(TOKENS[:, :9])
    model(tokens)
    model.generate(tokens, max_new_tokens=3, do_sample=False)
    monkeypatch.undo()
    of_base = {*vars(base()), *dir(base), *vars(transformers.GenerationConfig())}
    of_base |= {"auto_map", "gradient_checkpointing", "is_decoder"}
    # Of models of several parts, whose text part is a configuration of its own.
    of_base |= {"decoder", "generator", "text_config", *(key for key in seen if key.startswith("vision_"))}
    asked = {key for key in seen if not key.startswith("_")} - of_base
    assert asked > {"rope_parameters", "head_dim", "layer_types"}
    known = ours_of.COMPUTED | ours_of.NEUTRAL | ours_of.READ_OF_ALL.keys() | {"quantization_config"}
    known |= vars(transformers.CONFIG_MAPPING[family]()).keys()  # refused, unless it has its default
    assert asked <= known


def test_a_key_of_the_class_that_is_not_computed_is_refused_unless_it_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(transformers.Qwen3Config):
        model_type = "qwen3"

        def __init__(self, logit_scale: float = 1.0, **others: Any) -> None:
            self.logit_scale = logit_scale
            super().__init__(**others)

    config = PUBLISHED["Qwen/Qwen3-0.6B"]
    strange = folder(tmp_path, config | {"logit_scale": 0.5})
    shape = read_shape(strange)  # the class of today has no such key
    monkeypatch.setitem(sys.modules["transformers"].CONFIG_MAPPING._extra_content, "qwen3", Later)
    with pytest.raises(
        InputError, match=r"logit_scale is 0\.5, which this decoder does not compute for qwen3"
    ):
        read_shape(strange)
    assert read_shape(folder(tmp_path, config | {"logit_scale": 1.0})) == shape
    assert read_shape(folder(tmp_path, config)) == shape
