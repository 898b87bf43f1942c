"""A constraint of decoding that may allow any tokens, for tests of searches beside sets of answers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton: int32 [states, vocabulary], the next state or -1 where a token is forbidden.

    A prompt begins in the state that `starts` names. A row without any token is a dead end: a beam that gets
    there is given up, and a sample ends unfinished.
    """

    transitions: jax.Array

    def allowed(self, state: jax.Array, start: Any, size: int) -> jax.Array:
        """Reads these tokens' part of each state's row alone."""

        def of_state(state: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(self.transitions, (state, start), (1, size))[0] >= 0

        return jnp.vectorize(of_state, signature="()->(n)")(state)

    def advance(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The table's entry."""
        return self.transitions[state, token]
