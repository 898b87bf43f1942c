"""What all processes do after the same step, though only one of them was told: stop, save."""

from collections import deque
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainrl_jax.hosts.agree import process_count
from pretrainrl_jax.model.mesh import AXES, replicated
from pretrainrl_jax.model.partitioning import from_shards

LAG = 2  # steps after which a vote counts: the devices have counted it by then, and nobody waits


class StopConsensus:
    """One vote a step. The devices count them, as they do everything that all processes must agree on."""

    def __init__(self, mesh: Mesh) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec(AXES))
        self._any = jax.jit(lambda votes: votes.any(0), out_shardings=replicated(mesh))
        self._size = mesh.size
        self._counted: deque[jax.Array] = deque()

    def vote(self, asked: Sequence[bool]) -> list[bool]:
        """Ask for some things, and learn what any asked for `LAG` steps ago; of one process at once."""
        if process_count() == 1:
            return list(asked)
        own = np.array([asked], bool)
        votes = from_shards((self._size, len(asked)), self._sharding, lambda index: own)
        self._counted.append(self._any(votes))
        return self._next() if len(self._counted) > LAG else [False] * len(asked)

    def drain(self) -> list[list[bool]]:
        """What was asked for and has not counted yet: at the end of the steps."""
        return [self._next() for _ in range(len(self._counted))]

    def _next(self) -> list[bool]:
        return list(map(bool, jax.device_get(self._counted.popleft())))
