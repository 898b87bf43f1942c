import itertools
import json
import math
from dataclasses import asdict
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.automaton import Automaton
from helpers.models_and_trees import small_model, small_tokenizer
from helpers.plain_passes import TIME, mask_of, next_logps
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from pretrainrl_jax.decoding import beam as beam_module
from pretrainrl_jax.decoding import decode as decoding
from pretrainrl_jax.decoding.answers import Answer, answer_questions, read_answer, read_answers
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.cache import extend
from pretrainrl_jax.decoding.decode import _calls, bucket, decode
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.partitioning import place_rows
from pretrainrl_jax.objectives.scoring import score_answers, score_trees
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tree import AnswerTree, Branch


def beam(tokens, logp, finished) -> Decoded:
    return Decoded(tokens, logp, logp, finished)


@pytest.mark.parametrize("name", ["beams", "max_new_tokens", "batch"])
def test_numbers_below_1_are_refused(name):
    model, params = small_model(vocabulary=11)
    numbers = {"beams": 1, "max_new_tokens": 1, "batch": 1} | {name: 0}
    with pytest.raises(InputError, match=f"{name} is 0: it must be 1 or more"):
        decode(model, params, [[1]], mask_of((0,), 11), **numbers)


def plain_beam_search(model, params, prompt, ends, beams, limit, steps=None) -> list[Decoded]:
    """The docstring of `beam_search`, in float64 and by sorting; `steps` are an automaton's transitions."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    answers: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(limit):
        logps = next_logps(model, params, [(*prompt, *tokens) for _, tokens in live])
        if steps is not None:
            states = [reduce(lambda state, token: steps[state, token], tokens, 0) for _, tokens in live]
            logps = np.where(steps[states] >= 0, logps, -np.inf)
        endings = [(logp + row[ends].max(), tokens) for (logp, tokens), row in zip(live, logps, strict=True)]
        extensions = [
            (logp + row[token], (*tokens, token))
            for (logp, tokens), row in zip(live, logps, strict=True)
            for token in np.flatnonzero(~ends).tolist()
        ]
        competing = sorted([(s, 1, t) for s, t in endings] + [(s, 0, t) for s, t in extensions], reverse=True)
        answers += [(s, t) for s, ending, t in competing[:beams] if ending and s > -np.inf]
        answers = sorted(answers, reverse=True)[:beams]
        live = sorted([one for one in extensions if one[0] > -np.inf], reverse=True)[:beams]
        if not live or (len(answers) == beams and live[0][0] <= answers[-1][0]):
            break
    ranked = [beam(t, s, True) for s, t in answers] + [beam(t, s, False) for s, t in live]
    return ranked[:beams]


def assert_same(beams: list[Decoded], wanted: list[Decoded]) -> None:
    assert [(h.tokens, h.finished) for h in beams] == [(h.tokens, h.finished) for h in wanted]
    np.testing.assert_allclose([h.logp for h in beams], [h.logp for h in wanted], rtol=1e-5, atol=1e-4)


def search(model, params, prompts, terminators, beams, limit, batch=None, **more) -> list[list[Decoded]]:
    ends = mask_of(terminators, model.shape.vocabulary)
    batch = batch or len(prompts)
    return decode(model, params, prompts, ends, beams=beams, max_new_tokens=limit, batch=batch, **more)


PROMPTS = [(1, 2, 3), (3,), (2, 1, 0, 3, 3, 1, 2, 0, 1), (0, 1, 2, 3, 0)]


@pytest.mark.parametrize("terminators", [(0,), (1, 4)])
def test_where_nothing_is_pruned_every_answer_is_found(terminators):
    """Far more beams than the vocabulary has tokens, and than there are answers."""
    model, params = small_model(vocabulary=6)
    others = [t for t in range(6) if t not in terminators]
    for prompt, beams in zip(
        PROMPTS[:2], search(model, params, PROMPTS[:2], terminators, beams=160, limit=3), strict=True
    ):
        grown = [t for n in range(4) for t in itertools.product(others, repeat=n)]
        logps = dict(zip(grown, next_logps(model, params, [(*prompt, *t) for t in grown]), strict=True))
        summed = {t: sum(logps[t[:i]][t[i]] for i in range(len(t))) for t in grown}
        finished = [beam(t, summed[t] + logps[t][list(terminators)].max(), True) for t in grown if len(t) < 3]
        unfinished = [beam(t, summed[t], False) for t in grown if len(t) == 3]
        best = [sorted(group, key=lambda h: -h.logp) for group in (finished, unfinished)]
        assert len(beams) == len(grown) <= 160
        assert_same(beams, best[0] + best[1])
        # Nothing is lost: with every terminator counted, the probabilities of all ways on add up to one.
        if len(terminators) == 1:
            assert sum(math.exp(h.logp) for h in beams) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("beams", [2, 5])
def test_where_beams_prune_they_prune_as_documented(beams):
    for seed in range(6):
        model, params = small_model(seed, 2.0, vocabulary=11)
        for terminators in [(0,), (1, 3)]:
            ends = mask_of(terminators, 11)
            decoded = search(model, params, PROMPTS, terminators, beams, limit=5)
            for prompt, searched in zip(PROMPTS, decoded, strict=True):
                assert_same(searched, plain_beam_search(model, params, prompt, ends, beams, 5))


def random_automaton(seed, states, vocabulary) -> np.ndarray:
    """Transitions of which half are forbidden; the last state is a dead end."""
    rng = np.random.default_rng(seed)
    shape = states, vocabulary
    steps = np.where(rng.random(shape) < 0.5, rng.integers(0, states, shape), -1)
    steps[-1] = -1
    return steps.astype(np.int32)


@pytest.mark.parametrize("terminators", [(0,), (1, 4)])
def test_where_nothing_is_pruned_every_allowed_answer_is_found(terminators):
    """Brute force over all strings: scores are the model's own, whatever the automaton forbids."""
    model, params = small_model(vocabulary=6)
    others = [t for t in range(6) if t not in terminators]
    strings = [t for n in range(4) for t in itertools.product(others, repeat=n)]
    for seed in range(4):
        steps = random_automaton(seed, 4, 6)
        (searched,) = search(
            model, params, PROMPTS[:1], terminators, beams=90, limit=3, constraint=Automaton(steps)
        )
        wanted = []
        for tokens in strings:
            logps = next_logps(model, params, [(*PROMPTS[0], *tokens[:i]) for i in range(len(tokens) + 1)])
            state = 0
            for token in tokens:
                state = steps[state, token] if state >= 0 else -1
            if state < 0:
                continue
            logp = sum(row[token] for row, token in zip(logps, tokens, strict=False))
            ends = [logps[-1][end] for end in terminators if steps[state, end] >= 0]
            if len(tokens) == 3:
                wanted.append(beam(tokens, logp, False))
            elif ends:
                wanted.append(beam(tokens, logp + max(ends), True))
        assert 0 < len(wanted) < 85
        assert_same(searched, sorted(wanted, key=lambda h: (not h.finished, -h.logp)))


def test_where_beams_prune_what_is_allowed_they_prune_as_documented():
    sizes = set()
    for seed in range(6):
        model, params = small_model(seed, 2.0, vocabulary=11)
        steps = random_automaton(seed, 3, 11)
        decoded = search(model, params, PROMPTS, (1, 3), 4, limit=5, constraint=Automaton(steps))
        for prompt, searched in zip(PROMPTS, decoded, strict=True):
            assert_same(searched, plain_beam_search(model, params, prompt, mask_of((1, 3), 11), 4, 5, steps))
            sizes |= {(h.finished, len(h.tokens)) for h in searched}
    assert len(sizes) > 4


def test_one_beam_is_greedy_decoding():
    finished = []
    for seed in range(3):
        model, params = small_model(seed, 2.0, vocabulary=11)
        likeliest = int(next_logps(model, params, PROMPTS[:1])[0].argmax())
        for terminators in [(likeliest,), (likeliest, 5), (0,)]:
            decoded = search(model, params, PROMPTS, terminators, beams=1, limit=5)
            for prompt, (one,) in zip(PROMPTS, decoded, strict=True):
                tokens, logp, end = [], 0.0, False
                while len(tokens) < 5 and not end:
                    (logps,) = next_logps(model, params, [(*prompt, *tokens)])
                    best = int(logps.argmax())
                    logp += logps[best]
                    end = best in terminators
                    tokens += [] if end else [best]
                assert_same([one], [beam(tuple(tokens), logp, end)])
                finished.append((end, len(tokens)))
    assert (True, 0) in finished  # the terminator came first
    assert (False, 5) in finished
    assert any(end and n for end, n in finished)


def test_beams_are_ordered_distinct_and_worth_what_the_plain_forward_pass_says():
    """The cached search against sequences grown token by token without a cache."""
    kinds = set()
    for seed in range(3):
        model, params = small_model(seed, 2.0, vocabulary=11)
        for prompt, searched in zip(
            PROMPTS, search(model, params, PROMPTS, (0,), beams=5, limit=5), strict=True
        ):
            assert [h.finished for h in searched] == sorted((h.finished for h in searched), reverse=True)
            for end in (True, False):
                logps = [h.logp for h in searched if h.finished == end]
                assert logps == sorted(logps, reverse=True)
            assert len({h.tokens for h in searched}) == len(searched) == 5
            for h in searched:
                kinds.add((h.finished, len(h.tokens)))
                assert 0 not in h.tokens
                assert len(h.tokens) < 5 if h.finished else len(h.tokens) == 5
                spelt = (*h.tokens, 0) if h.finished else h.tokens
                steps = next_logps(model, params, [(*prompt, *spelt[:i]) for i in range(len(spelt))])
                expected = steps[np.arange(len(spelt)), spelt]
                assert h.logp == h.behaviour_logp == pytest.approx(sum(expected), abs=1e-4, rel=1e-5)
                assert h.token_logps == h.behaviour_token_logps
                np.testing.assert_allclose(h.token_logps, expected, rtol=1e-5, atol=2e-5)
    assert {end for end, _ in kinds} == {True, False}
    assert len(kinds) > 3


def test_beams_are_worth_what_the_score_engine_says():
    model, params = small_model(1, 2.0, vocabulary=11)
    decoded = search(model, params, PROMPTS, (0,), beams=5, limit=5)
    trees = [
        AnswerTree(str(i), prompt, tuple(Branch((*h.tokens, 0)) for h in searched if h.finished))
        for i, (prompt, searched) in enumerate(zip(PROMPTS, decoded, strict=True))
    ]
    assert sum(len(t.branches) for t in trees) > 8
    scores = score_trees(model, params, trees, row_length=32, rows=2)
    for searched, scored in zip(decoded, scores, strict=True):
        np.testing.assert_allclose([h.logp for h in searched if h.finished], scored, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sharpness", [2.0, 300.0])  # at 300 terminators can be less probable than e^-87
def test_an_answer_ends_as_probably_as_all_terminators_together(sharpness):
    model, params = small_model(1, sharpness, vocabulary=11)
    ends = (0, 3, 7)
    decoded = search(model, params, PROMPTS, ends, beams=6, limit=5)
    for prompt, searched in zip(PROMPTS, decoded, strict=True):
        for h in searched:
            logps = np.float64(next_logps(model, params, [(*prompt, *h.tokens)])[0][list(ends)])
            expected = np.logaddexp.reduce(logps) if h.finished else 0
            tolerance = 5e-4 if expected > -80 else math.log(len(ends))  # logits are in the hundreds
            assert h.ending_logp == pytest.approx(expected, abs=tolerance, rel=1e-5)
            if h.finished:
                assert h.ending_logp >= h.token_logps[-1] == pytest.approx(logps.max(), abs=1e-3, rel=1e-5)
    trees = [
        AnswerTree(str(i), prompt, tuple(Branch((*h.tokens, end)) for h in searched if h.finished))
        for i, (prompt, searched) in enumerate(zip(PROMPTS, decoded, strict=True))
        for end in ends
    ]
    scores = score_answers(model, params, trees, mask_of(ends, 11), row_length=32, rows=2)
    plain = score_trees(model, params, trees, row_length=32, rows=2)
    for number, (tree, scored) in enumerate(zip(trees, scores, strict=True)):
        finished = [h for h in decoded[number // len(ends)] if h.finished]
        assert len(finished) == len(tree.branches)
        np.testing.assert_allclose([own for own, _ in scored], plain[number], rtol=1e-6, atol=1e-6)
        if sharpness < 100:
            answers = [h.logp - h.token_logps[-1] + h.ending_logp for h in finished]
            np.testing.assert_allclose([answer for _, answer in scored], answers, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [4, 16])  # of 16 the last four go on in products of another size
def test_neither_padding_nor_other_prompts_change_an_answer(rows):
    model, params = small_model(2, 2.0, vocabulary=11)
    ends = jnp.asarray(mask_of((0,), 11))
    rng = np.random.default_rng(0)

    def first_of(length, *other_lengths):
        prompts = rng.integers(0, 11, (rows, TIME))  # what lies beyond a prompt's length is padding
        prompts[0, :3] = 1, 2, 3
        lengths = np.array([length, *other_lengths, *[5] * (rows - 4)])
        searched = beam_search(model, params, prompts, lengths, ends, beams=5, max_new_tokens=5)
        return [np.asarray(x)[0] for x in searched]

    alone = first_of(3, 1, 1, 1)
    for other_lengths in [(1, 1, 1), (16, 2, 9), (3, 3, 15)]:
        for a, b in zip(alone, first_of(3, *other_lengths), strict=True):
            np.testing.assert_allclose(a, b, rtol=0 if rows == 4 else 1e-5)
    assert not np.array_equal(alone[3], first_of(2, 1, 1, 1)[3])


def test_rows_of_no_tokens_may_stand_anywhere():
    """Before others of a queue as well: these are searched all the same."""
    model, params = small_model(2, 2.0, vocabulary=11)
    ends = jnp.asarray(mask_of((0,), 11))
    prompts = np.random.default_rng(0).integers(0, 11, (9, TIME))
    lengths = np.array([0, 5, 0, 0, 3, 7, 0, 2, 0])
    found = beam_search(model, params, prompts, lengths, ends, beams=3, max_new_tokens=4, batch=2)
    there = lengths > 0
    alone = beam_search(model, params, prompts[there], lengths[there], ends, beams=3, max_new_tokens=4)
    for own, wanted in zip(found, alone, strict=True):
        np.testing.assert_allclose(np.asarray(own)[there], wanted, rtol=1e-5)


def test_a_batch_that_devices_cannot_share_is_refused():
    model = Model(small_model()[0].shape, AbstractMesh((2,), ("data",)))
    with pytest.raises(ValueError, match="4 rows, 3 at a time, do not divide over 2 devices"):
        beam_search(
            model, {}, np.ones((4, 2), int), np.ones(4, int), None, beams=1, max_new_tokens=1, batch=3
        )


def test_unused_places_are_blank():
    model, params = small_model(2, 2.0, vocabulary=11)
    prompts = np.array([[1, 2, 3] + [0] * 13] * 4)
    ends = jnp.asarray(mask_of((7,), 11))
    searched = beam_search(model, params, prompts, np.full(4, 3), ends, beams=5, max_new_tokens=5)
    tokens, lengths = np.asarray(searched.tokens), np.asarray(searched.lengths)
    assert tokens.shape == (4, 5, 5)
    assert not tokens[np.arange(5) >= lengths[..., None]].any()
    assert not (tokens == 7).any()


# decode: any number of prompts of any length


def test_buckets_are_powers_of_two():
    assert [bucket(n) for n in (1, 16, 17, 32, 33, 64, 65)] == [16, 16, 32, 32, 64, 64, 128]


def test_one_compilation_a_bucket_and_results_in_the_order_of_the_prompts(monkeypatch):
    model, params = small_model(0, 2.0, vocabulary=11, layers=1)
    rng = np.random.default_rng(0)
    sizes = (20, 3, 30, 16, 1, 17, 5, 7, 9, 2, 12, 4, 14, 6, 10, 8)  # three of them a batch, twelve a call
    prompts = [tuple(rng.integers(0, 11, n).tolist()) for n in sizes]
    beam_search.clear_cache()  # whatever tests came before
    done, placed = [], []

    def place(x, mesh):
        placed.append(x.shape)
        return place_rows(x, mesh)

    monkeypatch.setattr(decoding, "place_rows", place)
    ends = mask_of((0,), 11)
    decoded = decode(model, params, prompts, ends, beams=1, max_new_tokens=3, batch=3, advance=done.append)
    assert beam_search._cache_size() == 2  # lengths up to 16, and up to 32
    assert sorted(set(placed)) == [(12,), (12, 16), (12, 32)]
    assert sum(done) == len(prompts)
    for prompt, (one,) in zip(prompts, decoded, strict=True):
        tokens = one.tokens + ((0,) if one.finished else ())
        logps = next_logps(model, params, [(*prompt, *tokens[:i]) for i in range(len(tokens))], time=33)
        assert logps.argmax(-1).tolist() == list(tokens)
        assert one.logp == pytest.approx(logps.max(-1).sum(), abs=1e-4, rel=1e-5)
    assert len({one.tokens for (one,) in decoded}) > 3  # else any order would do


@given(
    sizes=st.lists(st.tuples(st.sampled_from([0, 48]), st.integers(1, 40)), max_size=40),
    least=st.sampled_from([2, 4, 6]),
    times=st.sampled_from([1, 4]),
)
def test_calls_are_few_and_of_one_size(sizes, least, times):
    """Each prompt once, beside those of its beginning alone; no batch of short ones beside longer ones."""
    padded = [(before, bucket(length), length) for before, length in sizes]
    calls = _calls(padded, least, times * least, devices=2)
    asked = [[index for index in call if index is not None] for call in calls]
    assert sorted(index for of_call in asked for index in of_call) == list(range(len(sizes)))
    for call, of_call in zip(calls, asked, strict=True):
        assert len(call) == times * least
        rows = len(call) // 2
        first, second = (sum(index is not None for index in half) for half in (call[:rows], call[rows:]))
        assert first - second in (0, 1)  # devices share evenly, and have rows of no tokens last
        assert of_call == [*call[:first], *call[rows : rows + second]]
        assert len({sizes[index][0] for index in of_call}) == 1
        buckets = [padded[index][1] for index in of_call]
        assert len({*buckets}) == 1 or buckets.count(min(buckets)) < least


def test_no_prompts_give_no_answers():
    model, params = small_model(vocabulary=11)
    assert search(model, params, [], (0,), beams=2, limit=3, batch=4) == []


# Answers as text


def test_an_answer_is_the_text_before_its_first_line_break(tmp_path):
    tokenizer = small_tokenizer(tmp_path)
    tokens = tokenizer.encode(" Florence \n Rome")
    read = read_answer(tokenizer, Decoded(tokens, -1.5, -1.5, False, (-1.0, -0.5), (-1.0, -0.5)))
    assert read == Answer("Florence", tokens, -1.5, False, (-1.0, -0.5), -1.5)
    ended = Decoded((), -1.5, -1.5, True, (-1.5,), (-1.5,), -0.25)
    assert read_answer(tokenizer, ended) == Answer("", (), -0.25, True, (-0.25,), -1.5)


def test_answers_are_read_as_written_by_this_version_and_by_older_ones():
    answers = [Answer("a", (3,), -1.5, True, (-1.0, -0.5), -1.7), Answer("", (), -2.0, False, (), -2.0)]
    written = json.loads(json.dumps([asdict(answer) for answer in answers]))
    assert read_answers(written) == answers
    old = [{name: answer[name] for name in ("text", "tokens", "logp", "finished")} for answer in written]
    assert read_answers(old) == [Answer("a", (3,), -1.5, True), Answer("", (), -2.0, False)]


def test_questions_are_asked_in_the_template_and_end_at_its_terminators(tmp_path):
    tokenizer = small_tokenizer(tmp_path)
    model, params = small_model(0, 2.0, vocabulary=tokenizer.size, layers=1)
    questions = ["What is the capital?", "What?"]
    settings = {"beams": 3, "max_new_tokens": 3, "batch": 2}
    template = Template("few_shot")
    texts = [template.prefix(question) for question in questions]
    answered = answer_questions(model, params, tokenizer, template, texts, **settings)
    prompts = [tokenizer.encode(text) for text in texts]
    wanted = decode(model, params, prompts, template.terminators(tokenizer, tokenizer.size), **settings)
    assert answered == [[read_answer(tokenizer, h) for h in beams] for beams in wanted]


# Steps, counted in programs of their own: these tests come last


@pytest.fixture(scope="module")
def counting():
    """A search that is compiled, once for all tests, with a count of each step's rows."""
    steps: list[int] = []

    def counted(model, params, tokens, *more):
        jax.debug.callback(lambda: steps.append(len(tokens)), ordered=True)
        return extend(model, params, tokens, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam_module, "extend", counted)
        beam_search.clear_cache()
        yield steps
    beam_search.clear_cache()


@pytest.fixture
def stepped(counting):
    """How many rows each step of a search reads."""
    counting.clear()
    return counting


def some(number: int = 16) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, 11, rng.integers(1, 9)).tolist()) for _ in range(number)]


OFTEN = (1, 3, 5, 6, 7, 9, 10)  # terminators: searches end, some sooner than others


@pytest.mark.parametrize("constrained", [False, True])
def test_the_last_few_of_a_batch_go_on_alone_and_find_the_same(stepped, constrained):
    """Together and each by itself: the same beams."""
    model, params = small_model(1, 2.0, vocabulary=11)
    more = {"constraint": Automaton(random_automaton(1, 3, 11))} if constrained else {}
    together = search(model, params, some(), OFTEN, 3, limit=9, **more)
    jax.effects_barrier()
    assert {*stepped} == {16, 4}
    assert sorted(stepped, reverse=True) == stepped
    wanted = [search(model, params, [prompt], OFTEN, 3, limit=9, **more)[0] for prompt in some()]
    for found, alone in zip(together, wanted, strict=True):
        assert_same(found, alone)


@pytest.mark.parametrize(("number", "batch", "constrained"), [(30, 8, False), (20, 8, True), (9, 3, False)])
def test_questions_that_wait_take_the_places_of_those_that_stopped(stepped, number, batch, constrained):
    """The same beams as each by itself; no batch waits for its slowest question."""
    model, params = small_model(1, 2.0, vocabulary=11)
    more = {"constraint": Automaton(random_automaton(1, 3, 11))} if constrained else {}
    asked = some(number)
    together = search(model, params, asked, OFTEN, 3, limit=9, batch=batch, **more)
    jax.effects_barrier()
    taken, alone, takes = sum(stepped), [], []
    for prompt in asked:
        stepped.clear()
        alone += search(model, params, [prompt], OFTEN, 3, limit=9, batch=1, **more)
        jax.effects_barrier()
        takes.append(len(stepped))
    for found, wanted in zip(together, alone, strict=True):
        assert_same(found, wanted)
    order = sorted(range(number), key=lambda i: len(asked[i]))  # as they are searched
    in_batches = [[takes[i] for i in order[start : start + batch]] for start in range(0, number, batch)]
    assert taken < batch * sum(map(max, in_batches))
    assert taken >= sum(takes)
    assert len({*takes}) > (1 if constrained else 3)


def test_rows_that_fill_up_a_batch_prolong_nothing(stepped):
    model, params = small_model(5, 2.0, vocabulary=11)
    takes = {}
    for batch in (1, 3):
        for prompt in some()[:6]:
            stepped.clear()
            search(model, params, [prompt], OFTEN, 3, limit=9, batch=batch)
            jax.effects_barrier()
            takes.setdefault(batch, []).append(len(stepped))
    assert takes[1] == takes[3]
    assert len({*takes[1]}) > 1
