"""How little a text repeats itself, without a model: degenerate text scores low, and so does none."""

import re
from collections.abc import Sequence

from pretrainrl_jax.judging.protocol import Case, Part, Scores

WORD = re.compile(r"\w+")


def repetition(ngram: int) -> Part:
    """The part that scores a text by `variety`; neither prefix nor reference matters."""

    def judge(cases: Sequence[Case]) -> Scores:
        return [[variety(text, ngram) for text in case.candidates] for case in cases]

    return judge


def variety(text: str, ngram: int) -> float:
    """The share of a text's n-grams of words that stand in it for the first time: 1 where none is repeated.

    Words are runs of letters and digits, whatever their case. A text that is too short to have one n-gram,
    or two words, scores 0 as the most repetitive do: it shows no variety, and to say nothing must not pay.
    """
    words = WORD.findall(text.casefold())
    if len(words) < max(ngram, 2):
        return 0.0
    ngrams = [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]
    return len(set(ngrams)) / len(ngrams)
