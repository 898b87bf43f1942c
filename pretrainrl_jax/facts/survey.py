"""The first look at a source: every column of every row, and what stands in it. Nothing of a row is kept."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.written import LISTS, may_hold, written

PATHS = 5000  # columns remembered, nested ones included; objects with ids as keys have endlessly many
PARTS = 100  # of a list that are looked at
DEPTH = 8
WHOLE = re.compile(r"\s*[-+]?\d+(\.0)?\s*")
MIDNIGHT = re.compile(r"\s*(\d{4}-\d\d-\d\d)([T ]00:00(:00(\.0+)?)?(Z|[+-]00:?00)?)?\s*")


@dataclass(slots=True)
class Column:
    """What stands in a column, whichever row and however deep in lists."""

    filled: int = 0  # texts, numbers and dates that are not blank
    whole: bool = True  # each is a whole number, though perhaps written as 1990.0
    midnight: bool = True  # each is a day, though perhaps written with the time 00:00

    @property
    def numbers(self) -> bool:
        """It has whole numbers or days alone, or nothing: its texts may have to be read as such."""
        return self.whole or self.midnight

    def add(self, value: Any) -> None:
        """One more value."""
        if isinstance(value, str):
            if not value or value.isspace():
                return
            self.whole = self.whole and bool(WHOLE.fullmatch(value))
            self.midnight = self.midnight and bool(MIDNIGHT.fullmatch(value))
        elif value is None or value != value:
            return
        else:
            whole = value.is_integer() if isinstance(value, float) else type(value) is int
            day = is_midnight(value) if isinstance(value, datetime) else isinstance(value, date)
            self.whole, self.midnight = self.whole and whole, self.midnight and day
        self.filled += 1


@dataclass
class Survey:
    """The columns of a source by their paths, in the order in which they were met."""

    columns: dict[str, Column] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # paths that hold named values
    rows: int = 0
    first: str = ""  # where the first row stands

    def inside(self, path: str) -> list[str]:
        """The columns inside an object."""
        return [name for name in self.columns if name.startswith(f"{path}.")]


def survey(rows: Iterable[Row], wanted: Iterable[str] = ()) -> Survey:
    """All columns of all rows; `wanted` are remembered however many there are."""
    seen, wanted = Survey(), frozenset(wanted)
    for row in rows:
        seen.rows += 1
        seen.first = seen.first or row.where
        for name, value in row.values.items():
            column = seen.columns.get(name)
            if column and type(value) is str and not column.numbers and not may_hold(value):  # as most are
                column.filled += bool(value) and not value.isspace()
            else:
                _look(seen, wanted, name, value, DEPTH)
    return seen


def is_midnight(value: datetime) -> bool:
    """Whether the time of day is 00:00."""
    return value.time() == time()


def _look(seen: Survey, wanted: frozenset[str], path: str, value: Any, depth: int) -> None:
    if isinstance(value, str) and may_hold(value) and (inner := written(value)) is not None:
        value = inner
    if isinstance(value, LISTS):
        for part in value[:PARTS] if depth else ():
            _look(seen, wanted, path, part, depth - 1)
        if value:
            return
    elif not isinstance(value, (str, float)) and isinstance(value, Mapping):  # whose check is slow
        if len(seen.objects) < PATHS:
            seen.objects.add(path)
        if depth:
            for name, part in value.items():
                _look(seen, wanted, f"{path}.{name}", part, depth - 1)
        return
    column = seen.columns.get(path)
    if column is None:
        if len(seen.columns) >= PATHS and path not in wanted:
            return
        column = seen.columns[path] = Column()
    if not isinstance(value, LISTS):
        column.add(value)
