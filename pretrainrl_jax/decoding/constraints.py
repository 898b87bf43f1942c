"""Constraints of decoding: which tokens may follow, by a state that travels with each beam or sample."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

State = Any  # a tree of arrays [batch, …], or [batch, beams, …]


class Constraint(Protocol):
    """Pure functions, on arrays that the constraint holds: it is a tree of arrays itself.

    Terminators are subject to it too. On a mesh every device has all of its arrays.
    """

    def start(self, starts: jax.Array) -> State:
        """The state before any token: a tree of arrays [batch, …], copied to every beam or sample.

        `starts`, int32 [batch], says which of its beginnings each prompt has.
        """
        ...

    def allowed(self, state: State, start: Any, size: int) -> jax.Array:
        """Which of the `size` tokens from `first` on may follow: bool [..., size]. `first` may be traced."""
        ...

    def advance(self, state: State, token: jax.Array) -> State:
        """The state after a token, int32 [...]. After one that is not allowed, any state will do."""
        ...


@partial(jax.tree_util.register_dataclass, data_fields=["transitions"], meta_fields=[])
@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton: int32 [states, vocabulary], the next state or -1 where a token is forbidden.

    A prompt begins in the state that `starts` names. A row without any token is a dead end: a beam that gets
    there is given up, and a sample ends unfinished.
    """

    transitions: jax.Array

    def start(self, starts: jax.Array) -> jax.Array:
        """These states, int32 [batch]."""
        return starts

    def allowed(self, state: jax.Array, start: Any, size: int) -> jax.Array:
        """Reads these tokens' part of each state's row alone."""

        def of_state(state: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(self.transitions, (state, start), (1, size))[0] >= 0

        return jnp.vectorize(of_state, signature="()->(n)")(state)

    def advance(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The table's entry."""
        return self.transitions[state, token]


def begin(constraint: Constraint | None, batch: int, branches: int, starts: jax.Array | None = None) -> State:
    """The first state of every branch: arrays [batch, branches, …]; None without a constraint.

    `starts` are as `Constraint.start` takes them; None is 0 for every prompt.
    """
    if constraint is None:
        return None
    state = constraint.start(jnp.zeros(batch, jnp.int32) if starts is None else starts)
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (batch, branches, *x.shape[1:])), state)
