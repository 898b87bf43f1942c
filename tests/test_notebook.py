"""The Colab notebook, executed from top to bottom on a small run."""

import base64
import io
import os
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from helpers.bucket_server import Bucket
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "launch" / "colab.ipynb"


def test_nothing_that_it_printed_is_kept():
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check(str(finished), tmp_path, monkeypatch)


@pytest.mark.slow
def test_it_opens_a_workdir_in_a_bucket_and_writes_nothing_there(
    bucket: Bucket, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bucket.read_from(finished, "run")
    for name in bucket.names("run/checkpoints/"):  # of a bucket a step is whole where Orbax says so
        assert "params" not in name or name.rpartition("/params")[0] + "/commit_success.txt" in bucket.names()
    before = len(bucket.changes)
    check("gs://bucket/run", tmp_path, monkeypatch)
    assert bucket.changes[before:] == []


def check(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETRAINRL_RUN", run)
    monkeypatch.setenv("PRETRAINRL_EXPORT", str(tmp_path / "exported"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, 4)
    environment = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=environment).execute(
        env=os.environ
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "qwen3: 1 layers of width 32, 600 tokens" in printed
    assert printed.count("  base: ") == printed.count("  pretrainrl: ") == 4
    (plot,) = (output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(plot)))
    assert min(picture.shape[:2]) > 400
    assert picture[..., :3].std() > 0.05  # something is drawn
    assert (tmp_path / "exported" / "model.safetensors").is_file()
