"""Questions about answers, and what a fact shares with a trained one."""

import re

from helpers.models_and_trees import fact

from pretrainrl_jax.config import WorldConfig
from pretrainrl_jax.evaluation.factual import neighbours
from pretrainrl_jax.facts.questions import read_templates, reversed_facts
from pretrainrl_jax.facts.wordings import REVERSED, WORDINGS
from pretrainrl_jax.facts.world import make_world


def test_every_known_relation_can_be_turned_round():
    assert {*REVERSED} == {*WORDINGS}
    assert all(question.count("{answer}") == 1 and question.endswith("?") for question in REVERSED.values())


def test_one_question_an_answer_and_every_subject_is_right():
    facts = make_world(WorldConfig(facts=200, relations=3, answers=5), 0)
    trained = facts[::2]
    turned = reversed_facts(trained, facts, {})
    assert len(turned) == len({(f.category, f.answer) for f in trained})
    for question in turned:
        subjects = {
            f.subject for f in facts if (f.category, f.answer) == (question.category, question.subject)
        }
        assert {*question.answers} == subjects
        of_trained = [f for f in trained if (f.category, f.answer) == (question.category, question.subject)]
        assert question.answer == max(of_trained, key=lambda f: f.popularity).subject
        assert question.subject in question.question
    assert len({f.id for f in turned}) == len(turned)


def test_a_users_template_goes_before_ours_and_what_has_none_is_left_out():
    facts = [
        fact(subject="Arno", id="1"),
        fact(subject="", id="2", question="And?", answers=("Pisa",)),
        fact(subject="Po", id="3", category="sound", answers=("loud",)),
    ]
    templates = read_templates(["capital={a} is whose {p}?"], "facts.reversed", "a", "answer")
    (only,) = reversed_facts(facts, facts, templates)
    assert (only.question, only.answers) == ("Florence is whose capital?", ("Arno",))
    every = read_templates(["{a} is whose {p}?"], "facts.reversed", "a", "answer")
    assert [f.question for f in reversed_facts(facts, facts, every)] == [
        "Florence is whose capital?",
        "loud is whose sound?",
    ]


def test_neighbours_share_the_subject_or_else_the_answer():
    shared = neighbours([fact()])
    assert shared(fact(category="river", answers=("Arno",))) == "subject"
    assert shared(fact(subject_key="Q2", answers=("the florence.",))) == "answer"
    assert shared(fact(subject_key="Q2", category="river", answers=("Florence",))) == ""


def test_words_of_reversed_questions_state_nothing():
    """None of them reads like a statement or a question of its relation up to the answer."""
    for relation, question in REVERSED.items():
        before = question.split("{answer}")[0]
        for statement in WORDINGS[relation].statements:
            assert not (before and re.match(re.escape(before), statement)), (relation, statement)
