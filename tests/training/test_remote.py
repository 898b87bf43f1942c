"""Loading from a URL, proved on fsspec's memory:// file system, which reads as gs:// does."""

import shutil
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from helpers.models_and_trees import data

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.training.checkpoints import latest_step
from pretrainrl_jax.training.loading import downloaded, load
from pretrainrl_jax.trees.tokenization import TEMPLATES


@pytest.fixture(scope="module")
def bucket(finished: Path) -> str:
    """A finished workdir's checkpoints at a URL."""
    files = fsspec.filesystem("memory")
    files.put(str(finished / "checkpoints"), "/bucket/run/checkpoints", recursive=True)
    return "memory://bucket/run"


def test_workdir_stage_and_step_load_as_they_do_locally(bucket, finished):
    stage = "checkpoints/train/pretrainrl"
    step = latest_step(finished / stage)
    expected = load(finished / stage)
    for url in (f"{bucket}/{stage}", f"{bucket}/{stage}/", f"{bucket}/{stage}/{step}"):
        loaded = load(url)
        assert loaded.model == expected.model
        assert loaded.tokenizer.eos == expected.tokenizer.eos
        assert loaded.tokenizer.encode("Who rules?") == expected.tokenizer.encode("Who rules?")
        jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert load(bucket).model == expected.model


def test_of_a_workdir_only_what_is_loaded_is_fetched(finished, tmp_path):
    """The newest system's step, without its optimizer's state and without other stages."""
    stage = tmp_path / "run" / "checkpoints" / "train" / "pretrainrl"
    shutil.copytree(finished, tmp_path / "run")
    step = latest_step(stage)
    (stage / str(step) / "training").mkdir()
    (stage / str(step) / "training" / "moments").write_bytes(b"large")
    shutil.copytree(stage / str(step), stage / "0")
    with downloaded(f"file://{tmp_path / 'run'}") as path:
        names = {p.relative_to(path.parent).parts[0] for p in path.parent.rglob("*")}
        assert names == {"tokenizer", "model.json", str(step)}
        assert not (path / "training").exists()
        assert (path / "params").is_dir()
    assert not path.exists()


def test_of_a_hugging_face_folder_only_what_is_read_is_fetched(tmp_path):
    source = data("models", "stories260K")
    shutil.copytree(source, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    (templates := tmp_path / "model" / TEMPLATES).mkdir()
    (templates / "tool_use.jinja").write_bytes(b"{{ messages }}")
    with downloaded(f"file://{tmp_path / 'model'}") as path:
        assert {f.name for f in path.iterdir()} == {f.name for f in source.iterdir()} | {TEMPLATES}
        assert (path / TEMPLATES / "tool_use.jinja").read_bytes() == b"{{ messages }}"
    loaded, wanted = load(f"file://{tmp_path / 'model'}"), load(source)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match="no checkpoint or Hugging Face model"):
        load(f"file://{tmp_path}")


def test_nothing_at_the_url():
    with pytest.raises(InputError, match="no folder at memory://bucket/none"):
        load("memory://bucket/none")


def test_an_unknown_kind_of_url():
    with pytest.raises(InputError, match=r"cannot read nowhere://x"):
        load("nowhere://x")


def test_a_local_path_is_read_where_it_is(tmp_path):
    with downloaded(tmp_path) as path:
        assert path == tmp_path
    assert tmp_path.is_dir()
