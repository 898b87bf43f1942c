"""Anchor text: kept, packed into rows, and laid beside batches of questions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.trees.anchors import (
    MEASURED,
    AnchorRows,
    AnchorText,
    digest_anchors,
    pack_anchors,
    read_anchors,
    write_anchors,
)
from pretrainrl_jax.trees.dataset import ProcessShard

TOP = 3


def text(rng: np.random.Generator, length: int) -> AnchorText:
    reads = length - 1
    return AnchorText(
        tuple(rng.integers(1, 99, length).tolist()),
        rng.integers(0, 99, (reads, TOP)).astype(np.int32),
        -rng.random((reads, TOP)).astype(np.float32),
        -rng.random(reads).astype(np.float32),
    )


def texts_of(seed: int, lengths: list[int]) -> list[AnchorText]:
    rng = np.random.default_rng(seed)
    return [text(rng, length) for length in lengths]


LENGTHS = st.lists(st.integers(2, 20), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), lengths=LENGTHS)
def test_a_row_has_its_texts_one_after_another(seed: int, lengths: list[int]) -> None:
    texts = texts_of(seed, lengths)
    batch = pack_anchors([texts, []], 500, TOP)
    at = 0
    for number, one in enumerate(texts, 1):
        span = np.s_[0, at : at + len(one.reads)]
        assert tuple(batch.tokens[span]) == one.tokens[:-1]
        assert set(batch.tree_id[span]) == {number}
        assert list(batch.positions[span]) == list(range(len(one.reads)))
        for name in MEASURED:
            np.testing.assert_array_equal(getattr(batch, name)[span], getattr(one, name))
        at += len(one.reads)
    assert not batch.tree_id[0, at:].any()
    assert not batch.tree_id[1].any()
    assert (batch.top_tokens[1] == -1).all()
    assert np.isneginf(batch.top_logps[1]).all()
    assert np.isneginf(batch.rest_logp[1]).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), lengths=LENGTHS)
def test_what_is_kept_comes_back(seed: int, lengths: list[int], tmp_path_factory) -> None:
    texts = texts_of(seed, lengths)
    path = tmp_path_factory.mktemp("kept") / "anchor.npz"
    write_anchors(path, texts)
    again = read_anchors(path)
    assert digest_anchors(again) == digest_anchors(texts)
    assert [one.tokens for one in again] == [one.tokens for one in texts]
    changed = [*texts[:-1], AnchorText(texts[-1].tokens, *(getattr(texts[-1], n) * 2 for n in MEASURED))]
    assert digest_anchors(changed) != digest_anchors(texts)


def test_text_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no anchor text at"):
        read_anchors(tmp_path / "anchor.npz")


def used(rows: AnchorRows, batch: int) -> list[bytes]:
    """The rows of a batch that are not empty."""
    of_batch = (rows[batch * rows.rows + place] for place in range(rows.rows))
    return [row.tokens.tobytes() for row in of_batch if row.tree_id.any()]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    questions=st.floats(1, 40),
    microsteps=st.integers(1, 3),
)
def test_so_many_questions_have_a_row(seed, counts, questions, microsteps) -> None:
    rows = AnchorRows(texts_of(seed, [20] * 5), 19, questions, seed, counts, microsteps)
    assert rows.rows % microsteps == 0
    taken = [used(rows, batch) for batch in range(len(counts))]
    assert sum(map(len, taken)) == round(sum(counts) / questions)
    for number, of_batch in zip(counts, taken, strict=True):
        assert abs(len(of_batch) - number / questions) <= 1
    in_order = [row for of_batch in taken for row in of_batch]
    for start in range(0, len(in_order) - 4, 5):  # all five once, then all again
        assert len(set(in_order[start : start + 5])) == 5
    # A later round goes on where the one before ended.
    first, last = counts[: len(counts) // 2], counts[len(counts) // 2 :]
    later = AnchorRows(
        texts_of(seed, [20] * 5), 19, questions, seed, last, microsteps, start=sum(first), held=rows.rows
    )
    assert [used(later, batch) for batch in range(len(last))] == taken[len(first) :]


def test_any_process_reads_its_own_part_from_any_batch_on() -> None:
    rows = AnchorRows(texts_of(0, [5, 9, 20, 13]), 19, 3.0, 7, [8, 9, 2, 10], 2)
    whole = list(ProcessShard(rows, 2, tuple(range(rows.rows // 2))).batches())
    assert len(whole) == 4
    for start in range(4):
        part = list(ProcessShard(rows, 2, (1,)).batches(start * rows.rows))
        for ours, all_of_it in zip(part, whole[start:], strict=True):
            for own, field in zip(ours, all_of_it, strict=True):
                np.testing.assert_array_equal(own, field[:, 1:2])
