"""CSV, TSV, JSON, JSON Lines and Parquet: what is written is read, what is broken is named with its line."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fact_sources import (
    FORMS,
    ROW,
    as_bytes,
    expected,
    in_memory,
    line_of,
    read,
    refused,
    rows,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.reading import Reading
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.tables import decoded

FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=40)
@given(written=st.lists(rows, min_size=1, max_size=4))
def test_what_is_written_is_read(form: str, written: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"facts.{form}", written)
        reading = read(path, duplicates="keep", quoting="quoted")
    truths = everything_said(expected(row, 0) for row in written)
    assert [without_row(fact) for fact in reading.facts] == [without_row(fact) for fact in truths]
    numbers = [fact.row for fact in reading.facts]
    assert [fact.id for fact in reading.facts] == [f"row{number}" for number in numbers]
    if form in ("json", "jsonl", "parquet"):
        assert numbers == list(range(1, len(written) + 1))
    else:
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 2


def everything_said(facts: Iterable[Fact]) -> list[Fact]:
    """Each with what any says in answer to its question."""
    facts = list(facts)
    return [
        replace(
            f,
            answers=tuple(
                dict.fromkeys(a for g in (f, *facts) if g.question == f.question for a in g.answers)
            ),
        )
        for f in facts
    ]


def without_row(fact: Fact) -> tuple[Any, ...]:
    """All but where it stood."""
    return (*(getattr(fact, name) for name in Fact.__slots__ if name not in ("id", "row")),)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_in_every_form_here_and_in_a_bucket(form: str, tmp_path: Path) -> None:
    contents = as_bytes([ROW], form)
    (tmp_path / f"facts.{form}").write_bytes(contents)
    local = read(tmp_path / f"facts.{form}").facts
    number = 2 if form in ("csv", "tsv") else 1
    assert local == [
        Fact(
            "7",
            ROW["question"],
            ("Florence", "Firenze"),
            "capital",
            "Arno",
            "Q1",
            12.5,
            number,
            local[0].paraphrase,
            local[0].rewordings,
        )
    ]
    assert local[0].paraphrase not in ("", local[0].question)
    assert len(local[0].rewordings) == 2
    assert read(in_memory(f"facts.{form}", contents)).facts == local


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("line", ["\n", "\r\n", "\r"])
def test_byte_order_marks_encodings_and_line_ends(
    form: str, encoding: str, line: str, tmp_path: Path
) -> None:
    if form == "jsonl" and line == "\r":
        line = "\n\r\n"  # a blank line between
    two = [ROW | {"answer": "Älmhult"}, ROW | {"id": "8", "question": "¿Qué?"}]
    path = write(tmp_path / f"facts.{form}", two, encoding=encoding, line=line)
    named = "utf-8" if encoding == "utf-8-sig" else encoding
    facts = read(path, encoding=named).facts
    assert [(fact.id, fact.question, fact.answer) for fact in facts] == [
        ("7", ROW["question"], "Älmhult"),
        ("8", "¿Qué?", "Florence"),
    ]


@pytest.mark.parametrize("form", FORMS)
@FUZZ
@given(garbage=st.binary(max_size=60))
def test_any_bytes_are_facts_or_one_line(form: str, garbage: bytes) -> None:
    facts_or_one_line(in_memory(f"garbage.{form}", garbage))


@pytest.mark.parametrize("form", FORMS)
@FUZZ
@given(data=st.data())
def test_a_damaged_file_is_facts_or_one_line(form: str, data: st.DataObject) -> None:
    intact = as_bytes([ROW, ROW | {"question": "Who?", "answers": []}], form)
    at = data.draw(st.integers(0, len(intact)))
    cut = data.draw(st.integers(at, min(len(intact), at + 8)))
    damaged = intact[:at] + data.draw(st.binary(max_size=6)) + intact[cut:]
    facts_or_one_line(in_memory(f"damaged.{form}", damaged))
    facts_or_one_line(in_memory(f"cut.{form}", intact[:at]))


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
@FUZZ
@given(text=st.text('ab,\t\n\r"[]{}:\\é\ufeff\x00 1', max_size=60))
def test_any_text_is_facts_or_one_line(form: str, text: str) -> None:
    header = {"csv": "question,answer\n", "tsv": "question\tanswer\n"}.get(form, "")
    facts_or_one_line(in_memory(f"text.{form}", (header + text).encode()))


def reading_or_complaint(path: str) -> Reading | str:
    """Anything but InputError fails the test."""
    try:
        return read(path)
    except InputError as error:
        return str(error)


def facts_or_one_line(path: str) -> None:
    """Nothing else comes of it: every row accounted for, or one line that names the path."""
    outcome = reading_or_complaint(path)
    if isinstance(outcome, str):
        assert path in outcome
        assert len(outcome.splitlines()) == 1
        return
    reading = outcome
    assert reading.facts
    assert reading.rows == len(reading.facts) + len(reading.dropped) + len(reading.merged)
    for fact in reading.facts:
        assert fact.question == line_of(fact.question)
        assert fact.answers


HEADER, CELLS = "question,answer\n", "What?,Florence\n"
BROKEN = {
    "short.csv": (HEADER + CELLS + "Who?\n", "short.csv, line 3: 1 columns where the header has 2"),
    "long.csv": (
        HEADER + "Who?,a,b\n",
        "line 2: 3 columns where the header has 2: separate them with commas",
    ),
    "quote.csv": (HEADER + CELLS + '"Who?,a\n', "line 3: not a row separated by commas"),
    "stray.tsv": ('question\tanswer\n"Who" is?\ta\n', "line 2: not a row separated by tabs"),
    "after.csv": (HEADER + '"two\nlines",a\n\nWho?\n', "line 5: 1 columns"),
    "twice.csv": ("question,answer,answer\n1,2,3\n", "line 1: the column 'answer' stands there twice"),
    "empty.csv": ("", "no facts in"),
    "header.csv": (HEADER, "no facts in"),
    "blank.csv": (HEADER + "\n  \n,\n", "no facts in"),
    "empty.json": ("", "line 1: not JSON (Expecting value at column 1)"),
    "cut.json": ('[{"question": "Who?",\n"answer":\n', "cut.json, line 3: not JSON"),
    "number.json": ("3", "holds a number where a list of objects should be"),
    "object.json": ('{"question": "Who?"}', "item 1: no column for the answer"),
    "lists.json": (
        '{"a": [{"b": 1}], "c": [{"d": 1}]}',
        "several lists of objects: a, c: name one in facts.records",
    ),
    "text.json": (
        '[{"question": "Who?", "answer": "a"}, "Who?"]',
        "text.json, item 2: a text where an object",
    ),
    "none.json": ("[]", "no facts in"),
    "columns.json": ('{"a": {"x": 1}, "b": {"y": 2}}', "item 1: no column for the question"),
    "digits.json": ("[" + "1" * 5000 + "]", "JSON that cannot be read"),
    "deep.json": ("[" * 100_000, "JSON that cannot be read"),
    "cut.jsonl": ('{"question": "Who?", "answer": "a"}\n\n{"question"\n', "cut.jsonl, line 3: not JSON"),
    "list.jsonl": ("[1, 2]\n", "list.jsonl, line 1: a list where an object"),
    "two.jsonl": (
        '{"question": "Who?", "answer": "a"} {"question": "Why?", "answer": "b"}\n',
        "two.jsonl, line 1: not JSON (Extra data at column 37)",
    ),
    "twice.jsonl": (
        '{"question": "Who?", "answer": "a", "answer" : "b"}\n',
        "twice.jsonl, line 1: JSON that cannot be read (Ambiguous: an object has 'answer' twice)",
    ),
    "inner.json": (
        '[{"question": "Who?",\n"answer": {"en": "a", "en": "b"}}]',
        "inner.json: JSON that cannot be read (Ambiguous: an object has 'en' twice)",
    ),
    "term.tsv": ('?item\t?answer\n<Q1>\t"a"@en\n<Q2\t"b"@en\n', "line 3: '<Q2' is no SPARQL term"),
    "deep.jsonl": ("{}\n" + "[" * 100_000, "deep.jsonl, line 2: JSON that cannot be read"),
    "none.parquet": ("question", "is not a whole Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_their_line(name: str, tmp_path: Path) -> None:
    text, words = BROKEN[name]
    (tmp_path / name).write_text(text, newline="")
    assert words in refused(tmp_path / name)


def test_a_parquet_file_cut_off(tmp_path: Path) -> None:
    intact = as_bytes([ROW] * 100, "parquet")
    (tmp_path / "cut.parquet").write_bytes(intact[: len(intact) // 2])
    assert "is not a whole Parquet file" in refused(tmp_path / "cut.parquet")


def test_line_numbers_count_the_lines_of_quoted_cells(tmp_path: Path) -> None:
    (tmp_path / "facts.csv").write_text('question,answer\n"What\nis it?",a\n\nWho?,b\n')
    assert [(fact.question, fact.row) for fact in read(tmp_path / "facts.csv").facts] == [
        ("What is it?", 2),
        ("Who?", 5),
    ]


def test_a_column_twice_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    names = ["question", "answer", "answer"]
    pq.write_table(pa.table([pa.array([name]) for name in names], names=names), tmp_path / "twice.parquet")
    assert "twice.parquet: the column 'answer' stands there twice" in refused(tmp_path / "twice.parquet")


def test_bytes_that_are_no_text_in_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.parquet", [{"question": b"Who?", "answer": b"Zo\xc3\xab"}])
    assert read(path).facts[0].answers == ("Zoë",)
    path = write(tmp_path / "facts.parquet", [{"question": b"Who?", "answer": b"Zo\xeb"}])
    assert "facts.parquet, row 1: bytes that are not UTF-8 text" in refused(path)


def test_numbers_of_32_bits_in_nested_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    kind = pa.struct([("value", pa.float32()), ("others", pa.list_(pa.float32()))])
    rows = [{"value": 0.1, "others": [2.7, None, 0.1]}, {"value": None, "others": None}, None]
    made = pa.table({"question": ["A?", "B?", "C?"], "answer": pa.array(rows, kind)})
    pq.write_table(made, tmp_path / "facts.parquet")
    reading = read(tmp_path / "facts.parquet", columns={"answers": "answer.others"})
    assert [fact.answers for fact in reading.facts] == [("0.1", "2.7")]
    assert len(reading.dropped) == 2


@pytest.mark.parametrize("value", [timedelta(hours=1), float("inf")])
def test_what_no_text_is_is_shown(value: timedelta | float, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    rows = [{"question": "Who?", "answer": value, "aliases": "me"}]
    rows += [{"question": "What?", "answer": None, "aliases": "a man"}]
    reading = read(write(tmp_path / "facts.parquet", rows))
    assert [fact.answers for fact in reading.facts] == [("a man",)]
    assert [(row.rule, row.text) for row in reading.dropped] == [
        ("not text", f"answer holds {value} ({type(value).__name__}): Who? | {value} | me")
    ]


def test_numbers_of_32_bits_of_numpy() -> None:
    """As data sets give them: as text the shortest that means the number; others are as they were."""
    values = {
        "one": np.float32(0.1),
        "nested": [np.array([[0.1, 2.7]], np.float32)],
        "double": np.float64(0.1),
        "whole": np.array([3], np.int32),
        "text": np.array([b"Zo\xc3\xab"], object),
    }
    assert {name: str(value) for name, value in decoded(values).items() if name != "nested"} == {
        "one": "0.1",
        "double": "0.1",
        "whole": "[3]",
        "text": "['Zoë']",
    }
    assert [str(value) for value in decoded(values)["nested"][0][0]] == ["0.1", "2.7"]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ('[{"question": "Who?", "answer": "a"}]', "it holds a list"),
        ("3", "it holds a number"),
        ('{"a": [{"b": 1}], "c": [{"d": 1}]}', "there are a, c"),
        ('{"question": "Who?", "answer": "a"}', "there are question, answer"),
    ],
)
def test_records_that_are_not_there(text: str, there: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text)
    assert refused(path, records="rows") == f"{path}: no rows in it (facts.records); {there}"


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "facts.parquet", [ROW])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'pretrainrl_jax[data]'" in refused(path)


def test_an_answer_that_is_no_list_stays_a_text(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([{"question": "Who?", "answer": "[Untitled]"}]))
    assert read(tmp_path / "facts.json").facts[0].answers == ("[Untitled]",)
