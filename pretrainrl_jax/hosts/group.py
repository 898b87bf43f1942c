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

    def alive(self, count: int) -> dict[int, int]:
        """For each process that lives a number of its start, once all have asked. Raises Unreachable."""
        return self._call(self._client.get_live_nodes, list(range(count)))

    def put_text(self, folder: str, text: str) -> None:
        """Set a text of any length, once. Raises Unreachable."""
        pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
        for number, piece in enumerate(pieces):
            self.put(f"{folder}/{number}", piece)
        self.put(f"{folder}/count", str(len(pieces)))  # last: who finds it finds all of them

    def get_text(self, folder: str, seconds: float) -> str | None:
        """A text that `put_text` has set, or None where it has not come in that time. Raises Unreachable."""
        count = self.get(f"{folder}/count", seconds)
        if count is None:
            return None
        read = self._client.blocking_key_value_get
        return "".join(self._call(read, f"{folder}/{number}", 60_000) for number in range(int(count)))

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
