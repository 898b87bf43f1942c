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

    begin: Callable[[Any], Any]  # the state of rows, of what is asked of them; of zeros it does not go on
    step: Callable[[Any], Any]  # the next state; of rows that do not go on the results stay the same
    goes_on: Callable[[Any], jax.Array]  # bool [rows]; False of a state of zeros
    read: Callable[[Any], Any]  # the results of rows, [rows, …]
    axes: Any  # where the rows are among the axes of a state's arrays: a prefix of its tree
    steps: int  # of a row at most


class Queues(NamedTuple):
    """What is to be done, and on how many rows at a time."""

    work: Work
    asked: Any  # arrays [devices * queue, …]
    counts: jax.Array  # int32 [devices], how many of each queue are to be done
    rows: int  # of a device

    @property
    def length(self) -> int:
        """Places of a device's queue."""
        return len(jax.tree.leaves(self.asked)[0]) // len(self.counts)

    @property
    def few(self) -> int:
        """Rows of a device that are refilled together."""
        return max(1, self.rows // PART)

    @property
    def last(self) -> int:
        """Rows of a device that go on without the others in the end."""
        return self.few if self.few > 1 and self.work.steps > 1 else 0

    def going(self, state: Any) -> jax.Array:
        """How many rows of each device go on, [devices]."""
        return _of_devices(self, state).sum(-1)


class Filling(NamedTuple):
    """Rows on their way, and what else there is to do."""

    state: Any
    numbers: jax.Array  # [devices, rows], what is in them, by its place in the queue; beyond its end: nothing
    results: Any  # [devices * queue, …]
    waiting: jax.Array  # [devices], the first of each queue that has not begun


def run(work: Work, asked: Any, counts: jax.Array, rows: int) -> Any:
    """The results of all that is asked, so many rows of a device at a time.

    Rows that stop are refilled a part of them at a time, when most devices with something that waits have
    room for it: all of them read prompts together. Where all have stopped, all are refilled at once. The last
    ones go on without the others. `asked` and `counts` are as `Queues` has them; the results of what is not
    to be done are whatever they are.
    """
    queues = Queues(work, asked, counts, rows)
    if rows >= queues.length:
        return _alone(queues, _until(queues, queues.last, work.begin(asked)))
    filled = jax.lax.while_loop(
        lambda filling: (filling.waiting < counts).any(), partial(_turn, queues), _nothing(queues)
    )
    return _put(filled.results, filled.numbers, _alone(queues, filled.state))


def _nothing(queues: Queues) -> Filling:
    """Rows in which nothing is: what is read of them is dropped."""
    work, devices = queues.work, len(queues.counts)
    some = jax.eval_shape(work.begin, _take(queues.asked, jnp.zeros((devices, queues.rows), jnp.int32)))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), some)
    numbers = jnp.full((devices, queues.rows), queues.length, queues.counts.dtype)
    read = jax.eval_shape(work.read, state)
    results = jax.tree.map(lambda x: jnp.zeros((devices * queues.length, *x.shape[1:]), x.dtype), read)
    return Filling(state, numbers, results, jnp.zeros_like(queues.counts))


def _turn(queues: Queues, filling: Filling) -> Filling:
    """Begin what has room, and step on until there is room again; in the end, until the last few are left."""

    def all_stopped(filling: Filling) -> jax.Array:
        many_wait = (queues.counts - filling.waiting).max() > queues.rows // 2
        return many_wait & ~queues.going(filling.state).any()

    def some_stopped(filling: Filling) -> jax.Array:
        return _have_room(queues, filling.state, filling.waiting)

    # Loops, of one turn as a rule, where a cond would copy the state.
    filling = jax.lax.while_loop(all_stopped, partial(_refill_all, queues), filling)
    filling = jax.lax.while_loop(some_stopped, partial(_refill, queues), filling)
    return filling._replace(state=_until(queues, queues.last, filling.state, filling.waiting))


def _have_room(queues: Queues, state: Any, waiting: jax.Array) -> jax.Array:
    """Whether a few of what waits could begin on half of the devices on which something waits."""
    waits = waiting < queues.counts
    room = waits & (queues.going(state) <= queues.rows - queues.few)
    return room.any() & (2 * room.sum() >= waits.sum())


def _until(queues: Queues, left: int, state: Any, waiting: jax.Array | None = None) -> Any:
    """Step on until of each device's rows so few go on; while others wait, until there is room."""

    def on(state: Any) -> jax.Array:
        many = (queues.going(state) > left).any()
        if waiting is None:
            return many
        return jnp.where((waiting < queues.counts).any(), ~_have_room(queues, state, waiting), many)

    return jax.lax.while_loop(on, queues.work.step, state)


def _refill(queues: Queues, filling: Filling) -> Filling:
    """Read a few rows that have stopped, and begin in their places what waits."""
    work, (state, numbers, results, waiting) = queues.work, filling
    stopped = ~_of_devices(queues, state)
    places = jnp.argsort(~stopped)[:, : queues.few]
    following, waits = _following(queues, waiting, queues.few)
    at_places = partial(jnp.take_along_axis, indices=places, axis=1, mode="promise_in_bounds")
    fits = at_places(stopped) & waits
    done = jnp.where(fits, at_places(numbers), queues.length)
    results = _put(results, done, work.read(_take(state, places, work.axes)))
    begun = work.begin(_take(queues.asked, following))
    places = jnp.where(fits, places, queues.rows)
    state = _put(state, places, begun, work.axes)
    numbers = jax.vmap(partial(_looked_up, 0))(numbers, places, following)
    return Filling(state, numbers, results, waiting + fits.sum(-1, dtype=waiting.dtype))


def _refill_all(queues: Queues, filling: Filling) -> Filling:
    """The same of all rows: their state is not needed any more when that of others is made."""
    work, (state, numbers, results, waiting) = queues.work, filling
    results = _put(results, numbers, work.read(state))
    following, waits = _following(queues, waiting, queues.rows)
    asked = _take(queues.asked, following)
    asked = jax.tree.map(lambda x: jax.vmap(jnp.where)(waits.ravel(), x, jnp.zeros_like(x)), asked)
    asked, results = jax.lax.optimization_barrier((asked, results))
    numbers = jnp.where(waits, following, queues.length)
    return Filling(work.begin(asked), numbers, results, waiting + waits.sum(-1, dtype=waiting.dtype))


def _following(queues: Queues, waiting: jax.Array, many: int) -> tuple[jax.Array, jax.Array]:
    """The next of each queue, by their places in it, and whether there are so many: both [devices, many]."""
    following = waiting[:, None] + jnp.arange(many, dtype=waiting.dtype)
    return jnp.minimum(following, queues.length - 1), following < queues.counts[:, None]


def _alone(queues: Queues, state: Any) -> Any:
    """The results, when the few rows that are left have gone on without the others."""
    work = queues.work
    if not queues.last:
        return work.read(state)
    left = jnp.argsort(~_of_devices(queues, state))[:, : queues.last]
    rest = _until(queues, 0, _take(state, left, work.axes))
    return _put(work.read(state), left, work.read(rest))


def _of_devices(queues: Queues, state: Any) -> jax.Array:
    """Which rows go on, bool [devices, rows]."""
    return queues.work.goes_on(state).reshape(len(queues.counts), -1)


def _take(tree: Any, index: jax.Array, axes: Any = 0) -> Any:
    """These of each device's rows alone. int32 [devices, few]."""

    def take(axis: int, array: jax.Array) -> jax.Array:
        of_device = partial(jnp.take, axis=axis, mode="clip")
        taken = jax.vmap(of_device, (axis, 0), axis)(_apart(array, axis, len(index)), index)
        return taken.reshape(*array.shape[:axis], -1, *array.shape[axis + 1 :])

    return _each(take, axes, tree)


def _put(tree: Any, index: jax.Array, values: Any, axes: Any = 0) -> Any:
    """The rows with others in some of their places; those beyond the end are dropped.

    Caches (their rows are an inner axis) are changed where they are. Of other arrays, which are small and
    many, each row is looked up among the new ones: a scatter compiles to a loop of its own.
    """

    def put(axis: int, array: jax.Array, new: jax.Array) -> jax.Array:
        apart, own = (_apart(x, axis, len(index)) for x in (array, new))
        of_device = _scattered if axis else _looked_up
        return jax.vmap(partial(of_device, axis), (axis, 0, axis), axis)(apart, index, own).reshape(
            array.shape
        )

    return _each(put, axes, tree, values)


def _scattered(axis: int, array: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    return array.at[(*[slice(None)] * axis, index.astype(jnp.uint32))].set(new, mode="drop")


def _looked_up(axis: int, array: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    here = index == jnp.arange(len(array))[:, None]  # [rows, few]
    taken = jnp.take(new, here.argmax(1), axis=axis, mode="clip")
    return jnp.where(here.any(1).reshape(-1, *[1] * (array.ndim - 1)), taken, array)


def _apart(array: jax.Array, axis: int, devices: int) -> jax.Array:
    """The axis of rows as two: [devices, rows of each]."""
    return array.reshape(*array.shape[:axis], devices, -1, *array.shape[axis + 1 :])


def _each(change: Callable[..., jax.Array], axes: Any, *trees: Any) -> Any:
    """`change(axis, *arrays)` of every array."""
    return jax.tree.map(lambda axis, *parts: jax.tree.map(partial(change, axis), *parts), axes, *trees)
