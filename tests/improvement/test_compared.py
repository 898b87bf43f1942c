"""Whose continuation is better: what is judged, what is not, and how often a model wins."""

from dataclasses import replace

import pytest
from helpers.models_and_trees import small_model, small_tokenizer
from helpers.plain_passes import next_logps
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import Config, SelfimproveConfig
from pretrainrl_jax.improvement.compared import Continued, continue_greedily, cut_texts, won
from pretrainrl_jax.judging.protocol import Verdicts
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tokenization import Tokenizer

SETTINGS = SelfimproveConfig(suffix=4, length=16, shortest_prefix=3, compared=5)
CONFIG = replace(Config(), selfimprove=SETTINGS)
TEXTS = [" ".join(["the town lies by the sea"] * n) + "." for n in (1, 4, 1, 2, 3, 5, 6, 7)]


def continued(written: str) -> Continued:
    return Continued("The sky is", " blue.", written, False)


@given(st.lists(st.tuples(*(2 * [st.sampled_from(["a", "bb", "ccc", "?"])])), max_size=9))
def test_a_longer_text_wins_where_long_ones_are_better(pairs):
    """ "?" has no score. The same text is never judged."""
    asked = []

    def judge(cases):
        asked.extend(case.candidates for case in cases)
        scores = [[None if text == "?" else len(text) for text in case.candidates] for case in cases]
        return Verdicts(scores, {}, [{} for _ in cases])

    base, other = ([continued(pair[side]) for pair in pairs] for side in (0, 1))
    results = won(judge, base, other)
    assert asked == [pair for pair in pairs if pair[0] != pair[1]]
    assert results == [
        0.5 if one == two else None if "?" in (one, two) else float(len(two) > len(one)) for one, two in pairs
    ]


def test_equal_scores_are_half_a_win():
    def judge(cases):
        return Verdicts([[1.0, 1.0] for _ in cases], {}, [{} for _ in cases])

    assert won(judge, [continued("a")], [continued("b")]) == [0.5]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_texts_are_cut_as_documents_are(tokenizer):
    """The first that are long enough, no more than asked for, each at its own place."""
    cuts = cut_texts(TEXTS, tokenizer, CONFIG)
    long = [n for n, text in enumerate(TEXTS) if len(tokenizer.encode(text)) >= 7]
    assert [one.number for one in cuts] == long[:5]
    for one in cuts:
        assert len(one.suffix) == 4
        assert 3 <= len(one.prefix) - len(tokenizer.start) <= 12
        whole = tokenizer.encode(TEXTS[one.number])
        own = (*one.prefix[len(tokenizer.start) :], *one.suffix)
        assert any(whole[at : at + len(own)] == own for at in range(len(whole)))


def test_continuations_are_the_likeliest_token_each_time(tokenizer):
    model, params = small_model(1, 2.0, vocabulary=tokenizer.size)
    loaded, ends = Loaded(model, params, tokenizer, "bare"), frozenset(tokenizer.eos)
    cuts = cut_texts(TEXTS, tokenizer, CONFIG)
    for one, told in zip(cuts, continue_greedily(loaded, cuts, CONFIG), strict=True):
        tokens = list(one.prefix)
        for _ in range(SETTINGS.suffix):
            tokens.append(int(next_logps(model, params, [tokens])[0].argmax()))
            if tokens[-1] in ends:
                break
        assert told.prefix == tokenizer.decode(one.prefix)
        assert told.prefix + told.written == tokenizer.decode(tokens)
        assert told.ended == (tokens[-1] in ends)
