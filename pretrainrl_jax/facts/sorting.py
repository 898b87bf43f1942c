"""Rows sorted: those that become facts, those of other categories, and those that become none, with why.

A block at a time: where nothing is to be mended in a row, its cells are taken as they are.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from pretrainrl_jax.facts import cleaning, plain
from pretrainrl_jax.facts.columns import Columns, Survey
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.from_rows import Cells, FactMaker
from pretrainrl_jax.facts.plain import Values
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.written import cells

SHOWN = 120  # characters of a dropped row
ROWS = 1024  # of a block


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


def blocks(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """The rows, `ROWS` at a time."""
    rest = iter(rows)
    return iter(lambda: list(islice(rest, ROWS)), [])


def plain_cells(maker: FactMaker, rows: Sequence[Row]) -> list[Cells | None]:
    """Of each row the cells that `FactMaker.read` would give, None where that would mend or refuse one."""
    block, columns = _Block(maker, rows), maker.columns
    if not columns.question:
        return [None] * len(rows)
    try:
        made = map(
            Cells,
            block.texts(columns.question, plain.are_closed),
            block.answers(),
            map(sys.intern, block.texts(columns.category)),
            block.texts(columns.subject),
            block.texts(columns.subject_key),
            block.numbers(columns.popularity),
            block.numbers(columns.answer_popularity),
            block.texts(columns.id),
        )
    except _NotPlain:
        return [None] * len(rows)
    return [None if at in block.odd else cells for at, cells in enumerate(made)]


class _NotPlain(Exception):
    """A column leads into values, or holds numbers or days as answers."""


class _Block:
    """Columns of a block; `odd` are the places of rows that are not plain, whose cells are blank in them."""

    def __init__(self, maker: FactMaker, rows: Sequence[Row]) -> None:
        self.maker = maker
        self.nulls = frozenset(maker.settings.nulls)
        self.count = len(rows)
        self.columns = plain.by_column([row.values for row in rows])
        self.odd: set[int] = set()

    def texts(self, path: str, fit: Callable[[Values], bool] = plain.are_tidy) -> Values:
        """A column as texts; blank everywhere without a path."""
        if not path:
            return [""] * self.count
        values = self._column(path)
        if set(map(type, values)) == {int}:
            values = list(map(str, values))
        as_written = path in self.maker.as_written  # or else one of numbers or days, to be read as such

        def fits(texts: Values) -> bool:
            kept = fit(texts) and (as_written or plain.are_digits(texts))
            return kept and self.nulls.isdisjoint(texts)

        return self._of(values, fits, "")

    def numbers(self, path: str) -> Values:
        """A column as numbers; 0 everywhere without a path."""
        if not path:
            return [0.0] * self.count
        return list(map(float, self._of(self._column(path), plain.are_numbers, 0.0)))

    def answers(self) -> list[tuple[str, ...]]:
        """The answers of each row, each once."""
        columns = [self._listed(path) for path in self.maker.columns.true]
        answers = [tuple(dict.fromkeys(chain(*cells))) for cells in zip(*columns, strict=True)]
        self.odd.update(at for at, given in enumerate(answers) if not given)
        return answers

    def _listed(self, path: str) -> Values:
        if self.maker.seen.columns[path].numbers:
            raise _NotPlain
        values = plain.as_lists(self._column(path))
        if plain.are_lists(values[:1]):
            return self._of(values, lambda lists: plain.are_lists(lists) and self._told([*chain(*lists)]), [])
        if self.maker.separator or path == "possible_answers":
            raise _NotPlain
        return [[text] for text in self._of(values, self._told, "")]

    def _told(self, texts: Values) -> bool:
        """Whether all are answers that are kept as they are, and none reads as nothing."""
        return (
            plain.are_worded(texts)
            and self.nulls.isdisjoint(texts)
            and cleaning.MAYBE_NULL.isdisjoint(map(str.casefold, texts))
        )

    def _column(self, path: str) -> Values:
        if path not in self.columns:
            raise _NotPlain
        return self.columns[path]

    def _of(self, values: Values, fit: Callable[[Values], bool], blank: Any) -> Values:
        """The values, those that do not fit left blank and their rows odd."""
        if not (unfit := plain.exceptions(values, fit)):
            return values
        self.odd.update(unfit)
        kept = list(values)
        for at in unfit:
            kept[at] = blank
        return kept
