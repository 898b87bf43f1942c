"""Loading from a bucket."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.bucket_server import Bucket
from helpers.models_and_trees import data

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.storage import place, upload
from pretrainrl_jax.training.checkpoints import latest_step
from pretrainrl_jax.training.loading import downloaded, load
from pretrainrl_jax.trees.tokenization import TEMPLATES


def test_workdir_stage_and_step_load_as_they_do_locally(bucket: Bucket, finished: Path):
    upload(finished / "checkpoints", place("gs://bucket/run/checkpoints"))
    stage = "checkpoints/train/pretrainrl"
    step = latest_step(finished / stage)
    expected = load(finished / stage)
    for url in (f"gs://bucket/run/{stage}/", f"gs://bucket/run/{stage}/{step}"):
        loaded = load(url)
        assert loaded.model == expected.model
        assert loaded.tokenizer.eos == expected.tokenizer.eos
        assert loaded.tokenizer.encode("Who rules?") == expected.tokenizer.encode("Who rules?")
        jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert load("gs://bucket/run").model == expected.model


def test_of_a_hugging_face_folder_only_what_is_read_is_fetched(bucket: Bucket, tmp_path: Path):
    source = data("models", "stories260K")
    shutil.copytree(source, tmp_path / "model")
    for name in ("pytorch_model.bin", "onnx/config.json", f"{TEMPLATES}/tool_use.jinja"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes(b"{{ messages }}")
    upload(tmp_path / "model", place("gs://bucket/model"))
    with downloaded("gs://bucket/model") as path:
        assert {f.name for f in path.iterdir()} == {f.name for f in source.iterdir()} | {TEMPLATES}
        assert (path / TEMPLATES / "tool_use.jinja").read_bytes() == b"{{ messages }}"
    assert not path.exists()
    loaded, wanted = load("gs://bucket/model"), load(source)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, wanted.params)


def test_where_nothing_is(bucket: Bucket):
    with pytest.raises(InputError, match="no checkpoint or Hugging Face model at gs://bucket/none"):
        load("gs://bucket/none")


def test_an_unknown_kind_of_url():
    with pytest.raises(InputError, match=r"--model\.path=s3://x: give a folder of this machine, or gs://"):
        load("s3://x")


def test_a_local_path_is_read_where_it_is(tmp_path: Path):
    with downloaded(tmp_path) as path:
        assert path == tmp_path
    assert tmp_path.is_dir()
