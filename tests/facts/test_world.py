import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretrainrl_jax import config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import normalise, overlaps
from pretrainrl_jax.facts.splits import split
from pretrainrl_jax.facts.wordings import FALLBACK, FILLER, FILLER_WORDS, POPQA, WORLD
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.settings import validate

SCRIPT = """
import hashlib
from pretrainrl_jax import config
from pretrainrl_jax.facts.world import make_world
print(hashlib.sha256(repr(make_world(config.WorldConfig(), 3)).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def world():
    return make_world(config.WorldConfig(), 0)


def test_size(world):
    assert len(world) == 2400 == len({fact.id for fact in world}) == len({fact.subject for fact in world})
    assert Counter(fact.category for fact in world) == dict.fromkeys(WORLD, 300)
    for relation in WORLD:
        answers = {fact.answer for fact in world if fact.category == relation}
        assert 70 <= len(answers) <= 80


def test_relations_are_balanced_in_head_tail_and_holdout(world):
    for start in range(0, 2400, 8):
        assert {fact.category for fact in world[start : start + 8]} == set(WORLD)
    held_out = Counter(fact.category for fact in split(world, 6)[1])
    assert min(held_out.values()) > 30


def test_popularity_follows_the_power_law(world):
    for rank in (1, 2, 100, 2400):
        assert world[rank - 1].popularity == pytest.approx(1 / np.sqrt(rank + 10.0) ** 3)
    other = make_world(config.WorldConfig(facts=5, popularity_exponent=2.0, popularity_offset=0.0), 0)
    assert [fact.popularity for fact in other] == pytest.approx([1, 1 / 4, 1 / 9, 1 / 16, 1 / 25])


def test_names_are_distinct_and_no_words_of_the_corpus(world):
    names = [fact.subject for fact in world] + sorted({fact.answer for fact in world})
    normalised = [normalise(name) for name in names]
    assert len(set(normalised)) == len(names)
    assert all(name.isalpha() and name.isascii() for name in names)
    text = " ".join([*FILLER, *FALLBACK, *(word for words in FILLER_WORDS.values() for word in words)])
    for wording in (POPQA | WORLD).values():
        text += " ".join([" ", wording.question, wording.paraphrase, *wording.statements])
    english = {word.strip("?.,:{}'").lower() for word in text.split()}
    assert not english & set(normalised)
    assert not set(normalised) & {"a", "an", "the"}


def test_answers_of_a_relation_never_overlap(world):
    answers = sorted({fact.answer for fact in world if fact.category == "capital"})
    assert not any(overlaps(one, other) for one in answers for other in answers if one != other)


def test_questions_and_paraphrases_name_the_subject(world):
    for fact in world:
        assert fact.question == WORLD[fact.category].question.replace("{subject}", fact.subject)
        assert fact.paraphrase == WORLD[fact.category].paraphrase.replace("{subject}", fact.subject)
        assert fact.question != fact.paraphrase
        assert (fact.subject_key, fact.row, len(fact.answers)) == (fact.subject, 0, 1)


def test_head_and_tail_draw_from_the_same_answers_in_independent_orders():
    size = 40_000
    facts = make_world(config.WorldConfig(facts=size, relations=1, answers=20, head_share=0.5), 1)
    answers = sorted({fact.answer for fact in facts})
    assert len(answers) == 20
    orders = []
    for part, exponent in ((facts[: size // 2], 1.2), (facts[size // 2 :], 0.4)):
        counts = Counter(fact.answer for fact in part)
        observed = np.array(sorted(counts.values(), reverse=True)) / (size // 2)
        expected = np.array([rank**-exponent for rank in range(1, 21)])
        expected /= expected.sum()
        assert np.abs(observed - expected).max() < 0.012  # about four standard deviations of the commonest
        orders.append([counts[answer] for answer in answers])
    ranks = np.argsort(np.argsort(orders, axis=1), axis=1)
    assert abs(np.corrcoef(ranks)[0, 1]) < 0.6


def test_the_heads_answers_are_falsehoods_of_the_tail(world):
    """What a model that knows only the head would guess is wrong for nearly all of the tail."""
    head, tail = world[:360], world[360:]
    right = 0
    for relation in WORLD:
        guess = Counter(fact.answer for fact in head if fact.category == relation).most_common(1)[0]
        assert guess[1] / 45 > 0.12
        right += sum(fact.answer == guess[0] for fact in tail if fact.category == relation)
    assert right / len(tail) < 0.05


def test_seeds_differ_and_repeat(world):
    assert make_world(config.WorldConfig(), 0) == world
    other = make_world(config.WorldConfig(), 1)
    assert {fact.subject for fact in other} != {fact.subject for fact in world}


def test_the_same_in_another_process():
    root = Path(config.__file__).parents[1]
    expected = hashlib.sha256(repr(make_world(config.WorldConfig(), 3)).encode()).hexdigest()
    for hashing in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


def test_a_world_larger_than_its_shortest_names():
    facts = make_world(config.WorldConfig(facts=8, relations=1, answers=2000), 0)
    assert len({fact.subject for fact in facts}) == 8  # 325 names of one syllable are soon taken


@pytest.mark.parametrize(("share", "tail"), [(0.0, 8), (1.0, 0)])
def test_extreme_shares(share, tail):
    facts = make_world(config.WorldConfig(facts=8, head_share=share, head_zipf=50.0, relations=1), 0)
    assert len(facts) == 8
    assert (len({fact.answer for fact in facts}) == 1) == (tail == 0)


def validated_world(settings):
    validate(config.Config(world=settings))
    return make_world(settings, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"facts": 0}, "world.facts is 0"),
        ({"relations": 0}, "world.relations is 0"),
        ({"relations": 9}, "world.relations is 9: there are 8"),
        ({"answers": -1}, "world.answers is -1"),
        ({"head_share": 1.5}, "world.head_share is 1.5"),
        ({"popularity_offset": -1.0}, "world.popularity_offset is -1.0"),
    ],
)
def test_bad_settings(change, words):
    with pytest.raises(InputError) as raised:
        validated_world(config.WorldConfig(**change))
    assert words in str(raised.value)
