"""Sources of text: every kind read the same, and what is wrong refused in one line or counted."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from helpers.fact_sources import in_memory

from pretrainrl_jax.config import DocumentsConfig
from pretrainrl_jax.documents import reading, rules
from pretrainrl_jax.documents.files import opened_at
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.errors import InputError

TEXTS = [f"Document {n}: größer als {n - 1}.\nIts second line." for n in range(30)]


def as_json(texts: list[str], column: str = "text") -> bytes:
    return "\n".join(json.dumps({column: text, "n": 1}) for text in texts).encode()


def zstd(data: bytes, *more: bytes) -> bytes:
    """One frame of each."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    packed = b""
    for frame in (data, *more):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as file:
            file.write(frame)
        packed += sink.getvalue().to_pybytes()
    return packed


def parquet(rows: list[dict], **options) -> bytes:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def array_record(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def stream(*path: Path | str, **settings) -> Stream:
    defaults = {"path": tuple(map(str, path)), "shuffle": 0, "epochs": 1}
    return Stream(DocumentsConfig(**(defaults | settings)), seed=5)


def texts(*path: Path | str, **settings) -> list[str]:
    return [document.text for document in stream(*path, **settings).take(1000)]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "\n\n".join(TEXTS).encode()),
        ("crlf.txt", "\r\n  \r\n\r\n".join(TEXTS).replace("\n", "\r\n").replace("\r\r", "\r").encode()),
        ("bom.txt", b"\xef\xbb\xbf" + "\n\n\n".join(TEXTS).encode() + b"\n\n"),
        ("a.txt.gz", gzip.compress("\n\n".join(TEXTS).encode())),
        ("A.TXT.GZ", gzip.compress("\n\n".join(TEXTS).encode())),
        ("a.jsonl", as_json(TEXTS)),
        ("blanks.jsonl", b"\n" + as_json(TEXTS).replace(b"\n", b"\n\n") + b"\n"),
        ("a.jsonl.gz", gzip.compress(as_json(TEXTS[:9]) + b"\n") + gzip.compress(as_json(TEXTS[9:]))),
    ],
)
def test_files_of_text_give_their_documents(tmp_path: Path, name: str, data: bytes) -> None:
    path = write(tmp_path / name, data)
    assert texts(path) == TEXTS
    assert texts(in_memory(name, data)) == TEXTS


def test_zstd_files_of_several_frames(tmp_path: Path) -> None:
    packed = zstd(as_json(TEXTS[:9]) + b"\n", as_json(TEXTS[9:]))
    assert texts(write(tmp_path / "a.jsonl.zst", packed)) == TEXTS
    assert texts(in_memory("b.jsonl.zst", packed)) == TEXTS


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_other_encodings(tmp_path: Path, encoding: str, form: str) -> None:
    lines = [json.dumps({"text": t}, ensure_ascii=False) for t in TEXTS]
    whole = "\n".join(lines) if form == "jsonl" else "\n\n".join(TEXTS)
    path = write(tmp_path / f"a.{form}", whole.encode(encoding))
    assert texts(path, encoding=encoding) == TEXTS
    every = stream(path, encoding=encoding).take(100)
    resumed = stream(path, encoding=encoding)
    half = stream(path, encoding=encoding)
    half.take(13)
    resumed.restore(half.state)
    assert resumed.take(100) == every[13:]


def test_what_ends_a_document_of_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\n\none\ntwo\n \nthree\n\n\n four\n")
    assert texts(path) == ["one\ntwo", "three", " four"]
    assert texts(path, separator="line") == ["one", "two", "three", " four"]
    assert texts(path, separator="file") == ["one\ntwo\n \nthree\n\n\n four"]
    names = [document.name for document in stream(path).take(9)]
    assert names == ["a.txt line 3", "a.txt line 6", "a.txt line 9"]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_parquet_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(reading, "PARQUET_BATCH", 3)
    rows = [{"meta": {"body": text}, "other": "x"} for text in TEXTS]
    path = write(tmp_path / "a.parquet", parquet(rows, row_group_size=size))
    every = stream(path, column="meta.body").take(100)
    assert [document.text for document in every] == TEXTS
    assert every[-1].name == "a.parquet row 30"
    for taken in (1, 3, 7, 8, 29, 30):
        one, other = stream(path, column="meta.body"), stream(path, column="meta.body")
        one.take(taken)
        other.restore(json.loads(json.dumps(one.state)))
        assert other.take(100) == every[taken:]


def test_array_records_of_json_and_of_plain_text(tmp_path: Path) -> None:
    records = [
        json.dumps({"text": TEXTS[0]}).encode(),
        TEXTS[1].encode(),
        b"{not JSON}",
        b'{"n": 1}',
        b'{"text": "a", "text": "b"}',
        b"\xff",
    ]
    array_record(tmp_path / "a.array_record-00000-of-00001", records)
    source = stream(tmp_path)
    assert [document.text for document in source.take(9)] == [*TEXTS[:2], "{not JSON}"]
    assert source.dropped == {rules.NO_COLUMN: 1, rules.NOT_JSON: 1, rules.BAD_BYTES: 1}


def test_a_hugging_face_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.Dataset.from_list([{"text": text, "label": 1} for text in TEXTS]).save_to_disk(str(tmp_path))
    assert texts(f"hf:{tmp_path}") == TEXTS


def test_a_tensorflow_data_set(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

    class SomeTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": enumerate({"text": text} for text in TEXTS)}

        def _generate_examples(self):
            raise NotImplementedError

    SomeTexts(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    assert sorted(texts(f"tfds:{tmp_path / 'some_texts' / '1.0.0'}")) == sorted(TEXTS)


def test_folders_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", as_json(["b"]))
    write(tmp_path / "deep" / "a.txt", b"a")
    write(tmp_path / "README.md", b"not this")
    write(tmp_path / "_skipped.txt", b"nor this")
    assert texts(tmp_path) == ["b", "a"]
    assert texts(tmp_path / "*.jsonl") == ["b"]
    assert texts(tmp_path / "**" / "*.txt") == ["nor this", "a"]
    for name in ("one.txt", "two.txt"):
        in_memory(f"folder/{name}", name.encode())
    assert texts("memory://tests/folder") == texts("memory://tests/folder/*.txt") == ["one.txt", "two.txt"]


def test_what_is_no_document_is_counted_by_its_rule(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}', b'{"text": " "}', b'{"text": null}', b'{"body": "x"}', b'{"text": 3}',
        b'{"text": ["a"]}', b"[1]", b'{"text": "cut', b'{"text": "\xff"}', b'{"text": "\\ud800"}',
        b'{"text": "a\\u0000b"}', b"[" * 100_000, b'{"text": "' + b"x" * 50 + b'"}',
        b'{"text": "a", "text": "b"}',
    ]  # fmt: skip
    source = stream(write(tmp_path / "a.jsonl", b"\n".join(lines)), longest=20)
    assert [document.text for document in source.take(99)] == ["good", "x" * 20]
    assert source.dropped == {
        rules.BLANK: 2, rules.NO_COLUMN: 1, rules.NO_TEXT: 2, rules.NOT_JSON: 4, rules.BAD_BYTES: 2,
        rules.BINARY: 1, rules.SHORTENED: 1,
    }  # fmt: skip
    assert source.dropped.keys() <= rules.RULES.keys()
    assert source.ended


def test_a_long_document_is_read_up_to_its_bound(tmp_path: Path) -> None:
    """Of 10 MB, and what comes after it is read all the same; a bound within a letter's bytes is no fault."""
    long = "北é" * 2_500_000
    path = write(tmp_path / "a.txt", f"before\n\n{long}\n{long}\n\nafter".encode())
    source = stream(path, longest=1001)
    assert [d.text for d in source.take(9)] == ["before", long[:1001], "after"]
    assert source.dropped == {rules.SHORTENED: 1}
    one_line = stream(write(tmp_path / "b.jsonl", as_json([long, "after"])), longest=1001)
    assert [d.text for d in one_line.take(9)] == [long[:1001], "after"]


def test_a_line_of_json_too_long_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 1000)
    source = stream(write(tmp_path / "a.jsonl", as_json(["x" * 3_000_000, "after"])))
    assert [d.text for d in source.take(9)] == ["after"]
    assert source.dropped == {rules.LONG_LINE: 1}


@pytest.mark.parametrize("name", ["cut.txt.gz", "cut.jsonl.gz", "cut.jsonl.zst"])
def test_a_file_that_breaks_off_is_read_up_to_there(tmp_path: Path, name: str) -> None:
    import random

    letters = random.Random(0)
    many = ["".join(letters.choices("abcdefgh ", k=2000)) + "." for _ in range(300)]
    data = "\n\n".join(many).encode() if ".txt" in name else as_json(many)
    packed = gzip.compress(data) if name.endswith("gz") else zstd(data)
    write(tmp_path / name, packed[: len(packed) // 2])
    write(tmp_path / "whole.txt", b"another file")
    source = stream(tmp_path)
    read = [document.text for document in source.take(1000)]
    assert read[-1] == "another file"
    assert 50 < len(read) < 200
    assert read[:-1] == many[: len(read) - 1]
    assert source.dropped == {rules.BROKEN_OFF: 1}


def test_a_damaged_parquet_file_beside_a_whole_one(tmp_path: Path) -> None:
    whole = parquet([{"text": text} for text in TEXTS])
    write(tmp_path / "a.parquet", whole[:-20])
    write(tmp_path / "b.parquet", whole)
    source = stream(tmp_path)
    assert [document.text for document in source.take(99)] == TEXTS
    assert source.dropped == {rules.BROKEN_OFF: 1}


def test_records_that_are_damaged_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.array_record"
    array_record(path, [text.encode() for text in TEXTS])
    whole = path.read_bytes()
    first, unread = whole.index(TEXTS[0].encode()), 0
    for place in range(first, first + 2000, 190):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        source = stream(path)
        read = [document.text for document in source.take(99)]
        lost = source.dropped.get(rules.UNREADABLE, 0)
        assert set(read) < set(TEXTS) if lost else read == TEXTS
        assert len(read) + lost == len(TEXTS)
        unread += lost
    assert unread


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here fails when it is read")
def test_a_file_that_fails_when_it_is_read_is_not_damaged() -> None:
    """Its error may pass: of a damaged one the rest would be given up."""
    with opened_at("/proc/self/mem") as file, pytest.raises(InputError) as caught:
        file.read(1)
    assert type(caught.value) is InputError
    assert str(caught.value) == "cannot read /proc/self/mem to its end: Input/output error"


def test_zstd_files_need_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt.zst", zstd(b"text"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(path) == f"reading {path} needs pyarrow: pip install 'pretrainrl_jax[data]'"


@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_a_file_that_is_gone_is_told_with_the_setting_that_names_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, parquet([{"text": text} for text in TEXTS]))
    source = stream(path)
    path.unlink()
    with pytest.raises(InputError, match=r"No such file or directory; check documents\.path"):
        source.take(1)


def refused(*path: Path | str, **settings) -> str:
    with pytest.raises(InputError) as error:
        stream(*path, **settings).take(10)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("epochs", [0, 1])
def test_what_gives_no_document_is_refused_in_one_line(tmp_path: Path, epochs: int) -> None:
    def says(name: str, data: bytes, **settings) -> str:
        return refused(write(tmp_path / name, data), epochs=epochs, **settings)

    missing = refused(tmp_path / "none.txt")
    assert missing == f"cannot read {tmp_path / 'none.txt'}: No such file or directory; check documents.path"
    assert says("empty.txt", b"") == f"{tmp_path / 'empty.txt'} is empty: check documents.path"
    assert "holds no records" in says("blank.txt", b"\n \n\n")
    assert "holds no records" in says("empty.txt.gz", gzip.compress(b""))
    assert "Not a gzipped file" in says("a.txt.gz", b"plain text")
    assert "is not a whole Parquet file" in says("a.parquet", b"plain text")
    assert "is not a whole ArrayRecord file" in says("a.array_record", b"plain text" * 1000)
    wrong = says("a.jsonl", as_json(TEXTS), column="body")
    assert "a.jsonl: none of" in wrong
    assert "there is no 'body': the columns are text, n" in wrong
    assert "are meta" in says("b.parquet", parquet([{"meta": "x"}] * 9))
    assert "documents.encoding" in says("binary.txt", bytes(range(128, 256)) * 100)
    assert "null characters" in says("zeros.txt", bytes(1000))
    assert "ends in any of .txt" in says("a.csv", b"a,b\n1,2\n")
    assert "documents.encoding is 'klingon'" in says("b.txt", b"text", encoding="klingon")
    for wide in ("utf-16", "utf-16-le", "utf-32", "cp037"):
        assert f"documents.encoding is '{wide}', in which" in says("b.txt", "a".encode(wide), encoding=wide)
    (tmp_path / "folder").mkdir()
    assert "holds no file" in refused(tmp_path / "folder")
    assert "matches no file" in refused(tmp_path / "*.parquets")
    assert "no such folder" in refused(f"hf:{tmp_path}/nowhere")
    assert "no such folder" in refused(f"tfds:{tmp_path}/nowhere")
    (tmp_path / "folder" / "a.txt").symlink_to(tmp_path / "gone.txt")
    gone = f"{tmp_path / 'folder' / 'a.txt'}: No such file or directory; check documents.path"
    assert refused(tmp_path / "folder") == f"cannot read {gone}"
    place = in_memory("a.array_record", b"records")
    assert refused(place) == f"{place}: ArrayRecord files are read from a disk only: copy it there"
    assert refused().startswith("documents.path is empty")
    assert refused("memory://tests/nowhere.txt").startswith("cannot read memory://tests/nowhere.txt")
