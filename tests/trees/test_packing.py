import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import END, data, read_popqa, tree, trees

from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.trees.dataset import PackedRows, Share, batches, draw, longest
from pretrainrl_jax.trees.layouts import pieces, size
from pretrainrl_jax.trees.packing import OPEN_ROWS, Capacity, capacity, fill_row, plan, stack
from pretrainrl_jax.trees.rows import COPY, GOLD, NEGATIVE, PREFIX, UNUSED, Rows
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, document, gold_only

ROW = 32  # longer than any tree of `trees`


def packed(count=40, rows=3, passes=2, seed=5, row_length=ROW):
    made = [tree(2 + i % 4, 2 + i % 3, 1 + i % 4, id=str(i)) for i in range(count)]
    return PackedRows(made, row_length, seed, passes, rows)


def same(a: Rows, b: Rows) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


def holding(made, row_length: int) -> Capacity:
    """Sizes of a row that holds all these trees."""
    return capacity([size(t, "shared") for t in made], [range(len(made))], row_length)


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


def test_a_tree_longer_than_a_row_is_refused():
    made = [tree(3, 4, id="fits"), tree(9, 4, id="long"), tree(6, 5, id="just")]
    assert [t.inputs for t in made] == [6, 12, 10]
    with pytest.raises(ValueError, match="tree 1 has 12 tokens, a row holds 10"):
        plan([t.inputs for t in made], 10, [0, 1, 2])


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
    space = holding(made, 200)
    row = fill_row(made, space)
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
    space = capacity([size(t, "shared") for t in made], [[i] for i in range(len(made))], ROW)
    targets, slots = (max((getattr(t, name) for t in made), default=1) for name in ("targets", "slots"))
    assert space.time == ROW
    assert targets <= space.targets < max(targets, 1) + 64
    assert slots <= space.slots < max(slots, 1) + 16


def test_every_hidden_state_of_a_question_predicts_something():
    row = fill_row([tree(4, 3, 2, 1)], holding([tree(4, 3, 2, 1)], 10))
    assert set(row.predictor[row.predictor >= 0]) == set(range(4 + 2 + 1))
    assert Counter(row.predictor.tolist())[3] == 3  # the prefix's last predicts every branch's first token


def test_a_document_without_bos_predicts_all_but_its_first_token():
    made = document("d", (5, 6, 7), None)
    row = fill_row([made], holding([made], 4))
    assert row.tokens.tolist() == [5, 6, 0, 0]
    assert row.targets[:2].tolist() == [6, 7]
    assert row.predictor[:3].tolist() == [0, 1, -1]
    with_bos = document("d", (5, 6, 7), 1)
    row = fill_row([with_bos], holding([with_bos], 4))
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
    assert all(same(b, e) for b, e in zip(batches(source), everything, strict=True))
    for start in (0, 1, source.batches - 1, source.batches):
        tail = list(Share(source, 1, rows, tuple(range(rows))).batches(start * rows))
        assert len(tail) == source.batches - start
        assert all(same(without_axis(b), e) for b, e in zip(tail, everything[start:], strict=True))
    assert everything[0].tokens.shape == (rows, ROW)


def without_axis(rows: Rows) -> Rows:
    """The one microstep of a batch."""
    (microstep,) = rows.tokens
    assert microstep.ndim == 2
    return Rows(*(x[0] for x in rows))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.data())
@settings(max_examples=25, deadline=None)
def test_processes_share_every_batch_whichever_rows_are_theirs(
    microsteps: int, size: int, more: int, data: st.DataObject
):
    """Laid together by their places, the processes' parts are the batches: each row once, then empty ones."""
    source, width = packed(rows=microsteps * size), size + more
    owners = [data.draw(st.integers(0, 2)) for _ in range(width)]
    parts = [tuple(i for i, of in enumerate(owners) if of == process) for process in range(3)]
    read = {
        place: [Rows(*(x[:, at] for x in rows)) for rows in Share(source, microsteps, width, part).batches()]
        for part in parts
        if part
        for at, place in enumerate(part)
    }
    for number in range(source.batches):
        for microstep in range(microsteps):
            first = (number * microsteps + microstep) * size
            for place in range(width):
                found = Rows(*(x[microstep] for x in read[place][number]))
                if place < size:
                    assert same(found, source[first + place])
                else:
                    assert not found.tree_id.any()
                    assert (found.predictor == -1).all()


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


def test_the_rest_of_the_passes_visits_what_the_first_part_left():
    whole = packed(count=41, passes=2)
    for cut in (0.3, 0.5, 1.0, 1.77):
        first, rest = (dataclasses.replace(whole, start=a, passes=b) for a, b in ((0.0, cut), (cut, 2.0)))
        assert out(first) + out(rest) == out(whole)
        assert out(first).total() == round(min(cut, 1) * 41) + round(max(cut - 1, 0) * 41)


def test_arrays_do_not_shrink_below_what_is_asked():
    alone = packed()
    wide = dataclasses.replace(alone, at_least=Capacity(ROW, 1000, 8))
    assert wide.capacity == Capacity(ROW, 1000, alone.capacity.slots)
    for field, wider in zip(alone[0], wide[0], strict=True):
        np.testing.assert_array_equal(field, wider[: len(field)])


# draws


def with_negatives(count: int, *sources: str, id: str = "q") -> AnswerTree:
    """A tree of `count` negatives from each source, every branch of another token."""
    made = [Branch((1, END), GOLD)]
    made += [
        Branch((2 + i, END), NEGATIVE, source=s)
        for i, s in enumerate(s for s in sources for _ in range(count))
    ]
    return AnswerTree(id, (1,), tuple(made))


@given(st.integers(0, 8), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))
def test_a_draw_keeps_gold_order_and_the_number_asked_for(count, negatives, seed, epoch):
    made = with_negatives(count, "beam", "pool")
    drawn = draw(made, negatives, seed, epoch)
    assert drawn == draw(made, negatives, seed, epoch)
    assert drawn.branches[0] == made.branches[0]
    assert len(drawn.branches) - 1 == (min(negatives, 2 * count) or 2 * count)
    assert [b for b in made.branches if b in drawn.branches] == list(drawn.branches)
    of = Counter(b.source for b in drawn.branches[1:])
    assert 0 <= of["beam"] - of["pool"] <= 1  # equal parts, the odd one to the first


def test_what_one_source_lacks_the_others_give():
    made = with_negatives(6, "pool")
    made = dataclasses.replace(
        made, branches=(*made.branches[:1], Branch((99, END), NEGATIVE, source="beam"), *made.branches[1:])
    )
    assert Counter(b.source for b in draw(made, 5, 0, 0).branches[1:]) == Counter(beam=1, pool=4)


def test_draws_are_fair_and_differ_by_seed_epoch_and_question():
    made = with_negatives(20, "pool")
    often = Counter(b.tokens for epoch in range(2000) for b in draw(made, 5, 0, epoch).branches[1:])
    assert len(often) == 20
    assert all(abs(n - 500) < 6 * (500 * 0.75) ** 0.5 for n in often.values())
    other = draw(dataclasses.replace(made, id="r"), 5, 0, 0).branches
    assert (
        len({draw(made, 5, 0, 0).branches, draw(made, 5, 1, 0).branches, draw(made, 5, 0, 1).branches, other})
        == 4
    )


def test_each_pass_draws_anew_and_rows_hold_what_was_drawn():
    made = [with_negatives(20, "pool", id=str(i)) for i in range(30)]
    source = PackedRows(made, ROW, 3, 2, 2, negatives=5)
    found = [Counter(), Counter()]
    for index in range(len(source.plan)):
        row = source[index]
        epoch = int(index >= len(source.plan) / 2)
        expected = [draw(made[i], 5, 3, epoch) for i in source.plan[index]]
        assert same(row, fill_row(expected, source.capacity))
        found[epoch].update(
            {made[i].id: draw(made[i], 5, 3, epoch).branches for i in source.plan[index]}.items()
        )
    assert all(len(of) == 30 for of in found)
    assert len(found[0] & found[1]) < 3


@given(trees(), st.integers(0, 4), st.sampled_from(["shared", "literal"]), st.integers(0, 5))
def test_longest_bounds_every_draw(made, negatives, layout, epoch):
    taken = size(draw(made, negatives, 0, epoch), layout).inputs
    assert taken <= longest(made, negatives, layout)
    if not negatives:
        assert taken == longest(made, 0, layout)


# layouts


@given(st.lists(trees(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_literal_layout_asks_and_answers_once_and_pairs_every_negative(made):
    sizes = [size(t, "literal") for t in made]
    space = capacity(sizes, [range(len(made))], 400)
    row = fill_row(made, space, "literal")
    kinds = Counter(row.slot_kind.tolist())
    negatives = [sum(b.kind == NEGATIVE for b in t.branches) for t in made]
    assert kinds[PREFIX] == kinds[GOLD] == len(made)
    assert kinds[NEGATIVE] == sum(negatives)
    assert kinds[COPY] == sum(max(n - 1, 0) for n in negatives)
    assert (row.predictor >= 0).sum() == sum(s.targets for s in sizes)
    used = sum(s.inputs for s in sizes)
    assert (row.tree_id > 0).sum() == used - sum(negatives)  # each pair has one padding token between
    assert not row.tree_id[used:].any()
    for slot in np.flatnonzero(row.slot_kind == NEGATIVE):
        gold = row.slot_gold[slot]
        assert row.slot_kind[gold] in (GOLD, COPY)
        assert row.slot_tree[gold] == row.slot_tree[slot]
    assert len(set(row.slot_gold[row.slot_gold >= 0])) == sum(negatives)  # each pair has a gold of its own


def test_a_pair_reads_as_the_papers_template():
    made = tree(3, 2, 3, 4)  # question 1 2 3, gold 4, negatives 5 6 and 7 8 9
    (first, other, again, last) = pieces(made, "literal")
    assert [p.prefix for p in (first, other, again, last)] == [(1, 2, 3)] * 4
    row = fill_row([made], capacity([size(made, "literal")], [[0]], 32), "literal")
    assert row.tokens[:20].tolist() == [1, 2, 3, 4, 0, 1, 2, 3, 5, 6, 1, 2, 3, 4, 0, 1, 2, 3, 7, 8]
    assert row.positions[:10].tolist() == [0, 1, 2, 3, 0, 0, 1, 2, 3, 4]
    assert row.tree_id[:10].tolist() == [1, 1, 1, 1, 0, 2, 2, 2, 2, 2]


def test_rows_are_at_least_nine_tenths_full():
    rng = np.random.default_rng(0)
    for seed, number in enumerate([300, 1000, 5000]):
        # 20 to 35 tokens: a question of 8 to 13, and six answers of 3 to 5 with their terminators
        made = [
            AnswerTree(
                str(i),
                tuple(range(rng.integers(8, 14))),
                tuple(Branch((1,) * rng.integers(3, 6), NEGATIVE) for _ in range(6)),
            )
            for i in range(number)
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
    rows = stack([fill_row(of_row, holding(everything, 64)) for of_row in made])
    mask = np.asarray(tree_mask(rows.tree_id, rows.branch_id))
    for r, i, j in itertools.product(range(len(made)), range(64), range(64)):
        assert mask[r, i, j] == visible(rows.tree_id[r], rows.branch_id[r], i, j)


def test_tree_mask_is_its_definition_on_any_numbers():
    rng = np.random.default_rng(0)
    tree_id, branch_id = rng.integers(0, 3, (4, 20)), rng.integers(0, 3, (4, 20))
    mask = np.asarray(tree_mask(tree_id, branch_id))
    for r, i, j in itertools.product(range(4), range(20), range(20)):
        assert mask[r, i, j] == visible(tree_id[r], branch_id[r], i, j)
