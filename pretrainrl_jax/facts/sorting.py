"""Rows sorted: those that become facts, those of other categories, and those that become none, with why."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.blocks import plain_cells
from pretrainrl_jax.facts.columns import Columns, Survey
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.from_rows import FactMaker
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.written import cells

SHOWN = 120  # characters of a dropped row


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that became no fact, or no preference."""

    where: str  # "popQA.tsv, line 17"
    rule: str  # why, a short name that is counted
    text: str  # what stands there, shortened


class Sorted:
    """The rows of a source so far, by what became of each."""

    def __init__(self, maker: FactMaker) -> None:
        self.maker = maker
        self.facts: list[Fact] = []
        self.origins: list[str] = []  # of each fact; a few texts, shared
        self.dropped: list[Dropped] = []
        self.elsewhere: list[Fact] = []  # of categories that are not kept: only their truths are wanted
        self.categories: Counter[str] = Counter()
        self._aside = replace(maker, rewordings=(), kept=(), repaired=Counter(), taken=set())
        self._kept = frozenset(maker.settings.categories)
        self._forms = _forms(maker.seen, maker.columns)

    def add(self, rows: Sequence[Row]) -> None:
        """A block of further rows. Raises InputError where a column does not hold what it must."""
        maker = self.maker
        for row, clean in zip(rows, plain_cells(maker, rows), strict=True):
            category, own = "", maker
            try:
                category = clean.category if clean else sys.intern(maker.text(row, maker.columns.category))
                self.categories[category] += 1
                own = maker if not self._kept or category in self._kept else self._aside
                fact = own.fact(row, clean or own.read(row, category))
            except cleaning.Unusable as reason:
                if own is maker:
                    self.dropped.append(_dropped(row, reason, maker.columns))
                continue
            if own is maker:
                self.facts.append(fact)
                self.origins.append(row.origin)
            else:
                self.elsewhere.append(fact)

    def stands(self, seen: Survey, columns: Columns) -> bool:
        """Whether all rows of the source say of its columns what those said by which rows were sorted."""
        same = replace(self.maker.columns, unread=()) == replace(columns, unread=())
        return same and self._forms == _forms(seen, columns)


def _forms(seen: Survey, columns: Columns) -> list[tuple[bool, bool]]:
    """How numbers and days in the columns of text are read."""
    paths = (columns.question, columns.category, columns.subject, columns.subject_key, *columns.true)
    used = [seen.columns[path] for path in paths if path]
    return [(column.whole, column.midnight) for column in used]


def _dropped(row: Row, reason: cleaning.Unusable, columns: Columns) -> Dropped:
    paths = filter(None, (columns.question, columns.subject, *columns.true))
    there = [value for path in paths for value in cells(row.values, path)]
    return Dropped(short(row.where), str(reason), said(there, reason.where, str(dict(row.values))))


def short(where: str) -> str:
    """Where a row stands, without folders."""
    return where.rstrip("/").rsplit("/", 1)[-1]


def said(values: Iterable[Any], where: str = "", otherwise: str = "") -> str:
    """What stands in a dropped row, in these cells, else `otherwise`; and `where` in it it is wrong."""
    text = " | ".join(str(value)[:SHOWN] for value in values if value not in (None, ""))
    text = f"{where}: {text}" if where else text
    return cleaning.one_line(text or otherwise)[:SHOWN]
