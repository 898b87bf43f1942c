"""PopQA's file: an instance of a TSV whose columns are recognised."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from helpers.fact_sources import read
from helpers.models_and_trees import read_popqa

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.wordings import POPQA, WORDINGS

COLUMNS = ["id", "subj", "prop", "obj", "subj_id", "s_pop", "question", "possible_answers"]
ROW = {
    "id": "7",
    "subj": "Arno",
    "prop": "capital",
    "obj": "Florence",
    "subj_id": "99",
    "s_pop": "12",
    "question": "What is the capital of Arno?",
    "possible_answers": '["Firenze", "Florence"]',
}


def write(path, *rows, columns=COLUMNS, encoding="utf-8", line="\n", quoting=csv.QUOTE_MINIMAL):
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator=line, quoting=quoting)
        writer.writerow(columns)
        writer.writerows([(ROW | row)[column] for column in columns] for row in rows)
    return path


def test_reads_a_row(tmp_path):
    (fact,) = read_popqa(write(tmp_path / "facts.tsv", {}))
    assert fact.id == "7"
    assert fact.question == "What is the capital of Arno?"
    assert fact.answers == ("Florence", "Firenze")
    assert fact.answer == "Florence"
    assert (fact.category, fact.subject, fact.subject_key) == ("capital", "Arno", "99")
    assert (fact.popularity, fact.row) == (12.0, 2)
    assert "Arno" in fact.paraphrase
    assert fact.paraphrase != fact.question


def test_blank_and_repeated_ids(tmp_path):
    rows = [{"id": ""}, {"id": "5"}, {"id": "5"}, {"id": "row2"}, {"id": "", "subj_id": " "}]
    facts = read_popqa(write(tmp_path / "facts.tsv", *rows))
    assert [fact.id for fact in facts] == ["row2", "5", "row4", "row5", "row6"]
    assert [fact.subject_key for fact in facts] == ["99"] * 4 + ["Arno"]


def test_optional_columns_may_be_missing(tmp_path):
    columns = ["subj", "prop", "s_pop", "question", "possible_answers"]
    (fact,) = read_popqa(write(tmp_path / "facts.tsv", {}, columns=columns))
    assert (fact.id, fact.subject_key, fact.answers) == ("row2", "Arno", ("Firenze", "Florence"))


@pytest.mark.parametrize(
    ("possible", "obj", "expected"),
    [
        (["a", "b", "a", "", " b "], "", ("a", "b")),
        (["a", "b"], "b", ("b", "a")),
        (["a", "b"], "c", ("c", "a", "b")),
        ([1965], "", ("1965",)),
        (["one\nline"], "one line", ("one line",)),
        (["B", "b"], "", ("B", "b")),  # different tokens, so different branches to score
    ],
)
def test_aliases(tmp_path, possible, obj, expected):
    path = write(tmp_path / "facts.tsv", {"possible_answers": json.dumps(possible), "obj": obj})
    assert read_popqa(path)[0].answers == expected


def test_byte_order_mark_windows_lines_and_blank_lines(tmp_path):
    path = write(tmp_path / "facts.tsv", {}, {"id": "8"}, encoding="utf-8-sig", line="\r\n")
    path.write_bytes(path.read_bytes().replace(b"\r\n8\t", b"\r\n\r\n8\t"))
    assert [(fact.id, fact.row) for fact in read_popqa(path)] == [("7", 2), ("8", 4)]


def test_line_numbers_after_a_field_of_two_lines(tmp_path):
    path = write(tmp_path / "facts.tsv", {"question": "What is\nthe capital?"}, {"id": "8"})
    facts = read_popqa(path)
    assert facts[0].question == "What is the capital?"
    assert [fact.row for fact in facts] == [2, 4]


def test_unknown_relation_has_no_paraphrase(tmp_path):
    assert read_popqa(write(tmp_path / "facts.tsv", {"prop": "shape"}))[0].paraphrase == ""


@pytest.mark.parametrize("possible", ["Florence", '"Florence"', '{"a": 1}', "[" * 100_000, ""])
def test_possible_answers_must_be_a_list(tmp_path, possible):
    path = write(tmp_path / "facts.tsv", {}, {"possible_answers": possible})
    with pytest.raises(InputError) as raised:
        read_popqa(path)
    assert f"{path}, line 3: possible_answers is not a JSON list" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"possible_answers": '["\\ud83d"]'}, "broken text"),
        ({"possible_answers": "[]", "obj": ""}, "no answer"),
        ({"possible_answers": '["", "  "]', "obj": " "}, "no answer"),
        ({"possible_answers": '["?"]', "obj": "."}, "empty answer"),
        ({"possible_answers": "[[]]", "obj": ""}, "no answer"),
        ({"possible_answers": '[{"a": 1}]'}, "not text"),
        ({"s_pop": "many"}, "bad popularity"),
        ({"s_pop": "inf"}, "bad popularity"),
        ({"s_pop": "-1"}, "bad popularity"),
        ({"question": ""}, "no question"),
    ],
)
def test_bad_rows_are_counted(tmp_path, change, rule):
    reading = read(write(tmp_path / "facts.tsv", {}, change))
    assert [(row.where, row.rule) for row in reading.dropped] == [("facts.tsv, line 3", rule)]
    assert len(reading.facts) == 1


def test_blank_subject_relation_and_popularity(tmp_path):
    path = write(tmp_path / "facts.tsv", {"subj": "", "prop": " ", "s_pop": "", "subj_id": ""})
    (fact,) = read_popqa(path)
    assert (fact.subject, fact.category, fact.popularity, fact.paraphrase) == ("", "", 0, "")
    assert fact.subject_key == fact.question


HEADER = "\t".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no facts in"),
        (
            "subj\tquestion\nArno\tWhat?\n",
            "line 1: no column for the answer, as answer, answers or possible_ans",
        ),
        (HEADER.replace("\t", ",") + "\n7,Arno\n", "line 1: no column for the question"),
        (HEADER + "\n", "no facts in"),
        (HEADER + "\n\n\n", "no facts in"),
        (HEADER + "\n7\tArno\tcapital\n", "line 2: 3 columns where the header has 8"),
        (HEADER + '\n7\t"Arno\tcapital\n8\tLena\tcapital\n', "line 2: not a row separated by tabs"),
        (HEADER + "\n" + "x" * 200_000 + "\n", "line 2: 1 columns where the header has 8"),
        ("é".encode("latin-1") + HEADER.encode(), "line 1: byte 0xe9 at column 1 is not utf-8"),
    ],
)
def test_bad_files(tmp_path, text, words):
    path = tmp_path / "facts.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as raised:
        read_popqa(path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"missing\.tsv: No such file"):
        read_popqa(tmp_path / "missing.tsv")
    with pytest.raises(InputError, match="Is a directory"):
        read_popqa(tmp_path)


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("PRETRAINRL_DATA")
    if not folder:
        pytest.skip("PRETRAINRL_DATA names no folder with popqa/popQA.tsv")
    return Path(folder) / "popqa" / "popQA.tsv"


def test_real_file(real):
    facts = read_popqa(real)
    asked = Counter(fact.question for fact in facts)  # namesakes share what is true of their question
    lines = real.read_text(encoding="utf-8").split("\n")
    assert len(facts) == 4515 == len({fact.id for fact in facts})
    assert {fact.category for fact in facts} == set(POPQA)
    assert len(POPQA) == 16
    for fact in facts:
        cells = lines[fact.row - 1].rstrip("\r").split("\t")
        unquoted = [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell for cell in cells]
        assert " ".join(unquoted[1].split()) == fact.subject
        assert float(unquoted[13]) == fact.popularity
        answers = json.loads(unquoted[16].replace("\u200f", ""))  # three rows hold right-to-left marks
        own = {" ".join(answer.split()) for answer in answers}
        assert own == set(fact.answers) if asked[fact.question] == 1 else own <= set(fact.answers)
        assert fact.answer == " ".join(unquoted[3].split())


def test_wordings_ask_what_the_real_file_asks(real):
    for fact in read_popqa(real):
        assert WORDINGS[fact.category].question.format(subject=fact.subject) == fact.question
