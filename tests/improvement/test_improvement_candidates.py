"""Candidates and the trees that are learned of them."""

import math

import pytest
from helpers.models_and_trees import small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.config import MethodConfig
from pretrainrl_jax.decoding.decoded import Rollout
from pretrainrl_jax.documents.cut import Cut
from pretrainrl_jax.improvement.learning import (
    Candidate,
    candidates_of,
    judged_tree,
    plain_tree,
    rewritten,
    with_rewrite,
)
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after, tokens_after

TEXT = "The capital of Arno is Florence. The river of Arno is the Po, and nobody knows it. "


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bos"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos=request.param)


def cut_at(tokenizer: Tokenizer, text: str, at: int, count: int) -> Cut:
    tokens = tokenizer.encode(text)
    return Cut(7, "a.txt 1", tokens, tokenizer.start + tokens[:at], tokens[at : at + count])


def test_the_text_of_a_continuation_joins_its_prefix(tokenizer):
    tokens = tokenizer.encode(TEXT)
    for at in range(1, len(tokens) - 4):
        prefix = tokenizer.start + tokens[:at]
        text = text_after(tokenizer, prefix, tokens[at : at + 4])
        assert tokenizer.decode(prefix) + text == tokenizer.decode(tokens[: at + 4])
        both = tokenizer.encode(tokenizer.decode(tokens[: at + 4]))
        assert both != tokens[: at + 4] or tokens_after(tokenizer, prefix, text) == tokens[at : at + 4]


def test_a_continuation_that_does_not_join_its_prefix_has_tokens_of_its_own(tokenizer):
    joined = set()
    for at in range(1, len(TEXT)):
        own, whole = tokenizer.encode(TEXT[:at]), tokenizer.encode(TEXT)
        tokens = tokens_after(tokenizer, tokenizer.start + own, TEXT[at:])
        joins = whole[: len(own)] == own
        joined.add(joins)
        assert tokens == (whole[len(own) :] if joins else tokenizer.encode(TEXT[at:]))
        assert tokenizer.decode(own + tokens) == TEXT
    assert joined == {True, False}


def test_of_equal_texts_the_first_stands_with_its_own_tokens(tokenizer):
    cut = cut_at(tokenizer, TEXT, 5, 4)
    eos, text = tokenizer.eos[0], text_after(tokenizer, cut.prefix, cut.suffix)
    letters = tuple(token for letter in text for token in tokenizer.encode(letter))
    assert tokenizer.decode(letters) == text
    assert letters != cut.suffix
    others = [letters, (*cut.suffix, eos), (eos,), (eos,), cut.suffix[:2]]
    rollouts = [Rollout(tokens, (-1.0,) * len(tokens)) for tokens in others]
    found = candidates_of(cut, ("original", "rollout"), tokenizer, rollouts)
    assert [(one.kind, one.tokens) for one in found] == [
        ("original", cut.suffix),
        ("rollout", (eos,)),
        ("rollout", cut.suffix[:2]),
    ]
    assert found[1].text == ""
    assert found[1].logps == (-1.0,)
    alone = candidates_of(cut, ("rollout",), tokenizer, rollouts)
    assert alone[0] == Candidate("rollout", letters, text, (-1.0,) * len(letters))


def test_a_rewrite_is_text_that_is_cut_to_the_original_s_length(tokenizer):
    cut = cut_at(tokenizer, TEXT, 5, 4)
    text = text_after(tokenizer, cut.prefix, cut.suffix)
    own = candidates_of(cut, ("original", "rewrite"), tokenizer, [])
    assert [one.kind for one in with_rewrite(own, rewritten(cut, tokenizer, text))] == ["original"]
    longer = rewritten(cut, tokenizer, text + " It is a much longer text than that.")
    assert longer
    assert len(longer.tokens) == 4
    for nothing in ("", None):
        assert rewritten(cut, tokenizer, nothing) is None
    assert with_rewrite(own, None) == own


def test_a_rewrite_that_would_hold_a_control_token_is_none(tmp_path):
    backend = small_tokenizer(tmp_path).backend
    backend.add_tokens(["<end>"])  # which this tokenizer writes from text
    tokenizer = Tokenizer(backend, None, (backend.convert_tokens_to_ids("<end>"),))
    cut = cut_at(tokenizer, TEXT, 5, 4)
    assert rewritten(cut, tokenizer, " Rome") is not None
    assert rewritten(cut, tokenizer, " Rome<end>") is None


def test_a_rewrite_stands_behind_the_original_and_before_rollouts_of_its_text():
    original, *rollouts = (Candidate("original", (9,), "a"), *candidates(3))
    rewrite = Candidate("rewrite", (11,), "text 1")
    found = with_rewrite((original, *rollouts), rewrite)
    assert found == (original, rewrite, rollouts[0], rollouts[2])
    assert with_rewrite(rollouts, rewrite) == (rewrite, rollouts[0], rollouts[2])


def candidates(count: int) -> list[Candidate]:
    return [Candidate("rollout", (10 + i, 3), f"text {i}", (-0.5, -0.25)) for i in range(count)]


CUT = Cut(0, "a", (5, 6, 7, 8), (5, 6), (7, 8))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6))
def test_the_first_highest_is_chosen_and_the_first_lowest_rejected(scores):
    tree = judged_tree(CUT, candidates(len(scores)), scores, contrasts=True)
    if min(scores) == max(scores):
        assert tree is None
        return
    assert tree is not None
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    assert [(b.role, b.tokens) for b in tree.branches] == [
        ("chosen", (10 + best, 3)),
        ("rejected", (10 + worst, 3)),
    ]
    assert tree.branches[0].behaviour_logp == (-0.5, -0.25)
    assert tree.prefix == CUT.prefix
    alone = judged_tree(CUT, candidates(len(scores)), scores, contrasts=False)
    assert alone is not None
    assert alone.branches == tree.branches[:1]


def test_what_the_policy_did_not_write_was_not_sampled():
    original = Candidate("original", (7, 8), "x")
    tree = judged_tree(CUT, [original, *candidates(1)], [1.0, 0.0], contrasts=True)
    assert tree is not None
    assert math.isnan(tree.branches[0].behaviour_logp)


def test_next_token_training_learns_a_suffix_or_all_of_a_document():
    whole = plain_tree(CUT, "document", (), 1, 2, 100)
    assert whole is not None
    assert (whole.prefix, whole.branches[0].tokens) == ((1,), (5, 6, 7, 8, 2))
    cut_off = plain_tree(CUT, "document", (), 1, 2, 4)
    assert cut_off is not None
    assert cut_off.branches[0].tokens == (5, 6, 7)
    suffix = plain_tree(CUT, "original", [Candidate("original", (7, 8), "x")], None, 2, 100)
    assert suffix is not None
    assert (suffix.prefix, suffix.branches[0].tokens) == ((5, 6), (7, 8))
    assert plain_tree(CUT, "rewrite", [], None, 2, 100) is None


def test_a_method_that_cannot_be_is_refused():
    for wrong in ({"candidates": ("document",)}, {"candidates": ()}, {"candidates": ("rollout", "rollout")}):
        with pytest.raises(ValueError, match=r"candidates"):
            MethodConfig(**wrong)
    with pytest.raises(ValueError, match="learns one of them"):
        MethodConfig(update="next_token", candidates=("original", "rollout"))
