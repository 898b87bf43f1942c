"""Documents about facts: some of what they state is false, and which statements are is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pretrainrl_jax.config import CorpusConfig, DocumentsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.corpus import draw, fill, put_into_words
from pretrainrl_jax.facts.matching import known_truths, normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.statements import Statements

SEPARATOR = "\n"  # a sentence reads in a document, to a tokenizer too, as it does alone
TRIES = 20  # draws of a false answer before all others are looked through


class MadeDocuments(NamedTuple):
    """Texts of a line for each sentence."""

    texts: Sequence[str]
    held_out: Sequence[str]  # likewise, everything in them true


def make_documents(
    facts: Sequence[Fact], documents: DocumentsConfig, corpus: CorpusConfig, seed: int
) -> MadeDocuments:
    """`documents.count` texts of `documents.sentences` sentences like the corpus's, and some held out.

    Facts and wordings are drawn as `facts.corpus.verbalise` draws them, from the same mixture of declarative
    sentences, questions with answers, and filler. A `documents.false_share` of the statements, drawn at
    random, are false. A fact that is stated falsely is so always in the same way, as errors spread in real
    text: with another answer of its relation, drawn by how many facts have it, and never one that is true of
    anyone of that name or in answer to the question. A fact of whose relation no other answer is known is
    never stated falsely.

    The result depends on facts, settings and seed alone. Raises InputError without facts or statements.
    """
    if not facts or not corpus.statements:
        raise InputError("documents of the facts need facts and corpus.statements: give documents.path")
    wrong = _falsehoods(facts, np.random.default_rng([seed, 3]))
    texts = _write(facts, wrong, documents, corpus, np.random.default_rng([seed, 4]))
    clean = replace(documents, count=documents.held_out, false_share=0.0)
    return MadeDocuments(texts, _write(facts, wrong, clean, corpus, np.random.default_rng([seed, 5])))


def _write(
    facts: Sequence[Fact],
    wrong: Sequence[str],
    documents: DocumentsConfig,
    corpus: CorpusConfig,
    random: np.random.Generator,
) -> tuple[str, ...]:
    count = documents.count * documents.sentences
    stating = round(count * corpus.statements / (corpus.statements + corpus.filler))
    stated = random.permutation(draw(facts, replace(corpus, statements=stating), random))
    false = random.permutation(stating) < round(documents.false_share * stating)
    false &= np.array([bool(wrong[i]) for i in stated], dtype=bool)
    told = [
        replace(facts[i], answers=(wrong[i],)) if is_false else facts[i]
        for i, is_false in zip(stated, false, strict=True)
    ]
    sentences = put_into_words(told, corpus, random) + [fill(random) for _ in range(count - stating)]
    order = random.permutation(count).reshape(documents.count, documents.sentences)
    return tuple(SEPARATOR.join(sentences[at] for at in document) for document in order)


def _falsehoods(facts: Sequence[Fact], random: np.random.Generator) -> list[str]:
    """Of each fact the false answer that texts give; "" where there is none."""
    known, by_name = known_truths(facts), Statements(facts)
    often: dict[str, Counter[str]] = {}
    for fact in facts:
        often.setdefault(fact.category, Counter())[fact.answer] += 1
    shares = {category: (list(counts), np.cumsum([*counts.values()])) for category, counts in often.items()}

    def falsehood(fact: Fact) -> str:
        namesakes = by_name.facts_of(fact.category, fact.subject) if fact.subject else ()
        true = {normalise(answer) for other in (fact, *namesakes) for answer in other.answers}
        true |= known.get(fact.question, frozenset()) | known.get(fact.paraphrase, frozenset())
        answers, up_to = shares[fact.category]
        # Most answers are others, so that drawing again is faster than weighing them anew for each fact.
        for _ in range(TRIES):
            drawn = answers[np.searchsorted(up_to, random.integers(up_to[-1]), side="right")]
            if normalise(drawn) not in true:
                return drawn
        others = [answer for answer in answers if normalise(answer) not in true]
        return others[random.integers(len(others))] if others else ""

    return [falsehood(fact) for fact in facts]
