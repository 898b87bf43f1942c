import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model, small_tokenizer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from pretrainrl_jax.decoding import decode as decoding
from pretrainrl_jax.decoding import sampling
from pretrainrl_jax.decoding.answers import Sample, read_sample
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.decode import decode, sample_batch
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.decoding.sampling import filtered_logps, prompt_keys, sample
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.trees.tree import AnswerTree, Branch

VOCABULARY = 11
PROMPTS = [(1, 2, 3), (3,), (2, 1, 0, 3, 3, 1, 2, 0, 1), (0, 1, 2, 3, 0)]
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
filtered = jax.jit(filtered_logps)


def mask_of(terminators, vocabulary=VOCABULARY) -> np.ndarray:
    mask = np.zeros(vocabulary, bool)
    mask[list(terminators)] = True
    return mask


def log_softmax(logits) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def plain_filter(logits, temperature, top_p, top_k) -> tuple[np.ndarray, float]:
    """The docstring of `filtered_logps` in float64, by sorting; and how close top-p's decision was."""
    logits = np.asarray(logits, np.float64)
    kept = np.ones(len(logits), bool)
    if top_k:
        kept = logits >= np.sort(logits)[::-1][min(top_k, len(logits)) - 1]
    probabilities = np.exp(log_softmax(np.where(kept, logits / temperature, -np.inf)))
    above = np.array([probabilities[logits > one].sum() for one in logits])
    if top_p < 1:
        kept &= above < top_p
    margin = np.abs(above - top_p).min() if top_p < 1 else 1.0
    return log_softmax(np.where(kept, logits / temperature, -np.inf)), margin


def run(model, params, prompts, terminators, *, batch=None, seed=0, samples=5, limit=5, **changes):
    return sample_batch(
        model,
        params,
        prompts,
        mask_of(terminators, model.shape.vocabulary),
        samples=samples,
        max_new_tokens=limit,
        seed=seed,
        batch=batch or len(prompts),
        **(PLAIN | changes),
    )


def next_logits(model, params, tokens) -> np.ndarray:
    """Logits after a sequence, by a plain forward pass without a cache."""
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(model.logits(params, padded))[0, len(tokens) - 1]


# The distribution


LOGITS = st.lists(
    st.one_of(
        st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.5]), st.floats(-20, 20, width=32, allow_subnormal=False)
    ),
    min_size=VOCABULARY,
    max_size=VOCABULARY,
)


def test_numbers_that_differ_in_their_last_bit_are_told_apart():
    one = np.float32(1)
    above = np.nextafter(one, np.float32(2))
    for logits, kept in [
        ([one, above, 0], [False, True, False]),
        ([above, one, above], [True, False, True]),
        ([-0.0, -1, 0], [True, False, True]),
    ]:
        assert np.isfinite(filtered(jnp.array(logits, jnp.float32), 1.0, 1.0, 1)).tolist() == kept


@settings(deadline=None)
@given(
    LOGITS, st.floats(0.05, 5), st.one_of(st.just(1.0), st.floats(0.01, 1)), st.integers(0, VOCABULARY + 2)
)
@example([0.0] * VOCABULARY, 1.0, 0.3, 2)  # all tied: all kept
@example([2.0, 1.0, 1.0, 1.0, *[-20.0] * 7], 0.7, 0.7, 0)
def test_the_distribution_is_that_of_a_sorted_one_in_float64(logits, temperature, top_p, top_k):
    logits = np.array(logits, np.float32)
    expected, margin = plain_filter(logits, temperature, top_p, top_k)
    assume(margin > 1e-4)  # at the threshold itself rounding decides, of logits of up to 20 / 0.05 too
    logps = np.asarray(filtered(logits, np.float32(temperature), np.float32(top_p), np.int32(top_k)))
    assert logps.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(logps), np.isneginf(expected))
    np.testing.assert_allclose(logps, expected, rtol=1e-5, atol=1e-4)


def test_ties_at_a_threshold_are_kept_together():
    logits = np.array([1.0, 3.0, 1.0, 2.0, 1.0, 0.0, -0.0], np.float32)
    for top_k, kept in [(1, [1]), (2, [1, 3]), (3, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (6, range(7))]:
        logps = filtered(logits, 1.0, 1.0, top_k)
        assert np.flatnonzero(np.isfinite(logps)).tolist() == list(kept)
    mass = np.exp(log_softmax(logits))
    just_two, beyond = mass[1] + mass[3] - 1e-4, mass[1] + mass[3] + 1e-4
    for top_p, kept in [(1e-30, [1]), (0.0, [1]), (just_two, [1, 3]), (beyond, [0, 1, 2, 3, 4])]:
        logps = filtered(logits, 1.0, np.float32(top_p), 0)
        assert np.flatnonzero(np.isfinite(logps)).tolist() == kept


@pytest.mark.parametrize("temperature", [0.0, 1e-38, 1e-10])
def test_a_cold_distribution_is_sure_and_no_nan(temperature):
    logits = np.array([-30.0, 5.0, 4.999, 80.0, 79.99], np.float32)
    logps = np.asarray(filtered(logits, np.float32(temperature), np.float32(0.9), 3))
    assert logps[3] == 0
    assert np.exp(logps).tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("vocabulary", [50, 151_936])
def test_the_distribution_is_that_of_transformers(vocabulary):
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(2, vocabulary))).astype(np.float32)
    for temperature, top_p, top_k in [(0.7, 0.9, 0), (1.3, 1.0, 20), (1.0, 0.35, 7), (0.2, 0.999, 40)]:
        scores = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))  # type: ignore[arg-type]
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)  # type: ignore[arg-type]
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)  # type: ignore[arg-type]
        expected = torch.log_softmax(scores, -1).numpy()
        logps = np.asarray(filtered(logits, temperature, top_p, top_k))
        # Rounding decides on the tokens at the threshold of the mass of 151,936, which float32 sums to 1e-4.
        differing = np.isneginf(logps) != np.isneginf(expected)
        mass = np.where(differing, np.exp(np.maximum(logps, expected)), 0).sum(-1)
        assert mass.max() < (1e-4 if vocabulary > 50 else 1e-12)
        both = np.isfinite(logps) & np.isfinite(expected)
        np.testing.assert_allclose(logps[both], expected[both], rtol=1e-5, atol=2e-4)


# What is drawn


def test_samples_are_worth_what_the_plain_forward_pass_says():
    """Tokens, endings and both log-probabilities, against passes without a cache and the float64 filter."""
    kinds = set()
    cases = [
        PLAIN,
        {"temperature": 0.6, "top_p": 0.8, "top_k": 0},
        {"temperature": 1.7, "top_p": 0.9, "top_k": 4},
    ]
    for seed, changes in enumerate(cases):
        model, params = small_model(seed, 2.0, vocabulary=VOCABULARY)
        for prompt, several in zip(PROMPTS, run(model, params, PROMPTS, (0, 5), **changes), strict=True):
            assert len(several) == 5
            for drawn in several:
                kinds.add((drawn.finished, len(drawn.tokens)))
                assert not {0, 5} & set(drawn.tokens)
                assert len(drawn.tokens) < 5 if drawn.finished else len(drawn.tokens) == 5
                assert drawn.logp == pytest.approx(sum(drawn.token_logps), abs=1e-5, rel=2e-6)
                assert drawn.behaviour_logp == pytest.approx(
                    sum(drawn.behaviour_token_logps), abs=1e-5, rel=2e-6
                )
                logp, sampled, before = 0.0, 0.0, prompt
                for token in drawn.tokens:
                    logits = next_logits(model, params, before)
                    logp += log_softmax(logits)[token]
                    sampled += plain_filter(logits, **changes)[0][token]
                    before = (*before, token)
                # A finished sample does not say which terminator ended it: one of them fits.
                logits = next_logits(model, params, before)
                raw, tempered = log_softmax(logits), plain_filter(logits, **changes)[0]
                ends = [(raw[end], tempered[end]) for end in (0, 5)] if drawn.finished else [(0.0, 0.0)]
                errors = [
                    max(abs(logp + a - drawn.logp), abs(sampled + b - drawn.behaviour_logp)) for a, b in ends
                ]
                assert min(errors) < 1e-4 + 1e-5 * abs(sampled)
    assert {end for end, _ in kinds} == {True, False}
    assert len(kinds) > 2


def test_samples_are_worth_what_the_score_engine_says():
    model, params = small_model(1, vocabulary=VOCABULARY)
    decoded = run(model, params, PROMPTS, (0,), temperature=1.4, top_k=8)
    trees = [
        AnswerTree(str(i), prompt, tuple(Branch((*d.tokens, 0) if d.finished else d.tokens) for d in several))
        for i, (prompt, several) in enumerate(zip(PROMPTS, decoded, strict=True))
    ]
    assert {d.finished for several in decoded for d in several} == {True, False}
    scores = score_trees(model, params, trees, row_length=64, rows=2)
    for several, scored in zip(decoded, scores, strict=True):
        np.testing.assert_allclose([d.logp for d in several], scored, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("changes", [PLAIN, {"temperature": 0.8, "top_p": 0.85, "top_k": 4}])
def test_sequences_are_as_frequent_as_they_are_probable(changes):
    """Every sequence of up to two tokens, over 4096 samples (two terminators, told apart by nothing)."""
    model, params = small_model(0, 0.5, vocabulary=6)
    prompt, ends = (1, 2, 3), (0, 4)
    expected: Counter[tuple[int, ...]] = Counter()
    one_token = np.exp(plain_filter(next_logits(model, params, prompt), **changes)[0])
    for one in range(6):
        if one in ends:
            expected[()] += one_token[one]
            continue
        second = np.exp(plain_filter(next_logits(model, params, (*prompt, one)), **changes)[0])
        for two in range(6):
            expected[(one,) if two in ends else (one, two)] += one_token[one] * second[two]
    assert sum(expected.values()) == pytest.approx(1)

    decoded = run(model, params, [prompt] * 64, ends, samples=64, limit=2, **changes)
    counts = Counter(d.tokens for several in decoded for d in several)
    possible = {tokens: p for tokens, p in expected.items() if p > 0}
    assert set(counts) <= set(possible)
    assert len(possible) > 6
    size = sum(counts.values())
    assert size == 4096
    assert min(possible.values()) * size > 5
    statistic = sum((counts[t] - size * p) ** 2 / (size * p) for t, p in possible.items())
    assert chi2.sf(statistic, len(possible) - 1) > 1e-3


# Greedy


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"temperature": 0.0}, {"top_p": 1e-6}])
def test_sure_samples_are_greedy_decoding(changes):
    for seed in range(3):
        model, params = small_model(seed, 2.0, vocabulary=VOCABULARY)
        ends = mask_of((0,))
        greedy = decode(model, params, PROMPTS, ends, beams=1, max_new_tokens=5, batch=4)
        decoded = run(model, params, PROMPTS, (0,), samples=3, **changes)
        for (best,), several in zip(greedy, decoded, strict=True):
            for drawn in several:
                assert (drawn.tokens, drawn.finished) == (best.tokens, best.finished)
                assert drawn.logp == pytest.approx(best.logp, abs=1e-4, rel=1e-5)
                assert drawn.behaviour_logp == 0


def test_among_equals_greedy_decoding_is_sure_of_the_first():
    model, params = small_model(vocabulary=VOCABULARY)
    level = params | {"head": jnp.zeros_like(params["head"])}
    for several in run(model, level, PROMPTS, (5,), temperature=0.0):
        for drawn in several:
            assert (drawn.tokens, drawn.behaviour_logp, drawn.finished) == ((0,) * 5, 0, False)
            assert drawn.logp == pytest.approx(-5 * math.log(VOCABULARY), rel=2e-6)


def test_a_sample_as_the_model_is_has_one_log_probability():
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    for several in run(model, params, PROMPTS, (0,)):
        for drawn in several:
            assert drawn.behaviour_logp == pytest.approx(drawn.logp, abs=1e-5, rel=2e-6)


# What randomness depends on


def test_batches_numbers_and_the_count_of_samples_change_nothing():
    model, params = small_model(0, vocabulary=VOCABULARY)
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(0, VOCABULARY, n).tolist()) for n in (3, 20, 5, 1, 17, 9, 2, 30)]
    settings = {"temperature": 0.9, "top_p": 0.95}
    together = run(model, params, prompts, (0,), batch=8, **settings)
    tokens = [[d.tokens for d in several] for several in together]
    for batch in (1, 3):
        decoded = run(model, params, prompts, (0,), batch=batch, **settings)
        assert [[d.tokens for d in several] for several in decoded] == tokens
        for several, others in zip(decoded, together, strict=True):
            logps, wanted = ([d.logp for d in drawn] for drawn in (several, others))
            np.testing.assert_allclose(logps, wanted, rtol=1e-5, atol=1e-4)
    part = run(model, params, prompts[5:2:-1], (0,), numbers=[5, 4, 3], **settings)
    assert [[d.tokens for d in several] for several in part] == tokens[5:2:-1]
    fewer = run(model, params, prompts, (0,), samples=2, **settings)
    assert [[d.tokens for d in several] for several in fewer] == [several[:2] for several in tokens]


def test_samples_prompts_and_seeds_differ():
    model, params = small_model(0, vocabulary=VOCABULARY)
    decoded = run(model, params, [PROMPTS[0]] * 3, (0,), samples=4, limit=8)
    drawn = [d.tokens for several in decoded for d in several]
    again = run(model, params, [PROMPTS[0]] * 3, (0,), samples=4, limit=8)
    other = run(model, params, [PROMPTS[0]] * 3, (0,), samples=4, limit=8, seed=2**32 - 1)
    assert len({tokens for tokens in drawn if len(tokens) > 2}) >= 8
    assert [d.tokens for several in again for d in several] == drawn
    assert [d.tokens for several in other for d in several] != drawn
    steps = np.array([t[:2] for t in drawn if len(t) >= 2])
    assert (steps[:, 0] != steps[:, 1]).any()  # no key is used for two steps


def test_neither_padding_nor_other_prompts_change_a_sample():
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    ends = jnp.asarray(mask_of((0,)))
    keys = prompt_keys(np.uint32(3), np.arange(4, dtype=np.int32))
    rng = np.random.default_rng(0)

    def first_of(length, *other_lengths):
        prompts = rng.integers(0, VOCABULARY, (4, 16))  # what lies beyond a prompt's length is padding
        prompts[0, :3] = 1, 2, 3
        lengths = np.array([length, *other_lengths])
        drawn = sample(model, params, prompts, lengths, ends, keys, samples=5, max_new_tokens=5, **PLAIN)
        return [np.asarray(x)[0] for x in drawn if x is not None]

    alone = first_of(3, 1, 1, 1)
    for other_lengths in [(1, 1, 1), (16, 2, 9), (3, 3, 15), (0, 0, 0)]:
        for a, b in zip(alone, first_of(3, *other_lengths), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(alone[3], first_of(2, 1, 1, 1)[3])


# The loop


def test_unused_places_are_blank_and_rows_without_a_prompt_empty():
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    prompts = np.array([[1, 2, 3] + [0] * 13] * 4)
    keys = prompt_keys(np.uint32(0), np.arange(4, dtype=np.int32))
    lengths = np.array([3, 3, 3, 0])
    drawn = sample(
        model,
        params,
        prompts,
        lengths,
        jnp.asarray(mask_of((7,))),
        keys,
        samples=5,
        max_new_tokens=5,
        **PLAIN,
    )
    tokens, sizes, finished, logps, behaviour_logps, *of_tokens = (np.asarray(x) for x in drawn[:-1])
    assert tokens.shape == (4, 5, 5)
    assert (tokens.dtype, sizes.dtype, logps.dtype, finished.dtype) == (np.int32, np.int32, np.float32, bool)
    assert not tokens[np.arange(5) >= sizes[..., None]].any()
    assert not (tokens == 7).any()
    for blank in (tokens, sizes, logps, behaviour_logps, finished, *of_tokens):
        assert not blank[3].any()
    assert (logps[:3] < 0).all()
    assert (behaviour_logps[:3] < 0).all()


def test_the_loop_stops_when_all_samples_have_ended(monkeypatch):
    steps = []

    def counting(hidden, head):
        jax.debug.callback(lambda: steps.append(1))
        return project(hidden, head)

    project = sampling.project
    monkeypatch.setattr(sampling, "project", counting)
    model, params = small_model(0, vocabulary=13)  # of a shape that nothing else compiles
    ran = []
    for terminators, seed in [(range(13), 0), *((range(6, 13), seed) for seed in range(8))]:
        steps.clear()
        decoded = run(model, params, PROMPTS[:1], terminators, batch=3, limit=40, seed=seed, numbers=[7])
        jax.effects_barrier()
        assert all(d.finished for several in decoded for d in several)
        # Two rows only fill up the batch: they keep nobody waiting.
        assert len(steps) == max(len(d.tokens) for several in decoded for d in several) + 1
        ran.append(len(steps))
    assert ran[0] == 1
    assert 1 < max(ran) < 40


def test_one_compilation_a_bucket_whatever_is_asked(monkeypatch):
    model, params = small_model(0, 2.0, vocabulary=VOCABULARY, layers=1)
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(0, VOCABULARY, n).tolist()) for n in (20, 3, 30, 16, 1, 17, 5, 7)]
    for function in (sample, prompt_keys):
        function.clear_cache()  # whatever tests came before
    done, placed = [], []

    def place(x, mesh):
        placed.append(x.shape)
        return place_rows(x, mesh)

    monkeypatch.setattr(decoding, "place_rows", place)
    for temperature, top_p, top_k, seed in [
        (1, 1, 0, 0),
        (0.5, 0.9, 0, 7),
        (0, 1.0, 3, 2),
        (2.5, 0.1, 10**12, 1),
    ]:
        decoded = run(
            model,
            params,
            prompts,
            (0,),
            batch=3,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            advance=done.append,
        )
        assert all(len(several) == 5 for several in decoded)
    assert sample._cache_size() == 2  # lengths up to 16, and up to 32
    assert prompt_keys._cache_size() == 1
    assert sorted(set(placed)) == [(3,), (3, 16), (3, 32)]
    assert sum(done) == 4 * len(prompts)


def float_sizes(compiled) -> list[int]:
    """Elements of every array of floats that a compiled program names."""
    shapes = set(re.findall(r"\b(?:bf16|f\d+)\[([\d,]+)\]", compiled.as_text()))
    return [math.prod(map(int, shape.split(","))) for shape in shapes]


def test_no_sample_is_scored_against_another_samples_tokens():
    """No array of floats has an element for each of samples x samples x length; of beams' scores one has."""
    model, params = small_model(vocabulary=VOCABULARY)
    samples, length = 7, 13  # primes that no size of the model has
    inputs = np.zeros((1, 16), np.int32), np.array([16]), mask_of((0,))
    size = {"max_new_tokens": length}
    keys = prompt_keys(np.uint32(0), np.zeros(1, np.int32))
    drawn = sample.lower(model, params, *inputs, keys, samples=samples, **size, **PLAIN).compile()
    beams = beam_search.lower(model, params, *inputs, beams=samples, **size).compile()
    heads = model.shape.heads
    assert heads * samples * length in float_sizes(drawn)  # each against its own
    assert not [n for n in float_sizes(drawn) if n % (samples * samples * length) == 0]
    assert heads * samples * samples * length in float_sizes(beams)


def test_the_prompts_cache_is_not_copied_for_its_samples():
    model, params = small_model(vocabulary=VOCABULARY)
    s, samples, time = model.shape, 128, 128
    lowered = sample.lower(
        model,
        params,
        np.zeros((1, time), np.int32),
        np.array([time]),
        mask_of((0,)),
        prompt_keys(np.uint32(0), np.zeros(1, np.int32)),
        samples=samples,
        max_new_tokens=1,
        **PLAIN,
    )
    copied = samples * 2 * s.layers * time * s.kv_heads * s.head_dim * 4
    assert lowered.compile().memory_analysis().temp_size_in_bytes < copied


# What is asked


def test_no_prompts_give_no_samples():
    model, params = small_model(vocabulary=VOCABULARY)
    assert run(model, params, [], (0,), batch=4) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"limit": 0}, "max_new_tokens is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_numbers_out_of_range_are_refused(change, said):
    model, params = small_model(vocabulary=VOCABULARY)
    with pytest.raises(InputError, match=said) as raised:
        run(model, params, PROMPTS, (0,), **change)
    assert "\n" not in str(raised.value)


def test_a_sample_is_its_text_as_it_is(tmp_path):
    tokenizer = small_tokenizer(tmp_path)
    tokens = tokenizer.encode(" Florence \n Rome")
    read = read_sample(tokenizer, Decoded(tokens, -1.5, -1.25, False))
    assert read == Sample(" Florence \n Rome", tokens, -1.5, -1.25, False)
