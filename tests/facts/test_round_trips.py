"""Facts saved by pandas, `datasets`, csv and json in the forms those offer are read back as they were."""

import csv
import json
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.fact_sources import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pd = pytest.importorskip("pandas", reason="pandas is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

Facts = list[dict[str, Any]]
# A letter first: numbers, lists and words for nothing have tests of their own.
text = (
    st.builds(
        lambda first, rest: (first + rest).strip(),
        st.sampled_from("aBé北"),
        st.text("aB 9\"',;:|[]{}()\\=.é北🌍", max_size=10),
    )
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: "{}" not in text)
)
facts = st.lists(
    st.fixed_dictionaries(
        {
            "question": text,
            "answer": text,
            "aliases": st.lists(text, max_size=3),
            "category": text,
            "popularity": st.none() | st.integers(0, 10**6),
        }
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda fact: fact["question"],
)


def frame(rows: Facts) -> Any:
    return pd.DataFrame(rows)


def table(rows: Facts) -> Any:
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "aliases": datasets.List(datasets.Value("string")),
            "category": datasets.Value("string"),
            "popularity": datasets.Value("float64"),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)


def by_csv(path: Path, rows: Facts, aliases: Callable[[list[str]], str], **how: Any) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(row | {"aliases": aliases(row["aliases"])} for row in rows)


def as_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def trivia(row: dict[str, Any]) -> dict[str, Any]:
    nested = {"Value": row["answer"], "Aliases": row["aliases"]}
    return {**row, "answer": None, "aliases": None, "Answer": nested}


def squad(row: dict[str, Any]) -> dict[str, Any]:
    true = [row["answer"], *row["aliases"]]
    return {**without(row, "answer", "aliases"), "answers": {"text": true, "answer_start": [0] * len(true)}}


def kilt(row: dict[str, Any]) -> dict[str, Any]:
    output = [{"answer": answer} for answer in (row["answer"], *row["aliases"])] + [{"provenance": []}]
    return {**without(row, "question", "answer", "aliases"), "input": row["question"], "output": output}


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def jsonl(path: Path, rows: Facts) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Facts], Any]] = {
    "pandas.csv": lambda path, rows: frame(rows).to_csv(path),
    "pandas_bare.tsv": lambda path, rows: frame(rows).to_csv(path, sep="\t", index=False),
    "tuples.csv": lambda path, rows: (
        frame(rows).assign(aliases=[tuple(r["aliases"]) for r in rows]).to_csv(path)
    ),
    "arrays.csv": lambda path, rows: (
        frame(rows)
        .assign(aliases=[pd.array(r["aliases"], dtype=object).to_numpy() for r in rows])
        .to_csv(path)
    ),
    "records.json": lambda path, rows: frame(rows).to_json(path, orient="records"),
    "lines.json": lambda path, rows: frame(rows).to_json(path, orient="records", lines=True),
    "lines.jsonl.gz": lambda path, rows: frame(rows).to_json(path, orient="records", lines=True),
    "table.json": lambda path, rows: frame(rows).to_json(path, orient="table"),
    "split.json": lambda path, rows: frame(rows).to_json(path, orient="split"),
    "columns.json": lambda path, rows: frame(rows).to_json(path),
    "index.json": lambda path, rows: frame(rows).to_json(path, orient="index"),
    "series.json": lambda path, rows: as_json(path, frame(rows).fillna(0).to_dict("list")),
    "pandas.parquet": lambda path, rows: frame(rows).to_parquet(path),
    "datasets.csv": lambda path, rows: table(rows).to_csv(path),
    "datasets.json": lambda path, rows: table(rows).to_json(path),
    "datasets_list.json": lambda path, rows: table(rows).to_json(path, lines=False),
    "datasets.parquet": lambda path, rows: table(rows).to_parquet(path),
    "hf": lambda path, rows: table(rows).save_to_disk(path),
    "hf_splits": lambda path, rows: datasets.DatasetDict({"train": table(rows)}).save_to_disk(path),
    "lists.csv": lambda path, rows: by_csv(path, rows, json.dumps),
    "python.csv": lambda path, rows: by_csv(path, rows, str, quoting=csv.QUOTE_ALL),
    "python.tsv": lambda path, rows: by_csv(path, rows, str, delimiter="\t"),
    "wrapped.json": lambda path, rows: as_json(path, {"version": "1", "data": rows}),
    "nested.json": lambda path, rows: as_json(path, [trivia(row) for row in rows]),
    "nested.jsonl": lambda path, rows: jsonl(path, [squad(row) for row in rows]),
    "nested.parquet": lambda path, rows: frame([squad(row) for row in rows]).to_parquet(path),
    "nested.csv": lambda path, rows: frame([squad(row) for row in rows]).to_csv(path),
    "kilt.jsonl": lambda path, rows: jsonl(path, [kilt(row) for row in rows]),
    "late.jsonl": lambda path, rows: jsonl(path, [{n: v for n, v in row.items() if v} for row in rows]),
}


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(rows=facts)
def test_facts_are_read_back_equal(name: str, rows: Facts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        WRITERS[name](path, rows)
        reading = read(f"hf:{path}" if name.startswith("hf") else path)
    assert [(f.question, f.answers, f.category, f.popularity) for f in reading.facts] == [
        (
            row["question"],
            tuple(dict.fromkeys((row["answer"], *row["aliases"]))),
            row["category"],
            float(row["popularity"] or 0),
        )
        for row in rows
    ]


SAVED: dict[str, Callable[[Path, Any], Any]] = {
    "facts.csv": lambda path, made: made.to_csv(path, index=False),
    "facts.json": lambda path, made: made.to_json(path, orient="records", date_format="iso"),
    "facts.jsonl": lambda path, made: made.to_json(path, orient="records", lines=True, date_format="iso"),
    "facts.parquet": lambda path, made: made.to_parquet(path),
}


@pytest.mark.parametrize("name", SAVED)
@settings(deadline=None, max_examples=15)
@given(values=st.lists(st.none() | st.integers(-3000, 3000), min_size=1, max_size=5).filter(any))
def test_years_beside_a_blank_stay_years(name: str, values: list[int | None]) -> None:
    made = pd.DataFrame({"question": [f"When was {n}?" for n in range(len(values))], "answer": values})
    assert stored(name, made) == [str(value) for value in values if value is not None]


@pytest.mark.parametrize("name", SAVED)
@settings(deadline=None, max_examples=15)
@given(
    days=st.lists(st.dates(datetime(1700, 1, 1).date(), datetime(2200, 1, 1).date()), min_size=1, max_size=4)
)
def test_days_stay_days(name: str, days: list[Any]) -> None:
    made = pd.DataFrame(
        {"question": [f"When was {n}?" for n in range(len(days))], "answer": pd.to_datetime(days)}
    )
    assert stored(name, made) == [str(day) for day in days]


@pytest.mark.parametrize("name", ["facts.csv", "facts.parquet"])
@settings(deadline=None, max_examples=15)
@given(values=st.lists(st.decimals(0, 1000, places=2).map(lambda d: d + 1), min_size=1, max_size=4))
def test_numbers_of_32_bits_have_no_noise(name: str, values: list[Any]) -> None:
    values = [*values, values[0] // 1 + type(values[0])("0.25")]  # one is no whole number
    floats = pd.array([float(value) for value in values], dtype="float32")
    made = pd.DataFrame({"question": [f"How long is {n}?" for n in range(len(values))], "answer": floats})
    assert stored(name, made) == [str(float(value)) for value in values]


def stored(name: str, made: Any) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        SAVED[name](Path(folder) / name, made)
        return [fact.answer for fact in read(Path(folder) / name).facts]
