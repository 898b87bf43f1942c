"""Answers among known ones: all that is allowed is found as by brute force, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models_and_trees import small_model, small_tokenizer
from helpers.plain_passes import mask_of, next_logps
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.among import _seam, known_answers
from pretrainrl_jax.decoding.beam import beam_search
from pretrainrl_jax.decoding.constraints import build
from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.templates import Template, encode_continuations

VOCABULARY, LONGEST = 12, 4
PROMPTS = [(1, 2, 3), (3,), (2, 1, 0, 3, 3, 1, 2, 0, 1)]
CUT = 5  # of the vocabulary, as on two devices
tokens = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=LONGEST).map(tuple)
sets_of_answers = st.lists(st.lists(tokens, min_size=1, max_size=30), min_size=1, max_size=4)
ends_of_answers = st.sets(st.integers(0, 2), min_size=1)


def random_sets(seed: int, sizes=(30, 1, 12)) -> list[list[tuple[int, ...]]]:
    rng = np.random.default_rng(seed)
    return [
        [tuple(rng.integers(3, VOCABULARY, rng.integers(1, LONGEST + 1)).tolist()) for _ in range(size)]
        for size in sizes
    ]


@jax.jit
def table(trie):
    """Of every node what may follow, looked at in two parts, and the node that each token leads to."""
    nodes = jnp.arange(len(trie.tokens))
    parts = [trie.allowed(nodes, start, size) for start, size in ((0, CUT), (CUT, VOCABULARY - CUT))]
    return jnp.concatenate(parts, 1), trie.advance(
        *jnp.meshgrid(nodes, jnp.arange(VOCABULARY), indexing="ij")
    )


def assert_follows(sets, ends, trie) -> None:
    allowed, leads = map(np.asarray, table(trie))
    assert not allowed[-1].any()
    reached = []
    for root, answers in enumerate(sets):
        nodes = {(): root}
        beginnings = {tuple(answer[:n]) for answer in answers for n in range(len(answer) + 1)}
        for beginning in sorted(beginnings, key=len):
            node = nodes[beginning]
            longer = {b[-1] for b in beginnings if b and b[:-1] == beginning}
            assert {*np.flatnonzero(allowed[node])} == longer | (ends if beginning in answers else set())
            assert {*np.flatnonzero(leads[node] < len(trie.tokens) - 1)} == longer
            nodes |= {(*beginning, token): leads[node, token] for token in longer}
        reached += nodes.values()
    assert len({*reached}) == len(reached)


@settings(deadline=None, max_examples=30)
@given(sets_of_answers, ends_of_answers)
def test_what_may_follow_is_what_the_answers_say(sets, ends) -> None:
    assert_follows(sets, ends, build(sets, mask_of(ends, VOCABULARY)))


@pytest.mark.parametrize("room", [1 << 20, 8 * VOCABULARY, 0])
def test_nodes_with_many_children_have_rows_as_far_as_there_is_room(room) -> None:
    for seed in range(3):
        sets = random_sets(seed)
        trie = build(sets, mask_of({0, 2}, VOCABULARY), 1, room)
        children = np.diff(trie.children)
        np.testing.assert_array_equal(trie.rows > 0, children > trie.few)
        assert trie.dense.nbytes <= max(room, VOCABULARY)
        assert (trie.few == 1, trie.few < children.max()) == (room == 1 << 20, room > 0)
        assert_follows(sets, {0, 2}, trie)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([], "empty"),
        ([[(3,)], []], "empty"),
        ([[(3,), ()]], "without tokens"),
        ([[(3, 0)]], "terminator"),
        ([[(3, VOCABULARY)]], "vocabulary"),
    ],
)
def test_what_is_no_set_of_answers_is_refused(sets, words) -> None:
    with pytest.raises(ValueError, match=words):
        build(sets, mask_of({0}, VOCABULARY))


def test_what_cannot_be_chosen_among_is_refused_by_its_name(tmp_path) -> None:
    tokenizer = small_tokenizer(tmp_path)
    ends = Template("few_shot").terminators(tokenizer, tokenizer.size)
    prompts, kinds = ["Where?", "Who?"], ["city", "name"]
    known = known_answers(tokenizer, ends, prompts, kinds, {"city": ["Ulm"], "name": ["Eve"]})
    assert [[*texts.values()] for texts in known.texts] == [["Ulm"], ["Eve"]]
    for names, said in (
        ({}, "there is no answer to choose among for 'name'"),
        ({"name": []}, "there is no answer to choose among for 'name'"),
        ({"name": ["Ana\nB"]}, r"the answer 'Ana\\nB' holds a line break, or else what ends an answer"),
    ):
        with pytest.raises(InputError, match=f"^{said}$"):
            known_answers(tokenizer, ends, prompts, kinds, {"city": ["Ulm"], **names})


def test_a_last_line_stands_for_its_prompt_where_tokens_behind_it_are_the_same(tmp_path) -> None:
    tokenizer, prompt = small_tokenizer(tmp_path), "Who?\nName:"
    ((tokens,),) = encode_continuations(tokenizer, [prompt], [[" Eve"]]).branches
    assert _seam(tokenizer, prompt, " Eve", tokens) == "Name:"
    assert _seam(tokenizer, prompt, " Eve", (*tokens, tokens[0])) == prompt
    assert _seam(tokenizer, "Who?\n", " Eve", tokens) == "Who?\n"


def scored(model, params, prompt, answers, ends) -> dict[tuple[int, ...], float]:
    """Each answer's log-probability with all terminators, by plain passes, the most probable one first."""
    beginnings = sorted({answer[:n] for answer in answers for n in range(len(answer) + 1)})
    rows = next_logps(model, params, [(*prompt, *beginning) for beginning in beginnings])
    logps = dict(zip(beginnings, rows, strict=True))
    values = {
        answer: sum(logps[answer[:n]][answer[n]] for n in range(len(answer)))
        + np.logaddexp.reduce(logps[answer][[*ends]])
        for answer in answers
    }
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def search(model, params, sets, starts, ends, beams, few=16) -> list[dict[tuple[int, ...], float]]:
    """Of each prompt its answers, in the search's order, and their log-probabilities with all terminators."""
    mask = mask_of(ends, model.shape.vocabulary)
    trie = build(sets, mask, few)
    options = {"beams": beams, "max_new_tokens": LONGEST + 1, "batch": 4}
    decoded = decode(model, params, PROMPTS, mask, **options, constraint=trie, starts=starts)
    assert all(h.finished for beams in decoded for h in beams)
    return [{h.tokens: h.logp - h.token_logps[-1] + h.ending_logp for h in beams} for beams in decoded]


@settings(deadline=None, max_examples=8)
@given(sets_of_answers, ends_of_answers, st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_with_beams_enough_every_answer_is_found_and_scored(sets, ends, starts) -> None:
    """And no other. With fewer, each is worth what scoring says, so none is better than the best."""
    model, params = small_model(1, 2.0, vocabulary=VOCABULARY)
    starts = [start % len(sets) for start in starts]
    every, some = (search(model, params, sets, starts, ends, beams) for beams in (30, 2))
    for number, (prompt, start) in enumerate(zip(PROMPTS, starts, strict=True)):
        expected = scored(model, params, prompt, sets[start], ends)
        assert every[number] == pytest.approx(expected, abs=1e-4)
        if len(ends) == 1:
            assert list(every[number]) == list(expected)
        assert 0 < len(some[number]) <= 2
        of_some = {answer: expected[answer] for answer in some[number]}
        assert some[number] == pytest.approx(of_some, abs=1e-4)


def test_rows_change_nothing_and_neither_do_other_prompts_sets() -> None:
    model, params = small_model(0, 2.0, vocabulary=VOCABULARY)
    sets = random_sets(5)
    listed, dense = (search(model, params, sets, [0, 1, 2], {0, 1}, 30, few) for few in (16, 1))
    assert listed == dense
    alone = search(model, params, sets[:1], [0, 0, 0], {0, 1}, 30)
    assert listed[0] == alone[0]
    assert listed[1].keys() == {*sets[1]} != alone[1].keys()


def test_an_answer_that_begins_another_ends_and_goes_on() -> None:
    """ "Quebec" and "Quebec City"."""
    model, params = small_model(2, 2.0, vocabulary=VOCABULARY)
    (answers, *_) = search(model, params, [[(5,), (5, 6), (5, 6, 7, 8)]], [0, 0, 0], {0}, 30)
    assert answers.keys() == {(5,), (5, 6), (5, 6, 7, 8)}


def test_one_program_for_sets_of_any_size() -> None:
    model, params = small_model(3, 2.0, vocabulary=VOCABULARY)
    beam_search.clear_cache()
    for sets in ([[(3,)]], random_sets(0), random_sets(1, (40, 40, 2, 9))):
        search(model, params, sets, [0, 0, 0], {0}, 2)
    assert beam_search._cache_size() == 1


def test_a_hundred_thousand_answers() -> None:
    """The best of them by beam search is the best that scoring the most probable first tokens' ones finds."""
    vocabulary, number = 2000, 100_000
    model, params = small_model(0, 3.0, vocabulary=vocabulary, layers=1)
    rng = np.random.default_rng(0)
    answers = [*map(tuple, rng.integers(3, vocabulary, (number, 3)).tolist())]
    mask = mask_of({0}, vocabulary)
    trie = build([answers, answers[:7]], mask)
    assert trie.dense.nbytes <= 64 << 20
    sizes = {"beams": 8, "max_new_tokens": LONGEST, "batch": 2}
    many, few = decode(model, params, [(1, 2)] * 2, mask, **sizes, constraint=trie, starts=[0, 1])
    known = {*answers}
    assert len({h.tokens for h in many}) == 8
    assert all(h.tokens in known and h.finished for h in many)
    assert {h.tokens for h in few} == {*answers[:7]}
    likeliest = next_logps(model, params, [(1, 2)])[0].argsort()[::-1][:1]
    near = [answer for answer in known if answer[0] in likeliest]
    assert 20 < len(near) < 200
    expected = scored(model, params, (1, 2), [*near, *(h.tokens for h in many)], {0})
    assert many[0].tokens == next(iter(expected))
    assert many[0].logp == pytest.approx(expected[many[0].tokens], abs=1e-4)
