"""Folders on a disk and in a bucket behave alike."""

import sys
from pathlib import Path

import pytest
from helpers.bucket_server import Bucket

from pretrainrl_jax import storage
from pretrainrl_jax.atomic import write_bytes, write_json
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.training.metrics import MetricsWriter
from pretrainrl_jax.trees.records import read_trees, write_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, bucket: Bucket, tmp_path: Path) -> Path:
    return tmp_path if request.param == "disk" else storage.place(f"gs://bucket/{tmp_path.name}")


def written(folder: Path, *names: str) -> None:
    for name in names:
        write_bytes(folder / name, name.encode())


def test_what_is_written_is_read(folder: Path):
    content = bytes(range(256)) * 5 + b"\r\n--\r\n"
    write_bytes(folder / "a" / "b.bin", content)
    assert (folder / "a" / "b.bin").read_bytes() == content
    write_json(folder / "a" / "b.json", {"é": [1, "\n"]})
    assert (folder / "a" / "b.json").read_text(encoding="utf-8") == '{\n "é": [\n  1,\n  "\\n"\n ]\n}'
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["b.bin", "b.json"]
    assert (folder / "a").is_dir()
    assert not (folder / "a").is_file()
    with pytest.raises(FileNotFoundError):
        (folder / "none").read_bytes()


def test_a_large_file_arrives_whole(folder: Path):
    content = bytes(i * i % 251 for i in range(1 << 16)) * 200  # 13 MB: uploaded in parts
    write_bytes(folder / "large", content)
    assert (folder / "large").read_bytes() == content


def test_a_tree_is_removed_and_no_other(folder: Path):
    written(folder, "a/b/c", "a/d", "ab/e")
    storage.remove_tree(folder / "a")
    storage.remove_tree(folder / "a")  # nothing is there
    assert [path.name for path in folder.iterdir()] == ["ab"]


def test_files_of_a_name_are_found_at_any_depth(folder: Path):
    written(folder, "model.json", "a/model.json", "a/b/model.json", "a/b/other.json", "a/xmodel.json")
    found = {str(path.relative_to(folder)) for path in storage.files_named(folder, "model.json")}
    assert found == {"model.json", "a/model.json", "a/b/model.json"}


def test_when_a_file_was_written_tells_which_is_newer(folder: Path):
    written(folder, "one")
    assert storage.modified(folder / "one") > 1_700_000_000


def test_a_linked_folder_and_a_linked_file_read_as_they_are(folder: Path):
    written(folder, "one/8/params/x", "one/8/commit_success.txt", "one/model.json", "one.json")
    storage.link(folder / "cells" / "two", folder / "one")
    storage.link(folder / "cells" / "two.json", folder / "one.json")
    assert (folder / "cells" / "two" / "8" / "params" / "x").read_bytes() == b"one/8/params/x"
    assert (folder / "cells" / "two.json").read_bytes() == b"one.json"


def test_a_link_in_a_bucket_is_whole_when_it_says_so(bucket: Bucket):
    folder = storage.place("gs://bucket/order")
    written(folder, "one/8/a/x", "one/8/commit_success.txt", "one/8/z", "one/model.json")
    before = len(bucket.changes)
    storage.link(folder / "two", folder / "one")
    names = [name.removeprefix("order/two/") for _, name in bucket.changes[before:]]
    assert sorted(names) == ["8/a/x", "8/commit_success.txt", "8/z", "model.json"]
    assert names.index("8/commit_success.txt") > max(names.index("8/a/x"), names.index("8/z"))


def test_what_needs_files_of_this_machine_has_them(folder: Path):
    with storage.spooled(folder / "spooled") as local:
        (local / "a").mkdir()
        (local / "a" / "b").write_text("b")
    assert (folder / "spooled" / "a" / "b").read_bytes() == b"b"
    with storage.fetched_folder(folder / "spooled") as local, (local / "a" / "b").open() as file:
        assert file.read() == "b"
    with storage.fetched_file(folder / "spooled" / "a" / "b") as local, local.open() as file:
        assert file.read() == "b"


def test_trees_are_read_as_they_were_written(folder: Path):
    branch = Branch(text="x", tokens=(3, 4), role="gold", source="facts")
    trees = [AnswerTree(id=str(i), prefix=(1, 2), branches=(branch,)) for i in range(70)]
    write_trees(folder / "trees.array_record", trees)
    assert read_trees(folder / "trees.array_record") == trees
    assert [path.name for path in folder.iterdir()] == ["trees.array_record"]


def test_metrics_are_in_the_workdir_when_published_and_when_closed(folder: Path):
    written(folder, "config.json")
    with MetricsWriter(folder, "train/x") as writer:
        writer.write(1, {"loss": 0.5})
        writer.publish()
        assert (folder / "metrics.jsonl").read_text().count("\n") == 1
        writer.write(2, {"loss": 0.25})
    with MetricsWriter(folder, "train/x", start=1) as writer:  # goes on after step 1
        writer.write(2, {"loss": 0.125})
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert lines == [
        '{"stage": "train/x", "step": 1, "loss": 0.5}',
        '{"stage": "train/x", "step": 2, "loss": 0.125}',
    ]
    assert storage.files_named(folder / "tensorboard", "x") == []
    assert any("tfevents" in path.name for path in (folder / "tensorboard" / "train" / "x").iterdir())


def test_what_another_process_writes_is_seen_at_once(bucket: Bucket):
    folder = storage.place("gs://bucket/seen")
    written(folder, "one")
    assert [path.name for path in folder.iterdir()] == ["one"]
    bucket.put("seen/two", b"", {})
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
    bucket.delete("seen/one", {})
    assert not (folder / "one").exists()


@pytest.mark.parametrize("text", ["s3://bucket/x", "gs://", "gs:///x", "gs:/bucket/x", "http://host/x"])
def test_other_addresses_are_refused(text: str):
    with pytest.raises(InputError, match=r"--workdir=.*: give a folder of this machine, or gs://BUCKET"):
        storage.place(text)


def test_without_the_packages_it_is_said_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"pip install 'pretrainrl_jax\[gcs\]'"):
        storage.place("gs://bucket/x")
    assert storage.place("runs/x") == Path("runs/x")
