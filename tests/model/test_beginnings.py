"""What many prompts begin with is read once: answers, samples and scores are those of prompts read whole."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model
from helpers.plain_passes import mask_of
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.model import beginnings
from pretrainrl_jax.model.beginnings import find_shared
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
    own = [tuple(rng.integers(1, VOCABULARY, rng.integers(1, 20)).tolist()) for _ in range(count)]
    return [begun[number % 3] + tokens for number, tokens in enumerate(own)]


@pytest.fixture
def small_ones_pay(monkeypatch):
    for name, value in (("SHORTEST", 2), ("PAYS", 3), ("MOST", 20)):
        monkeypatch.setattr(beginnings, name, value)


@pytest.mark.usefixtures("small_ones_pay")
@given(st.lists(st.lists(st.integers(0, 2), max_size=8).map(tuple), max_size=12))
def test_a_beginning_is_its_sequences_and_pays(asked):
    shared = find_shared(asked)
    if shared is None:
        return
    assert shared.beginnings[0] == ()
    assert len(shared.beginnings) <= 20 / max(map(len, shared.beginnings))
    for number, sequence in enumerate(asked):
        length = shared.length(number)
        assert sequence[:length] == shared.beginnings[shared.of[number]]
        assert length == 0 or length < len(sequence)
    for number, beginning in enumerate(shared.beginnings[1:], start=1):
        assert len(beginning) >= 2
        assert (shared.of.count(number) - 1) * len(beginning) > 3


@pytest.mark.usefixtures("small_ones_pay")
@given(st.lists(st.integers(0, 2), min_size=2, max_size=6), st.integers(2, 6))
def test_what_equal_sequences_spare_is_found(sequence, count):
    """All but the last token of each."""
    shared = find_shared([sequence] * count)
    pays = len(sequence) > 2 and (count - 1) * (len(sequence) - 1) > 3
    assert (shared.beginnings[1:] if shared else []) == ([tuple(sequence[:-1])] if pays else [])


def test_each_kind_of_prompt_has_its_own_beginning():
    asked = sequences(90)
    shared = find_shared(asked)
    assert sorted(map(len, shared.beginnings)) == [0, 40, 53]
    for kind, length in enumerate((53, 40, 0)):
        assert {shared.length(number) for number in range(kind, 90, 3)} == {length}


def test_short_or_few_beginnings_are_read_with_each_prompt():
    assert find_shared([]) is None
    assert find_shared([(1,) * 31 + (n % 9, n) for n in range(90)]) is None  # 31 tokens
    assert find_shared([(1,) * 300, (1,) * 300]) is None  # 299 spared


def test_no_more_is_kept_than_there_is_room_for():
    """Of 40 beginnings of 500 tokens, those with the most prompts."""
    asked = [(kind,) * 500 + (100, n) for kind in range(40) for n in range(3 + kind % 2)]
    shared = find_shared(asked)
    assert len(shared.beginnings) == 8192 // 501
    assert all(asked[number][0] % 2 for number, of in enumerate(shared.of) if of)


def one_at_a_time(work, asked):
    """`work` of lists of one: nothing is shared."""
    return [one for each in asked for one in work([each])]


def assert_close(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for ours, expected in zip(found, wanted, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in expected]
        assert [one.finished for one in ours] == [one.finished for one in expected]
        of_tokens = ([np.array(one.token_logps) for one in side] for side in (ours, expected))
        for a, b in zip(*of_tokens, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "windows"])
def test_answers_are_those_of_prompts_read_whole(kind, beams):
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY, **MODELS[kind])
    asked = sequences(60)
    assert find_shared(asked)

    def search(asked):
        return decode(model, params, asked, ENDS, beams=beams, max_new_tokens=4, batch=7)

    found = search(asked)
    assert_close(found, one_at_a_time(search, asked), 2e-5)
    assert len({answers[0].tokens for answers in found}) > 10


def test_samples_are_those_of_prompts_read_whole():
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    asked = sequences(60)
    chance = {"temperature": 1.0, "top_p": 0.9, "top_k": 0, "seed": 3}

    def draw(asked, numbers):
        return sample_batch(
            model, params, asked, ENDS, samples=3, max_new_tokens=4, batch=7, numbers=numbers, **chance
        )

    alone = [draw([prompt], [number])[0] for number, prompt in enumerate(asked)]
    assert_close(draw(asked, range(60)), alone, 2e-5)


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
def test_scores_are_those_of_trees_read_whole(kind):
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY, **MODELS[kind])
    asked, done = trees(), []
    packing = {"row_length": 24, "rows": 4}
    tolerance = 0.2 if kind == "bfloat16" else 2e-5
    plain = one_at_a_time(lambda some: score_trees(model, params, some, **packing), asked)
    found = score_trees(model, params, asked, **packing, advance=done.append)
    assert sum(done) == len(asked)
    for ours, expected in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    if kind == "plain":
        for temperatures in ((), (0.7, 1.0)):
            both = score_answers(model, params, asked, ENDS, temperatures, **packing)
            alone = one_at_a_time(
                lambda some, at=temperatures: score_answers(model, params, some, ENDS, at, **packing), asked
            )
            for ours, expected in zip(both, alone, strict=True):
                np.testing.assert_allclose(np.stack(ours), np.stack(expected), rtol=tolerance, atol=tolerance)


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
        assert find_shared(asked)
        decode(model, params, asked, ENDS, beams=2, max_new_tokens=3, batch=8)
    assert beam_search._cache_size() == 2  # up to 16 tokens of their own, and up to 32
    assert beginnings._read._cache_size() == 1
