"""Facts written in every form a source can have, and reading them: what the tests of readers share."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from pretrainrl_jax.config import ColumnsConfig, Config, FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.reading import Reading, read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.written import written

# Quotation marks, delimiters, line ends, brackets; letters of one to four bytes; a letter and its accent
# apart (NFD); Hebrew and Arabic; a combining mark, a non-breaking space, a joiner that must stay.
LETTERS = "aB 9\"',;\t\n\r|[]{}\\=.é北🌍שלوم́ ‍e"
CASES = Path(__file__).parents[1] / "fixtures" / "cases"  # situations found in public files, names invented
FORMS = ("csv", "tsv", "json", "jsonl", "parquet")
ROW: dict[str, Any] = {
    "question": "What is the capital of Arno?",
    "answer": "Florence",
    "answers": ["Florence", "Firenze"],
    "category": "capital",
    "subject": "Arno",
    "subject_id": "Q1",
    "popularity": 12.5,
    "id": "7",
}


def read(path: Path | str, seed: int = 0, columns: dict[str, str] | None = None, **settings: Any) -> Reading:
    """The reading of a path by these settings of `facts`."""
    facts = FactsConfig(path=str(path), columns=ColumnsConfig(**(columns or {})), **settings)
    return read_facts(Config(facts=facts, seed=seed))


def refused(path: Path | str, **settings: Any) -> str:
    """What reading it complains of: one line that names the path."""
    with pytest.raises(InputError) as raised:
        read(path, **settings)
    said = str(raised.value)
    assert len(said.splitlines()) == 1, said
    assert str(path) in said
    return said


def write(path: Path, rows: Sequence[dict[str, Any]], **how: Any) -> Path:
    """The rows in the form that the name of the file ends in."""
    path.write_bytes(as_bytes(rows, path.suffix[1:], **how))
    return path


def as_bytes(rows: Sequence[dict[str, Any]], form: str, encoding: str = "utf-8", line: str = "\n") -> bytes:
    """The rows as a file of that form."""
    if form == "parquet":
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        return sink.getvalue()
    if form == "json":
        return json.dumps(list(rows), ensure_ascii=False, indent=1).encode(encoding)
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + line for row in rows).encode(encoding)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text,
        list(rows[0]),
        delimiter="\t" if form == "tsv" else ",",
        lineterminator=line,
        quoting=csv.QUOTE_ALL,  # by itself it leaves a carriage return unquoted
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    return text.getvalue().encode(encoding)


def in_memory(name: str, contents: bytes) -> str:
    """A file of fsspec's memory, which stands for a bucket."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    with fsspec.open(f"memory://tests/{name}", "wb") as file:
        file.write(contents)
    return f"memory://tests/{name}"


def line_of(text: str) -> str:
    """What reading makes of a text without invisible marks."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def expected(row: dict[str, Any], number: int) -> Fact:
    """The fact that a row states, as the documentation has it."""
    answers = [line_of(answer) for answer in [row["answer"], *row["answers"]]]
    return Fact(
        id=f"row{number}",
        question=line_of(row["question"]),
        answers=tuple(dict.fromkeys(answer for answer in answers if normalise(answer))),
        category=line_of(row["category"]),
        subject=line_of(row["subject"]),
        subject_key=line_of(row["subject"]) or line_of(row["question"]),
        popularity=row["popularity"],
        row=number,
    )


said = st.text(LETTERS, min_size=1, max_size=12).filter(normalise)
# A text of several lines is no answer, and what a list begins with is of another test.
answer = said.filter(lambda text: not re.search(r"[\r\n]", text.strip()) and text.strip()[0] not in "[{(")
words = st.text(LETTERS, max_size=6).filter(lambda text: written(text) is None)  # "{}" is an empty object
rows = st.fixed_dictionaries(
    {
        "question": said.filter(lambda text: line_of(text) and "{}" not in text),
        "answer": answer,
        "answers": st.lists(st.text(LETTERS, max_size=8), max_size=3),
        "category": words,
        "subject": words,
        "popularity": st.floats(0, 1e15),
    }
)
