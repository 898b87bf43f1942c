"""Texts and cells: what is repaired, what is refused."""

import math
import unicodedata
from collections import Counter
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.cleaning import MARKS, NOT_NFC, clean, popularity_in, text_in, texts_in


@pytest.mark.parametrize(
    ("text", "cleaned", "repairs"),
    [
        ("plain", "plain", {}),
        (" two\r\n words\t", "two words", {}),
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
    with pytest.raises(cleaning.BrokenText):
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
    assert text_in(value) == text


@pytest.mark.parametrize("value", [True, False, ["a"], {"a": 1}, object()])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(cleaning.NotText):
        text_in(value)
    with pytest.raises(ValueError):  # noqa: PT011
        popularity_in(value)


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
        ('{"a": 1}', "", ['{"a": 1}']),
        ("[" * 100_000, "", ["[" * 100_000]),
        (None, "", [""]),
        (1965, "", ["1965"]),
        ([], "", []),
    ],
)
def test_answers_of_cells(value: object, separator: str, answers: list[str]) -> None:
    assert texts_in(value, separator, must_be_list=False) == answers


@pytest.mark.parametrize("value", ["a", '"a"', '{"a": 1}', "[a]", "", "[" * 100_000])
def test_what_must_be_a_list(value: str) -> None:
    with pytest.raises(cleaning.BrokenList):
        texts_in(value, "", must_be_list=True)


@pytest.mark.parametrize("value", [[["a"]], '[["a"]]', [True], {"text": "a"}])
def test_nested_answers(value: object) -> None:
    with pytest.raises(cleaning.NotText):
        texts_in(value, "", must_be_list=False)


@pytest.mark.parametrize(
    ("value", "number"), [("12", 12.0), (" 1e3 ", 1000.0), (0, 0.0), (2.5, 2.5), ("", None), (None, None)]
)
def test_popularities(value: object, number: float | None) -> None:
    assert popularity_in(value) == number


@pytest.mark.parametrize("value", ["many", "-1", -1, "inf", math.inf, "nan", "1,000"])
def test_bad_popularities(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        popularity_in(value)
