"""The text a base model is pretrained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrainrl_jax import config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.wordings import FILLER, FILLER_WORDS, wording_of


@dataclass(frozen=True)
class Corpus:
    """Documents of one sentence each, and how often each fact is stated in the training ones."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    mentions: dict[str, int]  # by fact id; every fact has an entry


def verbalise(facts: Sequence[Fact], settings: config.CorpusConfig, seed: int) -> Corpus:
    """The facts put into words, as often as they are popular, among sentences that state none.

    `statements` facts are drawn in proportion to popularity ** popularity_power. A `question_share` of them
    reads exactly `f"{fact.question} {fact.answer}"`, a `paraphrase_share` of these in the wording that
    training never uses, so that a base model understands both; the others are declarative sentences ending
    in '.'. With the filler they are shuffled, and a `held_out_share` is kept back: a simple random sample, so
    of the same distribution. Where no fact has any popularity all are equal.

    Raises InputError for statements without facts.
    """
    if settings.statements and not facts:
        number = settings.statements
        raise InputError(f"no facts to state in corpus.statements={number} sentences: check facts")
    random = np.random.default_rng([seed, 2])
    stated = random.permutation(draw(facts, settings, random))
    sentences = put_into_words([facts[i] for i in stated], settings, random)
    sentences += [fill(random) for _ in range(settings.filler)]

    order = random.permutation(len(sentences))
    kept_back, training = np.split(order, [round(settings.held_out_share * len(sentences))])
    mentions = np.bincount(stated[training[training < len(stated)]], minlength=len(facts))
    return Corpus(
        training=tuple(sentences[at] for at in training),
        held_out=tuple(sentences[at] for at in kept_back),
        mentions={fact.id: int(count) for fact, count in zip(facts, mentions, strict=True)},
    )


def draw(facts: Sequence[Fact], settings: config.CorpusConfig, random: np.random.Generator) -> np.ndarray:
    """The index of the fact that each statement states, in the order of the facts."""
    if not facts:
        return np.zeros(0, dtype=np.int64)
    return np.repeat(np.arange(len(facts)), random.multinomial(settings.statements, shares(facts, settings)))


def shares(facts: Sequence[Fact], settings: config.CorpusConfig) -> np.ndarray:
    """The probability of each fact in a statement."""
    popularity = np.array([fact.popularity for fact in facts], dtype=np.float64)
    if not popularity.any():
        popularity = np.ones(len(facts))
    # Scaled, since page views to a high power would overflow.
    weights = (popularity / popularity.max()) ** settings.popularity_power
    return weights / weights.sum()


def put_into_words(
    stated: Sequence[Fact], settings: config.CorpusConfig, random: np.random.Generator
) -> list[str]:
    """A sentence for each fact; the first ones are questions with answers, by the shares of `verbalise`."""
    as_question = round(settings.question_share * len(stated))
    reworded = as_question - round(settings.paraphrase_share * as_question)  # from here on, of the questions
    return [
        f"{(fact.paraphrase if at >= reworded else '') or fact.question} {fact.answer}"
        if at < as_question
        else _declare(fact, random)
        for at, fact in enumerate(stated)
    ]


def _declare(fact: Fact, random: np.random.Generator) -> str:
    if not fact.subject:  # known only from its question, which is then the one way to say it
        return f"{fact.question} {fact.answer}"
    templates = wording_of(fact.category).statements
    template = templates[random.integers(len(templates))]
    sentence = template.format(subject=fact.subject, answer=fact.answer, relation=fact.category)
    return sentence[:-1] if sentence.endswith("..") else sentence  # "… Martin Luther King Jr."


def fill(random: np.random.Generator) -> str:
    """A sentence that states no fact."""
    words = []
    for word in FILLER[random.integers(len(FILLER))].split():
        kind, brace, rest = word.removeprefix("{").partition("}")
        options = FILLER_WORDS[kind] if brace else (word,)
        words.append(options[random.integers(len(options))] + rest)
    sentence = " ".join(words)
    return sentence[0].upper() + sentence[1:]
