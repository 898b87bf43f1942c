"""Work that takes turns on few rows, against each piece by itself."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.decoding.continuous import PART, Work, run

LONGEST = 6
SIZES = [
    (1, 1, 1),
    (1, 5, 5),
    (1, 12, 3),
    (1, 20, 8),
    (2, 7, 2),
    (3, 9, 8),
]  # devices, queue, rows of a device


def begin(asked: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Counting down; `trace` [2, rows] has its rows in another place."""
    return {"left": asked["steps"], "did": 0 * asked["steps"], "trace": jnp.stack([asked["name"]] * 2)}


def step(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
    on = state["left"] > 0
    jax.debug.callback(lambda on: begun.append(on), on, ordered=True)
    return state | {"left": state["left"] - on, "did": state["did"] + on}


begun: list[np.ndarray] = []
WORK = Work(
    begin,
    step,
    lambda state: state["left"] > 0,
    lambda state: (state["did"], state["trace"].T),
    {"left": 0, "did": 0, "trace": 1},
    LONGEST,
)


@cache
def compiled(devices: int, queue: int, rows: int):
    return jax.jit(partial(run, WORK, rows=rows))


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_each_is_done_once_as_by_itself(size: tuple[int, int, int], data: st.DataObject) -> None:
    devices, queue, rows = size
    steps = np.array(
        data.draw(st.lists(st.integers(0, LONGEST), min_size=devices * queue, max_size=devices * queue))
    )
    given_of = np.array(data.draw(st.lists(st.integers(0, queue), min_size=devices, max_size=devices)))
    there = np.arange(queue) < given_of[:, None]
    steps = np.where(there.ravel(), steps, 0)  # rows that fill up have nothing to do
    names = 100 + np.arange(devices * queue)
    begun.clear()
    did, trace = compiled(*size)(
        {"steps": jnp.asarray(steps), "name": jnp.asarray(names)}, jnp.asarray(given_of)
    )
    jax.effects_barrier()
    assert np.asarray(did)[there.ravel()].tolist() == steps[there.ravel()].tolist()
    assert np.asarray(trace)[there.ravel()].tolist() == [[name] * 2 for name in names[there.ravel()]]
    shares = [of[:many].tolist() for of, many in zip(steps.reshape(devices, queue), given_of, strict=True)]
    assert [on.sum() for on in begun] == plainly(shares, min(rows, queue), queue > rows)


def plainly(shares: list[list[int]], rows: int, refills: bool) -> list[int]:
    """How many rows go on in each step, by lists: what each device's rows have left, and what waits."""
    few = max(1, rows // PART)
    last = few if few > 1 else 0
    waiting = [list(share) for share in shares]
    going: list[list[int]] = [[] for _ in shares]
    if not refills:
        going, waiting = waiting, going
    told = []

    def until(enough) -> None:
        nonlocal going
        while not enough():
            going = [[left for left in row if left > 0] for row in going]
            told.append(sum(map(len, going)))
            going = [[left - 1 for left in row if left > 1] for row in going]

    def quiet(left: int) -> bool:
        return all(sum(n > 0 for n in row) <= left for row in going)

    def refill(many: int) -> None:
        for row, queue in zip(going, waiting, strict=True):
            row[:] = [left for left in row if left > 0]
            for _ in range(min(many, rows - len(row), len(queue))):
                row.append(queue.pop(0))

    def have_room() -> bool:
        rooms = [
            sum(n > 0 for n in row) <= rows - few for row, queue in zip(going, waiting, strict=True) if queue
        ]
        return any(rooms) and 2 * sum(rooms) >= len(rooms)

    while any(waiting):
        while quiet(0) and max(map(len, waiting)) > rows // 2:
            refill(rows)
        while have_room():
            refill(few)
        until(lambda: have_room() if any(waiting) else quiet(last))
    until(lambda: quiet(last))
    until(lambda: quiet(0))
    return told
