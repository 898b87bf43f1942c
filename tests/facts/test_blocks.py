"""Plain rows are read by the block: the same facts as row by row, whatever stands among them."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from helpers.fact_sources import read
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import blocks, plain, reading
from pretrainrl_jax.facts.cleaning import clean, tidy
from pretrainrl_jax.facts.columns import Survey
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.written import BEGUN, may_hold

WORDS = "|Arno|Oslo|Café|Cafe\u0301|रोम|a  b| a|a\n b|a\0b|\u200bx|[x|['a']|{}|None|nan|NA|?!|(a|set(x|row2"
LISTS = ("deque(['a'", "pd.Index(['a'])")
texts = st.sampled_from([*WORDS.split("|"), *LISTS, " ", "1990", "1990.0", "12", "3.5", "-1", "2020-01-01"])
nulls = st.sampled_from([("None", "nan"), ("1", "12", "Oslo", "Who?")])
numbers = st.integers(-1, 9) | st.floats(-1, 9) | st.sampled_from([2**70, 10**400, math.nan, math.inf])
scalars = st.none() | st.booleans() | texts | numbers
lists = st.lists(texts, max_size=3) | st.lists(scalars, max_size=2)
values = scalars | lists | st.fixed_dictionaries({"in": texts})
usual = st.sampled_from(["Who?", "Where?", "Why {}?", "What [X]?", "How?"])
known = st.lists(st.sampled_from(["Oslo", "Turin"]), min_size=1, max_size=2)
row = st.fixed_dictionaries(
    {"question": usual | scalars, "answer": st.sampled_from(["Oslo", "Roma"]) | values},
    optional={
        "answers": known | known.map(json.dumps) | values,
        "category": st.sampled_from(["capital", "x"]) | scalars,
        "subject": scalars,
        "subject_id": scalars,
        "popularity": st.integers(0, 9) | scalars,
        "o_pop": scalars,
        "id": st.integers(0, 3) | scalars,
    },
)
tables = st.lists(row, min_size=1, max_size=9) | row.map(lambda one: [one] * 5)


def told(rows: list[dict[str, Any]], **settings: Any) -> str:
    numbered = [Row("f.json, item", number, row) for number, row in enumerate(rows, start=1)]
    with patch.object(reading, "_twice", lambda _: lambda: numbered):
        try:
            return repr(read("f.json", **settings))
        except InputError as error:
            return str(error)


@given(tables, st.integers(1, 4), st.sampled_from([(), ("capital",)]), nulls)
def test_blocks_give_what_rows_give(
    rows: list[dict[str, Any]], size: int, categories: tuple[str, ...], nulls: tuple[str, ...]
) -> None:
    with patch.object(blocks, "ROWS", size):
        by_block = told(rows, categories=categories, nulls=nulls)
    with (
        patch("pretrainrl_jax.facts.sorting.plain_cells", lambda _, rows: [None] * len(rows)),
        patch.object(plain, "by_column", lambda _: {}),
    ):
        assert told(rows, categories=categories, nulls=nulls) == by_block


def test_words_for_nothing_may_be_numbers() -> None:
    rows = [{"question": f"Who {n}?", "answer": "Oslo", "category": n % 2} for n in range(3)]
    said = told(rows, nulls=("0",))
    assert said.count("category=''") == 2
    assert "'null words': 2" in said


def test_lists_that_broke_off_are_no_answers() -> None:
    rows = [{"question": f"Who {n}?", "answer": "deque(['Oslo', 'Ro"} for n in range(2)]
    rows += [{"question": "Where?", "answer": "Oslo"}]
    assert told(rows).count("rule='broken list'") == 2


@given(tables)
def test_columns_are_looked_through_by_the_block_as_by_the_row(rows: list[dict[str, Any]]) -> None:
    every = [Row("f, line", number, row) for number, row in enumerate(rows, start=1)]
    whole, single = Survey(), Survey()
    whole.add(every)
    with patch.object(plain, "by_column", lambda _: {}):
        single.add(every)
    assert {**vars(whole), "columns": None} == {**vars(single), "columns": None}
    assert whole.columns == single.columns


@pytest.mark.parametrize("name", [name for name in vars(plain) if name.startswith("are_")])
@given(columns=st.lists(values, min_size=1, max_size=5))
def test_what_holds_of_many_holds_of_each(name: str, columns: list[Any]) -> None:
    holds = getattr(plain, name)
    unfit = plain.exceptions(columns, holds)
    assert unfit == [place for place, value in enumerate(columns) if not holds([value])]
    assert not (holds(columns) and unfit)


@given(texts | st.text())
def test_a_tidy_text_is_clean(text: str) -> None:
    assert plain.are_tidy([text]) == tidy(text)
    if tidy(text):
        assert clean(text, Counter()) == text  # and nothing is counted
    if plain.are_filled([text]):
        assert text.strip()
        assert not may_hold(text)
        assert not BEGUN.match(text)


def test_later_rows_may_say_what_a_column_is(tmp_path: Path) -> None:
    """The first block alone would read years of a column of whole numbers, and no aliases."""
    rows = [{"question": f"When {n}?", "answer": "1990.0"} for n in range(4)]
    rows += [{"question": "When at last?", "answer": "a while ago", "aliases": ["long ago"]}]
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with patch.object(blocks, "ROWS", 2):
        facts = read(path).facts
    assert [fact.answers for fact in facts] == [("1990.0",)] * 4 + [("a while ago", "long ago")]
