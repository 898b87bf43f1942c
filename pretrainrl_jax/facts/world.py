"""A synthetic world with the imbalance of real text, small enough to learn in minutes."""

import string
from collections.abc import Sequence
from functools import cache

import numpy as np

from pretrainrl_jax.config import WorldConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import wordings
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact

ONSETS = "bdfgklmnprstv"
VOWELS = "aeiou"
CODAS = ("", "", "", "n", "r", "l", "k")  # of the last syllable; most names end in a vowel
SYLLABLES_OF_ANSWERS = (1, 2, 2)  # so that a trained tokenizer needs one to three tokens
SYLLABLES_OF_SUBJECTS = (2, 3, 3)


@cache
def _english() -> frozenset[str]:
    """Every word of the templates and the filler, normalised: no made-up name may be one of them.

    EntityQuestions' templates do not count: no corpus holds both, and each new word would change worlds.
    """
    texts = [*wordings.FILLER, *wordings.FALLBACK]
    texts += [" ".join(words) for words in wordings.FILLER_WORDS.values()]
    for wording in (wordings.POPQA | wordings.WORLD).values():
        texts += [wording.question, wording.paraphrase, *wording.statements]
    return frozenset(normalise(word) for text in texts for word in text.translate(_SPACED).split())


_SPACED = str.maketrans(string.punctuation, " " * len(string.punctuation))


class _Names:
    """Made-up words that can be spoken, no two the same when normalised."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.taken = set(_english())

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.random.integers(len(options)))]

    def new(self, syllables: tuple[int, ...]) -> str:
        count = syllables[self.random.integers(len(syllables))]
        name, tries = "", 0
        while not name or name in self.taken:
            count += tries > 0 and tries % 20 == 0  # names of this length run out in a very large world
            tries += 1
            name = "".join(self._pick(ONSETS) + self._pick(VOWELS) for _ in range(count)) + self._pick(CODAS)
        self.taken.add(name)
        return name


def make_world(settings: WorldConfig, seed: int) -> list[Fact]:
    """The facts of a made-up world, the most popular first.

    Rank r, from 1, has popularity (r + offset) ** -exponent. Of every `relations` facts in a row each belongs
    to another relation. The answers of the head (the first `head_share` of the facts) are drawn by a steep
    Zipf law over their relation's answers, those of the tail by a flatter one over the same answers in an
    independent order: so what is common in the head is what a model wrongly believes of the tail. Names are
    single made-up words, unique over subjects and answers, and none is a word of the templates.

    The result depends on nothing but the settings and the seed. Raises InputError for too many relations.
    """
    if settings.relations > (known := len(wordings.WORLD)):
        raise InputError(f"world.relations is {settings.relations}: there are {known} to choose from")
    random = np.random.default_rng([seed, 0])
    names = _Names(np.random.default_rng([seed, 1]))
    relations = list(wordings.WORLD)[: settings.relations]
    answers: dict[str, list[str]] = {}
    weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    ranks = np.arange(1, settings.answers + 1, dtype=np.float64)
    laws = ranks**-settings.head_zipf, ranks**-settings.tail_zipf
    head, tail = (law / law.sum() for law in laws)
    for relation in relations:
        made = [names.new(SYLLABLES_OF_ANSWERS) for _ in range(settings.answers)]
        answers[relation] = [name.capitalize() if wordings.WORLD[relation].proper else name for name in made]
        weights[relation] = head, tail[random.permutation(settings.answers)]

    blocks = -(-settings.facts // settings.relations)
    order = np.concatenate([random.permutation(settings.relations) for _ in range(blocks)])
    in_head = round(settings.head_share * settings.facts)
    facts = []
    for rank, place in enumerate(order[: settings.facts], start=1):
        relation = relations[place]
        wording = wordings.WORLD[relation]
        subject = names.new(SYLLABLES_OF_SUBJECTS).capitalize()
        drawn = random.choice(settings.answers, p=weights[relation][0 if rank <= in_head else 1])
        facts.append(
            Fact(
                id=f"world{rank}",
                question=wording.question.format(subject=subject),
                answers=(answers[relation][drawn],),
                category=relation,
                subject=subject,
                subject_key=subject,
                popularity=(rank + settings.popularity_offset) ** -settings.popularity_exponent,
                row=0,
                paraphrase=wording.paraphrase.format(subject=subject),
                rewordings=wordings.rewordings(relation, subject),
            )
        )
    return facts
