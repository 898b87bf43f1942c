"""Files that are whole or not there, and one kind of error for a disk that takes no more."""

import errno
import json
import os
from pathlib import Path

import pytest
from helpers.command_line import fill, python
from helpers.models_and_trees import tree

from pretrainrl_jax.atomic import disk_errors, write_json, write_text
from pretrainrl_jax.trees.records import read_trees, write_trees


def test_text_is_written_in_utf_8_whatever_it_is(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "Ünseen\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Ünseen\n".encode()
    write_text(tmp_path / "half.txt", "a\ud800b")
    assert (tmp_path / "half.txt").read_text() == "a?b"
    write_json(tmp_path / "c.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == {"ü": [1, None]}
    assert not list(tmp_path.rglob("*.partial"))


KILLED = """
import os, signal, sys
from pathlib import Path
from pretrainrl_jax import atomic
name = sys.argv[2]
real = getattr(os, name) if name == "fsync" else Path.replace
def killed(*a):
    os.kill(os.getpid(), signal.SIGKILL)
if name == "fsync":
    atomic.os.fsync = killed
else:
    Path.replace = killed
atomic.write_text(Path(sys.argv[1]), "new" * 9999)
"""


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_what_was_there(when: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    assert python("-c", KILLED, path, when).code == -9
    assert path.read_text() == "old"
    write_text(path, "newer")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    write_text(small_disk / "file", "old")
    fill(small_disk / "room", leave=4096)
    with pytest.raises(OSError, match="No space left"):
        write_text(small_disk / "file", "new" * 9999)
    assert (small_disk / "file").read_text() == "old"


def test_trees_on_a_full_disk_are_not_there_at_all(small_disk: Path) -> None:
    trees = [tree(3, 9, 9, id=str(i)) for i in range(3000)]
    fill(small_disk / "room", leave=16384)
    with pytest.raises(OSError, match="No space left") as raised:
        write_trees(small_disk / "trees.array_record", trees)
    assert raised.value.errno == errno.ENOSPC
    assert not (small_disk / "trees.array_record").exists()
    (small_disk / "room").unlink()
    write_trees(small_disk / "trees.array_record", trees)
    assert read_trees(small_disk / "trees.array_record") == trees


@pytest.mark.parametrize(
    ("error", "code", "path"),
    [
        (ValueError("Error writing local file \"/a/b\": [os_error_code='28'] more"), errno.ENOSPC, "/a/b"),
        (RuntimeError("write() failed: Read-only file system; writing /a/c; at byte 3"), errno.EROFS, "/a/c"),
        (RuntimeError("File too large"), errno.EFBIG, None),
    ],
)
def test_errors_of_storage_libraries_become_errors_of_the_system(error, code: int, path: str | None) -> None:
    with pytest.raises(OSError, match=os.strerror(code)) as raised, disk_errors():
        raise error
    assert (raised.value.errno, raised.value.filename) == (code, path)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="shapes differ"), disk_errors():
        raise ValueError("shapes differ")
    with pytest.raises(FileNotFoundError, match="no such step"), disk_errors():
        raise FileNotFoundError("no such step")
