"""`import` and `export` from the command line: what they leave, and what they refuse in one line."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import call, complaint, files, fill
from helpers.models_and_trees import small_shape, small_tokenizer

import pretrainrl_jax as prl
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.hugging_face.config import write_config
from pretrainrl_jax.model.hugging_face.writing import tensors_of, write_weights
from pretrainrl_jax.stages import hugging_face
from pretrainrl_jax.training import loading

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of bfloat16. Not to be changed."""
    folder = tmp_path_factory.mktemp("hub") / "Small-1M-Base"
    tokenizer = small_tokenizer(folder)
    odd = {"family": "qwen2", "vocabulary": tokenizer.size + 3, "qkv_bias": True, "tied": True}
    shape = small_shape(**odd, dtype="bfloat16")
    model = Model(shape)
    params = jax.tree.map(lambda x: x.astype("bfloat16"), model.init(jax.random.key(0)))
    write_weights(folder, tensors_of(model, params), "5GB")
    (folder / "config.json").write_text(json.dumps(write_config(shape, {}, "bfloat16")))
    return folder


@pytest.fixture
def broken(source: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(source, tmp_path / "broken"))


def imported(source: Path, workdir: Path) -> Path:
    ran = call("import", "--model", source, "--workdir", workdir)
    assert ran.code == 0, ran.err
    return workdir


def bits(params) -> dict[str, bytes]:
    return {jax.tree_util.keystr(k): np.asarray(x).tobytes() for k, x in jax.tree.leaves_with_path(params)}


# What they do.


def test_a_model_is_the_same_opened_directly_imported_and_exported(source, tmp_path):
    workdir = imported(source, tmp_path / "workdir")
    assert call("export", "--workdir", workdir, "--to", tmp_path / "out").code == 0
    model, params, tokenizer = prl.load(source)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"}
    step = workdir / "checkpoints" / "import" / "0"
    for path in (workdir, step.parent, step, tmp_path / "out", str(workdir)):
        read_model, read_params, other = prl.load(path)
        assert read_model == model
        assert bits(read_params) == bits(params)
        assert other.encode("What is it?") == tokenizer.encode("What is it?")
        assert other.eos == tokenizer.eos
        assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(read_params))


@pytest.mark.parametrize("kind", ["source", "workdir"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_opens_in_the_dtype_asked_for(source, kind, dtype, tmp_path):
    path = source if kind == "source" else imported(source, tmp_path / "workdir")
    model, params, _ = prl.load(path, dtype)
    assert model.shape.dtype == dtype
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {dtype}
    plain = prl.load(source)[1]
    assert bits(jax.tree.map(lambda x: x.astype(dtype), plain)) == bits(params)


def test_another_dtype_is_refused(source):
    with pytest.raises(InputError, match="dtype is 'float64'"):
        prl.load(source, "float64")


def test_what_is_said(source, tmp_path):
    ran = call("import", "--model", source, "--workdir", tmp_path / "workdir")
    backend, said, hint = ran.out.splitlines()
    assert backend.startswith("backend cpu")
    assert "Qwen2ForCausalLM" in said
    assert "MB of bfloat16" in said
    assert f"--model.path={tmp_path / 'workdir'}" in hint
    assert "tensors" in ran.err  # how far it is
    ran = call("export", "--workdir", tmp_path / "workdir", "--to", tmp_path / "out", "--quiet")
    assert len(ran.out.splitlines()) == 1
    assert str(tmp_path / "out") in ran.out
    assert ran.err == ""


def test_the_workdir_has_the_name_of_the_model(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("import", "--model", f"{source}/").code == 0
    assert (tmp_path / "runs" / source.name / "checkpoints" / "import" / "0").is_dir()


def test_a_run_may_begin_with_an_imported_model(source, tmp_path, tiny_config):
    """Parameters are trained in float32, whatever they were stored in; what came with the model goes on."""
    (workdir := tmp_path / "workdir").mkdir()
    begun = imported(source, tmp_path / "begun")
    ran = call("pretrain", "--config", tiny_config, "--workdir", workdir, f"--model.path={begun}")
    assert ran.code == 0, ran.err
    _, params, _ = prl.load(workdir)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    assert loading.load(workdir).origin["config"] == json.loads((source / "config.json").read_text())


def test_an_import_that_was_stopped_begins_anew(source, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hugging_face.checkpoints, "describe", stop)
        assert call("import", "--model", source, "--workdir", tmp_path / "workdir").code == 130
    with pytest.raises(InputError):
        prl.load(tmp_path / "workdir")
    assert bits(prl.load(imported(source, tmp_path / "workdir"))[1]) == bits(prl.load(source)[1])


@pytest.mark.parametrize("where", ["write_weights", "write_config"])
def test_an_export_that_was_stopped_leaves_nothing(source, where, tmp_path, monkeypatch):
    seen = []

    def stop(*arguments):
        (partial,) = tmp_path.iterdir()
        seen.append({file.name for file in partial.iterdir()})
        raise KeyboardInterrupt

    monkeypatch.setattr(hugging_face, where, stop)
    assert call("export", "--model", source, "--to", tmp_path / "out").code == 130
    assert [*tmp_path.iterdir()] == []
    # What a killed process leaves is hidden, and has no config.json: it is the last file of all.
    assert all("config.json" not in names for names in seen)
    assert ("model.safetensors" in seen[0]) == (where == "write_config")


def test_what_a_killed_export_left_is_cleared_away(source, tmp_path):
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model-00001-of-00009.safetensors").write_bytes(b"half")
    assert call("export", "--model", source, "--to", tmp_path / "out").code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not [*(tmp_path / "out").glob("model-*")]


# What they refuse.


def refused_import(model: str | Path, tmp_path: Path) -> str:
    """The one line; nothing is left of a checkpoint."""
    workdir = tmp_path / "workdir"
    said = complaint(call("import", "--model", model, "--workdir", workdir, "--quiet"))
    assert not (workdir / "checkpoints").exists()
    return said


def test_an_import_needs_a_model(tmp_path):
    assert "import needs --model" in complaint(call("import", "--workdir", tmp_path))


def test_what_is_neither_a_folder_nor_a_name_is_refused(tmp_path):
    assert "no such folder" in refused_import(tmp_path / "none", tmp_path)


def test_a_model_of_the_hub_that_cannot_be_fetched_is_refused(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(name, allow_patterns):
        assert "*.safetensors" in allow_patterns
        assert not any(pattern.endswith((".py", ".bin")) for pattern in allow_patterns)
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    said = refused_import("Qwen/Qwen3-8B-Base", tmp_path)
    assert "--model=Qwen/Qwen3-8B-Base: no such folder, and it cannot be fetched from the hub (no net" in said


def test_a_model_of_the_hub_is_fetched(source, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(source))
    ran = call("import", "--model", "Some/Small-1M-Base", "--workdir", tmp_path / "workdir")
    assert ran.code == 0, ran.err
    assert bits(prl.load(tmp_path / "workdir")[1]) == bits(prl.load(source)[1])


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_half_a_model_is_refused(broken, gone, tmp_path):
    (broken / gone).unlink()
    assert f"{broken} is no Hugging Face model" in refused_import(broken, tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(broken, tmp_path):
    larger = train_tokenizer(["What is it?"], 300)
    larger.add_tokens([f"token {number}" for number in range(100)])
    save_tokenizer(larger, broken)
    said = refused_import(broken, tmp_path)
    assert f"{broken}: the tokenizer has" in said
    assert "rows" in said


def test_a_model_without_a_tokenizer_is_refused(broken, tmp_path):
    for file in broken.glob("tokenizer*"):
        file.unlink()
    assert f"no tokenizer in {broken}" in refused_import(broken, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", "{", "config.json"),
        ("model.safetensors", "", "model.safetensors"),
        ("generation_config.json", "[", "generation_config.json"),
        ("tokenizer.json", "{}", "no tokenizer can be read"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "?"}}', "no tokenizer can be read"),
    ],
)
def test_a_damaged_file_is_named(broken, file, content, named, tmp_path):
    (broken / file).write_text(content)
    assert named in refused_import(broken, tmp_path)


def test_a_second_import_is_refused(source, tmp_path):
    workdir = imported(source, tmp_path / "workdir")
    before = files(workdir)
    assert "holds an imported model" in complaint(call("import", "--model", source, "--workdir", workdir))
    assert {k: v for k, v in files(workdir).items() if k != "lock"} == {
        k: v for k, v in before.items() if k != "lock"
    }


def test_a_run_takes_in_no_other_model(source, workdir):
    said = complaint(call("import", "--model", source, "--workdir", workdir, "--quiet"))
    assert f"{workdir} is the workdir of a run" in said
    assert not (workdir / "checkpoints" / "import").exists()


@pytest.mark.parametrize("verb", ["import", "export"])
def test_a_disk_without_room_is_refused_before_anything_is_written(source, verb, tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face.shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1000))
    target = ("--workdir", tmp_path / "x") if verb == "import" else ("--to", tmp_path / "x")
    said = complaint(call(verb, "--model", source, "--quiet", *target))
    assert "0.00 MB free" in said
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("x", "lock")]


def test_a_disk_that_fills_up_leaves_nothing(source, small_disk):
    workdir = imported(source, small_disk.parent / "workdir")
    fill(small_disk / "much", 8192)
    said = complaint(call("export", "--workdir", workdir, "--to", small_disk / "out", "--quiet"))
    assert "free" in said
    assert [file.name for file in small_disk.iterdir()] == ["much"]


def test_a_folder_that_is_there_is_not_written_to(source, tmp_path):
    (tmp_path / "out").mkdir()
    said = complaint(call("export", "--model", source, "--to", tmp_path / "out"))
    assert f"--to={tmp_path / 'out'}: it is there already" in said
    assert [*(tmp_path / "out").iterdir()] == []


def test_an_export_needs_a_model_and_a_folder(tmp_path):
    assert f"no model at {tmp_path / 'none'}" in complaint(
        call("export", "--model", tmp_path / "none", "--to", tmp_path / "out")
    )
    (tmp_path / "empty").mkdir()
    said = complaint(call("export", "--workdir", tmp_path / "empty", "--to", tmp_path / "out", "--quiet"))
    assert f"no checkpoint or Hugging Face model at {tmp_path / 'empty'}" in said
    assert "--to" in complaint(call("export", "--workdir", tmp_path / "empty"))


def test_a_size_that_is_none_is_refused(source, tmp_path):
    said = complaint(
        call("export", "--model", source, "--to", tmp_path / "out", "--quiet", "--export.shard_size=big")
    )
    assert "export.shard_size is 'big'" in said
    assert [*tmp_path.iterdir()] == []
