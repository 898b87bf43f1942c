import json
import re

import pytest
from helpers import models_and_trees
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.facts.wordings import (
    ENTITYQUESTIONS,
    POPQA,
    WORDINGS,
    WORLD,
    rewordings,
    subject_of,
    wording_of,
)

SUBJECT = st.text(models_and_trees.LETTERS + "{}'", min_size=1).map(str.strip).filter(bool)


def words(template):
    return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", template.lower())))


# What any two questions may share without being worded alike.
FUNCTION = words("a as by did do does from has have in is of on or 's the to up was what which who whom")


def test_every_relation_keeps_its_wording():
    assert len(ENTITYQUESTIONS) == 24
    assert set(WORDINGS) == set(POPQA) | set(WORLD) | set(ENTITYQUESTIONS)
    for relations in (POPQA, WORLD, ENTITYQUESTIONS):
        assert all(WORDINGS[relation] == wording for relation, wording in relations.items())


@pytest.mark.parametrize("relation", ENTITYQUESTIONS)
def test_wordings_are_well_formed(relation):
    wording = ENTITYQUESTIONS[relation]
    for question in (wording.question, wording.paraphrase):
        assert re.findall(r"\{\w*\}", question) == ["{subject}"]
        assert question.endswith("?")
    assert len(set(wording.statements)) == len(wording.statements) >= 3
    for statement in wording.statements:
        assert sorted(re.findall(r"\{\w*\}", statement)) == ["{answer}", "{subject}"]
        assert statement.endswith(".")
        assert "?" not in statement


@pytest.mark.parametrize("relation", ENTITYQUESTIONS)
def test_a_paraphrase_shares_no_content_word_with_the_other_templates(relation):
    wording = ENTITYQUESTIONS[relation]
    shared = words(wording.paraphrase) & words(" ".join([wording.question, *wording.statements])) - FUNCTION
    assert shared <= ({"capital", "city"} if relation == "P36" else set())


def test_no_paraphrase_is_another_relations_question():
    questions = {wording.question for wording in WORDINGS.values()}
    assert not questions & {wording.paraphrase for wording in WORDINGS.values()}
    assert len({wording.paraphrase for wording in ENTITYQUESTIONS.values()}) == 24


def test_rewordings_ask_the_same_and_are_no_other_wording():
    every = [text for wording in WORDINGS.values() for text in wording.rewordings]
    others = {text for wording in WORDINGS.values() for text in (wording.question, wording.paraphrase)}
    # "Where was X born?" is EntityQuestions' own question, and another wording of PopQA's.
    assert set(every) & others <= {WORDINGS["P19"].question}
    for relation, wording in WORDINGS.items():
        assert len(set(wording.rewordings)) == 2
        for text in wording.rewordings:
            assert re.findall(r"\{\w*\}", text) == ["{subject}"]
            assert text.endswith("?")
            shared = words(text) & words(wording.paraphrase) - FUNCTION  # not more than others do
            assert shared <= words(" ".join([wording.question, *wording.statements])), (relation, text)


def test_lookups_know_the_relations():
    assert rewordings("P20", "Dante") == ("Where did Dante pass away?", "In what town did Dante die?")
    assert rewordings("P0", "Dante") == ()
    assert wording_of("P20").paraphrase == "What is the place of death of {subject}?"
    assert wording_of("P20") == ENTITYQUESTIONS["P20"]
    assert wording_of("P0").paraphrase == ""


@given(st.sampled_from(sorted(WORDINGS)), SUBJECT)
def test_the_subject_is_read_back(relation, subject):
    question = WORDINGS[relation].question.replace("{subject}", subject)
    assert subject_of(relation, question) == subject
    assert subject_of(relation, question.replace(subject, f"  {subject} ")) in {subject, ""}


@pytest.mark.parametrize(
    ("relation", "question", "subject"),
    [
        ("P40", "Who is Alfonso II of Naples's child?", "Alfonso II of Naples"),
        (
            "P17",
            "Which country is Which country is x located in? located in?",
            "Which country is x located in?",
        ),
        ("P19", "Where was  Meng  Su born?", "Meng  Su"),
        ("P19", "Where was born?", ""),  # the space belongs to both ends
        ("P19", "Where was   born?", ""),
        ("P19", "where was Dante born?", ""),
        ("P19", "Where was Dante born? ", ""),
        ("P19", "Where did Dante die?", ""),
        ("P0", "Where was Dante born?", ""),
        ("P19", "", ""),
    ],
)
def test_subjects(relation, question, subject):
    assert subject_of(relation, question) == subject


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_every_real_question_names_its_subject(part):
    folder = models_and_trees.data("entityquestions", part)
    count = 0
    for relation, wording in ENTITYQUESTIONS.items():
        for row in json.loads((folder / f"{relation}.{part}.json").read_text(encoding="utf-8")):
            subject = subject_of(relation, row["question"])
            assert subject, row["question"]
            assert wording.question.replace("{subject}", subject) == row["question"]
            count += 1
    assert count == {"train": 176_560, "dev": 22_068, "test": 22_075}[part]
    assert len(list(folder.glob("*.json"))) == 24
