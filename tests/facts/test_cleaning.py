"""Texts and cells: what is repaired, what is refused."""

import math
import unicodedata
from collections import Counter
from datetime import date, datetime, time
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.cleaning import (
    BREAKS,
    DATE,
    MARKS,
    NOT_NFC,
    SHORT_NUMBER,
    THOUSANDS,
    WHOLE_NUMBER,
    WRITTEN,
    clean,
    popularity_in,
    text_in,
    texts_in,
)
from pretrainrl_jax.facts.columns import Column
from pretrainrl_jax.facts.tables import Single


@pytest.mark.parametrize(
    ("text", "cleaned", "repairs"),
    [
        ("plain", "plain", {}),
        (" two  words\t\n", "two words", {}),
        (" two\r\n words\t", "two words", {BREAKS: 1}),
        ("a\u00a0b\u2028c", "a b c", {}),
        ("Cafe\u0301", "Café", {NOT_NFC: 1}),
        ("\u200bzero\ufeff", "zero", {MARKS: 1}),
        ("bell\x07\x00", "bell", {MARKS: 1}),
        ("a \u200e b", "a b", {MARKS: 1}),
        ("e\u200b\u0301", "é", {MARKS: 1, NOT_NFC: 1}),
        ("שלום עולם", "שלום עולם", {}),  # right-to-left text stays as it is written
        ("\u202bשלום\u202c", "שלום", {MARKS: 1}),
        ("نمی\u200cخواهم", "نمی\u200cخواهم", {}),  # a joiner is spelling
        ("👩\u200d🚀", "👩\u200d🚀", {}),
        ("\x1fx\x85", "x", {}),
        ("", "", {}),
    ],
)
def test_repairs(text: str, cleaned: str, repairs: dict[str, int]) -> None:
    repaired: Counter[str] = Counter()
    assert clean(text, repaired) == cleaned
    assert repaired == repairs


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("e\u200b\u0301")
@example("\u2000\u0301")
def test_a_clean_text_is_on_one_line_in_nfc_without_marks(text: str) -> None:
    once = clean(text, Counter())
    again: Counter[str] = Counter()
    assert clean(once, again) == once
    assert again == {}
    assert once == unicodedata.normalize("NFC", once)
    assert once == " ".join(once.split())
    assert not any(unicodedata.category(letter) == "Cc" for letter in once)
    marks = "\u200b\u200e\u200f\u061c\u2060\ufeff"

    def letters(told: str) -> list[str]:
        # All but whitespace, controls and the marks above is kept.
        bidi = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        return [
            letter
            for letter in unicodedata.normalize("NFD", told)
            if not letter.isspace()
            and unicodedata.category(letter) != "Cc"
            and letter not in marks
            and unicodedata.bidirectional(letter) not in bidi
        ]

    assert Counter(letters(once)) == Counter(letters(text))


@pytest.mark.parametrize("text", ["\ud83d", "a\udc80é"])
def test_half_a_surrogate_pair_is_no_text(text: str) -> None:
    with pytest.raises(cleaning.Unusable, match=cleaning.BROKEN_TEXT):
        clean(text, Counter())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, ""),
        (math.nan, ""),
        (Decimal("nan"), ""),
        (1965, "1965"),
        (0, "0"),
        (2.5, "2.5"),
        (Decimal("1.50"), "1.50"),
        (date(1965, 3, 1), "1965-03-01"),
    ],
)
def test_texts_of_cells(value: object, text: str) -> None:
    assert text_in(value, Counter()) == text


@pytest.mark.parametrize("value", [True, False, ["a"], {"a": 1}, object()])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(cleaning.NotText):
        text_in(value, Counter())
    with pytest.raises(ValueError):  # noqa: PT011
        popularity_in(value, Counter())


@pytest.mark.parametrize(
    ("value", "separator", "answers"),
    [
        ("a", "", ["a"]),
        ("a|b", "", ["a|b"]),
        ("a| b|", "|", ["a", " b", ""]),
        (["a|b", 3, None], "|", ["a|b", "3", ""]),
        (("a", "b"), "", ["a", "b"]),
        ('["a", "b"]', "|", ["a", "b"]),
        (' ["a", 3, null]', "", ["a", "3", ""]),
        ("[Untitled]", "", ["[Untitled]"]),
        ("[" * 100_000, "", ["[" * 100_000]),
        ([["a"], ["b", "c"]], "", ["a", "b", "c"]),
        ("['a', 'b']", "", ["a", "b"]),
        ("['a' 'b']", "|", ["a", "b"]),
        ("a\nb\n", "\n", ["a", "b", ""]),
        ("a\n", "", ["a\n"]),
        (["a\nb"], "", ["a\nb"]),
        (None, "", [""]),
        (1965, "", ["1965"]),
        ([], "", []),
    ],
)
def test_answers_of_cells(value: object, separator: str, answers: list[str]) -> None:
    assert texts_in(value, separator, False, Counter()) == answers


@pytest.mark.parametrize("value", ["a", '"a"', '{"a": 1}', "[a]", "", "[" * 100_000])
def test_what_must_be_a_list(value: str) -> None:
    with pytest.raises(cleaning.BrokenList):
        texts_in(value, "", True, Counter())


@pytest.mark.parametrize("value", [[{"a": 1}], '[{"a": 1}]', [True], {"text": "a"}, '{"a": 1}', "{'a': 'b'}"])
def test_nested_answers(value: object) -> None:
    with pytest.raises(cleaning.NotText):
        texts_in(value, "", False, Counter())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("12", 12.0),
        (" 1e3 ", 1000.0),
        (0, 0.0),
        (2.5, 2.5),
        ("", None),
        (None, None),
        ("NaN", None),
        ("N/A", None),
        ("none", None),
        (math.nan, None),
        ("1,234", 1234.0),
        ("12,345,678.5", 12345678.5),
    ],
)
def test_popularities(value: object, number: float | None) -> None:
    assert popularity_in(value, Counter()) == number


@pytest.mark.parametrize("value", ["many", "-1", -1, "inf", math.inf, "1,00", "1234,567", "1.234,5"])
def test_bad_popularities(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        popularity_in(value, Counter())


@pytest.mark.parametrize(
    ("values", "texts", "rule"),
    [
        ([1990.0, 1685.0, None], ["1990", "1685", ""], WHOLE_NUMBER),
        (["1990.0", "1685.0", " "], ["1990", "1685", " "], WHOLE_NUMBER),
        ([1.0, 2.5], ["1.0", "2.5"], ""),
        (["1.0", "2.5"], ["1.0", "2.5"], ""),
        (["1.0", "one"], ["1.0", "one"], ""),
        (["1.50", "2.00"], ["1.50", "2.00"], ""),
        ([True, 1.0], [None, "1.0"], ""),
        ([datetime(1990, 3, 1), datetime(1685, 1, 2)], ["1990-03-01", "1685-01-02"], DATE),
        ([datetime(1990, 3, 1), datetime(1685, 1, 2, 3)], ["1990-03-01 00:00:00", "1685-01-02 03:00:00"], ""),
        (["1990-03-01 00:00:00", "1685-01-02"], ["1990-03-01", "1685-01-02"], DATE),
        (["1990-03-01T00:00:00.000Z"], ["1990-03-01"], DATE),
        (["1990-03-01 00:00:00", "noon"], ["1990-03-01 00:00:00", "noon"], ""),
        ([Decimal("1990.0")], ["1990.0"], ""),
        ([time(7, 30), time()], ["07:30:00", "00:00:00"], ""),
    ],
)
def test_numbers_and_days_of_a_column(values: list[object], texts: list[str | None], rule: str) -> None:
    column, repaired = Column(), Counter[str]()
    for value in values:
        column.add(value)
    for value, text in zip(values, texts, strict=True):
        if text is not None:
            assert text_in(value, repaired, column) == text
    assert +repaired == (
        {rule: sum(str(v) != t for v, t in zip(values, texts, strict=True) if t)} if rule else {}
    )


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_number_of_32_bits_is_the_shortest_that_means_it(number: float) -> None:
    repaired = Counter[str]()
    text = text_in(Single(number), repaired)
    assert text == str(np.float32(number))
    assert np.float32(text) == np.float32(number)
    assert repaired[SHORT_NUMBER] == (text != str(number))


def test_what_is_read_as_meant_is_counted() -> None:
    repaired = Counter[str]()
    texts_in("['a']", "", False, repaired)
    texts_in('["a"]', "", False, repaired)
    popularity_in("1,234", repaired)
    assert +repaired == {WRITTEN: 1, THOUSANDS: 1}


@pytest.mark.parametrize("text", ['["Q"', "['a', 'b'", "['a' ... 'b']", '["Heroes"] (live)', "array(['a'"])
def test_a_list_that_breaks_off_is_never_an_answer(text: str) -> None:
    with pytest.raises(cleaning.Unusable, match=cleaning.BROKEN_LIST):
        texts_in(text, "", False, Counter())


def test_several_lines_are_no_answer_unless_they_are_told_to_be() -> None:
    with pytest.raises(cleaning.Unusable, match=cleaning.SEVERAL_LINES):
        texts_in("Lomel\nLom City", "", False, Counter())
    assert texts_in("Lomel\nLom City", "\n", False, Counter()) == ["Lomel", "Lom City"]
