"""A row as a fact: its cells as texts, its answers, what makes it unusable."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from pretrainrl_jax.config import FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.columns import Columns, Survey, shown
from pretrainrl_jax.facts.files import Row
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.questions import Templates, ask, fill_in, is_open
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import ROW_ID
from pretrainrl_jax.facts.wordings import WORDINGS, rewordings
from pretrainrl_jax.facts.written import LISTS, cells, leaves, written

_LONGEST_NULL = max(map(len, cleaning.MAYBE_NULL))
_PLAIN = re.compile("[0-9A-Za-z]")  # a text with one of these is never empty normalised


class Cells(NamedTuple):
    """The cells of a row that becomes a fact, clean."""

    question: str
    answers: tuple[str, ...]
    category: str
    subject: str
    subject_key: str  # "" where it is blank
    popularity: float
    answer_popularity: float
    id: str  # "" where it is blank


@dataclass(frozen=True)
class FactMaker:
    """Makes facts of the rows of a source that was looked through, and counts what it repairs."""

    settings: FactsConfig
    seen: Survey
    columns: Columns
    templates: Templates
    rewordings: Sequence[Templates] = ()
    kept: tuple[str, ...] = ()  # columns that go with each fact
    repaired: Counter[str] = field(default_factory=Counter)
    taken: set[str] = field(default_factory=set)  # ids

    def text(self, row: Row, path: str) -> str:
        """A cell as clean text; "" where the column is blank, says that it is, or is not there."""
        if not path:
            return ""
        if type(value := row.values.get(path)) is str and path in self.as_written:
            return self._or_blank(cleaning.clean(value, self.repaired))
        values = cells(row.values, path)
        while len(values) == 1 and isinstance(values[0], LISTS):
            values = list(values[0])
        column = self.seen.columns.get(path, cleaning.ANYTHING)
        column = cleaning.ANYTHING if path == self.columns.id else column  # it stays as it is written
        try:
            texts = [cleaning.text_in(value, self.repaired, column) for value in values]
        except cleaning.NotText as reason:
            raise cleaning.NotText(str(reason), _holds(path, values)) from None
        if len(texts) > 1:
            raise cleaning.NotText(cleaning.NOT_TEXT, f"{path} holds {len(texts)} values")
        return self._or_blank(cleaning.clean("".join(texts), self.repaired))

    def _or_blank(self, text: str) -> str:
        """The text, "" where it is one of the words for nothing."""
        if text in self.settings.nulls:
            self.repaired[cleaning.NULL_WORD] += 1
            return ""
        return text

    @cached_property
    def as_written(self) -> frozenset[str]:
        """The columns whose texts stay as they are: those of numbers or days have one form for all cells."""
        texts = (path for path, column in self.seen.columns.items() if not column.numbers)
        return frozenset((*texts, self.columns.id))

    @cached_property
    def separator(self) -> str:
        """What stands between answers of one text: nobody can type a line break on a command line."""
        return self.settings.answer_separator.replace("\\n", "\n").replace("\\t", "\t")

    def read(self, row: Row, category: str) -> Cells:
        """The cells of a row that becomes a fact. Raises cleaning.Unusable if it cannot."""
        columns, repaired = self.columns, self.repaired
        subject = self.text(row, columns.subject)
        question = self.text(row, columns.question) or ask(self.templates, category, subject)
        if not question:
            raise cleaning.Unusable(cleaning.NO_QUESTION)
        if is_open(question, subject):
            if not subject:
                raise cleaning.Unusable(cleaning.OPEN_QUESTION)
            question = fill_in(question, subject)
            repaired[cleaning.FILLED_IN] += 1
        return Cells(
            question=question,
            answers=self.answers(row),
            category=category,
            subject=subject,
            subject_key=self.text(row, columns.subject_key),
            popularity=_popularity(row, columns.popularity, repaired),
            answer_popularity=_popularity(row, columns.answer_popularity, repaired, of_answer=True),
            id=self.text(row, columns.id),
        )

    def fact(self, row: Row, clean: Cells) -> Fact:
        """The fact of a row by its cells, with an id that no other fact has and with other wordings."""
        question, answers, category, subject, key, popularity, answer_popularity, own = clean
        # Public copies of PopQA hold some ids twice; "row…" is refused as an id so that it never clashes.
        if not own or own in self.taken or (own[:3] == "row" and ROW_ID.fullmatch(own)):
            own = f"row{row.number}"
        else:
            self.taken.add(own)
        known = WORDINGS.get(category) if subject else None
        other = known.paraphrase.format(subject=subject) if known else ""
        worded = self.reworded(row, category, subject, {question, other})
        shown = tuple((path, _shown(cells(row.values, path))) for path in self.kept) if self.kept else ()
        other = other if other != question else ""
        key = key or subject or question
        # By place, since names would take as long as all the rest: there are millions of rows.
        return Fact(
            own, question, answers, category, subject, key, popularity, row.number,
            other, worded, answer_popularity, shown,
        )  # fmt: skip

    def reworded(self, row: Row, category: str, subject: str, asked: Collection[str]) -> tuple[str, ...]:
        """Other wordings of a row's question, each once, none of them `asked`: the row's own come first.

        Texts are the same if they are so normalised. What is no wording is left out and counted.
        """
        path = self.columns.rewordings
        if not (path or self.rewordings or category in WORDINGS):
            return ()
        given: list[str] = []
        for value in leaves(cells(row.values, path) if path else [], opened=True):
            if value is not None and not (isinstance(value, str) and not value.strip()):
                given += self._wordings(value, subject)
        given += [ask(templates, category, subject) for templates in self.rewordings]
        given += rewordings(category, subject) if subject else ()
        if not any(given):
            return ()
        taken = set(map(normalise, asked))
        other: dict[str, str] = {}
        for text in filter(None, given):
            if (key := normalise(text)) not in taken:
                other.setdefault(key, text)
        return tuple(other.values())

    def _wordings(self, value: Any, subject: str) -> list[str]:
        """What a value has as wordings, with the subject in its place."""
        try:
            given = cleaning.texts_in(value, "", False, self.repaired)
            texts = [cleaning.clean(text, self.repaired) for text in given]
        except cleaning.Unusable:
            texts = [""]
        filled = [fill_in(t, subject) if subject and is_open(t, subject) else t for t in texts]
        usable = [text for text in filled if normalise(text) and not is_open(text, subject)]
        self.repaired[cleaning.NO_REWORDING] += len(filled) - len(usable)
        return usable

    def answers(self, row: Row) -> tuple[str, ...]:
        """The canonical answer, then the others, in their order and each once."""
        separator = self.separator
        texts: list[str] = []
        for path in self.columns.true:
            strict = path == "possible_answers" and not separator
            column = self.seen.columns.get(path, cleaning.ANYTHING)
            values = cells(row.values, path)
            try:
                for value in values:
                    texts += cleaning.texts_in(value, separator, strict, self.repaired, column)
            except cleaning.BrokenList:
                how = 'write it as ["first", "second"], or set facts.answer_separator'
                raise InputError(f"{row.where}: {path} is not a JSON list: {how}") from None
            except cleaning.NotText as reason:
                raise cleaning.NotText(str(reason), _holds(path, values)) from None
        given = dict.fromkeys([cleaning.clean(text, self.repaired) for text in texts])
        given.pop("", None)
        answers = [answer for answer in given if self._or_blank(answer)]
        usable = tuple([answer for answer in answers if _PLAIN.search(answer) or normalise(answer)])
        if not usable:
            blank = cleaning.NULL_ANSWER if given else cleaning.NO_ANSWER
            raise cleaning.Unusable(cleaning.NO_USABLE_ANSWER if answers else blank)
        self.repaired[cleaning.EMPTY_ANSWER] += len(answers) - len(usable)
        for answer in usable:
            if len(answer) <= _LONGEST_NULL and answer.casefold() in cleaning.MAYBE_NULL:
                self.repaired[cleaning.KEPT_NULL_WORD] += 1
        return usable


def _shown(values: Iterable[Any]) -> str:
    """A cell as a reader sees it, several values with commas between; "" where it is blank."""
    return ", ".join(" ".join(str(value).split()) for value in values if value not in (None, ""))


def _holds(path: str, values: Sequence[Any]) -> str:
    """What stands in a column where text should, with the names inside."""
    parts = [written(part) if isinstance(part, str) else part for part in leaves(values, opened=True)]
    named = next((part for part in parts if isinstance(part, dict)), None)
    if named is not None:
        return f"{path} holds {shown([str(name) for name in named])}"
    other = next((part for part in parts if not cleaning.is_text(part)), True)
    inside = "true or false" if isinstance(other, bool) else f"{other} ({type(other).__name__})"
    return f"{path} holds {inside}"


def _popularity(row: Row, column: str, repaired: Counter[str], of_answer: bool = False) -> float:
    """0 where it is blank; an answer's also if it is no number: too little depends on it to lose a fact."""
    if not column:
        return 0.0
    try:
        values = cells(row.values, column)
        popularity = cleaning.popularity_in(values[0], repaired) if len(values) == 1 else None
    except (ValueError, OverflowError):
        if not of_answer:
            raise cleaning.Unusable(cleaning.BAD_POPULARITY) from None
        repaired[cleaning.BAD_ANSWER_POPULARITY] += 1
        return 0.0
    repaired[cleaning.NO_POPULARITY] += popularity is None and not of_answer
    return popularity or 0.0
