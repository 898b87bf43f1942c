"""The processes of a run, and the keys and values that they share. Process 0 keeps them."""

from dataclasses import dataclass, field
from typing import Any

from pretrainrl_jax.config import HostsConfig

PIECE = 1 << 20  # characters; one gRPC message must stay below a few MB


class Unreachable(RuntimeError):
    """Process 0, which keeps the keys, does not answer: it has ended, or the connection broke."""


class Store:
    """Keys and values of the coordination service, which every process reads and writes.

    A call that changes or lists keys may hang while process 0 does. Only `get` has a limit of its own.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def put(self, key: str, value: str) -> None:
        """Set a key, whether or not it was set before. Raises Unreachable."""
        self._call(self._client.key_value_set, key, value, allow_overwrite=True)

    def claim(self, key: str, value: str) -> bool:
        """Set a key if no process has set it; tells whether this one did. Raises Unreachable."""
        return self._call(self._client.key_value_set, key, value, unless="ALREADY_EXISTS") is not False

    def get(self, key: str, seconds: float) -> str | None:
        """The value of a key, waited for as long as that; None where it has not come. Raises Unreachable."""
        wait, milliseconds = self._client.blocking_key_value_get, max(1, round(seconds * 1000))
        value = self._call(wait, key, milliseconds, unless="DEADLINE_EXCEEDED")
        return None if value is False else value

    def list(self, folder: str) -> dict[int, str]:
        """The values of all keys FOLDER/NUMBER, by number. Raises Unreachable."""
        pairs = self._call(self._client.key_value_dir_get, f"{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in pairs}

    def drop(self, folder: str) -> None:
        """Delete a key and all below it. Raises Unreachable."""
        self._call(self._client.key_value_delete, folder)

    def put_text(self, folder: str, text: str) -> None:
        """Set a text of any length, once. Raises Unreachable."""
        if len(text) <= PIECE:
            self.put(f"{folder}/head", f"={text}")
            return
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        for number, piece in enumerate(pieces):
            self.put(f"{folder}/{number}", piece)
        self.put(f"{folder}/head", str(len(pieces)))  # last: who finds it finds all of them

    def get_text(self, folder: str, seconds: float) -> str | None:
        """A text that `put_text` has set, or None where it has not come in that time. Raises Unreachable."""
        head = self.get(f"{folder}/head", seconds)
        if head is None or head.startswith("="):
            return head and head[1:]
        pieces = [self.get(f"{folder}/{number}", 60.0) for number in range(int(head))]
        if None in pieces:
            raise Unreachable(f"{folder}: a piece of it is not to be had")
        return "".join(piece for piece in pieces if piece is not None)

    def _call(self, method: Any, *values: Any, unless: str = "", **options: Any) -> Any:
        """What the method gives, or False where it fails with the status `unless`."""
        from jax.errors import JaxRuntimeError

        try:
            return method(*values, **options)
        except JaxRuntimeError as error:
            if unless and str(error).startswith(unless):
                return False
            raise Unreachable(" ".join(str(error).split())[:300]) from None


@dataclass
class Group:
    """This process among those of the run."""

    index: int
    count: int
    store: Store
    settings: HostsConfig
    command: str  # to go on with after an end
    hosts: list[str] = field(default_factory=list)  # host names by index, once all have said theirs
    point: int = 0  # the last point of agreement that this process has passed
    tidied: int = 0  # the keys of the points up to this one are deleted, when all came to a later one
    dead: set[int] = field(default_factory=set)  # processes of which nothing is heard

    def who(self, index: int) -> str:
        """A process as messages name it."""
        return f"host {self.hosts[index]} (process {index})" if self.hosts else f"process {index}"


_joined: list[Group] = []


def current() -> Group | None:
    """The group that this process has joined; None in a run of one process."""
    return _joined[0] if _joined else None


def enter(group: Group) -> None:
    """From now on `current` is this one."""
    _joined[:] = [group]


def connected() -> tuple[Store, int, int]:
    """The store of the joined processes, this one's index and their count.

    JAX gives none of the three in public without making its backend; Orbax takes them from the same place.
    """
    from jax._src import distributed

    state = distributed.global_state
    return Store(state.client), state.process_id, state.num_processes
