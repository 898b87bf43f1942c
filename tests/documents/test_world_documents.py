from collections import Counter
from dataclasses import replace

import pytest

from pretrainrl_jax import config
from pretrainrl_jax.documents.world import make_documents
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.facts.world import make_world

SETTINGS = config.DocumentsConfig(count=400, sentences=6, false_share=0.2, held_out=50)
CORPUS = config.CorpusConfig()


@pytest.fixture(scope="module")
def world():
    return make_world(config.WorldConfig(facts=300), 0)


@pytest.fixture(scope="module")
def made(world):
    return make_documents(world, SETTINGS, CORPUS, 0)


def verdicts(world, texts):
    found_in = Statements(world)
    return Counter(s.verdict for text in texts for s in found_in.find(text, ended=True))


def test_documents_join_sentences_of_which_a_stated_share_is_false(world, made):
    assert [len(text.split("\n")) for text in made.texts] == [6] * 400
    assert [len(text.split("\n")) for text in made.held_out] == [6] * 50
    # 16,000 of 20,000 sentences of the corpus state a fact; a fifth of these is false.
    assert verdicts(world, made.texts) == {"true": 1536, "false": 384}
    assert verdicts(world, made.held_out) == {"true": 240}
    assert not set(made.texts) & set(made.held_out)


def falsehoods(facts, texts):
    """The ids of facts that texts state falsely, each with the answer that they give."""
    found_in = Statements(facts)
    found = (s for text in texts for s in found_in.find(text, ended=True) if s.verdict == "false")
    return [(s.fact.id, s.answer) for s in found]


def test_a_falsehood_is_another_answer_of_the_relation_and_always_the_same(world, made):
    categories = {fact.id: fact.category for fact in world}
    answers = {(f.category, f.answer) for f in world}
    told = falsehoods(world, made.texts)
    assert all((categories[id], answer) in answers for id, answer in told)
    assert len({*told}) == len({id for id, _ in told}) > 30


def test_frequent_answers_are_frequent_falsehoods():
    facts = [one(i, f"Town{i}", "Rome" if i < 270 else f"City{i}", popularity=1.0) for i in range(300)]
    made = make_documents(facts, replace(SETTINGS, false_share=1.0), CORPUS, 0)
    wrong = Counter(answer == "Rome" for id, answer in falsehoods(facts, made.texts) if int(id) >= 270)
    assert wrong[True] / wrong.total() == pytest.approx(0.9, abs=0.15)


def one(number, subject, *answers, popularity=1.0, category="capital"):
    question = f"What is the capital of {subject}?"
    return Fact(str(number), question, answers, category, subject, f"Q{number}", popularity, number)


def test_no_falsehood_is_true_of_a_namesake_or_under_another_name():
    facts = [one(1, "Arno", "Florence", "Firenze"), one(2, "Arno", "Pisa"), one(3, "Po", "firenze")]
    made = make_documents(facts, replace(SETTINGS, false_share=1.0), CORPUS, 0)
    told = falsehoods(facts, made.texts)
    assert {id for id, _ in told} == {"3"}
    assert {answer for _, answer in told} <= {"Pisa", "Florence"}
    lonely = make_documents(facts[:1], replace(SETTINGS, false_share=1.0), CORPUS, 0)
    assert falsehoods(facts[:1], lonely.texts) == []


def test_documents_depend_on_the_seed_alone(world, made):
    assert make_documents(world, SETTINGS, CORPUS, 0) == made
    assert make_documents(world, SETTINGS, CORPUS, 1).texts != made.texts
    more = make_documents(world, replace(SETTINGS, held_out=60), CORPUS, 0)
    assert more.texts == made.texts


def test_nothing_to_state_is_refused(world):
    with pytest.raises(InputError, match="documents"):
        make_documents([], SETTINGS, CORPUS, 0)
    with pytest.raises(InputError, match="documents"):
        make_documents(world, SETTINGS, replace(CORPUS, statements=0), 0)
