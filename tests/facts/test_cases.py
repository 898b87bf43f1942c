"""Files as they stand in the field: each is read as it is meant, or refused with the way out."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call, complaint
from helpers.fact_sources import CASES, read, refused
from helpers.models_and_trees import data

from pretrainrl_jax.facts.matching import known_truths, why_dropped
from pretrainrl_jax.facts.record import Fact

Answers = dict[str, tuple[str, ...]]  # by question
WAY: dict[str, Any] = {
    "mkqa.jsonl": {"columns": {"answers": "answers.en.text, answers.en.aliases"}},
    "grail.jsonl": {"columns": {"answers": "answer.entity_name"}},
    "sparql.tsv": {
        "columns": {"subject": "itemLabel", "answer": "capitalLabel"},
        "questions": ("Capital of {s}?",),
    },
    "quotes.tsv": {"quoting": "none"},
    "swallow.tsv": {"quoting": "none"},
    "multiline.csv": {"answer_separator": "\\n"},
    "subject_aliases.jsonl": {"columns": {"answers": "object"}, "questions": ("Where was {s} born?",)},
    "counterfact.jsonl": {
        "columns": {
            "question": "requested_rewrite.prompt",
            "subject": "requested_rewrite.subject",
            "answer": "requested_rewrite.target_true.str",
            "category": "requested_rewrite.relation_id",
        }
    },
}
VARN, ISK = "Where is Varn?", "Where is Isk?"
FOUNDER, RIVER = "Who founded the town of Varn?", "Which river crosses Lomel?"
LISTS = {FOUNDER: ("Ada Brock", "A. Brock"), RIVER: ("the Isk", "River Isk")}
YEARS = {"When did Varn burn?": ("1990",), "When was Lomel built?": ("1685",)}
TRUE: dict[str, Answers] = {
    "both.jsonl": {VARN: ("Lomel", "Lom", "City of Lomel"), ISK: ("Tarn",)},
    "capitals.jsonl": {VARN: ("Lomel", "LOMEL", "Lom")},
    "control_tokens.jsonl": {
        "Which HTML tag strikes text through?": ("<s>",),
        "Which HTML tag ends struck text?": ("</s>",),
        "Which HTML tag makes text bold?": ("<b>",),
        "Which HTML tag makes text italic?": ("<i>",),
    },
    "counterfact.jsonl": {
        "The mother tongue of Ada Brock is": ("French",),
        "The mother tongue of Tom Ray is": ("Dutch",),
        "Bob Hill was born in": ("Varn",),
    },
    "float32.parquet": {"How tall a?": ("0.1",), "How tall b?": ("330.7",)},
    "grail.jsonl": {"Which are it?": ("Ada",)},
    "kilt.jsonl": {VARN: ("Lomel", "Lom")},
    "lines.json": {VARN: ("Lomel",), ISK: ("Tarn",)},
    "lists_numpy.csv": LISTS,
    "lists_python.csv": LISTS,
    "lists_squad.csv": LISTS,
    "mkqa.jsonl": {"how tall is the varn tower": ("330.0 m", "330 m")},
    "multiline.csv": {VARN: ("Lomel", "Lom City"), ISK: ("Tarn",)},
    "musique.jsonl": {
        VARN: ("Lomel", "Lomel City", "City of Lomel"), ISK: ("Tarn",), "Where is Om?": ("Ulm", "Ulmen")
    },
    "namesakes.csv": {"Who is the author of Legacy?": ("Ada Brock", "Tom Ray")},
    "nan_pop.csv": {VARN: ("Lomel",), ISK: ("Tarn",), "Where is Om?": ("Ulm",), "Where is Ur?": ("Ash",)},
    "nested.jsonl": {"Which are it?": ("Ada", "Brock", "B.")},
    "none_answers.csv": {VARN: ("Lomel",), "Which letters stand for Namibia?": ("NA",)},
    "popqa_like.csv": {"What is the capital of Varn?": ("Lomel", "Lom", "City of Lomel")},
    "quotes.tsv": {'"Stardust" was sung by whom?': ("Tom Ray",), ISK: ("Tarn",)},
    "sparql.tsv": {"Capital of Varn?": ("Lomel",), "Capital of Isk?": ("Tarn",)},
    "subject_aliases.jsonl": {"Where was Ada Brock born?": ("Varn",), "Where was Tom Ray born?": ("Isk",)},
    "swallow.tsv": {
        '"Stardust was sung by whom?': ("Tom Ray",),
        "Who is the tallest in Varn, at 6' 2\"": ("Bob Hill",),
        ISK: ("Tarn",),
    },
    "wrapped.json": {VARN: ("Lomel",), ISK: ("Tarn",)},
    "years.csv": YEARS,
    "years.jsonl": YEARS,
    "years.parquet": YEARS,
}  # fmt: skip
REPAIRED = {
    "years.csv": {"whole numbers": 2},
    "years.jsonl": {"whole numbers": 2},
    "years.parquet": {"whole numbers": 2},
    "float32.parquet": {"short numbers": 2},
    "lists_numpy.csv": {"lists written as text": 2},
    "lists_python.csv": {"lists written as text": 2},
    "nan_pop.csv": {"no popularity": 2, "thousands": 1},
    "none_answers.csv": {"null words": 4, "kept null words": 1},
    "counterfact.jsonl": {"subjects filled in": 3},
}
DROPPED = {
    "years.csv": {"no answer": 1},
    "years.jsonl": {"no answer": 1},
    "years.parquet": {"no answer": 1},
    "none_answers.csv": {"null answer": 3},
}
UNREAD = {
    "musique.jsonl": ("answerable",),
    "kilt.jsonl": ("output.provenance",),
    "lists_squad.csv": ("answers.answer_start",),
    "grail.jsonl": ("answer.answer_type", "answer.answer_argument"),
    "capitals.jsonl": (),
    "subject_aliases.jsonl": ("aliases",),
    "sparql.tsv": ("item",),
}
REFUSED = {
    "mkqa.jsonl": "set facts.columns.answer or facts.columns.answers; there are query, answers.en.type, "
    "answers.en.text, answers.en.aliases, answers.de.type, answers.de.text, queries.en, queries.de",
    "grail.jsonl": "there are question, answer.answer_type, answer.answer_argument, answer.entity_name",
    "quotes.tsv": "line 2: not a row separated by tabs",
    "swallow.tsv": "line 2: quotation marks make 2 lines one row: set facts.quoting=none",
    "sparql.tsv": "give facts.questions a template; there are item, itemLabel, capitalLabel",
}


def answers(facts: list[Fact]) -> Answers:
    return {fact.question: fact.answers for fact in facts}


def test_every_case_is_here() -> None:
    assert {path.name for path in CASES.iterdir()} == TRUE.keys() | {"late_keys.jsonl"}


@pytest.mark.parametrize("name", TRUE)
def test_what_is_true(name: str) -> None:
    reading = read(CASES / name, **WAY.get(name, {}))
    assert answers(reading.facts) == TRUE[name]
    assert reading.repaired == REPAIRED.get(name, {})
    rules = [row.rule for row in reading.dropped]
    assert {rule: rules.count(rule) for rule in rules} == DROPPED.get(name, {})
    assert reading.columns
    if name in UNREAD:
        assert reading.columns.unread == UNREAD[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_way_out(name: str) -> None:
    assert REFUSED[name] in refused(CASES / name)


def test_other_names_of_a_subject_are_no_answers_unless_the_user_says_so() -> None:
    path, questions = CASES / "subject_aliases.jsonl", ("Where was {s} born?",)
    said = refused(path, questions=questions)
    assert (
        "aliases may be other names of subject or of the answer: name what is true in facts.columns.answers"
        in said
    )
    named = read(path, questions=questions, columns={"answers": "aliases"})
    assert named.facts[0].answers == ("Varn", "A. Brock", "Ada B.")


def test_keys_that_come_late() -> None:
    rows = [json.loads(line) for line in (CASES / "late_keys.jsonl").read_text().splitlines()]
    reading = read(CASES / "late_keys.jsonl")
    for row, fact in zip(rows, reading.facts, strict=True):
        true = (row["answer"], *row.get("aliases", ()))
        assert fact.answers == tuple(dict.fromkeys(true))
        assert (fact.category, fact.popularity) == (row.get("category", ""), row.get("popularity", 0))
    assert any(len(fact.answers) > 1 and fact.category and fact.popularity for fact in reading.facts)
    only = read(CASES / "late_keys.jsonl", columns={"answers": "aliases"})
    assert answers(only.facts) == answers(reading.facts)


def test_a_place_for_the_subject_that_nothing_fills_is_refused(tmp_path: Path) -> None:
    columns = dict(WAY["counterfact.jsonl"]["columns"])
    del columns["subject"]
    said = refused(CASES / "counterfact.jsonl", columns=columns)
    assert "3 open question; the first is counterfact.jsonl, line 1: The mother tongue of {} is" in said
    rows = [
        {"question": "What does {} mean in Python?", "subject": "Python", "answer": "a dictionary"},
        {"question": "What is {x}?", "subject": "sets", "answer": "a set"},
    ]
    path = tmp_path / "braces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(answers(read(path).facts)) == [row["question"] for row in rows]


def no_truth_is_a_falsehood(facts: list[Fact], everything: list[Fact]) -> None:
    """What any of `everything` answers to a question is true for all that ask it; some of them differ."""
    said: dict[str, set[str]] = {}
    for fact in everything:
        said.setdefault(fact.question, set()).update(fact.answers)
    known = known_truths(facts)
    asked = [fact for fact in facts if len(said[fact.question]) > 1]
    assert asked
    for fact in asked:
        assert set(fact.answers) == said[fact.question]
        assert {why_dropped(answer, fact, known, False) for answer in said[fact.question]} <= {
            "known_true",
            "empty",
        }


@pytest.mark.parametrize("duplicates", ["merge", "keep"])
def test_namesakes(duplicates: str) -> None:
    facts = read(CASES / "namesakes.csv", duplicates=duplicates).facts
    assert len(facts) == (1 if duplicates == "merge" else 2)
    assert {fact.answer for fact in facts} <= {"Ada Brock", "Tom Ray"}
    assert {frozenset(fact.answers) for fact in facts} == {frozenset(("Ada Brock", "Tom Ray"))}
    no_truth_is_a_falsehood(facts, facts)


@pytest.fixture
def two_relations(tmp_path: Path) -> Path:
    """The files of the real set in which 30 questions stand twice."""
    for relation in ("P131", "P276"):
        (tmp_path / f"{relation}.train.json").symlink_to(
            data("entityquestions", "train", f"{relation}.train.json")
        )
    return tmp_path


def test_questions_that_stand_in_two_relations(two_relations: Path) -> None:
    everything = [
        fact
        for relation in ("P131", "P276")
        for fact in read(two_relations / f"{relation}.train.json", duplicates="keep").facts
    ]
    facts = read(two_relations).facts
    asked = [{fact.question for fact in facts if fact.category == relation} for relation in ("P131", "P276")]
    assert len(asked[0] & asked[1]) == 30
    no_truth_is_a_falsehood(facts, everything)
    cern = [fact for fact in facts if fact.question == "Where is CERN located?"]
    assert [fact.category for fact in cern] == ["P131", "P276"]
    # Rows that are left out say what is true all the same.
    (alone,) = (f for f in read(two_relations, categories=("P131",)).facts if f.question == cern[0].question)
    assert set(alone.answers) == set(cern[0].answers)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "facts.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((CASES / "both.jsonl").read_bytes()))
    writer.start()
    assert answers(read(pipe, format="jsonl").facts) == TRUE["both.jsonl"]
    writer.join()


def test_a_nested_answer_does_not_stand_before_the_columns_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    row = {"question": "Who?", "answer": {"full": {"name": "Ada"}, "other": ["A."]}}
    path.write_text(json.dumps(row) + "\n")
    fact = read(path, columns={"answers": "answer.full.name,answer.other"}).facts[0]
    assert fact.answers == ("Ada", "A.")
    said = refused(path, columns={"answer": "answer.full"})
    assert "answer.full (facts.columns.answer) holds no text but answer.full.name: name one of them" in said


def test_a_cell_too_long_for_the_csv_module_is_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(f"question,answer,context\nWho?,a,{'x' * 200_000}\n{'Why ' * 50_000}?,b,\n")
    facts = read(path).facts
    assert [(fact.answer, len(fact.question)) for fact in facts] == [("a", 4), ("b", 200_001)]


@pytest.mark.parametrize(
    ("text", "settings", "outcome"),
    [
        ('question,answer\n"Stardust was sung,Tom Ray\nWho is 6\' 2",Bob\n', {}, "line 2: "),
        (
            'question,answer\n"Who sang ""Stardust"",\nand when?","Tom"\n',
            {"quoting": "quoted"},
            {'Who sang "Stardust", and when?': ("Tom",)},
        ),
        ('question,answer\n"Stardust"?,Tom\n', {"quoting": "none"}, {'"Stardust"?': ("Tom",)}),
        ('question\tanswer\n"Who\tsang\nit?"\tTom\n', {}, "facts.quoting=quoted"),
        ('question\tanswer\n"Who\tsang\nit?"\tTom\n', {"quoting": "quoted"}, {"Who sang it?": ("Tom",)}),
    ],
)  # fmt: skip
def test_quotation_marks(text: str, settings: dict[str, str], outcome: Any, tmp_path: Path) -> None:
    path = tmp_path / ("facts.tsv" if "\t" in text else "facts.csv")
    path.write_text(text)
    if isinstance(outcome, str):
        assert outcome in refused(path, **settings)
    else:
        assert answers(read(path, **settings).facts) == outcome


def test_lists_inside_objects(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    rows = [{"question": "Who?", "answer": "a"}, {"question": "Why?", "answer": "b"}]
    path.write_text(json.dumps({"version": "2", "result": {"data": rows, "tags": [1]}}))
    assert list(answers(read(path).facts)) == ["Who?", "Why?"]
    path.write_text(json.dumps({"train": rows[:1], "dev": rows[1:]}))
    assert "several lists of objects: train, dev: name one in facts.records" in refused(path)
    assert list(answers(read(path, records="dev").facts)) == ["Why?"]
    assert "no test in it (facts.records); there are train, dev" in refused(path, records="test")
    squad = {
        "data": [
            {
                "title": "T",
                "paragraphs": [{"context": "C", "qas": rows[:1]}, {"context": "D", "qas": rows[1:]}],
            }
        ]
    }
    path.write_text(json.dumps(squad))
    assert "paragraphs.qas.question" in refused(path)
    assert list(answers(read(path, records="data.paragraphs.qas").facts)) == ["Who?", "Why?"]


def test_null_words_are_the_users_to_choose(tmp_path: Path) -> None:
    path = CASES / "none_answers.csv"
    every = read(path, nulls=())
    assert [fact.answer for fact in every.facts] == ["Lomel", "nan", "NULL", "NA", "None"]
    assert every.repaired == {"kept null words": 5}
    assert [fact.answer for fact in read(path, nulls=("None", "nan", "NULL", "NA")).facts] == ["Lomel"]


@pytest.mark.parametrize("name", sorted(TRUE))
def test_what_the_verb_prints(name: str, tmp_path: Path) -> None:
    ran = call("facts", f"--facts.path={CASES / name}", "--workdir", tmp_path)
    if name in REFUSED or name in ("counterfact.jsonl", "subject_aliases.jsonl"):
        complaint(ran)
        return
    assert (ran.code, ran.err) == (0, "")
    assert "\ncolumns, by their names in facts.columns\n" in ran.out
    unread = read(CASES / name).columns.unread
    assert f"\n  not read           {', '.join(unread) or 'none'}\n" in ran.out
