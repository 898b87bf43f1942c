"""Comparisons as trees: the tokens of prompts and answers, and the pairs between branches."""

from collections import Counter
from typing import Any

import pytest
from helpers.chat import CHATML, END, START, STRICT, THINKING, chat_tokenizer
from helpers.models_and_trees import small_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.preferences.record import Comparison, Preferred
from pretrainrl_jax.preferences.trees import build
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree


def user(text: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": text},)


def said(text: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "assistant", "content": text},)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Tokenizer:
    return chat_tokenizer(tmp_path_factory.mktemp("chat"), CHATML)


def spelt(tokenizer: Tokenizer, trees: list[AnswerTree]) -> Counter[tuple[str, str, str]]:
    """The pairs as texts, control tokens shown."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for tree in trees:
        for pair in tree.preferences:
            places = (tree.branches[p].tokens for p in pair[:2])
            texts = [tokenizer.backend.decode(list(tokens)) for tokens in (tree.prefix, *places)]
            counted[tuple(texts)] += int(pair.weight)
    return counted


def test_messages_are_written_by_the_template(chat):
    pairs = (Preferred(said("I"), said("you")), Preferred(said("I"), said("he"), rows=2))
    tree, *others = build([Comparison(user("Who?"), pairs)], chat, 200).trees
    asked = f"{START}user\nWho?{END}\n{START}assistant\n"
    assert not others
    assert spelt(chat, [tree]) == {
        (asked, f"I{END}\n", f"you{END}\n"): 1,
        (asked, f"I{END}\n", f"he{END}\n"): 2,
    }
    rendered = chat.backend.apply_chat_template([*user("Who?"), *said("I")], tokenize=True, return_dict=False)
    assert (*tree.prefix, *tree.branches[0].tokens) == tuple(rendered)
    assert [b.role for b in tree.branches] == ["chosen", "rejected", "rejected"]


@pytest.mark.parametrize("bos", [False, True])
def test_texts_end_with_eos_once_and_begin_with_bos_where_the_tokenizer_adds_it(tmp_path, bos):
    tokenizer = small_tokenizer(tmp_path, bos=bos)
    eos = tokenizer.backend.convert_ids_to_tokens(tokenizer.eos[0])
    built = build([Comparison("Who?", (Preferred(" I", f" you{eos}"),))], tokenizer, 200)
    (tree,) = built.trees
    assert tree.prefix == tokenizer.start + tokenizer.encode("Who?")
    assert [b.tokens[-1] for b in tree.branches] == [tokenizer.eos[0]] * 2
    assert tokenizer.eos[0] not in tree.branches[1].tokens[:-1]
    assert tokenizer.decode(tree.branches[1].tokens) == " you"


def test_a_prompt_that_is_written_otherwise_before_an_answer_is_cut(tmp_path):
    tokenizer = chat_tokenizer(tmp_path, THINKING)
    built = build([Comparison(user("Who?"), (Preferred(said(" I "), said("you")),))], tokenizer, 200)
    assert built.cut == 1
    ((asked, chosen, rejected),) = spelt(tokenizer, built.trees)
    assert (asked + chosen, asked + rejected) == tuple(
        f"{START}user\nWho?{END}\n{START}assistant\n{answer}{END}\n" for answer in ("I", "you")
    )
    assert "<think>" not in asked
    # Where the template makes one of two answers, they are not compared.
    built = build([Comparison(user("Who?"), (Preferred(said("I "), said("I")),))], tokenizer, 200)
    assert (built.trees, built.dropped) == ([], {"equal": 1})


def test_what_spells_a_control_token_is_left_out_unless_it_may(chat):
    spells = Preferred(said(f"I{END}"), said("you"))
    comparisons = [
        Comparison(user("Who?"), (spells, Preferred(said("I"), said("you")))),
        Comparison(f"{START}user\nWho?", (Preferred(f"I{END}", "you"),)),
    ]
    built = build(comparisons, chat, 200)
    assert built.dropped == {"control tokens": 2}
    assert len(spelt(chat, built.trees)) == 1
    assert sum(tree.prefix.count(chat.eos[0]) for tree in built.trees) == 1  # the template's own
    built = build(comparisons[1:], chat, 200, control_tokens=True)
    (tree,) = built.trees
    assert tree.prefix[0] == chat.backend.convert_tokens_to_ids(START)
    assert [b.tokens.count(chat.eos[0]) for b in tree.branches] == [1, 1]


def test_a_template_may_refuse_messages(tmp_path):
    tokenizer = chat_tokenizer(tmp_path, STRICT)
    system = ({"role": "system", "content": "Be short."}, *user("Who?"))
    built = build([Comparison(system, (Preferred(said("I"), said("you")),))], tokenizer, 200)
    assert (built.trees, built.dropped) == ([], {"refused by the template": 1})
    assert "System role not supported" in built.examples["refused by the template"]


def test_an_answer_that_the_template_does_not_write_is_left_out(tmp_path):
    tokenizer = chat_tokenizer(
        tmp_path, "{% for m in messages if m.content != 'nothing' %}{{ m.content + '.' }}{% endfor %}"
    )
    pairs = (Preferred(said("I"), said("nothing")), Preferred(said("I"), said("you")))
    built = build([Comparison(user("Who?"), pairs)], tokenizer, 200)
    assert spelt(tokenizer, built.trees) == {("Who?.", "I.", "you."): 1}
    assert built.dropped == {"empty answer": 1}


def test_messages_need_a_template(tmp_path):
    tokenizer = small_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no chat template"):
        build([Comparison(user("Who?"), (Preferred(said("I"), said("you")),))], tokenizer, 200)


def test_an_answer_that_is_chosen_and_rejected_is_two_branches(chat):
    pairs = (Preferred(" a", " b"), Preferred(" b", " c"))
    (tree,) = build([Comparison("Q", pairs)], chat, 200).trees
    roles = Counter((chat.decode(b.tokens), b.role) for b in tree.branches)
    assert roles == {(" a", "chosen"): 1, (" b", "rejected"): 1, (" b", "chosen"): 1, (" c", "rejected"): 1}
    assert [(tree.branches[c].role, tree.branches[r].role) for c, r, _ in tree.preferences] == [
        ("chosen", "rejected")
    ] * 2


ANSWER = st.text("abcdefgh", min_size=1, max_size=12).map(" {}".format)


@settings(deadline=None)
@given(
    st.lists(st.tuples(ANSWER, ANSWER).filter(lambda p: p[0] != p[1]), min_size=1, max_size=8, unique=True),
    st.integers(8, 60),
    st.sampled_from(("shared", "literal")),
)
def test_no_tree_is_longer_than_a_row_and_no_pair_is_lost_or_made(chat, pairs, row_length, layout):
    comparison = Comparison("Who?", tuple(Preferred(*pair) for pair in pairs))
    built = build([comparison], chat, row_length, layout)
    assert all(size(tree, layout).time <= row_length for tree in built.trees)
    alone = [build([Comparison("Who?", (p,))], chat, row_length, layout).trees for p in comparison.pairs]
    assert spelt(chat, built.trees) == sum((spelt(chat, trees) for trees in alone), Counter())
    assert built.dropped["too long"] == sum(not trees for trees in alone)
    assert len({tree.id for tree in built.trees}) == len(built.trees)
    # For next-token prediction each chosen answer counts once.
    weights = Counter()
    for tree in built.trees:
        for branch in tree.branches:
            weights[branch.tokens] += branch.weight * (branch.role == "chosen")
    assert set(weights.values()) <= {0.0, 1.0}
