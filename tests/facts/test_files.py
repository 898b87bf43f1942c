"""Opening and decoding: local files and stores alike, and the line of a byte that is no text."""

import gzip
from pathlib import Path

import pytest
from helpers.fact_sources import ROW, as_bytes, in_memory, read, refused, write
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.files import check_encoding, is_folder, names_in, text_lines


@pytest.mark.parametrize("before", ["", "ab\ncd\n", "ä\r\nbc\r"])
def test_the_byte_that_is_no_text_is_named(before: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_bytes(before.encode() + "zéz".encode() + b"\xe9z\n" + b"ok\n" * 9)
    line = {"": 1, "ab\ncd\n": 3, "ä\r\nbc\r": 3}[before]
    assert refused(path) == (
        f"{path}, line {line}: byte 0xe9 at column 4 is not utf-8: save it as UTF-8, or set facts.encoding"
    )


def test_far_into_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    line = as_bytes([ROW], "jsonl")
    path.write_bytes(line * 3000 + line.replace(b"Arno", b"\xc4rno"))
    assert f"{path}, line 3001: byte 0xc4 at column" in refused(path)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_recognised_by_its_mark(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    path.write_bytes(mark + "question".encode("utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"))
    assert "a byte order mark says UTF-16" in refused(path)
    assert "facts.encoding=utf-16" in refused(path)


def test_an_encoding_that_breaks_off(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.jsonl", [ROW], encoding="utf-16")
    path.write_bytes(path.read_bytes()[:-1])
    assert "utf-16" in refused(path, encoding="utf-16")
    assert read(write(path, [ROW], encoding="utf-16"), encoding="utf-16").rows == 1


def test_utf_16_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_bytes("question,answer\nWho?,a\n".encode("utf-16-le"))
    said = refused(path, encoding="utf-16")
    why = "UnicodeError: UTF-16 stream does not start with BOM"
    assert said == f"{path} is not utf-16 text ({why}): save it as UTF-8, or set facts.encoding"
    assert read(path, encoding="utf-16-le").rows == 1


@pytest.mark.parametrize("name", ["utf9", "", "rot13", "base64", "zip", "idna", "a\0b", "undefined"])
def test_encodings_that_are_none(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [ROW])
    with pytest.raises(InputError, match=r"facts\.encoding is"):
        read(path, encoding=name)


@pytest.mark.parametrize(
    "name", ["utf-8", "UTF8", "latin-1", "cp1252", "utf-16", "shift_jis", "ascii", "utf-7"]
)
def test_encodings_that_are_known(name: str) -> None:
    check_encoding(name)


def test_packed_files(tmp_path: Path) -> None:
    packed = gzip.compress(as_bytes([ROW], "csv"))
    (tmp_path / "facts.csv.gz").write_bytes(packed)
    facts = read(tmp_path / "facts.csv.gz").facts
    assert facts[0].id == "7"
    assert read(in_memory("facts.csv.gz", packed)).facts == facts
    (tmp_path / "FACTS.CSV.GZ").write_bytes(packed)
    assert read(tmp_path / "FACTS.CSV.GZ").facts == facts
    (tmp_path / "facts.csv.gz").write_bytes(packed[:-12])
    assert "to its end" in refused(tmp_path / "facts.csv.gz")
    (tmp_path / "facts.csv.gz").write_bytes(b"no gzip")
    assert "to its end" in refused(tmp_path / "facts.csv.gz")


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files_that_are_not_there(form: str, tmp_path: Path) -> None:
    assert refused(tmp_path / f"none.{form}") == (
        f"cannot read {tmp_path}/none.{form}: No such file or directory; check facts.path"
    )
    assert "check facts.path" in refused(f"memory://nowhere/none.{form}")
    assert "Is a directory" in refused(tmp_path, format=form)


def test_stores_that_do_not_exist() -> None:
    assert "nostore" in refused("nostore://bucket/facts.csv")
    assert "cannot read" in refused("nostore://bucket/folder")


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "open", missing)
    assert "pip install 'pretrainrl_jax[gcs]'" in refused("gs://bucket/facts.csv")


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(InputError, match="null"):
        read("facts\0.csv")


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "b").touch()
    assert names_in(str(tmp_path)) == ["b", "inner"]
    assert is_folder(str(tmp_path))
    assert not is_folder(str(tmp_path / "b"))
    place = in_memory("listed/b", b"")
    assert is_folder("memory://tests/listed")
    assert not is_folder(place)
    assert names_in("memory://tests/listed") == ["b"]
    with pytest.raises(InputError, match="cannot list"):
        names_in(str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot read"):
        names_in("memory://tests/none")


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab é北\u2028\x0b", max_size=5), st.sampled_from(["\n", "\r\n", "\r"]))))
def test_lines_keep_their_ends_and_nothing_else_ends_one(parts: list[tuple[str, str]]) -> None:
    lines = [text + end for text, end in parts]
    for at in range(len(lines) - 1, 0, -1):  # "\r" before "\n…" is one end
        if lines[at - 1].endswith("\r") and lines[at] == "\n":
            lines[at - 1 : at + 1] = [lines[at - 1] + "\n"]
    place = in_memory("lines", "".join(lines).encode())
    assert [line for line in text_lines(place, "utf-8") if line] == lines
