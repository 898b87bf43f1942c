"""Counting statements by prompt: against brute force over texts whose sentences are known."""

from collections import Counter as Tally
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.counted_texts import of_texts
from helpers.models_and_trees import fact
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.config import CorpusConfig, DocumentsConfig, WorldConfig
from pretrainrl_jax.documents.world import make_documents
from pretrainrl_jax.facts.corpus import fill, put_into_words, shares, verbalise
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.knowledge.singletons import Counts, drawn_by, of_mentions

FACTS = make_world(WorldConfig(facts=40, relations=4, answers=6), 0)
CORPUS = CorpusConfig(statements=300, filler=50)
NAMESAKES = [
    fact(("Bern",), id="a", question="Where was Ann Lee born?", category="born", subject="Ann Lee"),
    fact(("Kyiv",), id="b", question="Where was Ann Lee born?", category="born", subject="Ann Lee"),
    fact(("Oslo",), id="c", question="Where was Bo Dahl born?", category="born", subject="Bo Dahl"),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 39), max_size=60), st.integers(1, 5), st.integers(0, 100))
def test_texts_are_counted_as_they_were_made(stated: list[int], sentences: int, seed: int):
    random = np.random.default_rng(seed)
    said = put_into_words([FACTS[i] for i in stated], CORPUS, random) + [fill(random) for _ in range(5)]
    said = [said[at] for at in random.permutation(len(said))]
    texts = ["\n".join(said[at : at + sentences]) for at in range(0, len(said), sentences)]
    counts = of_texts(FACTS, texts)
    times = Tally(stated)
    assert counts.occurrences == {fact.question: times[i] for i, fact in enumerate(FACTS)}
    assert (counts.false, counts.unknown) == (0, 0)
    assert (counts.texts, counts.characters) == (len(texts), sum(map(len, texts)))
    if stated:
        once = sum(count == 1 for count in times.values())
        assert counts.singleton_rate == once / len(stated)
        assert counts.singleton_rate <= once / len(times)  # by distinct facts it would be more
        assert counts.stated(0) == len(FACTS) - len(times)


def test_the_rate_is_by_statements_never_by_facts():
    counts = Counts("files", {"a": 1, "b": 7, "c": 2, "d": 0})
    assert (counts.statements, counts.stated(1), counts.stated(2)) == (10, 1, 1)
    assert counts.singleton_rate == 0.1


def test_the_corpus_is_counted_by_what_it_says_and_by_its_text_alike():
    corpus = verbalise(FACTS, CORPUS, 0)
    counts = of_mentions(FACTS, corpus.mentions, corpus.training)
    assert counts.statements == sum(corpus.mentions.values())
    found = of_texts(FACTS, corpus.training, "corpus")
    assert found == counts
    assert of_texts(FACTS, ["\n".join(corpus.training)]).occurrences == counts.occurrences


def test_false_statements_are_statements():
    documents = DocumentsConfig(count=60, sentences=5, false_share=0.3)
    made = make_documents(FACTS, documents, CORPUS, 0)
    counts = of_texts(FACTS, made.texts)
    assert counts.false == round(0.3 * counts.statements)
    assert counts.statements == round(300 * 300 / 350)
    assert counts.unknown == 0


def test_namesakes_are_one_prompt():
    texts = ["Where was Ann Lee born? Bern", "Where was Ann Lee born? Kyiv", "Where was Bo Dahl born? Rome"]
    counts = of_texts(NAMESAKES, texts)
    assert counts.occurrences == {"Where was Ann Lee born?": 2, "Where was Bo Dahl born?": 1}
    assert (counts.stated(1), counts.false) == (1, 1)
    counted = of_mentions(NAMESAKES, {"a": 1, "b": 1, "c": 0}, texts)
    assert counted.occurrences == {"Where was Ann Lee born?": 2, "Where was Bo Dahl born?": 0}
    known = drawn_by(counted, NAMESAKES, [0.5, 0.25, 0.25])
    assert known.missing_mass == 0.25
    assert known.shares == {"a": 0.5, "b": 0.25, "c": 0.25}


def test_other_subjects_are_counted_apart():
    relation = FACTS[0].category
    text = put_into_words([FACTS[0]], CorpusConfig(question_share=0), np.random.default_rng(0))[0]
    counts = of_texts(FACTS, [text.replace(FACTS[0].subject, "Nowherion")])
    assert (counts.statements, counts.unknown) == (0, 1), relation


def test_texts_are_read_once_and_not_kept():
    alive = 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def texts() -> Iterator[str]:
        nonlocal alive
        for _ in range(100):
            alive += 1
            assert alive < 4
            yield Text(f"{FACTS[0].question} {FACTS[0].answer}")

    assert of_texts(FACTS, texts()).occurrences[FACTS[0].question] == 100


lines = st.sampled_from(
    [
        *put_into_words(FACTS[:6], CORPUS, np.random.default_rng(1)),
        *put_into_words(FACTS[:6], CorpusConfig(question_share=0), np.random.default_rng(2)),
        "Nobody is in it!", "", " ", '"', "(", FACTS[0].question, FACTS[1].answer, "\r", "\t ",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(lines, st.sampled_from(["\n", " ", "", ". ", "\n\n", ".\n"])), max_size=12))
def test_line_by_line_is_all_at_once(parts: list[tuple[str, str]]):
    text = "".join(line + separator for line, separator in parts)
    found = Statements(FACTS).find(text, ended=True)
    counts = of_texts(FACTS, [text])
    times = Tally(statement.fact.question for statement in found if statement.fact)
    assert {question: count for question, count in counts.occurrences.items() if count} == dict(times)
    assert counts.unknown == sum(statement.fact is None for statement in found)


def test_missing_mass_is_estimated():
    """Good and Turing's estimate, and Esty's interval, on draws whose true missing mass is known."""
    random = np.random.default_rng(0)
    within, errors = 0, []
    for _ in range(400):
        share = np.arange(1, 301.0) ** -random.uniform(0.3, 1.2)
        share /= share.sum()
        stated = np.bincount(random.choice(300, 400, p=share), minlength=300)
        counts = Counts("files", dict(enumerate(stated.tolist())))
        missing = share[stated == 0].sum()
        low, high = counts.missing_mass_interval()
        assert 0 <= low <= counts.singleton_rate <= high <= 1
        within += low <= missing <= high
        errors.append(counts.singleton_rate - missing)
    assert within / 400 == pytest.approx(0.95, abs=0.03)
    assert abs(np.mean(errors)) < 0.003


def test_shares_are_those_that_facts_are_drawn_by():
    drawn = shares(FACTS, CORPUS)
    assert drawn.sum() == pytest.approx(1)
    many = verbalise(FACTS, CorpusConfig(statements=200_000, filler=0, held_out_share=0), 0).mentions
    np.testing.assert_allclose([many[f.id] / 200_000 for f in FACTS], drawn, atol=5 * 0.5 / 200_000**0.5)
