"""Questions made from templates."""

from pathlib import Path

import pytest
from helpers.fact_sources import read, refused, write

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.questions import ask, fill_in, is_open, read_templates

TRIPLES = [
    {"subject": "Arno", "property": "capital", "object": "Florence"},
    {"subject": "brick", "property": "material", "object": "clay"},
    {"subject": "", "property": "shape", "object": "round"},
]


def test_the_question_of_wikidata_infusion(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.csv", TRIPLES)
    reading = read(path, questions=("What is the {p} of {s}?",))
    assert [(fact.question, fact.answer) for fact in reading.facts] == [
        ("What is the capital of Arno?", "Florence"),
        ("What is the material of brick?", "clay"),
    ]
    assert [(row.where, row.rule) for row in reading.dropped] == [("triples.csv, line 4", "no question")]


def test_one_category_has_a_template_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.jsonl", TRIPLES)
    own = "capital = Which city governs {s}?"
    governs, second = read(path, questions=("What is the {p} of {s}?", own)).facts
    assert governs.question == "Which city governs Arno?"
    assert second.question == "What is the material of brick?"
    only = read(path, questions=(own,))
    assert [fact.question for fact in only.facts] == ["Which city governs Arno?"]
    assert len(only.dropped) == 2


def test_a_question_that_is_there_is_asked(tmp_path: Path) -> None:
    rows = [TRIPLES[0] | {"question": "Quid?"}, TRIPLES[1] | {"question": " "}]
    facts = read(write(tmp_path / "triples.json", rows), questions=("What is the {p} of {s}?",)).facts
    assert [fact.question for fact in facts] == ["Quid?", "What is the material of brick?"]


def test_templates() -> None:
    templates = read_templates(("What is {s}?", "a  b=Is {s} = {p}?", "{s}=?", "c={{{s}}} of {p}?")[:2])
    assert templates == {"": "What is {s}?", "a b": "Is {s} = {p}?"}
    assert ask(templates, "a b", "{x}") == "Is {x} = a b?"
    assert ask(templates, "z", "y") == "What is y?"
    assert ask(templates, "z", "") == ask({}, "z", "y") == ask({"a": "Is {s}?"}, "b", "y") == ""
    assert ask(read_templates(("{s}=?",)), "", "y") == "y=?"
    assert ask(read_templates(("c={{{s}}} of {p}?",)), "c", "y") == "{y} of c?"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (("What is it?",), "must name the subject as {s}"),
        (("What is the {p}?",), "must name the subject as {s}"),
        (("capital=What?",), "must name the subject as {s}"),
        (("What is {x} of {s}?",), "nothing else"),
        (("What is {} of {s}?",), "nothing else"),
        (("What is {s.__class__}?",), "must name the subject"),
        (("What is {s!r}?",), "must name the subject"),
        (("What is {s:>9}? {s}",), "nothing else"),
        (("What is {s?",), "is no template"),
        (("What is {s}}?",), "is no template"),
        (("Who is {s}?", "What is {s}?"), "two templates for every category"),
        (("a=Who is {s}?", "a=What is {s}?"), "two templates for the category a"),
        (("Of {s}", "what is {p}?"), "a template with a comma can only be set in a configuration file"),
    ],
)
def test_bad_templates(entries: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read_templates(entries)
    assert words in str(raised.value)
    assert "facts.questions" in str(raised.value)
    with pytest.raises(InputError, match=r"facts\.questions"):
        read(write(tmp_path / "triples.csv", TRIPLES), questions=entries)


def test_templates_do_not_stand_in_for_a_missing_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.csv", [{"subject": "Arno"}])
    assert "no column for the answer" in refused(path, questions=("Who is {s}?",))


@pytest.mark.parametrize(
    ("question", "subject", "asked"),
    [
        ("The mother tongue of {} is", "Ada", "The mother tongue of Ada is"),
        ("{}, {}?", "Ada", "Ada, Ada?"),
        ("What does {} mean in Python?", "Python", "What does {} mean in Python?"),
        ("Who is { }?", "Ada", "Who is { }?"),
        ("Who is {s}?", "Ada", "Who is Ada?"),
        ("Who is {subject}, {0}?", "A\\1", "Who is A\\1, A\\1?"),
        ("[X] was born in", "Ada", "Ada was born in"),
        ("What is $x_{s} + e^{0}$?", "Ada", "What is $x_{s} + e^{0}$?"),
        ("Who is {}?", "{}", "Who is {}?"),
    ],
)
def test_the_place_of_a_subject(question: str, subject: str, asked: str) -> None:
    assert (fill_in(question, subject) if is_open(question, subject) else question) == asked
    assert is_open(question, "") == (asked != question or "{}" in question)
