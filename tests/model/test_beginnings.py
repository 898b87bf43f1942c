"""What many prompts begin with is read once: answers, samples and scores are those of prompts read whole.

That prompts read whole have the right ones is proved elsewhere, against brute force and transformers.
"""

import itertools
from collections import Counter
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model
from helpers.plain_passes import mask_of
from hypothesis import example, given
from hypothesis import strategies as st

from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.model import beginnings
from pretrainrl_jax.model import beginnings as shared_module
from pretrainrl_jax.model.beginnings import few_sizes, find_shared
from pretrainrl_jax.objectives.scoring import score_answers, score_endings, score_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch

VOCABULARY = 11
ENDS = mask_of((0,), VOCABULARY)
MODELS = {
    "plain": {},
    "windows": {"windows": (6, 0)},
    "bfloat16": {"dtype": jnp.bfloat16},
}


def sequences(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of three kinds: two that begin alike, and one that has nothing in common."""
    rng = np.random.default_rng(seed)
    begun = [tuple(rng.integers(1, VOCABULARY, size).tolist()) for size in (53, 40)] + [()]
    own = [tuple(rng.integers(1, VOCABULARY, rng.integers(1, 12)).tolist()) for _ in range(count)]
    return [begun[number % 3] + tokens for number, tokens in enumerate(own)]


@pytest.fixture
def small_ones_pay(monkeypatch):
    for name, value in (("SHORTEST", 2), ("PAYS", 2)):
        monkeypatch.setattr(shared_module, name, value)


def most_spared(asked) -> int:
    """By trying every length of every beginning: tokens spared, each beginning less what it costs."""
    most = 0
    for lengths in itertools.product(*(range(max(1, len(sequence))) for sequence in asked)):
        begun = Counter(
            sequence[:length] for sequence, length in zip(asked, lengths, strict=True) if length >= 2
        )
        most = max(most, sum((count - 1) * len(beginning) - 2 for beginning, count in begun.items()))
    return most


@pytest.mark.usefixtures("small_ones_pay")
@given(st.lists(st.lists(st.integers(0, 1), max_size=6).map(tuple), max_size=5))
@example([(0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 1)])  # one is what the others begin with
def test_beginnings_are_the_sequences_and_spare_the_most(asked):
    shared = find_shared(asked)
    spared = 0
    for number, beginning in enumerate(shared.beginnings):
        spared += (shared.of.count(number) - 1) * len(beginning) - 2
        assert len(beginning) >= 2
    for number, sequence in enumerate(asked):
        length = shared.length(number)
        assert length == 0 or length < len(sequence)
        assert length == 0 or sequence[:length] == shared.beginnings[shared.of[number]]
    assert spared == most_spared(asked)


def test_each_kind_of_prompt_has_its_own_beginning():
    shared = find_shared(sequences(90))
    assert sorted(map(len, shared.beginnings)) == [40, 53]
    for kind, length in enumerate((53, 40, 0)):
        assert {shared.length(number) for number in range(kind, 90, 3)} == {length}


def test_short_or_few_beginnings_are_read_with_each_prompt():
    none = ([], [(1,) * 31 + (n % 9, n) for n in range(90)], [(1,) * 300, (1,) * 300])
    for asked in none:  # nothing, 31 tokens, 299 spared
        assert find_shared(asked) == ([], [-1] * len(asked))


def test_no_more_is_kept_than_there_is_room_for():
    """Of 40 beginnings of 500 tokens, padded to 512, those with the most prompts."""
    asked = [(kind,) * 500 + (100, n) for kind in range(40) for n in range(3 + kind % 2)]
    shared = find_shared(asked)
    assert len(shared.beginnings) == 8192 // 512
    assert all(asked[number][0] % 2 for number, of in enumerate(shared.of) if of >= 0)


def test_where_long_ones_have_no_room_what_all_have_in_common_is_read_once():
    """64 documents of 700 tokens behind one instruction, each asked about 16 times."""
    instruction = (7,) * 300
    asked = [instruction + (document,) * 700 + (n,) for document in range(100, 164) for n in range(16)]
    assert find_shared(asked).beginnings == [instruction]
    few = find_shared(asked[: 7 * 16])
    assert {len(beginning) for beginning in few.beginnings} == {1000}


def test_sizes_are_few():
    assert [few_sizes(n, 32) for n in (1, 32, 33, 48, 49, 64, 65, 96, 97)] == [
        32,
        32,
        48,
        48,
        64,
        64,
        96,
        96,
        128,
    ]
    assert len({few_sizes(n, 32) for n in range(1, 8193)}) == 17


@pytest.fixture
def whole(monkeypatch):
    """Does some work with nothing shared."""

    def alone(work):
        with monkeypatch.context() as patch:
            patch.setattr(shared_module, "PAYS", 10**9)
            return work()

    return alone


def assert_close(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for ours, expected in zip(found, wanted, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in expected]
        assert [one.finished for one in ours] == [one.finished for one in expected]
        of_tokens = ([np.array(one.token_logps) for one in side] for side in (ours, expected))
        for a, b in zip(*of_tokens, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kind", "beams"), [("plain", 4), ("windows", 1)])
def test_answers_are_those_of_prompts_read_whole(whole, kind, beams):
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY, **MODELS[kind])
    asked = sequences(60)
    assert find_shared(asked).beginnings

    def search():
        return decode(model, params, asked, ENDS, beams=beams, max_new_tokens=4, batch=7)

    found = search()
    assert_close(found, whole(search), 2e-5)
    assert len({answers[0].tokens for answers in found}) > 10


@pytest.mark.slow
def test_samples_are_those_of_prompts_read_whole(whole):
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    asked = sequences(60)
    chance = {"temperature": 1.0, "top_p": 0.9, "top_k": 0, "seed": 3}

    def draw():
        return sample_batch(
            model, params, asked, ENDS, samples=3, max_new_tokens=4, batch=7, numbers=range(60), **chance
        )

    assert_close(draw(), whole(draw), 2e-5)


def trees(count: int = 60) -> list[AnswerTree]:
    """Prompts with one to three answers."""
    rng = np.random.default_rng(5)
    return [
        AnswerTree(
            str(number),
            prompt,
            tuple(
                Branch((*rng.integers(1, VOCABULARY, rng.integers(0, 4)).tolist(), 0))
                for _ in range(rng.integers(1, 4))
            ),
        )
        for number, prompt in enumerate(sequences(count))
    ]


@pytest.mark.parametrize("kind", MODELS)
def test_scores_are_those_of_trees_read_whole(whole, kind):
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY, **MODELS[kind])
    asked, done = trees(), []
    packing = {"row_length": 24, "rows": 4}
    tolerance = 0.2 if kind == "bfloat16" else 2e-5
    plain = whole(lambda: score_trees(model, params, asked, **packing))
    found = score_trees(model, params, asked, **packing, advance=done.append)
    assert sum(done) == len(asked)
    for ours, expected in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    if kind == "plain":
        for temperatures in ((), (0.7, 1.0)):

            def answers(at=temperatures):
                return score_answers(model, params, asked, ENDS, at, **packing)

            for ours, expected in zip(answers(), whole(answers), strict=True):
                np.testing.assert_allclose(np.stack(ours), np.stack(expected), rtol=tolerance, atol=tolerance)


def test_prompts_that_share_nothing_see_nothing_before_them():
    """Nor do those with a short beginning see the places of a long one."""
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    asked, seen = trees(90), []

    def engine(model, params, batch, earlier):
        seen.append(earlier and earlier.keys.shape[2])
        return score_endings(model, params, batch, jnp.asarray(ENDS), earlier)

    score_trees(model, params, asked, row_length=24, rows=4, engine=engine)
    assert set(seen) == {None, 48, 64}


def test_rows_are_as_long_as_what_trees_do_not_share():
    """Prompts of 53 tokens and a few of their own share rows of 24."""
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    asked = [tree for number, tree in enumerate(trees(90)) if number % 3 == 0]
    asked = [replace(tree, prefix=tree.prefix[:57]) for tree in asked]
    lengths = []

    def engine(model, params, batch, earlier):
        lengths.append(batch.tokens.shape)
        return score_endings(model, params, batch, jnp.asarray(ENDS), earlier)

    score_trees(model, params, asked, row_length=24, rows=4, engine=engine)
    assert set(lengths) == {(4, 24)}
    assert len(lengths) < len(asked) / 4 / 2


def test_other_prompts_with_other_beginnings_compile_nothing():
    model, params = small_model(0, 2.0, vocabulary=VOCABULARY, layers=1)
    beam_search.clear_cache()
    beginnings._read.clear_cache()
    for seed in range(3):
        asked = [prompt[:54] for prompt in sequences(90, seed)]
        assert find_shared(asked).beginnings
        decode(model, params, asked, ENDS, beams=2, max_new_tokens=3, batch=8)
    assert beam_search._cache_size() == 3  # behind 40 tokens, behind 53, and behind nothing
    assert beginnings._read._cache_size() == 2
