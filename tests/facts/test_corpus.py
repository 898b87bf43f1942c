import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pretrainrl_jax import config
from pretrainrl_jax.config.messages import explained
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.corpus import verbalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.wordings import FALLBACK, POPQA, WORDINGS
from pretrainrl_jax.facts.world import make_world

SCRIPT = """
import hashlib
from pretrainrl_jax import config
from pretrainrl_jax.facts.corpus import verbalise
from pretrainrl_jax.facts.world import make_world
facts = make_world(config.WorldConfig(facts=50), 3)
print(hashlib.sha256(repr(verbalise(facts, config.CorpusConfig(statements=500), 4)).encode()).hexdigest())
"""


def fact(number, category="capital", answers=("Florence",), popularity=1.0):
    subject = f"Place{number}"
    question = WORDINGS[category].question if category in WORDINGS else "What is the thing of {subject}?"
    paraphrase = WORDINGS[category].paraphrase if category in WORDINGS else ""
    return Fact(
        id=f"id{number}",
        question=question.format(subject=subject),
        answers=answers,
        category=category,
        subject=subject,
        subject_key=subject,
        popularity=popularity,
        row=number + 2,
        paraphrase=paraphrase.format(subject=subject),
    )


@pytest.fixture(scope="module")
def world():
    return make_world(config.WorldConfig(), 0)


@pytest.fixture(scope="module")
def corpus(world):
    return verbalise(world, config.CorpusConfig(), 0)


def words(sentence):
    return sentence.replace("?", " ").replace(",", " ").replace(".", " ").split()


def test_sizes(corpus):
    documents = corpus.training + corpus.held_out
    assert len(documents) == 20_000
    assert len(corpus.held_out) == 1000
    assert sum("?" in sentence for sentence in documents) == 6400
    assert all(("?" in sentence) != sentence.endswith(".") for sentence in documents)


def test_mentions_are_counted_in_the_training_text(world, corpus):
    # A subject of the world is one word that nothing else is named.
    seen = Counter(word for sentence in corpus.training for word in words(sentence))
    assert corpus.mentions == {fact.id: seen[fact.subject] for fact in world}
    held_out = Counter(word for sentence in corpus.held_out for word in words(sentence))
    stated = sum(seen[fact.subject] + held_out[fact.subject] for fact in world)
    assert stated == 16_000


def test_a_statement_names_the_answer(world, corpus):
    by_subject = {fact.subject: fact for fact in world}
    by_question = {f"{q} {fact.answer}" for fact in world for q in (fact.question, fact.paraphrase)}
    filler = 0
    for sentence in corpus.training + corpus.held_out:
        stated = [by_subject[word] for word in words(sentence) if word in by_subject]
        assert len(stated) <= 1
        filler += not stated
        if stated:
            assert stated[0].answer in words(sentence)
            assert ("?" in sentence) == (sentence in by_question)
    assert filler == 4000


def test_filler_names_no_answer_and_varies(world, corpus):
    names = {fact.subject for fact in world} | {fact.answer for fact in world}
    filler = [sentence for sentence in corpus.training if not names & set(words(sentence))]
    assert len(set(filler)) > 0.95 * len(filler)
    assert len({word for sentence in filler for word in words(sentence)}) > 80
    assert all(sentence[0].isupper() and "{" not in sentence for sentence in filler)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_facts_are_stated_in_proportion_to_popularity(power):
    facts = [fact(number, popularity=(number + 1.0) ** -2) for number in range(20)]
    settings = config.CorpusConfig(statements=50_000, filler=0, held_out_share=0.0, popularity_power=power)
    mentions = verbalise(facts, settings, 1).mentions
    weights = [1 / (number + 1) ** (2 * power) for number in range(20)]
    for number, weight in enumerate(weights):
        expected = 50_000 * weight / sum(weights)
        assert abs(mentions[f"id{number}"] - expected) < 5 * np.sqrt(expected)
    assert sum(mentions.values()) == 50_000


def test_all_wordings_are_used_equally():
    settings = config.CorpusConfig(
        statements=8000, filler=0, question_share=0.5, paraphrase_share=0.25, held_out_share=0.0
    )
    counts = Counter(verbalise([fact(0)], settings, 0).training)
    assert counts.pop("What is the capital of Place0? Florence") == 3000
    assert counts.pop(f"{fact(0).paraphrase} Florence") == 1000
    expected = {
        template.format(subject="Place0", answer="Florence") for template in POPQA["capital"].statements
    }
    assert set(counts) == expected
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_held_out_text_has_the_same_distribution(corpus):
    def kinds(sentences):
        return np.array([sum("?" in sentence for sentence in sentences), len(sentences)])

    asked, size = kinds(corpus.held_out)
    assert abs(asked / size - 0.32) < 0.06  # four standard deviations
    common = Counter(corpus.training).most_common(1)[0]
    expected = common[1] / 19
    assert abs(corpus.held_out.count(common[0]) - expected) < 5 * np.sqrt(expected)


def test_training_text_is_shuffled(corpus):
    half = len(corpus.training) // 2
    asked = [
        sum("?" in sentence for sentence in part) for part in (corpus.training[:half], corpus.training[half:])
    ]
    assert abs(asked[0] - asked[1]) < 5 * np.sqrt(sum(asked))


def test_paraphrases_can_be_kept_out(world):
    corpus = verbalise(world, config.CorpusConfig(paraphrase_share=0.0), 0)
    text = "\n".join(corpus.training + corpus.held_out).lower()
    assert not [fact.paraphrase for fact in world if fact.paraphrase.lower() in text]


def test_statements_are_never_worded_like_a_paraphrase():
    facts = [fact(number, category) for number, category in enumerate(sorted(WORDINGS))]
    settings = config.CorpusConfig(statements=4000, filler=100, paraphrase_share=0.0, held_out_share=0.0)
    text = "\n".join(verbalise(facts, settings, 0).training).lower()
    for known in facts:
        assert known.question.lower() in text
        assert known.paraphrase.lower().rstrip("?") not in text


def test_wordings_are_well_formed():
    questions = {wording.question for wording in WORDINGS.values()}
    for wording in WORDINGS.values():
        assert wording.question.endswith("?")
        assert wording.paraphrase.endswith("?")
        assert wording.question.count("{subject}") == wording.paraphrase.count("{subject}") == 1
        assert wording.paraphrase not in questions
        assert len(set(wording.statements)) == len(wording.statements) >= 3
    for template in [*FALLBACK, *(one for wording in WORDINGS.values() for one in wording.statements)]:
        assert template.count("{subject}") == template.count("{answer}") == 1
        assert template.endswith(".")
        assert "?" not in template


def test_unknown_relation_and_braces():
    unknown = Fact("1", "What shape is {x}?", ("{round}",), "shape", "{x}", "{x}", 1.0, 2)
    settings = config.CorpusConfig(statements=200, filler=0, held_out_share=0.0)
    assert set(verbalise([unknown], settings, 0).training) == {
        "What shape is {x}? {round}",
        "The shape of {x} is {round}.",
        "For {x}, the shape is {round}.",
        "{x} has {round} as its shape.",
    }


def test_a_fact_whose_subject_is_not_known_is_stated_by_its_question():
    unnamed = replace(fact(0, answers=("Oslo",)), subject="", question="Born where?", paraphrase="")
    corpus = verbalise([unnamed], config.CorpusConfig(statements=20, filler=0, question_share=0.5), 0)
    assert {*corpus.training, *corpus.held_out} == {"Born where? Oslo"}


def test_one_full_stop_after_an_abbreviation():
    settings = config.CorpusConfig(statements=300, filler=0, held_out_share=0.0, question_share=0.0)
    sentences = set(verbalise([fact(0, answers=("Washington, D.C.",))], settings, 0).training)
    assert "The capital of Place0 is Washington, D.C." in sentences
    assert not any(sentence.endswith("..") for sentence in sentences)


def test_facts_nobody_looks_for_are_all_equal():
    facts = [fact(number, popularity=0.0) for number in range(4)]
    mentions = verbalise(facts, config.CorpusConfig(statements=4000), 0).mentions
    assert all(850 < count < 1050 for count in mentions.values())


def test_a_high_power_does_not_overflow():
    facts = [fact(0, popularity=1.5e7), fact(1, popularity=1.0)]
    mentions = verbalise(
        facts, config.CorpusConfig(statements=100, held_out_share=0.0, popularity_power=90.0), 0
    ).mentions
    assert mentions == {"id0": 100, "id1": 0}


def test_filler_alone():
    assert len(verbalise([], config.CorpusConfig(statements=0, filler=40), 0).training) == 38


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"statements": -1}, "corpus.statements is -1"),
        ({"filler": -1}, "corpus.filler is -1"),
        ({"popularity_power": -0.5}, "corpus.popularity_power is -0.5"),
        ({"question_share": 1.1}, "corpus.question_share is 1.1"),
        ({"held_out_share": 1.0}, "corpus.held_out_share is 1"),
    ],
)
def test_bad_settings(change, expected):
    with pytest.raises((InputError, ValidationError)) as raised:
        verbalise([fact(0)], config.CorpusConfig(**change), 0)
    error = raised.value
    assert expected in (explained(error) if isinstance(error, ValidationError) else str(error))


def test_statements_need_facts():
    with pytest.raises(InputError, match="no facts"):
        verbalise([], config.CorpusConfig(), 0)


def test_seeds(world, corpus):
    assert verbalise(world, config.CorpusConfig(), 0) == corpus
    assert verbalise(world, config.CorpusConfig(), 1).training != corpus.training


def test_the_same_in_another_process():
    root = Path(config.__file__).parents[1]
    facts = make_world(config.WorldConfig(facts=50), 3)
    text = repr(verbalise(facts, config.CorpusConfig(statements=500), 4))
    for hashing in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()
