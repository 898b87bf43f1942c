"""Rules of quality on texts that fail one of them, and words of a list against a slow count."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.documents.quality import OURS, failed_rule, read_blocklist, word_counter
from pretrainrl_jax.errors import InputError

PLAIN = "the small house of stone stands near the river and "  # ten words
TEXTS = {
    "": PLAIN * 5,
    "words": "the " * 49,
    "word_length": "the of " + "a " * 100,
    "symbols": PLAIN * 5 + "#stone " * 6,
    "bullets": "\n".join(f"- {PLAIN}" for _ in range(10)),
    "ellipses": "\n".join([f"{PLAIN}..."] * 4 + [PLAIN] * 6),
    "letters": PLAIN * 5 + "1900 " * 13,
    "stop_words": "small house stone stands near river the " * 8,
}


@pytest.mark.parametrize("rule", TEXTS)
def test_a_text_fails_its_rule(rule: str):
    assert failed_rule(TEXTS[rule]) == rule


@pytest.mark.parametrize(
    "text",
    [
        "the of " + "stone " * 48,  # 50 words
        "the and " + "abc " * 98,  # of 3 letters
        ("- " + PLAIN + "\n") * 9 + PLAIN + "\n",  # nine of ten lines
        (PLAIN + "…\n") * 3 + (PLAIN + "\n") * 7,
        PLAIN * 4 + "1900 " * 10,  # letters in 40 of 50
        "(The) house, stone. " * 20 + "“Of",
    ],
)
def test_what_is_just_within_the_bounds_passes(text: str):
    assert failed_rule(text) == ""


LISTED = ["bad", "worse", "bad luck", "ß", "a.b"]
PARTS = st.sampled_from(
    ["bad", "BAD", "worse", "luck", "badly", "é", "ss", "ß", " ", " ", "\n", ".", "-", "_", "1"]
)


def by_hand(text: str) -> int:
    """Of each place in turn the longest entry that stands there as whole words, then the place behind it."""
    entries = sorted((entry.casefold() for entry in ["bad", "worse", "bad luck", "ß"]), key=len, reverse=True)
    text = text.casefold()
    at = found = 0
    while at < len(text):
        for entry in entries:
            own = re.match(entry.replace(" ", r"\s+"), text[at:])
            if not own:
                continue
            before, behind = text[at - 1 : at] if at else "", text[at + own.end() : at + own.end() + 1]
            if not before.isalnum() and not behind.isalnum():
                found, at = found + 1, at + own.end() - 1
                break
        at += 1
    return found


@given(st.lists(PARTS, max_size=14).map("".join))
def test_words_of_the_list_are_counted_as_by_hand(text: str):
    count = word_counter([entry.casefold() for entry in LISTED if entry != "a.b"])
    assert count(text) == by_hand(text)


def test_whole_words_in_any_case():
    count = word_counter(LISTED)
    assert count("Bad! badly _bad_ (BAD) bad-tempered not-bad") == 5
    assert count("bad  luck, Bad\nLuck") == 2  # no two words of each
    assert count("a.b axb a.bc") == 1  # an entry is no pattern


def test_a_list_of_ones_own(tmp_path: Path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffBad\n\n  bad \nBad   Luck\n", encoding="utf-8")
    assert read_blocklist(str(path)) == ["bad", "bad luck"]
    path.write_text("\n \n")
    with pytest.raises(InputError, match=r"holds no word: .*making\.blocklist"):
        read_blocklist(str(path))
    with pytest.raises(InputError, match=r"cannot read .*none\.txt: No such file.*making\.blocklist"):
        read_blocklist(str(tmp_path / "none.txt"))


def test_our_list_is_clean():
    lines = OURS.read_text("utf-8").splitlines()
    assert lines == sorted({line.casefold().strip() for line in lines})
    assert read_blocklist() == lines
    assert len(lines) > 100
