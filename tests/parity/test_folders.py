"""Folders as they are found: where two files or two keys say different things, transformers decides."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.command_line import call, complaint
from helpers.transformers_models import PLAIN_ROPE, ours, peer, randomise, relative_error
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

import pretrainrl_jax as prl
from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.model.hugging_face.files import stored

TEXT = "What is the capital of Arno? Florence"
TOKENS = np.random.default_rng(0).integers(0, 301, (2, 30))
SCALED = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer, as transformers saves it. Not to be changed."""
    folder = tmp_path_factory.mktemp("source") / "model"
    peer("llama3", vocab_size=301, **PLAIN_ROPE).save_pretrained(folder)
    save_tokenizer(train_tokenizer([TEXT], 300), folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(source, tmp_path / "folder"))


def restate(folder: Path, **changes: Any) -> Path:
    """Change keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def theirs(folder: Path) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def moved(folder: Path, tmp_path: Path) -> Path:
    """Imported, and exported again."""
    workdir, out = tmp_path / "workdir", tmp_path / "out"
    for verb, where in (("import", ("--model", folder)), ("export", ("--to", out))):
        ran = call(verb, "--workdir", workdir, *where)
        assert ran.code == 0, ran.err
    return out


# A model of several parts.


def test_the_text_of_a_model_of_text_and_images_is_taken_alone(tmp_path: Path) -> None:
    """Gemma 3 of 4B and more: sizes that its text part does not state are those of the class."""
    text = {
        "vocab_size": 301, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 3, "head_dim": 12,
        "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 7, "sliding_window_pattern": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = randomise(transformers.Gemma3ForConditionalGeneration(config))
    (source := tmp_path / "source").mkdir()
    model.save_pretrained(source)
    save_tokenizer(train_tokenizer([TEXT], 300), source)
    path = source / "config.json"
    config = json.loads(path.read_text())
    for key in ("num_attention_heads", "num_key_value_heads", "architectures"):
        config["text_config"].pop(key, None)  # as the hub's folders leave them out
    path.write_text(json.dumps(config))

    with torch.no_grad():
        wanted = model(input_ids=torch.tensor(TOKENS)).logits.numpy()
    read, params = ours(source)
    assert relative_error(read.logits(params, TOKENS), wanted) < 1e-5
    ran = call("import", "--model", source, "--workdir", tmp_path / "said")
    assert "a model of text and images, of which its text is taken" in ran.out
    out = moved(source, tmp_path)
    assert json.loads((out / "config.json").read_text())["model_type"] == "gemma3_text"
    assert relative_error(theirs(out), wanted) < 1e-6


# Two keys.

ROPES: list[dict[str, Any]] = [
    {"rope_scaling": {"rope_type": "llama3", **SCALED}},  # beside rope_parameters
    {"rope_scaling": {"type": "llama3", **SCALED}, "rope_theta": 90.0},
    {"rope_scaling": {"rope_type": "llama3", "rope_theta": 70.0, **SCALED}, "rope_theta": 90.0},
    {"rope_scaling": None, "rope_theta": 90.0},
    {"rope_scaling": {}, "rope_theta": 90.0},
    {"rope_parameters": {"rope_type": "llama3", **SCALED}, "rope_theta": 90.0},
    {"rope_parameters": None, "rope_scaling": {"type": "default"}, "rope_theta": 90.0},
    {
        "rope_scaling": {k: v for k, v in SCALED.items() if k[:8] != "original"} | {"rope_type": "llama3"},
        "max_position_embeddings": 16,
    },
]


@pytest.mark.parametrize("changes", ROPES, ids=range(len(ROPES)))
def test_of_two_rotary_embeddings_the_one_of_transformers_is_computed(
    folder: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    wanted = theirs(restate(folder, **changes))
    model, params = ours(folder)
    assert relative_error(model.logits(params, TOKENS), wanted) < 1e-5
    # Written in one spelling, it is the same model again.
    np.testing.assert_array_equal(theirs(moved(folder, tmp_path)), wanted)


def test_a_rotary_embedding_beside_another_that_is_not_computed_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    restate(folder, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})
    said = complaint(call("import", "--model", folder, "--workdir", tmp_path / "workdir", "--quiet"))
    assert "rope_type is 'yarn'; the known ones are default, linear, llama3" in said


def test_somebodys_own_keys_change_nothing_and_are_kept(source: Path, folder: Path, tmp_path: Path) -> None:
    notes = {"_model_name_or_path": "Story", "is_llama_config": True, "rope_interleaved": False}
    notes |= {"my_training_note": {"a": [1.5, None]}, "unsloth_version": "2025.12.5", "rms_norm": None}
    out = moved(restate(folder, **notes), tmp_path)
    written = json.loads((out / "config.json").read_text())
    assert {key: written[key] for key in notes} == notes
    np.testing.assert_array_equal(theirs(out), theirs(source))


# Two files.


def test_a_single_file_goes_before_shards(folder: Path) -> None:
    theirs_before = theirs(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({n: 0.5 * t for n, t in tensors.items()}, folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(theirs(folder), theirs_before)
    model, params = ours(folder)
    assert relative_error(model.logits(params, TOKENS), theirs_before) < 1e-5


def test_a_head_of_its_own_beside_a_tied_embedding_is_left_out_where_it_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(5, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    wanted = theirs(restate(folder, tie_word_embeddings=True))
    out = moved(folder, tmp_path)
    np.testing.assert_array_equal(theirs(out), wanted)
    assert {*tensors} - {*stored(out)} == {
        "lm_head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    }


# Dtypes.


@pytest.mark.parametrize("stated", ["bfloat16", None])
def test_tensors_of_mixed_dtypes_come_back_byte_for_byte(
    folder: Path, stated: str | None, tmp_path: Path
) -> None:
    tensors = {n: torch.tensor(t) for n, t in load_file(folder / "model.safetensors").items()}
    kinds = (torch.bfloat16, torch.float32, torch.float16)
    mixed = {n: t.to(kinds[i % 3]) for i, (n, t) in enumerate(sorted(tensors.items()))}
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    save_torch(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    restate(folder, torch_dtype=stated, dtype=None)
    out = moved(folder, tmp_path)
    again = load_torch(out / "model.safetensors")
    assert {n: t.dtype for n, t in again.items()} == {n: t.dtype for n, t in mixed.items()}
    for name, tensor in again.items():
        assert torch.equal(tensor.view(torch.uint8), mixed[name].view(torch.uint8)), name
    # What it computes in is what it computed in.
    assert prl.load(folder)[0] == prl.load(out)[0]


# Tokenizers.


def restated_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add_token(folder: Path, special: bool) -> None:
    """<pad> beyond the 301 rows of the embedding."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for number in range(302 - tokenizer.get_vocab_size()):
        tokenizer.add_tokens([AddedToken(f"<spare {number}>", special=special)])
    add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
    add([AddedToken("<pad>", special=special)])
    assert tokenizer.token_to_id("<pad>") > 301
    tokenizer.save(str(folder / "tokenizer.json"))


def test_a_control_token_beyond_the_embedding_stops_nobody(folder: Path, tmp_path: Path) -> None:
    wanted = prl.beam_search(*prl.load(folder), ["What is"], beams=2, max_new_tokens=4, newline_ends=True)
    add_token(folder, special=True)
    for path in (folder, moved(folder, tmp_path)):
        loaded = prl.load(path)
        assert loaded[2].size > 301
        found = prl.beam_search(*loaded, ["What is"], beams=2, max_new_tokens=4, newline_ends=True)
        assert [a.tokens for a in found[0]] == [a.tokens for a in wanted[0]]


@pytest.mark.parametrize("what", ["token", "eos", "bos"])
def test_what_a_text_may_have_needs_a_row(folder: Path, what: str, tmp_path: Path) -> None:
    add_token(folder, special=what != "token")
    if what == "eos":
        last = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<pad>")
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": last}))
    if what == "bos":
        from tokenizers.processors import TemplateProcessing

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = [("<pad>", tokenizer.token_to_id("<pad>"))]
        tokenizer.post_processor = TemplateProcessing(single="<pad> $A", special_tokens=special)
        tokenizer.save(str(folder / "tokenizer.json"))
        restated_tokenizer(folder, bos_token="<pad>")
    said = complaint(call("import", "--model", folder, "--workdir", tmp_path / "workdir", "--quiet"))
    assert "embedding 301 rows: they do not belong together" in said


def test_the_tokenizer_of_transformers_is_taken_wherever_the_model_lies(folder: Path, tmp_path: Path) -> None:
    """Its class may follow from config.json, which the checkpoint keeps for it."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((c, -3.0) for c in sorted({*TEXT}))]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")  # and none put before the text
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text('{"older": 0}')  # another vocabulary, left behind
    (folder / "merges.txt").write_text("#version: 0.2\n")
    restated_tokenizer(folder, tokenizer_class="LlamaTokenizer")
    restate(folder, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=None)
    wanted = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
    out = moved(folder, tmp_path)
    for path in (folder, tmp_path / "workdir", out):
        assert list(prl.load(path)[2].encode(TEXT)) == wanted
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_chat_templates_are_exported_untouched(folder: Path, tmp_path: Path) -> None:
    """Wherever they stand, and transformers makes the same of them afterwards."""
    restated_tokenizer(folder, chat_template="{# older #}" + TEMPLATE)
    odd = TEMPLATE.replace("}{{", "}\r\n {{") + "\n\n\n"  # no line end is made another
    (folder / "chat_template.jinja").write_bytes(odd.encode())
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"tools" + TEMPLATE.encode())
    out = moved(folder, tmp_path)
    names = ("tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja")
    for name in names:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    told = [{"role": "user", "content": "Who?"}]
    before, after, ours_of = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(out),
        prl.load(tmp_path / "workdir")[2].backend,
    )
    for kind in (None, "tool_use"):
        texts = [
            b.apply_chat_template(told, chat_template=kind, tokenize=False) for b in (before, after, ours_of)
        ]
        assert len({*texts}) == 1, texts
    assert before.apply_chat_template(told, chat_template="tool_use", tokenize=False) == "toolsWho?"
