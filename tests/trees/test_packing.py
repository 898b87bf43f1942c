import dataclasses
import itertools
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.models_and_trees import END, data, read_popqa, tree, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.trees.batch import CHOSEN, COPY, PREFIX, ROLES, UNUSED, PackedBatch
from pretrainrl_jax.trees.dataset import PackedRows, ProcessShard
from pretrainrl_jax.trees.layouts import pieces, size
from pretrainrl_jax.trees.packing import OPEN_ROWS, Capacity, bound, capacity, pack, plan
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, chosen_only, document, select

ROW = 32  # longer than any tree of `trees`


def packed(count=40, rows=3, passes=2, seed=5, row_length=ROW):
    made = [tree(2 + i % 4, 2 + i % 3, 1 + i % 4, id=str(i)) for i in range(count)]
    return PackedRows(made, row_length, seed, passes, rows)


def same(a: PackedBatch, b: PackedBatch) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


def holding(made, row_length: int, question: bool = True) -> Capacity:
    """Sizes of a row that holds all these trees."""
    return capacity([size(t, question=question) for t in made], [range(len(made))], row_length)


def stack(rows: list[PackedBatch]) -> PackedBatch:
    """Rows one below another."""
    return PackedBatch(*(np.concatenate(x) for x in zip(*rows, strict=True)))


# plan


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=300), st.integers(20, 60))
def test_a_plan_takes_every_tree_once_and_overfills_no_row(lengths, row_length):
    rows = plan(lengths, row_length)
    assert Counter(itertools.chain(*rows)) == Counter(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= row_length for row in rows)
    assert rows == plan(lengths, row_length)


def test_a_tree_joins_the_open_row_with_the_least_room_for_it():
    # Row 0 has 5 free, row 1 has 3 free: 3 goes to row 1, then 4 to row 0.
    assert plan([5, 7, 3, 4], 10) == [[0, 3], [1, 2]]


def test_no_more_rows_are_open_than_allowed():
    lengths = [9] + [8] * OPEN_ROWS + [1]
    rows = plan(lengths, 10)
    assert rows[0] == [0]  # the fullest, closed when one row too many was opened
    assert len(rows[1]) == 2


def test_a_tree_longer_than_a_row_is_refused():
    made = [tree(3, 4, id="fits"), tree(9, 4, id="long"), tree(6, 5, id="just")]
    assert [t.inputs for t in made] == [6, 12, 10]
    with pytest.raises(ValueError, match="tree 1 has 12 tokens, a row holds 10"):
        plan([t.inputs for t in made], 10)


# pack


class Laid(NamedTuple):
    """A branch as the arrays hold it."""

    text: tuple[int, ...]
    role: int
    share: float
    reference: float
    each: np.ndarray  # [3, predicted tokens] reference, behaviour, advantage
    reads: list[int]  # where its targets are predicted


def unpack(batch: PackedBatch, row: int, sequence: int, at: list[int], question: bool) -> tuple[Any, ...]:
    """The prefix and branches of one sequence of a row, told from its arrays alone."""
    one = PackedBatch(*(x[row] for x in batch))
    mine = one.tree_id == sequence
    shared = np.flatnonzero(mine & (one.branch_id == 0))
    prefix = tuple(one.tokens[shared].tolist())
    assert list(one.positions[shared]) == list(range(len(prefix)))

    def predicted(place: int) -> tuple[list[int], np.ndarray]:
        at = np.flatnonzero((one.target_branch == place) & (one.source_index >= 0))
        reads = one.sources[one.source_index[at]]
        order = np.argsort(one.positions[reads], kind="stable")
        return reads[order].tolist(), at[order]

    places = list(at)
    if question:
        reads, targets = predicted(place := places.pop(0))
        assert reads == list(shared[:-1])  # each but the last predicts the next
        assert tuple(one.targets[targets]) == prefix[1:]
        assert one.branch_role[place] == PREFIX
    branches = []
    for number, place in enumerate(places, start=1):
        read = np.flatnonzero(mine & (one.branch_id == number))
        assert list(one.positions[read]) == list(range(len(prefix), len(prefix) + len(read)))
        reads, targets = predicted(place)
        assert reads == ([shared[-1], *read] if prefix else list(read))
        text = tuple(one.targets[targets].tolist())
        if not prefix:
            text = (*one.tokens[read][:1].tolist(), *text)
        # What predicts the last token has read all the others (and a branch of one token reads nothing).
        assert text[: len(read)] == tuple(one.tokens[read])
        each = np.stack([x[targets] for x in (one.reference_logp, one.behaviour_logp, one.advantage)])
        numbers = one.branch_role[place], one.branch_share[place], one.branch_reference[place]
        branches.append(Laid(text, *numbers, each, reads))
    return prefix, branches


def of_each(measured: float | tuple[float, ...], count: int, spread: bool) -> np.ndarray:
    """What stands at the last `count` tokens of a branch."""
    if not isinstance(measured, tuple):
        return np.full(count, measured if spread else math.nan, np.float32)
    return np.float32(measured[len(measured) - count :])


@given(st.lists(trees(), max_size=4), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_row_holds_its_trees_and_nothing_else(made, question, all_sources):
    space = holding(made, 200, question=question)
    if all_sources:
        space = space._replace(sources=200)
    batch = pack([[], made], space, question=question)
    assert {len(x) for x in batch} == {2}
    (row,) = (PackedBatch(*(x[1] for x in batch)),)
    place = pair = targets = 0
    predicting = []
    for number, expected in enumerate(made, start=1):
        count = question + len(expected.branches)
        prefix, branches = unpack(batch, 1, number, list(range(place, place + count)), question)
        assert prefix == expected.prefix
        together = sum(b.weight for b in expected.branches if b.role == "chosen")
        if question:
            assert row.branch_share[place] == (together > 0)
            predicting += [
                int(i) for i in np.flatnonzero((row.tree_id == number) & (row.branch_id == 0))[:-1]
            ]
            targets += max(len(prefix) - 1, 0)
        for read, branch in zip(branches, expected.branches, strict=True):
            # Without a prefix a lone terminator is neither read nor predicted.
            assert read.text == (branch.tokens if prefix or len(branch.tokens) > 1 else ())
            assert read.role == ROLES[branch.role]
            share = branch.weight / together if branch.role == "chosen" else 0
            assert read.share == np.float32(share)
            predicted = len(branch.tokens) - (not prefix)
            reference = branch.reference_logp
            known = of_each(reference, predicted, True).sum() if isinstance(reference, tuple) else reference
            np.testing.assert_allclose(read.reference, known, rtol=1e-6)
            measured = (reference, branch.behaviour_logp, branch.advantage)
            wanted = [of_each(m, predicted, i == 2) for i, m in enumerate(measured)]
            np.testing.assert_array_equal(read.each, wanted)
            predicting += read.reads
            targets += predicted
        start = place + question
        named = expected.pairs
        if named is None:
            roles = [b.role for b in expected.branches]
            by_role = {r: [i for i, role in enumerate(roles) if role == r] for r in ("chosen", "rejected")}
            named = [(c, r, 1.0) for c in by_role["chosen"] for r in by_role["rejected"]]
        named = [p for p in named if p[2] > 0]
        for chosen, rejected, weight in named:
            assert (row.pair_chosen[pair], row.pair_rejected[pair]) == (start + chosen, start + rejected)
            assert row.pair_share[pair] == np.float32(weight / sum(p[2] for p in named))
            assert row.pair_weight[pair] == np.float32(weight)
            pair += 1
        place += count

    assert END not in row.tokens
    used = sum(t.inputs for t in made)
    assert list(row.tree_id > 0) == [True] * used + [False] * (200 - used)
    assert sum(row.source_index >= 0) == targets
    # A hidden state that predicts stands once among the sources, in the order of time, and no other does.
    wanted = list(range(200)) if all_sources else sorted(set(predicting))
    assert row.sources[: len(wanted)].tolist() == wanted
    assert not row.sources[len(wanted) :].any()
    for field in (row.tokens, row.branch_id, row.positions):
        assert not field[used:].any()
    assert (row.branch_role[place:] == UNUSED).all()
    assert not row.branch_share[place:].any()
    assert np.isnan(row.branch_reference[place:]).all()
    assert not row.pair_share[pair:].any()
    for field in (row.reference_logp, row.behaviour_logp, row.advantage):
        assert np.isnan(field[row.source_index < 0]).all()
    read = [t for t in made if any(b.role == "chosen" for b in t.branches)]
    preferring = sum(bool(t.preferences) for t in made)
    assert (row.trees, row.chosen_trees, row.paired_trees) == (len(made), len(read), preferring)
    assert same(pack([[]], space, question=question), PackedBatch(*(x[:1] for x in batch)))


@given(st.lists(trees(), max_size=4), st.sampled_from(["shared", "literal"]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_size_is_what_packing_fills(made, layout, question):
    rows = [made[:2], made[2:]]
    sizes = [size(t, layout, question) for t in made]
    batch = pack(rows, Capacity(400, 300, 300, 100, 100), layout, question)
    space = capacity(sizes, [range(len(made))[:2], range(len(made))[2:]], 400)
    for number, of_row in enumerate(rows):
        counts = [size(t, layout, question) for t in of_row]
        taken = [sum(field) for field in zip(*counts, strict=True)] or [0] * 5
        row = PackedBatch(*(x[number] for x in batch))
        reads = row.sources[row.source_index[row.source_index >= 0]]
        filled = len(set(reads)), (row.source_index >= 0).sum(), (row.branch_role != UNUSED).sum()
        assert [*filled, (row.pair_share > 0).sum()] == taken[1:]
        last = np.flatnonzero(row.tree_id)
        # A tree's last piece may have a gap before it and no token of its own.
        assert (last[-1] + 1 if len(last) else 0) <= taken[0]
        assert all(n <= room for n, room in zip(taken, space, strict=True))
    halves = range(len(made))[:2], range(len(made))[2:]
    largest = [max(sum(sizes[i][f] for i in half) for half in halves) for f in range(5)]
    for n, room, multiple in zip(largest[1:], space[1:], (32, 64, 16, 16), strict=True):
        assert room % multiple == 0
        assert n <= room < max(n, 1) + multiple


@given(st.lists(trees(), min_size=1, max_size=3), st.sampled_from(["shared", "literal"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_row_that_is_too_small_is_refused(made, layout, question):
    taken = [sum(counts) for counts in zip(*(size(t, layout, question) for t in made), strict=True)]
    # Equal numbers of sources and tokens mean something else.
    exact = Capacity(taken[0] + 1, *taken[1:])
    pack([made], exact, layout, question)
    for name, n in zip(Capacity._fields[1:], taken[1:], strict=True):
        if n:
            with pytest.raises(ValueError, match="do not fit in"):
                pack([[], made], exact._replace(**{name: n - 1}), layout, question)
    if taken[0]:
        with pytest.raises(ValueError, match="do not fit in"):
            pack([made], Capacity(taken[0] - 1, *taken[1:]), layout, question)


def test_sources_are_no_more_than_the_tokens_of_a_row():
    made = [document(str(i), tuple(range(1, 12)), 1) for i in range(4)]
    space = holding(made, 44)
    assert space.sources == space.time == 44
    assert pack([made], space).sources.tolist() == [list(range(44))]


@given(st.data(), st.sampled_from(["shared", "literal"]), st.booleans(), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_a_bound_holds_every_row_whatever_is_rejected(data, layout, question, most):
    """As they are mined: chosen branches known, and up to so many rejected ones of any two tokens or more."""
    tokens = st.integers(2, 6).map(lambda n: (*(1,) * (n - 1), END))
    rejected = st.lists(st.builds(Branch, tokens, st.just("rejected")), max_size=most)
    known = [t for t in data.draw(st.lists(trees(), min_size=1, max_size=5)) if chosen_only(t).inputs]
    later = [
        dataclasses.replace(t, branches=chosen_only(t).branches + tuple(data.draw(rejected)), pairs=None)
        for t in known
    ]
    sizes = [size(t, layout, question) for t in later]
    row_length = max((s.time for s in sizes), default=1) + data.draw(st.integers(0, 100))
    limit = bound(known, row_length, most, layout, question)
    rows = plan([s.time for s in sizes], row_length)
    assert all(n <= room for n, room in zip(capacity(sizes, rows, row_length), limit, strict=True))
    pack([[later[i] for i in row] for row in rows], limit, layout, question)


def test_a_bound_is_exact_where_floats_are_not():
    """In floats 315 · (9 / 35) is less than 81, and 80 branches are a round number."""
    made = AnswerTree("t", (1,) * 26, (Branch((2, END), "chosen"),) * 9)
    pack([[made] * 9], bound([made], 315, 0, "shared", question=False), question=False)


def test_every_hidden_state_of_a_question_predicts_something():
    made = tree(4, 3, 2, 1)
    (row,) = pack([[made]], holding([made], 10)).sources[:, :7]
    assert set(row) == set(range(4 + 2 + 1))
    batch = pack([[made]], holding([made], 10))
    reads = batch.sources[0, batch.source_index[0][batch.source_index[0] >= 0]]
    assert Counter(reads.tolist())[3] == 3  # the prefix's last predicts every branch's first token


def test_a_prefix_that_is_not_predicted_meets_no_vocabulary():
    made = [tree(4, 3, 2, 1), tree(5, 2, id="1", start=30)]
    space = holding(made, 400, question=False)
    asked = pack([made], holding(made, 400))
    row = pack([made], space, question=False)
    used = size(made[0], question=False).sources + size(made[1], question=False).sources
    assert used == (1 + 2 + 1) + (1 + 1)
    assert row.sources[0, :used].tolist() == [3, 4, 5, 6, 11, 12]
    assert PREFIX not in row.branch_role
    assert (asked.branch_role == PREFIX).sum() == 2


def test_a_document_without_bos_predicts_all_but_its_first_token():
    made = document("d", (5, 6, 7), None)
    row = pack([[made]], holding([made], 4))
    assert row.tokens.tolist() == [[5, 6, 0, 0]]
    assert row.targets[0, :2].tolist() == [6, 7]
    assert row.source_index[0, :3].tolist() == [0, 1, -1]
    with_bos = document("d", (5, 6, 7), 1)
    row = pack([[with_bos]], holding([with_bos], 4))
    assert row.tokens.tolist() == [[1, 5, 6, 0]]
    assert row.targets[0, :3].tolist() == [5, 6, 7]


# trees


def test_what_only_a_comparison_reads_is_left_out():
    made = tree(3, 2, 4, 5)
    kept = chosen_only(dataclasses.replace(made, branches=made.branches[::-1]))
    assert kept.prefix == made.prefix
    assert kept.branches == made.branches[:1]


@given(trees(), st.sets(st.integers(0, 3)))
@settings(max_examples=50, deadline=None)
def test_a_selection_keeps_the_pairs_of_what_is_left(made, wanted):
    kept = {i for i in wanted if i < len(made.branches)}
    left = select(made, kept)
    assert list(map(id, left.branches)) == [id(b) for i, b in enumerate(made.branches) if i in kept]
    if made.pairs is None:
        assert left.pairs is None
    else:
        named = [(id(left.branches[p.chosen]), id(left.branches[p.rejected]), p.weight) for p in left.pairs]
        kept_pairs = [(p.chosen, p.rejected, p.weight) for p in made.pairs if {p.chosen, p.rejected} <= kept]
        assert named == [(id(made.branches[c]), id(made.branches[r]), w) for c, r, w in kept_pairs]


@pytest.mark.parametrize(
    "bad", [(0, 2), (2, 0), (0, 3), (-1, 0), (0, 1, -1.0), (0, 1, math.nan), (0, 1, math.inf)]
)
def test_a_pair_of_what_is_not_there_is_refused(bad):
    with pytest.raises(ValueError, match="tree t has 2 branches and no Pair"):
        AnswerTree("t", (1,), (Branch((1,)), Branch((2,))), (Pair(0, 1), Pair(*bad)))


def test_what_no_row_can_hold_is_refused():
    for name in ("reference_logp", "behaviour_logp", "advantage"):
        for count in (0, 1, 3):
            with pytest.raises(ValueError, match=f"{count} measurements of a branch of 2 tokens"):
                Branch((1, END), **{name: (-1.0,) * count})
    for bad in ({"tokens": ()}, {"weight": -1.0}, {"weight": math.nan}, {"weight": math.inf}):
        with pytest.raises(ValueError, match="a branch has a token"):
            Branch(**({"tokens": (1,)} | bad))


# PackedRows


def out(source: PackedRows, start: int = 0, last: int | None = None) -> Counter[int]:
    return Counter(itertools.chain(*source.plan[start:last]))


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
    counted = Counter()
    for index in range(len(source)):
        row = source[index]
        of_row = [made[i] for i in source.plan[index]] if index < len(source.plan) else []
        assert same(row, pack([of_row], source.capacity))
        counted.update(row.branch_role[0].tolist())
    assert counted[CHOSEN] == passes * sum(b.role == "chosen" for t in made for b in t.branches)
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
        tail = list(ProcessShard(source, 1, tuple(range(rows))).batches(start * rows))
        assert len(tail) == source.batches - start
        assert all(same(without_axis(b), e) for b, e in zip(tail, everything[start:], strict=True))
    assert everything[0].tokens.shape == (rows, ROW)


def without_axis(batch: PackedBatch) -> PackedBatch:
    """The one microstep of a batch."""
    (microstep,) = batch.tokens
    assert microstep.ndim == 2
    return PackedBatch(*(x[0] for x in batch))


def batches(source: PackedRows) -> list[PackedBatch]:
    """All batches, [rows, …]."""
    return list(map(without_axis, ProcessShard(source, 1, tuple(range(source.rows))).batches()))


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.data())
@settings(max_examples=25, deadline=None)
def test_processes_share_every_batch_whichever_rows_are_theirs(
    microsteps: int, size: int, more: int, data: st.DataObject
):
    """Laid together by their places, the processes' parts are the batches: each row once, then empty ones."""
    source, width = packed(rows=microsteps * size), size + more
    owners = [data.draw(st.integers(0, 2)) for _ in range(width)]
    parts = [tuple(i for i, owner in enumerate(owners) if owner == process) for process in range(3)]
    read = {
        place: [
            PackedBatch(*(x[:, [at]] for x in batch))
            for batch in ProcessShard(source, microsteps, part).batches()
        ]
        for part in parts
        if part
        for at, place in enumerate(part)
    }
    for number in range(source.batches):
        for microstep in range(microsteps):
            start = (number * microsteps + microstep) * size
            for place in range(width):
                packed_row = PackedBatch(*(x[microstep] for x in read[place][number]))
                if place < size:
                    assert same(packed_row, source[start + place])
                else:
                    assert not packed_row.tree_id.any()
                    assert (packed_row.source_index == -1).all()


def test_rows_end():
    source = packed()
    assert len(list(source)) == len(source)
    for outside in (len(source), -1):
        with pytest.raises(IndexError):
            source[outside]


def test_the_last_batch_is_filled_up_with_empty_rows():
    source = packed(rows=7)
    assert len(source.plan) % 7
    last = batches(source)[-1]
    assert not last.tree_id[len(source.plan) % 7 :].any()
    assert last.tree_id[: len(source.plan) % 7].any(1).all()


def test_no_trees_give_no_batches():
    assert batches(PackedRows([], ROW, 0, 1, 2)) == []


def test_the_rest_of_the_passes_visits_what_the_first_part_left():
    every_pass = packed(count=41, passes=2)
    for cut in (0.3, 0.5, 1.0, 1.77):
        parts = (0.0, cut), (cut, 2.0)
        earlier, rest = (dataclasses.replace(every_pass, start=a, passes=b) for a, b in parts)
        assert out(earlier) + out(rest) == out(every_pass)
        assert out(earlier).total() == round(min(cut, 1) * 41) + round(max(cut - 1, 0) * 41)


def test_rows_have_the_capacity_that_is_asked_for():
    alone = packed()
    asked = Capacity(ROW, ROW, 1000, 64, 80)
    wide = dataclasses.replace(alone, holds=asked)
    assert wide.capacity == asked != alone.capacity
    assert same(wide[0], pack([[alone.trees[i] for i in alone.plan[0]]], asked))
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(alone, holds=asked._replace(targets=3))[0]


def test_rows_hold_what_is_visited_of_each_tree_in_each_pass():
    def visit(made, epoch):
        return select(made, range(1 + (int(made.id) + epoch) % len(made.branches)))

    for layout, question in (("shared", False), ("literal", True)):
        source = dataclasses.replace(packed(), visit=visit, layout=layout, question=question, row_length=64)
        second_pass = source._pass_of.count(source._pass_of[0])
        assert 0 < second_pass < len(source.plan)
        for index, row in enumerate(source.plan):
            expected = [visit(source.trees[i], int(index >= second_pass)) for i in row]
            assert same(source[index], pack([expected], source.capacity, layout, question))


# layouts


@given(st.lists(trees(), max_size=3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_literal_layout_lays_each_pair_and_each_branch_once(made, question):
    """Read from the arrays: sequences of one branch, two for each pair, then the branches of no pair."""
    sizes = [size(t, "literal", question) for t in made]
    batch = pack([made], capacity(sizes, [range(len(made))], 600), "literal", question)
    (row,) = (PackedBatch(*(x[0] for x in batch)),)
    place = sequence = pair = 0
    for t in made:
        pairs = t.preferences
        if not pairs:  # nothing is compared: the question is read once
            prefix, branches = unpack(
                batch, 0, sequence + 1, [*range(place, place + question + len(t.branches))], question
            )
            assert [branch.role for branch in branches] == [ROLES[b.role] for b in t.branches]
            place, sequence = place + question + len(t.branches), sequence + 1
            continue
        order = [at for p in pairs for at in p[:2]]
        order += [at for at in range(len(t.branches)) if at not in order]
        standing = []
        for number, at in enumerate(order):
            asked = question and not number
            sequence += 1
            prefix, (branches,) = unpack(batch, 0, sequence, [*range(place, place + asked + 1)], asked)
            branch = t.branches[at]
            assert prefix == t.prefix
            assert branches.text == (branch.tokens if prefix or len(branch.tokens) > 1 else ())
            assert branches.role == (COPY if at in order[:number] else ROLES[branch.role])
            standing.append(place + asked)
            place += asked + 1
        for number, p in enumerate(pairs):
            of_pair = (row.pair_chosen[pair], row.pair_rejected[pair])
            assert of_pair == tuple(standing[2 * number : 2 * number + 2])
            assert row.pair_share[pair] == np.float32(p.weight / sum(q.weight for q in pairs))
            pair += 1
    assert (row.branch_role != UNUSED).sum() == place
    assert (row.pair_share > 0).sum() == pair
    gaps = sum(piece.gap for t in made for piece in pieces(t, "literal")[0])
    assert (row.tree_id > 0).sum() == sum(s.time for s in sizes) - gaps


def test_a_pair_reads_as_the_papers_template():
    made = tree(3, 2, 3, 4)  # question 1 2 3, gold 4, negatives 5 6 and 7 8 9
    (chosen, other, again, last), _ = pieces(made, "literal")
    assert [p.prefix for p in (chosen, other, again, last)] == [(1, 2, 3)] * 4
    batch = pack([[made]], capacity([size(made, "literal")], [[0]], 32), "literal")
    row = PackedBatch(*(x[0] for x in batch))
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
                tuple(Branch((1,) * rng.integers(3, 6), "rejected") for _ in range(6)),
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
        AnswerTree(f.id, prefix, tuple(Branch(tokens, "rejected") for tokens in branches))
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
    rows = pack(made, holding(everything, 64))
    mask = np.asarray(tree_mask(rows.tree_id, rows.branch_id))
    for r, i, j in itertools.product(range(len(made)), range(64), range(64)):
        assert mask[r, i, j] == visible(rows.tree_id[r], rows.branch_id[r], i, j)


def test_tree_mask_is_its_definition_on_any_numbers():
    rng = np.random.default_rng(0)
    tree_id, branch_id = rng.integers(0, 3, (4, 20)), rng.integers(0, 3, (4, 20))
    mask = np.asarray(tree_mask(tree_id, branch_id))
    for r, i, j in itertools.product(range(4), range(20), range(20)):
        assert mask[r, i, j] == visible(tree_id[r], branch_id[r], i, j)
