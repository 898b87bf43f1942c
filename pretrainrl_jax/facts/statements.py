"""Statements of facts in a text, looked up word for word: which are true, which false."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NamedTuple

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import head
from pretrainrl_jax.facts.wordings import wording_of

SLACK = 60  # characters that an unknown name may be longer than the longest known one
LETTERS = 2  # by which a sentence's templates are looked up
WORDS = 200  # characters that a sentence has at most beside its two names

_CLOSING = "[\"')\\]\u201d\u2019]*"
_START = re.compile(rf"(?:\A|\n|[.!?]{_CLOSING}\s)\s*")
_OPENING = re.compile("[\"'(\\[\u201c\u2018]+")
_END = re.compile(rf"[.!](?={_CLOSING}(?:\s|\Z))")  # of a statement; what ends in "?" asks
_CLOSED = re.compile(rf"[.!]{_CLOSING}\s*")
_BREAK = re.compile(rf"[.!?]{_CLOSING}\s|\n")  # between sentences, unless it stands in a known name
_SLOT = re.compile(r"\{(subject|answer)\}")


@dataclass(frozen=True)
class Statement:
    """What a text says of one subject in one relation; places are characters of that text."""

    fact: Fact | None  # the one stated, or the best known of those contradicted; None: subject not known
    category: str
    subject: str  # as the fact writes it, where it is known
    answer: str  # as the text writes it
    answer_start: int
    start: int
    end: int  # where it is complete: after the answer, or after the last word where the answer comes earlier
    verdict: Literal["true", "false", "unknown"]


class _Template(NamedTuple):
    """A sentence with two names in it; a full stop follows."""

    category: str
    before: str
    between: str
    after: str
    answer_first: bool


_Ranked = tuple[tuple[float, ...], Statement]  # the better reading of two is the greater


class Statements:
    """The statements about a set of facts, in the wordings of `facts.wordings` and of the facts' questions.

    A statement is a declarative sentence of its relation, or a question (or its paraphrase) with an answer.
    It begins where a sentence or a line does, and ends with a full stop, an exclamation mark or the line.
    It is true if its answer equals, normalised, an answer of any fact of that subject's name and relation
    (namesakes), false if there are such facts and it equals none, unknown if there is no such fact.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._of_subject: dict[tuple[str, str], list[Fact]] = {}  # by category and name, as written
        self._of_key: dict[tuple[str, str], list[Fact]] = {}  # by category and normalised name
        self._answers: dict[str, set[str]] = {}  # of each category, normalised
        self._asked: dict[str, list[Fact]] = {}  # by questions that no template writes
        self._templates: dict[str, list[_Template]] = {}  # by their first letters; "": they begin with a name
        for template in (t for c in dict.fromkeys(f.category for f in facts) for t in _templates(c)):
            self._templates.setdefault(template.before[:LETTERS], []).append(template)
        spelled: dict[str, set[str]] = {}
        for fact in facts:
            spelled.setdefault(fact.category, set()).update(fact.answers)
            self._answers.setdefault(fact.category, set()).update(map(_key, fact.answers))
            if fact.subject:
                self._of_subject.setdefault((fact.category, fact.subject), []).append(fact)
                self._of_key.setdefault((fact.category, _key(fact.subject)), []).append(fact)
            templates = wording_of(fact.category).question, wording_of(fact.category).paraphrase
            written = {template.replace("{subject}", fact.subject) for template in templates}
            for wording in filter(None, {fact.question, fact.paraphrase} - written):
                self._asked.setdefault(wording, []).append(fact)
        self._spelled = {category: sorted(answers) for category, answers in spelled.items()}
        self._question_lengths = sorted({len(wording) for wording in self._asked}, reverse=True)
        names = (name for f in facts for name in (f.subject, *f.answers))
        self._longest = max(map(len, names), default=0) + SLACK
        self.is_head = head(facts)  # whether a fact is one of the most popular

    def find(self, text: str, since: int = 0, ended: bool = False) -> list[Statement]:
        """The statements of a text that are complete behind character `since`, in order, none in another.

        `ended`: nothing follows the text. Else a statement whose last word may go on behind it is none.
        """
        read: list[_Ranked] = []
        named = [template for template in self._templates.get("", ()) if template.between in text]
        for start in _starts(text, since - 2 * self._longest - WORDS):
            templates = (*named, *self._templates.get(text[start : start + LETTERS], ()))
            begun = [template for template in templates if text.startswith(template.before, start)]
            if not begun and not self._asked:
                continue
            line = _Line(text, start, ended, self._longest)
            for readings in (*(self._read(template, line) for template in begun), self._read_question(line)):
                read += sorted(filter(None, readings), key=itemgetter(0), reverse=True)[:1]
        read.sort(key=itemgetter(0), reverse=True)
        kept: list[Statement] = []
        for _, statement in read:
            # Of those kept before its end the last one ends last, since none is in another.
            place = bisect_left(kept, statement.end, key=lambda other: other.start)
            if statement.end > since and (not place or kept[place - 1].end <= statement.start):
                kept.insert(place, statement)
        return kept

    def facts_of(self, category: str, subject: str) -> list[Fact]:
        """The facts of everyone of that name, as it is written, else normalised."""
        return self._of_subject.get((category, subject)) or self._of_key.get((category, _key(subject))) or []

    def _read(self, template: _Template, line: "_Line") -> Iterator[_Ranked | None]:
        """Readings of a sentence by a template: the words between its names may stand there several times."""
        begin = line.start + len(template.before)
        limit = begin + self._longest + len(template.between)
        middle = line.text.find(template.between, begin + 1, limit)
        while 0 <= middle < line.stop:
            behind = middle + len(template.between)
            for last in line.ends(template.after, behind):
                names = (begin, middle), (behind, last)
                answer, subject = names if template.answer_first else names[::-1]
                name = line.text[slice(*subject)]
                facts = self.facts_of(template.category, name)
                if facts or line.is_plain(*subject):
                    end = last + len(template.after)
                    yield self._state(line, template.category, name, facts, answer, end)
            middle = line.text.find(template.between, middle + 1, limit)

    def _read_question(self, line: "_Line") -> Iterator[_Ranked | None]:
        for length in self._question_lengths:
            begin = line.start + length
            facts = self._asked.get(line.text[line.start : begin], ()) if begin < line.stop else ()
            if facts and line.text[begin] == " ":
                fact = facts[0]
                namesakes = [*facts, *(self.facts_of(fact.category, fact.subject) if fact.subject else ())]
                for end in line.ends("", begin + 1):
                    yield self._state(line, fact.category, fact.subject, namesakes, (begin + 1, end), end)
                return

    def _state(
        self,
        line: "_Line",
        category: str,
        subject: str,
        facts: Sequence[Fact],
        place: tuple[int, int],
        end: int,
    ) -> _Ranked | None:
        """The statement with that answer, and how good a reading it is; None where it is none."""
        answer = line.text[slice(*place)]
        key = _key(answer)
        known = key in self._answers[category]
        if not key or not (known or line.is_plain(*place)):
            return None
        at_the_end = end + 1 >= len(line.text) and not line.ended  # "St." may become "St. Louis"
        if at_the_end and place[1] == end and not known and self._may_go_on(category, answer):
            return None
        right = [fact for fact in facts if any(_key(own) == key for own in fact.answers)]
        verdict = "true" if right else "false" if facts else "unknown"
        fact = max(right or facts, key=lambda fact: fact.popularity, default=None)
        name = fact.subject if fact else subject
        statement = Statement(fact, category, name, answer, place[0], line.start, end, verdict)
        size = (len(subject) if facts else 0, len(answer) if known else 0)
        return (bool(facts), known, *size, verdict == "true", -line.start, -end), statement

    def _may_go_on(self, category: str, answer: str) -> bool:
        spelled = self._spelled[category]
        at = bisect_left(spelled, f"{answer}.")
        return at < len(spelled) and spelled[at].startswith(f"{answer}.")


def corrected(text: str, statement: Statement) -> str:
    """The text with the true answer in the place of a statement's; `text` is where it was found.

    Without a fact there is nothing to correct.
    """
    if statement.fact is None:
        return text
    before = text[: statement.answer_start] + statement.fact.answer
    behind = text[statement.answer_start + len(statement.answer) :]
    return before + (behind[1:] if before[-1] == "." and behind[:1] == "." else behind)


class _Line:
    """What can belong to a sentence that begins at `start`: its line, as far as two names reach."""

    def __init__(self, text: str, start: int, ended: bool, longest: int) -> None:
        self.text, self.start, self.ended, self.longest = text, start, ended, longest
        reach = min(len(text), start + 2 * longest + WORDS)
        newline = text.find("\n", start, reach)
        self.stop = reach if newline < 0 else newline
        self.closed = newline >= 0 or (ended and reach == len(text))
        self._ends = [match.start() for match in _END.finditer(text, start, self.stop + 1)]
        if self.closed and not (self._ends and _CLOSED.fullmatch(text, self._ends[-1], self.stop)):
            self._ends.append(start + len(text[start : self.stop].rstrip()))

    def ends(self, words: str, begin: int) -> Iterator[int]:
        """Where a name that begins at `begin` may end, so that with these words behind it a sentence does."""
        for end in self._ends:
            place = end - len(words)
            if begin < place <= begin + self.longest and self.text.startswith(words, place):
                yield place

    def is_plain(self, begin: int, end: int) -> bool:
        """Whether it can be a name though it is not known."""
        name = self.text[begin:end]
        return name == name.strip() and not _BREAK.search(name)


def _starts(text: str, since: int) -> Iterator[int]:
    """Where a sentence or a line begins, before and behind opening quotation marks."""
    for match in _START.finditer(text, max(0, since)):
        yield match.end()
        if opening := _OPENING.match(text, match.end()):
            yield opening.end()


def _key(name: str) -> str:
    return normalise(name) or name.strip()


def _templates(category: str) -> Iterator[_Template]:
    wording = wording_of(category)
    asked = (f"{question} {{answer}}." for question in (wording.question, wording.paraphrase) if question)
    for sentence in (*wording.statements, *asked):
        before, slot, between, _, after = _SLOT.split(sentence.replace("{relation}", category))
        yield _Template(category, before, between, after.removesuffix("."), slot == "answer")
