"""Turns of what is taught, then of what is tried: in batches of one kind, from wherever a run stood."""

from itertools import chain, islice

from hypothesis import given
from hypothesis import strategies as st

from pretrainrl_jax.training.checkpoints import Progress
from pretrainrl_jax.training.feed import Holds
from pretrainrl_jax.training.turns import Turns, shuffled
from pretrainrl_jax.trees.packing import Capacity


def items(kind: str, number: int) -> list[str]:
    return [f"{kind} {place}" for place in range(number)]


def turns_of(taught: int, tried: int, size: int, progress: Progress) -> Turns[str]:
    return Turns(items("lesson", taught), items("trial", tried), size, str, progress)


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 5), st.data())
def test_batches_are_of_one_kind_and_the_same_after_any_stop(taught, tried, size, data):
    whole = turns_of(taught, tried, size, Progress())
    batches, rows = [], [0]
    while not whole.ended:
        assert whole.batch == len(batches)
        teaches = whole.teaches
        numbers, taken = whole.take()
        assert all(item.startswith("lesson" if teaches else "trial") for item in taken)
        assert len(taken) == len(numbers) <= size
        assert whole.names(whole.row) == taken
        batches.append(taken)
        rows.append(whole.row)
    assert [len(taken) for taken in batches] == whole.counts
    assert list(chain.from_iterable(batches)) == items("lesson", taught) + items("trial", tried)
    lessons = -(-taught // size)
    assert whole.steps(3) == lessons + 3 * (len(batches) - lessons)
    done = data.draw(st.integers(0, len(batches)))
    rest = turns_of(taught, tried, size, Progress(row=rows[done]))
    assert [rest.take()[1] for _ in range(len(batches) - done)] == batches[done:]
    assert rest.ended


@given(st.integers(1, 7), st.integers(0, 30))
def test_each_pass_has_everything_once(size, number):
    every = list(shuffled(number, size, (3, 1)))
    assert len(every) == number
    for start in range(0, number, size):
        part = every[start : start + size]
        assert {turn for turn, _ in part} == {start // size}
        assert len({place for _, place in part}) == len(part)
    assert every == list(islice(shuffled(number + 9, size, (3, 1)), number))


def test_what_batches_hold_is_kept():
    holds = Holds(4, Capacity(8, 7, 6, 5, 4))
    turns = turns_of(1, 1, 1, Progress(stream={"holds": holds.listed, "measured": [1]}))
    assert turns.holds == holds
    assert turns.state == {"holds": [4, 8, 7, 6, 5, 4], "measured": [1]}
    assert turns_of(1, 1, 1, Progress()).holds == Holds()
