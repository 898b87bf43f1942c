"""Lists that were written as text: by their writers, read back; and nothing else."""

import json
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts.written import BEGUN, written

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("a'\"\\\n[](){},é北", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab'", max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
containers = st.lists(values, max_size=3) | st.dictionaries(st.text("ab'", max_size=2), values, max_size=3)


@given(containers)
def test_json_and_python(value: object) -> None:
    assert written(json.dumps(value)) == value
    assert written(repr(value)) == value
    assert written(f"  {value!r}\n") == value


@given(texts.filter(bool))
def test_numpy(value: list[str]) -> None:
    value = [text.rstrip("\0") for text in value]  # NumPy's texts end at their last character that is no NUL
    for array in (np.array(value, dtype=object), np.array(value)):
        expected = array.tolist()
        assert written(str(array)) == expected
        assert written(repr(array)) == expected
        assert written(str({"text": array})) == {"text": expected}
        assert written(str([np.str_(text) for text in expected])) == expected


@given(texts)
def test_tuples_and_sets_of_texts(value: list[str]) -> None:
    assert (written(str(tuple(value))) or []) == value
    assert sorted(written(str(set(value))) or []) == sorted(set(value))
    assert sorted(written(str(frozenset(value))) or []) == sorted(set(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1990. 1685.]", [1990.0, 1685.0]),
        ("[1 2 -3]", [1, 2, -3]),
        ("[nan 'a']", [None, "a"]),
        ("[None, <NA>, NaT]", [None, None, None]),
        ("[b'a' b'\\xc3\\xa9']", ["a", "é"]),
        ("array([1.5, 2. ], dtype=float32)", [1.5, 2.0]),
        ("[np.float64(1.5), np.int64(2)]", [1.5, 2]),
        ("['it\\'s', \"it's\"]", ["it's", "it's"]),
        ("[datetime.date(1990, 1, 2), 'a']", [date(1990, 1, 2), "a"]),
        ("[datetime.datetime(1990, 1, 2, 3, 4)]", [datetime(1990, 1, 2, 3, 4)]),
    ],
)
def test_other_forms(text: str, value: object) -> None:
    assert written(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "[sic]", "[Untitled]", "(500) Days of Summer", "(1, 2)", "{1, 2}", "{x}", "('Heroes')",
        "[a, b]",
        "{'a'} and {'b'}", "[1990-03-01]", "[1.2.3]", "[open('x')]", "[__import__('os')]", "['a' + 'b']",
        "['a' for a in b]", "'a'", "3", "None", "set", "setting (one)", "array", "[" * 100_000, "['a'" * 999,
        "{" * 60 + "1" + "}" * 60, "('a' 'b')", "('a', 'b' 'c')", "{'a' 'b'}", "{'a', 'b' 'c'}",
        "{'a': 1, 'b'}", "{'a': 1 'b': 2}", "array(['a'] ['b'])", "[datetime.date(1990, 13, 2)]",
        "[datetime.date('a')]", "['a'], ['b']", "['a']]", "[007]",
    ],
)  # fmt: skip
def test_what_is_no_list(text: str) -> None:
    assert written(text) is None


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("['a", True),
        ('["Q"', True),
        ("[ 'a' ... 'b']", True),
        ("array(['a", True),
        ("deque(['a'])", True),
        ("Index(['a'], dtype='object')", True),
        ("dict_keys(['a'])", True),
        ("f(x)", False),
        ("Sugar (['n])", False),
        ("[sic]", False),
        ("(a", False),
    ],
)
def test_what_begins_as_one(text: str, begun: bool) -> None:
    assert bool(BEGUN.match(text)) == begun


@given(st.text("[](){}'\"\\,: ab1.=arystenfoz", max_size=30))
def test_any_text_is_read_or_is_none(text: str) -> None:
    assert isinstance(written(text), list | dict | None)
