"""Which column means what."""

import json
from pathlib import Path

import pytest
from helpers.fact_sources import ROW, read, refused, write

from pretrainrl_jax.facts import columns
from pretrainrl_jax.facts.files import Row

BARE = {"question": "Who?", "answer": "a"}
FIELDS = {
    "question": "question",
    "answer": "answer",
    "category": "category",
    "subject": "subject",
    "subject_key": "subject_key",
    "popularity": "popularity",
    "answer_popularity": "answer_popularity",
    "id": "id",
}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Question", "question", "Why?"),
        ("query", "question", "Why?"),
        ("object", "answer", "b"),
        ("obj", "answer", "b"),
        ("o", "answer", "b"),
        ("Relation", "category", "mother"),
        ("prop", "category", "mother"),
        ("property", "category", "mother"),
        ("predicate", "category", "mother"),
        ("p", "category", "mother"),
        ("subj", "subject", "Arno"),
        ("s", "subject", "Arno"),
        ("Subject ID", "subject_key", "Q1"),
        ("subj_id", "subject_key", "Q1"),
        ("s_pop", "popularity", 3.0),
        ("pop", "popularity", 3.0),
        ("o_pop", "answer_popularity", 4.0),
        ("id", "id", "n5"),
        ("Paraphrases", "rewordings", ("What for?", "How come?")),
    ],
)
def test_usual_names(name: str, field: str, value: object, tmp_path: Path) -> None:
    row = {key: kept for key, kept in BARE.items() if key != field} | {name: value}
    (fact,) = read(write(tmp_path / "facts.jsonl", [row])).facts
    assert getattr(fact, FIELDS.get(field, field)) == value


@pytest.mark.parametrize("name", ["answers", "aliases", "possible_answers"])
def test_lists_of_answers(name: str, tmp_path: Path) -> None:
    path = write(
        tmp_path / "facts.json",
        [BARE | {name: ["b", "a", "c"]}, {"question": "Why?", "answer": None, name: ["d"]}],
    )
    assert [fact.answers for fact in read(path, duplicates="keep").facts] == [("a", "b", "c"), ("d",)]


@pytest.mark.parametrize("field", FIELDS)
def test_a_setting_overrides_its_one_column(field: str, tmp_path: Path) -> None:
    row = ROW | {
        "popularity": 1,
        "answer_popularity": 1,
        "mine": 9,
        "dotted.name": 8,
        "in": {"ner": {"most": 7}},
    }
    del row["answers"]
    path = write(tmp_path / "facts.jsonl", [row])
    before = read(path).facts[0]
    for column, value in (("mine", 9), ("dotted.name", 8), ("in.ner.most", 7)):
        after = read(path, columns={field: column}).facts[0]
        for other, name in FIELDS.items():
            if other == field:
                assert getattr(after, name) in (str(value), value)
            else:
                assert getattr(after, name) == getattr(before, name)


def test_rewordings_are_the_rows_then_the_templates_then_the_relations(tmp_path: Path) -> None:
    row = {"question": "What is the capital of Arno?", "answer": "Florence", "subject": "Arno"}
    row |= {"relation": "capital", "others": "['Of {}, say the capital!', 'What is the capital of Arno?']"}
    path = write(tmp_path / "facts.jsonl", [row])
    templates = ("river=Which {p} of {s}?", "Say the {p} of {s}.", "capital=Where is {s} ruled from?")
    (fact,) = read(path, columns={"rewordings": "others"}, rewordings=templates).facts
    assert fact.rewordings == (
        "Of Arno, say the capital!",
        "Say the capital of Arno.",
        "Where is Arno ruled from?",
        "In Arno, what is the capital?",
        "Where does the government of Arno sit?",
    )
    (unknown,) = read(path, columns={"rewordings": "relation", "category": "answer"}).facts
    assert unknown.rewordings == ("capital",)


def test_nested_columns_of_well_known_sets(tmp_path: Path) -> None:
    trivia = {"question": "Who?", "answer": {"value": "a", "aliases": ["b", "a"], "normalized": "x"}}
    squad = {"question": "Who?", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}
    for row in (trivia, squad):
        assert read(write(tmp_path / "facts.json", [row])).facts[0].answers == ("a", "b")


def test_rows_with_different_keys(tmp_path: Path) -> None:
    row = {"question": "Who?", "answer": "a"}
    path = write(tmp_path / "facts.jsonl", [row, {"question": "Why?", "answers": ["b"], "popularity": 2}, {}])
    reading = read(path)
    assert [(fact.answer, fact.popularity) for fact in reading.facts] == [("a", 0), ("b", 2)]
    assert [row.rule for row in reading.dropped] == ["no question"]


def test_missing_columns_are_named_with_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.csv", [{"frage": "Wer?", "antwort": "a"}])
    said = refused(path)
    assert f"{path}, line 1: no column for the question" in said
    assert "facts.columns.question" in said
    assert "there are frage, antwort" in said
    said = refused(path, columns={"question": "frage"})
    assert "no column for the answer, as answer, answers or possible_answers" in said
    assert "facts.columns.answer" in said
    said = refused(path, columns={"question": "frage", "answer": "Antwort"})
    assert f"{path}, line 1: no column Antwort (facts.columns.answer); there are frage, antwort" in said
    assert read(path, columns={"question": "frage", "answer": "antwort"}).facts[0].answers == ("a",)
    said = refused(path, questions=("Who is {s}?",))
    assert "facts.columns.subject" in said
    items = write(tmp_path / "facts.json", [{"\x1b[31m": 1}])
    said = refused(items)
    assert f"{items}, item 1: no column" in said
    assert "\x1b" not in said


def test_a_nested_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "facts.jsonl", [{"question": "Who?", "answer": {"value": "a"}}])
    assert "no column answer.text (facts.columns.answer)" in refused(path, columns={"answer": "answer.text"})


def test_what_lies_too_deep_or_is_too_much_is_not_remembered() -> None:
    """As in objects whose keys are ids; a column that is wanted is remembered all the same."""
    value: dict[str, object] = {"end": 1}
    for _ in range(columns.DEPTH + 2):
        value = {"in": value, "own": 1}
    seen = columns.Survey()
    seen.add([Row("x, row", 1, {"a": value})])
    assert max(path.count(".") for path in seen.columns) == columns.DEPTH
    many = {f"Q{number}": {"label": "x"} for number in range(columns.PATHS + 9)}
    seen = columns.Survey(frozenset("b"))
    seen.add([Row("x, row", 1, {"a": many, "b": "c"})])
    assert (len(seen.columns), len(seen.objects)) == (columns.PATHS + 1, columns.PATHS)
    assert seen.columns["b"].filled == 1


def test_a_great_many_columns_are_not_all_shown(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{f"column{number}": 1 for number in range(500)}]))
    assert "column19 and 480 more" in refused(path)
