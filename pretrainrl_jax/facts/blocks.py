"""Rows by the block: where nothing is to be mended in a row, its cells are taken as they are."""

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

from pretrainrl_jax.facts import cleaning, plain
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.from_rows import Cells, FactMaker
from pretrainrl_jax.facts.plain import Values

ROWS = 1024  # of a block


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
