import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import END, data, tree, trees

from pretrainrl_jax.facts.popqa import read_popqa
from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.trees.dataset import PackedRows, batches
from pretrainrl_jax.trees.packing import OPEN_ROWS, capacity, fill_row, plan, stack, too_long
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE, PREFIX, UNUSED, Rows
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, document, gold_only

ROW = 32  # longer than any tree of `trees`


def packed(count=40, rows=3, passes=2, seed=5, row_length=ROW):
    made = [tree(2 + i % 4, 2 + i % 3, 1 + i % 4, id=str(i)) for i in range(count)]
    return PackedRows(made, row_length, seed, passes, rows)


def same(a: Rows, b: Rows) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


# plan


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=300), st.integers(20, 60), st.randoms(use_true_random=False))
def test_a_plan_takes_every_tree_once_and_overfills_no_row(lengths, row_length, random):
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = plan(lengths, row_length, order)
    assert Counter(itertools.chain(*rows)) == Counter(order)
    assert all(row and sum(lengths[i] for i in row) <= row_length for row in rows)
    assert rows == plan(lengths, row_length, order)


def test_a_plan_takes_only_what_is_in_its_order():
    assert plan([5, 5, 5], 10, [2, 0]) == [[2, 0]]
    assert plan([5, 5, 5], 10, []) == []


def test_a_tree_joins_the_open_row_with_the_least_room_for_it():
    # Row 0 has 5 free, row 1 has 3 free: 3 goes to row 1, then 4 to row 0.
    assert plan([5, 7, 3, 4], 10, [0, 1, 2, 3]) == [[0, 3], [1, 2]]


def test_no_more_rows_are_open_than_allowed():
    lengths = [9] + [8] * OPEN_ROWS + [1]
    rows = plan(lengths, 10, range(len(lengths)))
    assert rows[0] == [0]  # the fullest, closed when one row too many was opened
    assert len(rows[1]) == 2


def test_a_tree_longer_than_a_row_is_refused_by_plan_and_named_by_too_long():
    made = [tree(3, 4, id="fits"), tree(9, 4, id="long"), tree(6, 5, id="just")]
    assert [t.inputs for t in made] == [6, 12, 10]
    with pytest.raises(ValueError, match="tree 1 has 12 tokens, a row holds 10"):
        plan([t.inputs for t in made], 10, [0, 1, 2])
    assert [t.id for t in too_long(made, 10)] == ["long"]
    assert too_long([], 10) == []


# fill_row


def unpack(row: Rows, number: int, slots: list[int]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The prefix and branches of one tree of a row, told from its arrays alone."""
    mine = row.tree_id == number
    shared = np.flatnonzero(mine & (row.branch_id == 0))
    prefix = tuple(row.tokens[shared])
    assert list(row.positions[shared]) == list(range(len(prefix)))

    def predicted(slot: int) -> tuple[np.ndarray, np.ndarray]:
        found = np.flatnonzero((row.target_slot == slot) & (row.predictor >= 0))
        found = found[np.argsort(row.positions[row.predictor[found]], kind="stable")]
        return row.predictor[found], row.targets[found]

    predictors, targets = predicted(slots[0])
    assert list(predictors) == list(shared[:-1])  # each but the last predicts the next
    assert tuple(targets) == prefix[1:]
    branches = []
    for branch, slot in enumerate(slots[1:], start=1):
        read = np.flatnonzero(mine & (row.branch_id == branch))
        assert list(row.positions[read]) == list(range(len(prefix), len(prefix) + len(read)))
        predictors, targets = predicted(slot)
        if prefix:
            assert list(predictors) == [shared[-1], *read]
            text = tuple(targets)
        else:
            assert list(predictors) == list(read)
            text = (*row.tokens[read][:1], *targets)
        # What predicts the last token has read all the others (and a branch of one token reads nothing).
        assert text[: len(read)] == tuple(row.tokens[read])
        branches.append(text)
    return prefix, branches


@given(st.lists(trees(), max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_row_holds_its_trees_and_nothing_else(made):
    size = capacity(made, [range(len(made))], 200)
    row = fill_row(made, size)
    slot = 0
    for number, expected in enumerate(made, start=1):
        slots = list(range(slot, slot + expected.slots))
        prefix, branches = unpack(row, number, slots)
        assert prefix == expected.prefix
        for found, branch in zip(branches, expected.branches, strict=True):
            # Without a prefix a lone terminator is neither read nor predicted.
            assert found == (branch.tokens if prefix or len(branch.tokens) > 1 else ())
        assert list(row.slot_kind[slots]) == [PREFIX, *(b.kind for b in expected.branches)]
        assert set(row.slot_tree[slots]) == {number}
        gold = slot + 1 + [b.kind for b in expected.branches].index(GOLD)
        wanted = [-1, *(gold if b.kind == NEGATIVE else -1 for b in expected.branches)]
        assert list(row.slot_gold[slots]) == wanted
        references = [math.nan, *(b.reference_logp for b in expected.branches)]
        np.testing.assert_array_equal(row.slot_reference[slots], np.float32(references))
        slot += expected.slots

    assert END not in row.tokens
    used = sum(t.inputs for t in made)
    assert list(row.tree_id > 0) == [True] * used + [False] * (200 - used)
    assert sum(row.predictor >= 0) == sum(t.targets for t in made)
    for field in (row.tokens, row.branch_id, row.positions):
        assert not field[used:].any()
    assert (row.slot_kind[slot:] == UNUSED).all()
    assert not row.slot_tree[slot:].any()
    assert (row.slot_gold[slot:] == -1).all()
    assert np.isnan(row.slot_reference[slot:]).all()


@settings(deadline=None)
@given(st.lists(trees(), max_size=6))
def test_capacity_holds_the_largest_row_and_little_more(made):
    size = capacity(made, [[i] for i in range(len(made))], ROW)
    targets, slots = (max((getattr(t, name) for t in made), default=1) for name in ("targets", "slots"))
    assert size.time == ROW
    assert targets <= size.targets < max(targets, 1) + 64
    assert slots <= size.slots < max(slots, 1) + 16


def test_every_hidden_state_of_a_question_predicts_something():
    row = fill_row([tree(4, 3, 2, 1)], capacity([tree(4, 3, 2, 1)], [[0]], 10))
    assert set(row.predictor[row.predictor >= 0]) == set(range(4 + 2 + 1))
    assert Counter(row.predictor.tolist())[3] == 3  # the prefix's last predicts every branch's first token


def test_a_document_without_bos_predicts_all_but_its_first_token():
    made = document("d", (5, 6, 7), None)
    row = fill_row([made], capacity([made], [[0]], 4))
    assert row.tokens.tolist() == [5, 6, 0, 0]
    assert row.targets[:2].tolist() == [6, 7]
    assert row.predictor[:3].tolist() == [0, 1, -1]
    with_bos = document("d", (5, 6, 7), 1)
    row = fill_row([with_bos], capacity([with_bos], [[0]], 4))
    assert row.tokens.tolist() == [1, 5, 6, 0]
    assert row.targets[:3].tolist() == [5, 6, 7]


def test_gold_only_leaves_the_prefix_and_the_gold():
    made = tree(3, 2, 4, 5)
    kept = gold_only(dataclasses.replace(made, branches=made.branches[::-1]))
    assert kept.prefix == made.prefix
    assert kept.branches == made.branches[:1]


# PackedRows


def out(source: PackedRows, first: int = 0, last: int | None = None) -> Counter[int]:
    return Counter(itertools.chain(*source.plan[first:last]))


@given(
    st.lists(trees(), max_size=25),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_every_tree_is_visited_once_a_pass(made, passes, rows, seed):
    source = PackedRows(made, ROW, seed, passes, rows)
    assert out(source) == Counter({i: passes for i in range(len(made)) if passes})
    assert len(source) == source.batches * rows
    assert 0 <= len(source) - len(source.plan) < rows
    found = Counter()
    for index in range(len(source)):
        row = source[index]
        of_row = [made[i] for i in source.plan[index]] if index < len(source.plan) else []
        assert same(row, fill_row(of_row, source.capacity))
        found.update(row.slot_kind.tolist())
    assert found[GOLD] == passes * len(made)
    used = sum(t.inputs for t in made) * passes
    assert source.fill == pytest.approx(used / max(1, ROW * len(source.plan)))


@pytest.mark.parametrize("passes", [0.25, 1.5, 2.75])
def test_a_fraction_of_a_pass_visits_that_share(passes):
    source = packed(count=40, passes=passes)
    visits = out(source)
    assert visits.total() == passes * 40
    assert {visits[i] for i in range(40)} <= {math.floor(passes), math.ceil(passes)}


def test_passes_are_whole_and_each_is_in_another_order():
    source = packed(passes=3)
    rows = len(source.plan) // 3
    order = []
    for number in range(3):
        one = packed(passes=number + 1).plan[len(packed(passes=number).plan) :]
        assert Counter(itertools.chain(*one)) == Counter(range(40))
        order.append(list(itertools.chain(*one)))
        assert order[-1] != sorted(order[-1])
    assert order[0] != order[1] != order[2] != order[0]
    assert rows > 3


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    assert packed().plan == packed().plan
    assert packed(seed=5).plan != packed(seed=6).plan


@pytest.mark.parametrize("rows", [1, 3])
def test_batches_are_the_rows_in_order_from_any_start(rows):
    source = packed(rows=rows)
    everything = [stack([source[i + k] for k in range(rows)]) for i in range(0, len(source), rows)]
    assert len(everything) == source.batches > 3
    for start in (0, 1, source.batches - 1, source.batches):
        tail = list(batches(source, start))
        assert len(tail) == source.batches - start
        assert all(isinstance(b, Rows) and same(b, e) for b, e in zip(tail, everything[start:], strict=True))
    assert everything[0].tokens.shape == (rows, ROW)


def test_batches_pass_through_the_transform():
    source = packed()
    sums = list(batches(source, transform=lambda rows: rows._replace(tokens=rows.tokens + 1)))
    assert all((s.tokens == b.tokens + 1).all() for s, b in zip(sums, batches(source), strict=True))


def test_rows_end():
    source = packed()
    assert len(list(source)) == len(source)
    for outside in (len(source), -1):
        with pytest.raises(IndexError):
            source[outside]


def test_the_last_batch_is_filled_up_with_empty_rows():
    source = packed(rows=7)
    assert len(source.plan) % 7
    last = list(batches(source))[-1]
    assert not last.tree_id[len(source.plan) % 7 :].any()
    assert last.tree_id[: len(source.plan) % 7].any(1).all()


def test_no_trees_give_no_batches():
    assert list(batches(PackedRows([], ROW, 0, 1, 2))) == []


def test_rows_are_at_least_nine_tenths_full():
    rng = np.random.default_rng(0)
    for seed, size in enumerate([300, 1000, 5000]):
        # 20 to 35 tokens: a question of 8 to 13, and six answers of 3 to 5 with their terminators
        made = [
            AnswerTree(
                str(i),
                tuple(range(rng.integers(8, 14))),
                tuple(Branch((1,) * rng.integers(3, 6), NEGATIVE) for _ in range(6)),
            )
            for i in range(size)
        ]
        assert {t.inputs for t in made} <= set(range(20, 38))
        assert PackedRows(made, 512, seed, 1, 8).fill >= 0.9


def test_popqa_fills_its_rows(qwen2):
    rng = np.random.default_rng(0)
    facts = read_popqa(data("popqa", "popQA.tsv"))
    of_category = {f.category: [g.answer for g in facts if g.category == f.category] for f in facts}
    answers = [[f.answer, *rng.choice(of_category[f.category], 5)] for f in facts]
    encoded = encode_branches(qwen2, Template("bare"), [f.question for f in facts], answers)
    assert encoded.separate == 0
    made = [
        AnswerTree(f.id, prefix, tuple(Branch(tokens, NEGATIVE) for tokens in branches))
        for f, prefix, branches in zip(facts, encoded.prefixes, encoded.branches, strict=True)
    ]
    assert not too_long(made, 512)
    assert PackedRows(made, 512, 0, 3, 8).fill >= 0.9


@pytest.fixture(scope="module")
def qwen2():
    return load_tokenizer(data("tokenizers", "qwen2"))


# tree_mask


def visible(tree_id, branch_id, i, j) -> bool:
    """The definition: j not after i, in the same tree, and in the prefix or in i's branch."""
    return j <= i and tree_id[i] == tree_id[j] != 0 and branch_id[j] in (0, branch_id[i])


@given(st.lists(st.lists(trees(), max_size=3), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_tree_mask_is_its_definition_on_packed_rows(made):
    everything = list(itertools.chain(*made))
    size = capacity(everything, [range(len(everything))], 64)
    rows = stack([fill_row(of_row, size) for of_row in made])
    mask = np.asarray(tree_mask(rows.tree_id, rows.branch_id))
    for r, i, j in itertools.product(range(len(made)), range(64), range(64)):
        assert mask[r, i, j] == visible(rows.tree_id[r], rows.branch_id[r], i, j)


def test_tree_mask_is_its_definition_on_any_numbers():
    rng = np.random.default_rng(0)
    tree_id, branch_id = rng.integers(0, 3, (4, 20)), rng.integers(0, 3, (4, 20))
    mask = np.asarray(tree_mask(tree_id, branch_id))
    for r, i, j in itertools.product(range(4), range(20), range(20)):
        assert mask[r, i, j] == visible(tree_id[r], branch_id[r], i, j)
