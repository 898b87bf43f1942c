"""Every reply that a server gave, and what it took: kept on disk at once, shared by runs."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.errors import InputError

WAIT_SECONDS = 60.0  # for another run that writes
SCHEMA = """
create table if not exists replies (
    key text primary key, run text, text text, finish text, tokens_in integer, tokens_out integer
);
create index if not exists replies_run on replies (run);
"""


class Reply(NamedTuple):
    """What a server said."""

    text: str
    finish: str  # why it ends there: stop, length, …
    tokens_in: int
    tokens_out: int


class Spent(NamedTuple):
    """What a run took of a server."""

    requests: int
    tokens_in: int
    tokens_out: int


class Ledger:
    """A SQLite file of replies. What was put survives the end of the process, however it ends.

    Raises InputError if the file cannot be made, or is something else; its methods raise OSError if it fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=WAIT_SECONDS, check_same_thread=False)
            self._database.execute("pragma journal_mode=wal")
            self._database.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"cannot keep replies in {path} ({error}): give another file as …server.cache"
            ) from None

    def get(self, key: str) -> Reply | None:
        """The reply under a key."""
        query = "select text, finish, tokens_in, tokens_out from replies where key = ?"
        row = self._first_row(query, (key,))
        return Reply(*row) if row else None

    def put(self, key: str, run: str, reply: Reply) -> None:
        """Keep a reply that a run has paid; it is on disk when this returns."""
        self._first_row("insert or replace into replies values (?, ?, ?, ?, ?, ?)", (key, run, *reply))

    def spent(self, run: str) -> Spent:
        """What a run has paid up to now."""
        query = "select count(*), total(tokens_in), total(tokens_out) from replies where run = ?"
        return Spent(*map(int, self._first_row(query, (run,))))

    def _first_row(self, query: str, values: Sequence[Any]) -> Any:
        try:
            with self._database:
                return self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{self._path}, the file of paid replies, fails: {error}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def key_of(**parts: Any) -> str:
    """Under what a reply is kept: all that it depends on, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
