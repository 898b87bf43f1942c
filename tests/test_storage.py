"""Folders on a disk and in a bucket behave alike."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
from gcsfs.retry import HttpError
from helpers.bucket_server import Bucket, Refused

from pretrainrl_jax import storage
from pretrainrl_jax.atomic import write_bytes, write_json
from pretrainrl_jax.config import CheckpointConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.training.checkpoints import BEGINNING, restore_state, saving, steps_of
from pretrainrl_jax.training.metrics import MetricsWriter
from pretrainrl_jax.training.step import TrainState
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


def test_a_file_and_a_link_are_removed_and_not_what_it_leads_to(tmp_path: Path):
    written(tmp_path, "a/b", "c")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    storage.remove_tree(tmp_path / "link")
    storage.remove_tree(tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "b").read_bytes() == b"a/b"


@pytest.mark.parametrize(
    ("cause", "wanted"),
    [
        (ConnectionError("gone"), True),
        (RuntimeError("UNAVAILABLE: try again"), True),
        (FileNotFoundError("no such step"), False),
        (ValueError("no JSON"), False),
    ],
)
def test_whether_a_bucket_was_reached_is_seen_behind_other_errors(cause: Exception, wanted: bool):
    assert storage.unreachable(cause) is wanted
    for error in (ValueError("cannot restore"), KeyError("step")):
        error.__cause__ = cause
        cause = error
    assert storage.unreachable(cause) is wanted


def test_files_of_a_name_are_found_at_any_depth(folder: Path):
    written(folder, "model.json", "a/model.json", "a/b/model.json", "a/b/other.json", "a/xmodel.json")
    found = {str(path.relative_to(folder)) for path in folder.rglob("model.json")}
    assert found == {"model.json", "a/model.json", "a/b/model.json"}


def test_when_a_file_was_written_tells_which_is_newer(folder: Path):
    written(folder, "one")
    assert (folder / "one").stat().st_mtime > 1_700_000_000
    assert (folder / "one").stat().st_size == 3


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
    with storage.fetched(folder / "spooled") as local, (local / "a" / "b").open() as file:
        assert file.read() == "b"
    with storage.fetched(folder / "spooled" / "a" / "b") as local, local.open() as file:
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


@pytest.mark.parametrize("text", ["gs://bucket/a[1]", "gs://bucket/a*", "gs://bucket/a?b", "gs://bucket/a#1"])
def test_names_that_mean_something_else_are_refused(text: str):
    with pytest.raises(InputError, match="means something else there"):
        storage.place(text)


def state_of(number: float) -> TrainState:
    values = number * jnp.arange(1.0, 5.0) / 3
    return TrainState(jnp.int32(number), {"w": values}, {"m": values})


@pytest.fixture
def saved(bucket: Bucket, tmp_path: Path) -> Iterator[Path]:
    """A stage in the bucket with checkpoints of steps 1 and 2."""
    folder = storage.place(f"gs://bucket/{tmp_path.name}") / "checkpoints" / "train" / "x"
    with saving(folder, CheckpointConfig()) as saver:
        for number in (1, 2):
            saver.save(state_of(number), BEGINNING)
    yield folder
    bucket.reading = lambda name: None


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", ["/params/", "/about/metadata", ""])
def test_what_cannot_be_read_now_is_not_taken_for_damaged_or_missing(
    bucket: Bucket, saved: Path, where: str, status: int
):
    before = bucket.names()
    said: list[str] = []

    def refuse(name: str) -> None:
        if where in name:
            raise Refused(status)

    bucket.reading = refuse
    with pytest.raises((OSError, HttpError)):
        restore_state(saved, state_of(0), say=said.append)
    bucket.reading = lambda name: None
    assert bucket.names() == before
    assert said == []
    restored = restore_state(saved, state_of(0))
    assert restored
    assert int(restored[0].step) == 2


def test_what_is_damaged_is_passed_over_and_set_aside(bucket: Bucket, saved: Path):
    (name,) = [name for name in bucket.names() if f"{saved.parts[-4]}" in name and "2/params/w/0" in name]
    bucket.put(name, bytes(len(bucket.objects[name].data)), {})
    said: list[str] = []
    restored = restore_state(saved, state_of(0), say=said.append)
    assert restored
    assert int(restored[0].step) == 1
    assert "the checkpoint of step 2 is damaged" in said[0]
    assert (saved / "2.damaged").is_dir()


def test_what_is_lost_is_passed_over(bucket: Bucket, saved: Path):
    (saved / "2" / "about" / "metadata").unlink()
    restored = restore_state(saved, state_of(0))
    assert restored
    assert int(restored[0].step) == 1


def test_a_step_that_is_not_written_to_its_end_is_none(bucket: Bucket, saved: Path):
    (saved / "2" / "commit_success.txt").unlink()
    said: list[str] = []
    assert steps_of(saved) == [1]
    restored = restore_state(saved, state_of(0), say=said.append)
    assert restored
    assert int(restored[0].step) == 1
    assert said == ["the checkpoint of step 2 was not written to its end, and is passed over"]


def test_whether_something_is_there_is_never_guessed(bucket: Bucket, saved: Path):
    assert (saved / "2").is_dir()
    assert (saved / "2").exists()
    assert not (saved / "2").is_file()
    assert not (saved / "3").exists()
    assert (saved.absolute(), saved.resolve(), saved.parent / "x") == (saved, saved, saved)

    def refuse(name: str) -> None:
        raise Refused(403)

    bucket.reading = refuse
    asked = saved / "2" / "about" / "metadata"
    for ask in (
        asked.exists,
        asked.is_file,
        asked.is_dir,
        asked.stat,
        asked.read_bytes,
        lambda: list(saved.iterdir()),
        lambda: list(saved.glob("*/training")),
        lambda: list(saved.rglob("metadata")),
        lambda: steps_of(saved),
    ):
        with pytest.raises(OSError, match="Forbidden"):
            ask()


def test_an_upload_that_is_refused_is_an_error_of_the_system(bucket: Bucket, tmp_path: Path):
    folder = storage.place(f"gs://bucket/{tmp_path.name}") / "checkpoints" / "train" / "x"

    def refuse(what: str, name: str) -> None:
        if "/params/w/" in name:
            raise Refused(403)

    bucket.before = refuse
    try:
        with saving(folder, CheckpointConfig()) as saver:
            saver.save(state_of(1), BEGINNING)
            with pytest.raises(OSError, match="PERMISSION_DENIED"):
                saver.wait()
    finally:
        bucket.before = lambda what, name: None
    assert steps_of(folder) == []
