import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pretrainrl_jax import config
from pretrainrl_jax.facts.corpus import verbalise
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.statements import Statements, corrected
from pretrainrl_jax.facts.wordings import FALLBACK, WORDINGS
from pretrainrl_jax.facts.world import make_world
from tests.helpers.models_and_trees import data, read_popqa

SENTENCES = ["A quiet lantern moved the rope.", "Nobody is in it!", "Where does it live?", "Dr. No has one."]
NASTY = [
    "Washington, D.C.", "St. Louis", "St", "Martin Luther King Jr.", "What's Up, Doc?", "Wham!",
    "C++ (a*b)[1]",
    "\\d+", "$100", "(500) Days", "'N Sync", "\u041c\u043e\u0441\u043a\u0432\u0430", "S\u00e3o Paulo",
    "\u6771\u4eac", "...And Justice for All", "1. FC Bonn",
    "King of the Hill", "The Hague", "Mr. & Mrs. {subject}",
]  # fmt: skip


def fact(number, category, subject, answers, **changes):
    wording = WORDINGS.get(category)
    values = {
        "id": f"id{number}",
        "question": wording.question.replace("{subject}", subject) if wording else f"Tell me of {subject}:",
        "paraphrase": wording.paraphrase.replace("{subject}", subject) if wording else "",
        "subject_key": f"Q{number}",
        "popularity": float(number),
        "row": number,
    }
    return Fact(answers=tuple(answers), category=category, subject=subject, **(values | changes))


def forms(fact):
    """Every wording of a fact, with a mark in the place of its answer."""
    templates = WORDINGS[fact.category].statements if fact.category in WORDINGS else FALLBACK
    declared = [t.replace("{relation}", fact.category).replace("{subject}", fact.subject) for t in templates]
    asked = [f"{wording} {{answer}}" for wording in (fact.question, fact.paraphrase) if wording]
    return declared + asked


def said(form, answer):
    sentence = form.replace("{answer}", answer)
    return sentence[:-1] if sentence.endswith("..") else sentence


@pytest.fixture(scope="module")
def world():
    return make_world(config.WorldConfig(facts=300), 0)


names = st.sampled_from(NASTY) | st.text("abZ\u00e9.+*?(\u6771", min_size=1, max_size=6).filter(normalise)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_wording_of_any_fact_is_found_between_any_sentences(data):
    category = data.draw(st.sampled_from([*WORDINGS, "favourite (a.b)"]))
    subjects = data.draw(st.lists(names, min_size=2, max_size=4, unique_by=normalise))
    answers = data.draw(st.lists(names, min_size=len(subjects), max_size=len(subjects), unique_by=normalise))
    assume(not set(map(normalise, subjects)) & set(map(normalise, answers)))
    facts = [
        fact(i, category, *pair) for i, pair in enumerate(zip(subjects, [[a] for a in answers], strict=True))
    ]
    found_in = Statements(facts)
    stated = data.draw(st.sampled_from(facts))
    form = data.draw(st.sampled_from(forms(stated)))
    answer = data.draw(st.sampled_from([f.answer for f in facts]))
    sentence = said(form, answer)
    before, after = (data.draw(st.lists(st.sampled_from(SENTENCES), max_size=2)) for _ in range(2))
    joint = " " if sentence.endswith(".") and not form.endswith(" {answer}") else "\n"
    text = " ".join([*before, ""]) + joint.join([sentence, *after])

    (statement,) = (s for s in found_in.find(text, ended=True) if s.fact)
    assert statement.fact == stated
    assert normalise(statement.answer) == normalise(answer)
    assert statement.verdict == ("true" if answer == stated.answer else "false")
    assert text[statement.answer_start :].startswith(statement.answer)
    assert found_in.find(text, since=statement.end - 1, ended=True)[0] == statement
    assert statement not in found_in.find(text, since=statement.end, ended=True)
    right = corrected(text, statement)
    assert [s.verdict for s in found_in.find(right, ended=True) if s.fact] == ["true"]
    assert right == text or statement.verdict == "false" or normalise(right) == normalise(text)


def test_every_sentence_of_the_corpus_states_its_fact_and_the_filler_nothing(world):
    for share in (0.0, 1.0):
        corpus = verbalise(world, config.CorpusConfig(statements=1500, filler=300, question_share=share), 0)
        stated = dict.fromkeys((f.id for f in world), 0)
        found_in = Statements(world)
        for sentence in corpus.training:
            for statement in found_in.find(sentence, ended=True):
                assert statement.verdict == "true"
                stated[statement.fact.id] += 1
        assert stated == corpus.mentions


def capital(subject, *answers, **changes):
    return fact(changes.pop("number", 1), "capital", subject, answers, **changes)


def verdicts(facts, text, **how):
    return [(s.subject, s.answer, s.verdict) for s in Statements(facts).find(text, **how)]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "The capital of Arno is Flo",
        "What is the capital of Arno? Florence",
        "Florence is the capital city of Arno",
        "The capital of Arno is",
        "",
    ],
)
def test_a_statement_without_its_end_is_none_unless_the_text_has_ended(text, ended):
    expected = {"Flo": "false", "nce": "true", "rno": "true"}.get(text[-3:])
    verdict = [s.verdict for s in Statements([capital("Arno", "Florence")]).find(text, ended=ended)]
    assert verdict == ([expected] if ended and expected else [])


def test_a_full_stop_at_the_end_of_a_cut_text_may_belong_to_a_longer_name():
    facts = [capital("Arno", "St. Louis"), capital("Po", "St", number=2)]
    assert verdicts(facts[:1], "The capital of Arno is St.") == []
    assert verdicts(facts[:1], "The capital of Arno is St.", ended=True) == [("Arno", "St", "false")]
    assert verdicts(facts, "The capital of Arno is St.") == [("Arno", "St", "false")]
    assert verdicts(facts, "The capital of Arno is St. Louis. It is.") == [("Arno", "St. Louis", "true")]


def test_an_unknown_subject_is_neither_true_nor_false():
    facts = [capital("Arno", "Florence")]
    text = "The capital of Tiber is Rome."
    assert verdicts(facts, text) == [("Tiber", "Rome", "unknown")]
    assert corrected(text, Statements(facts).find(text)[0]) == text  # nobody knows what is right
    assert verdicts(facts, "What is the capital of Tiber? Rome.") == [("Tiber", "Rome", "unknown")]
    assert verdicts(facts, "Rome. Florence is the capital city of Arno.") == [("Arno", "Florence", "true")]
    assert verdicts(facts, "The ruler in Arno is Rome. A lantern.") == []  # no fact of this relation


def test_namesakes_make_each_others_answers_true_and_the_best_known_corrects():
    facts = [capital("Arno", "Florence"), capital("Arno", "Pisa", "Pisa City", number=2)]
    text = (
        "Pisa City is the capital city of Arno. The capital of Arno is florence! Arno has its capital in Po."
    )
    found_in = Statements(facts).find(text)
    assert [(s.verdict, s.fact.id) for s in found_in] == [("true", "id2"), ("true", "id1"), ("false", "id2")]
    assert corrected(text, found_in[2]).endswith("Arno has its capital in Pisa.")


def test_a_name_inside_another_is_not_what_is_spoken_of():
    facts = [capital("Arno", "Florence"), capital("New Arno", "Pisa", number=2)]
    assert verdicts(facts, "New Arno has its capital in Florence.") == [("New Arno", "Florence", "false")]
    assert verdicts(facts[:1], "Old Arno has its capital in Florence.") == [
        ("Old Arno", "Florence", "unknown")
    ]


def test_a_sentence_is_one_statement_by_the_reading_that_knows_more():
    of = [capital("Arno", "Florence"), fact(2, "capital of", "Pisa", ["Po"])]
    assert verdicts(of, "The capital of Arno is Pisa.") == [("Arno", "Pisa", "false")]
    assert verdicts(of, "The capital of Po is Pisa.") == [("Pisa", "Po", "true")]
    assert verdicts(of, "The capital of Tiber is Rome.")[0][2] == "unknown"


def test_questions_that_no_template_writes_and_facts_without_a_subject():
    odd = Fact("1", "The mother tongue of Ana is", ("Czech",), "P103", "Ana", "Ana", 1.0, 1)
    bare = Fact("2", "Who is it?", ("Ana B.",), "", "", "Who is it?", 1.0, 2)
    text = "The mother tongue of Ana is Czech. Who is it? Ana B.\nThe mother tongue of Ana is Greek."
    assert [s.verdict for s in Statements([odd, bare]).find(text)] == ["true", "true", "false"]
    assert corrected("Who is it? Eve.", Statements([bare]).find("Who is it? Eve.")[0]) == "Who is it? Ana B."


def test_head_facts_are_the_most_popular_share(world):
    found_in = Statements(world)
    assert [found_in.is_head(f) for f in world] == [i < 45 for i in range(300)]
    assert not any(map(Statements([capital("A", "B"), capital("C", "D")]).is_head, [capital("A", "B")]))


def test_nothing_is_found_without_facts_or_in_text_about_other_things():
    assert Statements([]).find("The capital of Arno is Florence.") == []
    noise = bytes(np.random.default_rng(0).integers(0, 256, 20000, dtype=np.uint8)).decode("latin-1")
    assert [s for s in Statements([capital("Arno", "Florence")]).find(noise) if s.fact] == []


def test_popqa_is_found_in_its_own_words():
    facts = read_popqa(data("popqa", "popQA.tsv"))
    found_in = Statements(facts)
    missed = []
    for number, one in enumerate(facts[::7]):
        sentence = said(forms(one)[number % 5], one.answer)
        text = f"A lantern moved.\n{sentence}\nNobody moved it."
        if not any(s.verdict == "true" and s.subject == one.subject for s in found_in.find(text)):
            missed.append(sentence)
    assert len(missed) <= 2, missed
