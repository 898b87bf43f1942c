"""Continuous batching on the device: what waits takes the places of what has stopped, in one compiled loop.

Of rows that are laid over devices each device has its own, and its own queue: none is moved to another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PART = 4  # of a batch: when so small a part is left it goes on alone, and so many rows are refilled at once


class Work(NamedTuple):
    """What is done with each row of a batch, as functions on trees of arrays."""

    begin: Callable[
        [Any], Any
    ]  # the state of rows, of what is asked of them; nothing is done where that is 0
    step: Callable[[Any], Any]  # the next state; of rows that do not go on the results stay the same
    goes_on: Callable[[Any], jax.Array]  # bool [rows]; False of a state of zeros
    read: Callable[[Any], Any]  # the results of rows, [rows, …]
    axes: Any  # where the rows are among the axes of a state's arrays: a prefix of its tree
    steps: int  # of a row at most


class Filling(NamedTuple):
    """Rows on their way, and what else there is to do."""

    state: Any
    numbers: jax.Array  # [devices, rows], what is in them, by its place in the queue; beyond its end: nothing
    results: Any  # [devices * queue, …]
    waiting: jax.Array  # [devices], the first of each queue that has not begun


def run(work: Work, asked: Any, counts: jax.Array, rows: int) -> Any:
    """The results of all that is asked, so many rows of a device at a time.

    Rows that stop are refilled a part of them at a time, when most devices with something that waits have
    room for it: all of them read prompts together.

    Args:
        work: what is done.
        asked: arrays [devices * queue, …], what is asked of each.
        counts: int32 [devices], how many of each device's queue are to be done, its first ones. The results
            of others are whatever they are.
        rows: of a device.
    """
    devices = len(counts)
    queue = len(jax.tree.leaves(asked)[0]) // devices
    few = max(1, rows // PART)
    last = few if few > 1 and work.steps > 1 else 0
    going = partial(_going, work, devices)

    def until(left: int, state: Any) -> Any:
        """Step on until of each device's rows so many, or fewer, go on."""
        return jax.lax.while_loop(lambda state: (going(state).sum(-1) > left).any(), work.step, state)

    def alone(state: Any) -> Any:
        """The results, when the few that are left have gone on without the others."""
        if not last:
            return work.read(state)
        left = jnp.argsort(~going(state))[:, :few]
        rest = until(0, _take(state, left, work.axes))
        return _put(work.read(state), left, work.read(rest))

    if rows >= queue:
        return alone(until(last, work.begin(asked)))

    def have_room(state: Any, waiting: jax.Array) -> jax.Array:
        """Whether `few` of what waits could begin on half of the devices on which something waits."""
        waits = waiting < counts
        room = waits & (going(state).sum(-1) <= rows - few)
        return room.any() & (2 * room.sum() >= waits.sum())

    def refill(filling: Filling) -> Filling:
        """Read a few rows that have stopped, and begin in their places what waits."""
        state, numbers, results, waiting = filling
        stopped = ~going(state)
        places = jnp.argsort(~stopped)[:, :few]
        following = waiting[:, None] + jnp.arange(few)
        fits = jnp.take_along_axis(stopped, places, 1) & (following < counts[:, None])
        done = jnp.where(fits, jnp.take_along_axis(numbers, places, 1), queue)
        results = _put(results, done, work.read(_take(state, places, work.axes)))
        begun = work.begin(_take(asked, jnp.minimum(following, queue - 1)))
        places = jnp.where(fits, places, rows)
        state = _put(state, places, begun, work.axes)
        numbers = jax.vmap(lambda of, at, new: of.at[at].set(new, mode="drop"))(numbers, places, following)
        return Filling(state, numbers, results, waiting + fits.sum(-1, dtype=waiting.dtype))

    def refill_all(filling: Filling) -> Filling:
        """The same of all rows: their state is not needed any more when that of others is made."""
        state, numbers, results, waiting = filling
        results = _put(results, numbers, work.read(state))
        following = waiting[:, None] + jnp.arange(rows)
        fits = following < counts[:, None]
        fresh = _take(asked, jnp.minimum(following, queue - 1))
        fresh = jax.tree.map(lambda x: jax.vmap(jnp.where)(fits.ravel(), x, jnp.zeros_like(x)), fresh)
        fresh, results = jax.lax.optimization_barrier((fresh, results))
        numbers = jnp.where(fits, following, queue)
        return Filling(work.begin(fresh), numbers, results, waiting + fits.sum(-1, dtype=waiting.dtype))

    def all_stopped(filling: Filling) -> jax.Array:
        many_wait = (counts - filling.waiting).max() > rows // 2
        return many_wait & ~going(filling.state).any()

    def turn(filling: Filling) -> Filling:
        """Begin what has room, all at once where all have stopped, and step on."""
        # Loops, of one turn as a rule, where a cond would copy the state.
        filling = jax.lax.while_loop(all_stopped, refill_all, filling)
        filling = jax.lax.while_loop(lambda now: have_room(now.state, now.waiting), refill, filling)
        waiting = filling.waiting

        def steps_on(state: Any) -> jax.Array:
            some_wait, many_go_on = (waiting < counts).any(), (going(state).sum(-1) > last).any()
            return jnp.where(some_wait, ~have_room(state, waiting), many_go_on)

        return filling._replace(state=jax.lax.while_loop(steps_on, work.step, filling.state))

    some = jax.eval_shape(work.begin, _take(asked, jnp.zeros((devices, rows), jnp.int32)))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), some)
    nobody = jnp.full((devices, rows), queue, counts.dtype)  # what is read of these rows is dropped
    read = jax.eval_shape(work.read, state)
    results = jax.tree.map(lambda x: jnp.zeros((devices * queue, *x.shape[1:]), x.dtype), read)
    filling = Filling(state, nobody, results, jnp.zeros_like(counts))
    filled = jax.lax.while_loop(lambda filling: (filling.waiting < counts).any(), turn, filling)
    return _put(filled.results, filled.numbers, alone(filled.state))


def _going(work: Work, devices: int, state: Any) -> jax.Array:
    """Bool [devices, rows]."""
    return work.goes_on(state).reshape(devices, -1)


def _take(tree: Any, index: jax.Array, axes: Any = 0) -> Any:
    """These of each device's rows alone. int32 [devices, few]."""

    def take(axis: int, array: jax.Array) -> jax.Array:
        shape = array.shape
        apart = array.reshape(*shape[:axis], len(index), -1, *shape[axis + 1 :])
        of_device = jax.vmap(partial(jnp.take, axis=axis), (axis, 0), axis)
        return of_device(apart, index).reshape(*shape[:axis], -1, *shape[axis + 1 :])

    return _each(take, axes, tree)


def _put(tree: Any, index: jax.Array, values: Any, axes: Any = 0) -> Any:
    """The rows with others in some of their places; those beyond the end are dropped."""

    def put(axis: int, array: jax.Array, new: jax.Array) -> jax.Array:
        apart, own = (x.reshape(*x.shape[:axis], len(index), -1, *x.shape[axis + 1 :]) for x in (array, new))

        def of_device(array: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
            return array.at[(*[slice(None)] * axis, index)].set(new, mode="drop")

        return jax.vmap(of_device, (axis, 0, axis), axis)(apart, index, own).reshape(array.shape)

    return _each(put, axes, tree, values)


def _each(change: Callable[..., jax.Array], axes: Any, *trees: Any) -> Any:
    """`change(axis, *arrays)` of every array."""
    return jax.tree.map(lambda axis, *parts: jax.tree.map(partial(change, axis), *parts), axes, *trees)
