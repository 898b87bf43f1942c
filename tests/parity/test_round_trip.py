"""From transformers to ours and back: the same bytes in every tensor, the same model in transformers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.command_line import call
from helpers.models_and_trees import data
from helpers.transformers_models import CASES, Case, peer, relative_error
from safetensors import safe_open

from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer

TEXTS = ["What is the capital of Arno? Florence", "Who wrote it?"]
TOKENS = np.random.default_rng(0).integers(0, 301, (2, 30))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a tokenizer of fewer tokens than these models have."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, 300), folder)
    return folder


def save(theirs: Any, folder: Path, tokenizer: Path, **options: Any) -> Path:
    """A model of transformers with a tokenizer, as one finds it on the hub."""
    theirs.save_pretrained(folder, **options)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return folder


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor of a folder."""
    described = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                value = opened.get_tensor(name)
                described[name] = (value.dtype.name, value.shape, value.tobytes())
    return described


def moved(source: Path, tmp_path: Path, *options: str) -> Path:
    """Imported, and exported again."""
    workdir, out = tmp_path / "workdir", tmp_path / "out"
    for verb, where in (("import", ("--model", source)), ("export", ("--to", out, *options))):
        ran = call(verb, "--workdir", workdir, *where)
        assert ran.code == 0, ran.err
    return out


def reloaded(folder: Path) -> Any:
    """The model that transformers makes of a folder, with nothing missing and nothing unexpected."""
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(said.values()), said
    return model.eval()


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def differing(exported: dict[str, Any], wanted: dict[str, Any]) -> int:
    """How many tensors are not the same, those that only one has among them."""
    return sum(exported.get(name) != wanted.get(name) for name in {*exported, *wanted})


def built(case: Case, dtype: torch.dtype = torch.float32) -> Any:
    """The case with room for the tokenizer, its weights rounded to a dtype."""
    return peer(case.family, **(case.changes | {"vocab_size": 301})).to(dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_tensor_comes_back_byte_for_byte(case, tokenizer, tmp_path, measured):
    theirs = built(case)
    source = save(theirs, tmp_path / "source", tokenizer)
    out = moved(source, tmp_path)
    measured(case.family, "import, export: tensors changed", differing(tensors(out), tensors(source)), 0)
    again = reloaded(out)
    np.testing.assert_array_equal(logits(again), logits(theirs))
    measured(case.family, "import, export: logits", relative_error(logits(again), logits(theirs)), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_byte_for_byte(dtype, tokenizer, tmp_path):
    source = save(built(Case("qwen3"), dtype), tmp_path / "source", tokenizer)
    out = moved(source, tmp_path, "--export.shard_size=20KB")
    assert {tensor[0] for tensor in tensors(source).values()} == {str(dtype).removeprefix("torch.")}
    assert differing(tensors(out), tensors(source)) == 0
    assert reloaded(out).dtype == dtype


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_another_dtype_is_rounded_as_torch_rounds(name, tokenizer, tmp_path):
    theirs = built(Case("llama3"))
    out = moved(save(theirs, tmp_path / "source", tokenizer), tmp_path, f"--export.dtype={name}")
    wanted = save(theirs.to(getattr(torch, name)), tmp_path / "rounded", tokenizer)
    assert differing(tensors(out), tensors(wanted)) == 0
    assert reloaded(out).dtype == getattr(torch, name)


def test_shards_have_the_size_asked_for_and_an_index(tokenizer, tmp_path):
    source = save(built(Case("qwen2")), tmp_path / "source", tokenizer, max_shard_size="30KB")
    assert len([*source.glob("*.safetensors")]) > 3
    out = moved(source, tmp_path, "--export.shard_size=40KB")
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 40_000 + 4_000 for file in files)  # with their headers
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(tensor[2]) for tensor in tensors(source).values())
    assert {*index["weight_map"]} == {*tensors(source)}
    assert {*index["weight_map"].values()} == {file.name for file in files}
    assert differing(tensors(out), tensors(source)) == 0
    assert reloaded(out) is not None


def test_all_else_of_a_model_comes_back_too(tokenizer, tmp_path):
    source = save(built(Case("qwen3", "", {"max_position_embeddings": 777})), tmp_path / "source", tokenizer)
    generation = {"temperature": 0.6, "top_k": 20, "do_sample": True, "eos_token_id": [3, 5]}
    (source / "generation_config.json").write_text(json.dumps(generation))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    out = moved(source, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert json.loads((out / "generation_config.json").read_text()) == generation
    before, after = (transformers.AutoConfig.from_pretrained(folder) for folder in (source, out))
    assert after.max_position_embeddings == 777
    assert after.eos_token_id == [3, 5]
    changed = {k for k, v in before.to_dict().items() if after.to_dict().get(k) != v}
    assert changed <= {"eos_token_id", "_name_or_path", "transformers_version"}
    written = {"config.json", "generation_config.json", "model.safetensors"}
    assert {file.name for file in out.iterdir()} == written | {"tokenizer.json", "tokenizer_config.json"}


def test_a_system_that_was_trained_is_a_model_of_transformers(finished, tmp_path, measured):
    """No Hugging Face model was ever behind it."""
    import pretrainrl_jax as prl

    stage, out = finished / "checkpoints" / "train" / "pretrainrl", tmp_path / "out"
    assert call("export", "--model", stage, "--to", out).code == 0
    model, params, tokenizer = prl.load(stage)
    wanted = logits(reloaded(out))
    error = relative_error(model.logits(params, TOKENS), wanted)
    measured("qwen3", "logits, trained here and exported", error, 1e-5)
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = "What is the capital of Arno?"
    assert theirs(text, add_special_tokens=False)["input_ids"] == list(tokenizer.encode(text))
    assert transformers.GenerationConfig.from_pretrained(out).eos_token_id == tokenizer.eos[0]


# A pretrained model.


PROMPT = "Once upon a time, there was a dog"


def told(folder: Path) -> str:
    """What `ask` prints as the greedy continuation."""
    ran = call("ask", PROMPT, f"--model.path={folder}", "--evaluate.beams=1", "--evaluate.max_new_tokens=100")
    assert ran.code == 0, ran.err
    (line,) = re.findall(r"^ *[\d.e+-]+%  (.*) …$", ran.out, re.M | re.S)
    return line


def continued(folder: Path) -> str:
    """What transformers says, 100 tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(prompt, max_new_tokens=100, do_sample=False)
    assert len(out[0]) == prompt.shape[1] + 100
    return tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)


def test_stories_are_told_alike_before_and_after(tmp_path, measured):
    source = data("models", "stories260K")
    out = moved(source, tmp_path)
    assert differing(tensors(out), tensors(source)) == 0
    wanted = continued(source)
    assert len(wanted) > 200
    assert continued(out) == wanted
    for folder in (source, tmp_path / "workdir", out):
        measured(
            "stories260K", "100 greedy tokens by ask: texts that differ", told(folder) != wanted.strip(), 0
        )
