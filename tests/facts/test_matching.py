import re
import string
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts import matching
from pretrainrl_jax.facts.matching import known_truths, matches, normalise, overlaps, why_dropped
from pretrainrl_jax.facts.record import Fact

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126))
FEW_WORDS = st.lists(st.sampled_from(["new", "york", "city", "yorkshire", "old"]), max_size=4).map(" ".join)


def fact(answers, subject="Will Smith", key="1", category="occupation", number="1", **changes):
    question = f"What is {subject}'s {category}?"
    return replace(Fact(number, question, tuple(answers), category, subject, key, 1.0, 2), **changes)


def squad(text):
    """normalize_answer of SQuAD's official evaluation script, version 1.1."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(ASCII)
def test_is_squads_normalisation_on_ascii(text):
    assert normalise(text) == squad(text) or not squad(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_normalised_as_every_script_is(text):
    simpler = matching._simplify(text)
    assert matching._simplify(simpler) == simpler == normalise(text)


@given(st.lists(st.sampled_from(["The", "a", "AN"]), min_size=1))
def test_articles_alone_stay(words):
    assert normalise(" ".join(words)) == " ".join(words).lower()


@given(st.text())
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_nothing_that_is_stripped_remains(text):
    normalised = normalise(text)
    assert not any(unicodedata.category(character)[0] == "P" for character in normalised)
    assert normalised == " ".join(normalised.split())


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_spelling_of_accents_does_not_matter(text, form):
    assert normalise(unicodedata.normalize(form, text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The U.S.A.", "usa"),
        ("  Quebec\u00a0 City ", "quebec city"),
        ("МОСКВА!", "москва"),
        ("ΑΘΗΝΆΣ", "αθηνάσ"),
        ("Αθηνάς", "αθηνάσ"),
        ("Straße", "strasse"),
        ("「東京」。", "東京"),
        ("ＡＢＣ", "abc"),
        ("الْقَاهِرَة؟", "الْقَاهِرَة"),
        ("Schleswig–Holstein", "schleswigholstein"),
        ("co\u00adop\u200b", "coop"),
        ("e.\u0301", "é"),
        ("?!…", ""),
        ("", ""),
    ],
)
def test_normalise_examples(text, expected):
    assert normalise(text) == unicodedata.normalize("NFKC", expected)


@given(FEW_WORDS, FEW_WORDS.filter(bool))
def test_contains_stops_at_word_boundaries(answer, truth):
    expected = re.search(rf"(?<!\S){re.escape(truth)}(?!\S)", answer) is not None
    assert matches(answer.title() + ".", [truth.upper()], "contains") == expected
    assert matches(answer, [truth], "exact") == (answer == truth)
    backwards = re.search(rf"(?<!\S){re.escape(answer)}(?!\S)", truth) is not None and answer != ""
    assert overlaps(answer, truth) == overlaps(truth, answer) == (expected or backwards)


def test_any_truth_will_do():
    assert matches("the big apple", ["New York", "Big Apple"], "exact")
    assert not matches("Apple", ["New York", "Big Apple"], "contains")
    assert matches("Big Apple, of course", ["New York", "Big Apple"], "contains")


@pytest.mark.parametrize("rule", ["exact", "contains"])
def test_nothing_matches_nothing(rule):
    assert not matches("", ["!!!"], rule)
    assert not matches("?", [""], rule)
    assert not matches("word", ["!!!"], rule)
    assert not matches("word", [], rule)
    assert not overlaps("", "word")


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'exact' or 'contains'"):
        matches("a", ["a"], "fuzzy")


def test_known_truths_gather_all_facts_of_a_subject_and_relation_and_of_a_wording():
    facts = [
        fact(["Film Producer", "movie producer"]),
        fact(["actor", "!!!"], number="2", question="What does Will Smith do?"),
        fact(["painter"], key="2", number="3", question="What does the other Will Smith do?"),
        fact(["Fresh Prince"], category="genre", number="4", paraphrase="Of what kind is he?"),
        fact(["prince"], key="5", category="rank", number="5", question="Of what kind is he?"),
        fact(["sculptor"], key="2", number="6"),
    ]
    first, second = {"film producer", "movie producer", "actor"}, {"painter", "sculptor"}
    assert known_truths(facts) == {
        "What is Will Smith's occupation?": first | second,  # asks of both
        "What does Will Smith do?": first,
        "What does the other Will Smith do?": second,
        "What is Will Smith's genre?": {"fresh prince"},
        "Of what kind is he?": {"fresh prince", "prince"},
    }


@pytest.mark.parametrize(
    ("text", "drop_overlapping", "expected"),
    [
        ("The Film-Producer", True, ""),  # one word once the hyphen is gone
        ("the film producer.", True, "known_true"),
        ("movie producer", False, "known_true"),
        ("Actor", True, "known_true"),  # true by the subject's other fact
        ("producer", True, "overlaps"),
        ("voice actor", True, "overlaps"),
        ("voice actor", False, ""),
        ("actors", True, ""),
        ("painter", True, ""),  # true of another subject only
        ("…", True, "empty"),
        ("", False, "empty"),
    ],
)
def test_why_dropped(text, drop_overlapping, expected):
    asked = fact(["film producer", "movie producer"])
    other = fact(["painter"], subject="W. Smith", key="2", number="3")
    known = known_truths([asked, fact(["actor"], number="2"), other])
    assert why_dropped(text, asked, known, drop_overlapping) == expected


def test_a_facts_own_answers_count_without_the_known():
    assert why_dropped("Actor", fact(["actor"]), {}, True) == "known_true"
