"""The columns of a source: what stands in each, from a first look at every row, and which one means what.

Nothing of a row is kept. The settings of facts.columns go first, then the usual names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from itertools import chain
from typing import Any

from pretrainrl_jax.config import FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import plain
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.written import LISTS, may_hold, written

PATHS = 5000  # columns remembered, nested ones included; objects with ids as keys have endlessly many
PARTS = 100  # of a list that are looked at
DEPTH = 8
WHOLE = re.compile(r"\s*[-+]?\d+(\.0)?\s*")
MIDNIGHT = re.compile(r"\s*(\d{4}-\d\d-\d\d)([T ]00:00(:00(\.0+)?)?(Z|[+-]00:?00)?)?\s*")
# The usual names, most telling first; PopQA's are among them. Capitals and spaces do not matter. Of each the
# first that is there is used, of `answers` all: what any of them says is true.
USUAL: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "problem", "input"),
    "answer": ("answer.value", "answer", "object", "obj", "o"),
    "answers": (
        "answer.aliases", "answer.normalizedaliases", "answer.normalized_aliases", "answers.text", "answers",
        "output.answer", "possible_answers", "answer_aliases", "aliases", "o_aliases", "obj_aliases",
        "object_aliases",
    ),
    "category": ("category", "relation", "prop", "property", "predicate", "p"),
    "subject": ("subject", "subj", "s"),
    "subject_key": ("subject_key", "subject_id", "subj_id"),
    "popularity": ("popularity", "s_pop", "subject_popularity", "pop"),
    "answer_popularity": ("answer_popularity", "o_pop", "object_popularity"),
    "id": ("id", "question_id", "questionid"),
    "rewordings": ("rewordings", "paraphrases"),
}  # fmt: skip
EITHERS = "aliases"  # of the subject or of the answer, where both are there


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
            day = value.time() == time() if isinstance(value, datetime) else isinstance(value, date)
            self.whole, self.midnight = self.whole and whole, self.midnight and day
        self.filled += 1

    def add_all(self, values: Sequence[Any]) -> bool:
        """Many values at one look; False, and none is added, where some are no plain numbers or texts."""
        if plain.are_numbers(values):
            written_out = isinstance(values[0], str) and "." in "".join(values)
            if self.whole and written_out:
                return False
            self.whole = self.whole and all(map(float.is_integer, map(float, values)))
            self.midnight = False
            self.filled += len(values)
            return True
        parts = plain.as_lists(values)
        if plain.are_lists(parts) and max(map(len, parts)) <= PARTS:
            parts = list(chain.from_iterable(parts))
        if self.numbers or not plain.are_filled(parts):
            return False
        self.filled += len(parts)
        return True


@dataclass
class Survey:
    """The columns of a source by their paths, in the order in which they were met."""

    wanted: frozenset[str] = frozenset()  # are remembered however many there are
    columns: dict[str, Column] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # paths that hold named values
    rows: int = 0
    first: str = ""  # where the first row stands

    def add(self, rows: Sequence[Row]) -> None:
        """All columns of further rows."""
        self.first = self.first or rows[0].where
        self.rows += len(rows)
        several = plain.by_column([row.values for row in rows])
        for name, values in several.items():
            self._all(name, values)
        for row in () if several else rows:
            for name, value in row.values.items():
                self._look(name, value, DEPTH)

    def _all(self, name: str, values: Sequence[Any]) -> None:
        column = self.columns.get(name)
        if not column or not column.add_all(values):
            for value in values:
                self._look(name, value, DEPTH)

    def _look(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, str) and may_hold(value) and (inner := written(value)) is not None:
            value = inner
        if isinstance(value, LISTS):
            for part in value[:PARTS] if depth else ():
                self._look(path, part, depth - 1)
            if value:
                return
        elif not isinstance(value, (str, float)) and isinstance(value, Mapping):  # whose check is slow
            if len(self.objects) < PATHS:
                self.objects.add(path)
            if depth:
                for name, part in value.items():
                    self._look(f"{path}.{name}", part, depth - 1)
            return
        column = self.columns.get(path)
        if column is None:
            if len(self.columns) >= PATHS and path not in self.wanted:
                return
            column = self.columns[path] = Column()
        if not isinstance(value, LISTS):
            column.add(value)


@dataclass(frozen=True)
class Columns:
    """The column of each meaning by its path, "" where there is none, and what is not read."""

    question: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    category: str = ""
    subject: str = ""
    subject_key: str = ""
    popularity: str = ""
    answer_popularity: str = ""
    id: str = ""
    rewordings: str = ""
    unread: tuple[str, ...] = ()

    @cached_property
    def true(self) -> tuple[str, ...]:
        """Where the answers stand, the canonical one first."""
        return tuple(dict.fromkeys(filter(None, (self.answer, *self.answers))))


def choose_columns(seen: Survey, settings: FactsConfig, at: str) -> Columns:
    """The columns of a source that was looked through.

    A column is there if any row has it; a template for the question makes its column optional. Raises
    InputError, naming the place, if a column that the settings name is not there or holds no text, or none
    for question or answer, or if `aliases` may be the subject's.
    """
    there = shown(list(seen.columns))
    chosen: dict[str, Any] = {}
    for name, names in USUAL.items():
        named = [getattr(settings.columns, name)]
        if name == "answers" and named[0] not in seen.columns:
            named = [part.strip() for part in named[0].split(",")]
        named = list(filter(None, named))
        for path in named:
            check_column(seen, path, f"facts.columns.{name}", at)
        usual = list(filter(None, (_usual(seen, name) for name in names)))
        # A blank column serves where none is filled, unless it holds objects in other rows.
        filled = [path for path in usual if seen.columns[path].filled]
        paths = named or filled or [path for path in usual if path not in seen.objects]
        chosen[name] = tuple(paths) if name == "answers" else (*paths, "")[0]
    if not chosen["question"] and not (settings.questions and chosen["subject"]):
        instead = "set facts.columns.question, or give facts.questions a template"
        if settings.questions:
            instead = "nor for the subject that facts.questions asks about: set facts.columns.subject"
        raise InputError(f"{at}: no column for the question, {instead}; there are {there}")
    if not chosen["answer"] and not chosen["answers"]:
        instead = "as answer, answers or possible_answers: set facts.columns.answer or facts.columns.answers"
        raise InputError(f"{at}: no column for the answer, {instead}; there are {there}")
    either = _usual(seen, EITHERS)
    unnamed = not settings.columns.answers and either in chosen["answers"] and seen.columns[either].filled
    if unnamed and chosen["subject"]:
        raise InputError(
            f"{at}: {either} may be other names of {chosen['subject']} or of the answer: name what is true "
            f"in facts.columns.answers, as {either}, or where they are the subject's as "
            f"{chosen['answer'] or chosen['answers'][0]}"
        )
    used = {*chosen["answers"], *(path for path in chosen.values() if isinstance(path, str))}
    return Columns(**chosen, unread=tuple(path for path in seen.columns if path not in used))


def check_column(seen: Survey, path: str, setting: str, at: str) -> None:
    """The column is there, and holds more than objects: raises InputError, naming the setting, if not."""
    if path in seen.columns:
        return
    if inside := [name for name in seen.columns if name.startswith(f"{path}.")]:
        example = f"name one of them, as {setting}={inside[0]}"
        raise InputError(f"{at}: {path} ({setting}) holds no text but {shown(inside)}: {example}")
    raise InputError(f"{at}: no column {shown([path])} ({setting}); there are {shown(list(seen.columns))}")


def _usual(seen: Survey, usual: str) -> str:
    """The column that has a usual name, in whatever capitals."""
    for path in seen.columns if usual not in seen.columns else (usual,):
        if "_".join(path.casefold().split()) == usual:
            return path
    return ""


def shown(names: Sequence[str], most: int = 20) -> str:
    """Names of columns, the first ones, without what a terminal would obey."""
    named = [name[:40] if name.isprintable() and name else repr(name[:40]) for name in names[:most]]
    return ", ".join(named) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
