"""The EntityQuestions folder: which files are read, and what their questions become."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.fact_sources import in_memory, read, refused
from helpers.models_and_trees import data

ITEMS = [
    {"question": "Which country is Arno located in?", "answers": ["Italy", "Italia"]},
    {"question": "What is it?", "answers": ["Italy"]},
]


def put(folder: Path, *names: str, items: Any = ITEMS) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(items))
    return folder


def test_an_item(tmp_path: Path) -> None:
    fact, other = read(put(tmp_path, "P17.train.json")).facts
    assert (fact.id, fact.category, fact.row) == ("P17:1", "P17", 1)
    assert (fact.question, fact.answers) == ("Which country is Arno located in?", ("Italy", "Italia"))
    assert (fact.subject, fact.subject_key, fact.popularity) == ("Arno", "Arno", 0)
    assert "Arno" in fact.paraphrase
    assert (other.subject, other.subject_key, other.paraphrase) == ("", "What is it?", "")


@pytest.mark.parametrize(
    ("names", "split", "relations"),
    [
        (["P17.json", "P9.json", "notes.json", "Q5.json", "P17.json.bak"], "train", ["P9", "P17"]),
        (["P17.train.json", "P9.train.json", "P9.dev.json"], "train", ["P9", "P17"]),
        (["P17.train.json", "P9.train.json", "P9.dev.json"], "dev", ["P9"]),
        (["P17.dev.json"], "train", ["P17"]),  # the folder of one split says which it is
        (["train/P17.train.json", "dev/P9.dev.json"], "train", ["P17"]),
        (["train/P17.train.json", "dev/P9.dev.json"], "dev", ["P9"]),
        (["train/P17.json", "dev/P9.json"], "dev", ["P9"]),
        (["P17.json", "train/P9.json"], "train", ["P17"]),
    ],
)
def test_which_files_are_read(names: list[str], split: str, relations: list[str], tmp_path: Path) -> None:
    facts = read(put(tmp_path, *names), split=split).facts
    assert list(dict.fromkeys(fact.category for fact in facts)) == relations
    assert len(facts) == 2 * len(relations)


def test_a_folder_in_a_bucket() -> None:
    in_memory("questions/train/P17.train.json", json.dumps(ITEMS).encode())
    assert [fact.id for fact in read("memory://tests/questions").facts] == ["P17:1", "P17:2"]
    assert len(read("memory://tests/questions/train/").facts) == 2


def test_folders_without_questions(tmp_path: Path) -> None:
    assert "P17.train.json" in refused(tmp_path)
    assert "check facts.path and facts.split" in refused(put(tmp_path, "notes.json", "dev/P17.dev.json"))
    said = refused(put(tmp_path, "P9.dev.json", "P9.test.json"))
    assert "facts.split is 'train', and the files in" in said
    assert "dev, test" in said
    assert "no such folder" in refused(tmp_path / "none", format="entityquestions")


def test_broken_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, "P9.train.json", "P17.train.json")
    (tmp_path / "P17.train.json").write_text('[\n {"question": "Who?",\n')
    assert f"{tmp_path}/P17.train.json, line 3: not JSON" in refused(tmp_path)
    put(tmp_path, "P17.train.json", items="Who?")
    assert "P17.train.json holds a text where a list" in refused(tmp_path)
    put(tmp_path, "P17.train.json", items=[*ITEMS, 3])
    assert "P17.train.json, item 3: a number where an object" in refused(tmp_path)


def test_dropped_items_are_named(tmp_path: Path) -> None:
    reading = read(put(tmp_path, "P17.train.json", items=[*ITEMS, {"question": "Who?", "answers": []}]))
    assert [(row.where, row.rule) for row in reading.dropped] == [("P17.train.json, item 3", "no answer")]


@pytest.mark.slow
def test_real_questions() -> None:
    folder = data("entityquestions", "train")
    reading = read(folder)
    counts, questions = 0, {}
    for path in folder.glob("P*.json"):
        relation = path.name.split(".")[0]
        items = json.loads(path.read_text())
        counts += len(items)
        for item in items:
            answers = questions.setdefault((relation, " ".join(item["question"].split())), [])
            answers += [" ".join(answer.split()) for answer in item["answers"]]
    assert reading.rows == counts == 176_560
    assert reading.dropped == []
    assert len(reading.merged) == counts - len(questions)
    assert {(fact.category, fact.question) for fact in reading.facts} == set(questions)
    everywhere: dict[str, set[str]] = {}
    for (_, question), answers in questions.items():
        everywhere.setdefault(question, set()).update(answers)
    assert all(set(f.answers) == everywhere[f.question] for f in reading.facts)
    assert all(f.answer == questions[f.category, f.question][0] for f in reading.facts)
    assert len({fact.id for fact in reading.facts}) == len(reading.facts)
    assert len(Counter(fact.category for fact in reading.facts)) == 24
    assert sum(not fact.subject for fact in reading.facts) == 0


def test_the_real_folder_of_all_splits() -> None:
    assert data("entityquestions", "dev")
    assert read(data("entityquestions"), split="dev").rows == 22_068
