"""A stream of documents: the same for the same settings and seed, in any number of processes, from any state.

Every process reads all records in the same order; parsing them, and what is made of a document, is shared.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.config import DocumentsConfig
from pretrainrl_jax.documents.reading import Parsed, Raw, open_sources, parse
from pretrainrl_jax.documents.rules import RULES
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.splits import hashed
from pretrainrl_jax.hosts.agree import gather, process_count, process_index

PATIENCE = 10_000  # records of a source, or documents, of which one at least must be of use

Json = dict[str, Any]


class Document(NamedTuple):
    """A text of the stream."""

    number: int  # of its record in the stream, from 0
    name: str  # where it comes from, for messages: "news.jsonl line 12"
    text: str


class Made(NamedTuple):
    """What was made of a document."""

    number: int
    name: str
    value: Any


# Gives for each of some documents a JSON value, or None and the rule by which nothing is made of it.
Work = Callable[[Sequence[Document]], Sequence[tuple[Any, str]]]


class Stream:
    """The documents of documents.path, or where that is empty the texts `made`, one after another.

    Raises InputError for a source that is not there, is empty, or is of no known kind.

    Attributes:
        dropped: records that became no document by their rule, see `rules.RULES`; among them those that
            were shortened, and did.
        ended: whether a finite stream has nothing left, as a `take` found that gave fewer than asked for.
        identity: a digest of what is read: names and sizes of files, not their contents.
    """

    def __init__(self, settings: DocumentsConfig, seed: int, made: Sequence[str] = ()) -> None:
        from pretrainrl_jax.documents.order import Mixture, Passes

        sources = open_sources(settings, made)
        self._settings, self._names = settings, [source.name for source in sources]
        self._passes = [
            Passes(source, settings.shuffle, settings.epochs, (seed, number))
            for number, source in enumerate(sources)
        ]
        self._records = Mixture(self._passes, settings.weights)
        self._number = 0
        self._kept = [0] * len(sources)  # documents of each source
        self._of_use = 0  # documents of which something was made
        self._last = [""] * len(sources)  # what was wrong with the last record of each that is no document
        self.dropped: Counter[str] = Counter()
        self.ended = False
        named = json.dumps([part.identity for source in sources for part in source.parts])
        self.identity = f"{hashed(named):016x}"

    @property
    def state(self) -> Json:
        """Its position, as JSON."""
        return {
            "number": self._number,
            "kept": list(self._kept),
            "of_use": self._of_use,
            "dropped": dict(self.dropped),
            "records": self._records.get_state(),
        }

    def restore(self, state: Json) -> None:
        """Go on from a position. Raises InputError if it is of other sources."""
        if len(state["kept"]) != len(self._kept):
            raise InputError(
                f"documents.path names {len(self._kept)} sources where the saved stream had "
                f"{len(state['kept'])}: go on with the same"
            )
        self._records.set_state(state["records"])
        self._number, self._kept, self._of_use = state["number"], list(state["kept"]), state["of_use"]
        self.dropped, self.ended = Counter(state["dropped"]), False

    def take(self, n: int) -> list[Document]:
        """The next n documents; fewer only where the stream ends.

        Raises InputError for a source that cannot be read, or none of whose first records is a document.
        """
        return [Document(*made) for made in self._made(n, lambda every: [(d.text, "") for d in every])]

    def make(self, n: int, work: Work, hint: str = "") -> list[Made]:
        """What `work` makes of the documents that come next, until there are n; fewer where the stream ends.

        Each process works on its share of them, and they exchange what was made. Raises InputError as `take`,
        and with `hint` where nothing is made of any of the first documents.
        """
        return self._made(n, work, hint, process_index(), process_count())

    def _made(self, n: int, work: Work, hint: str = "", index: int = 0, count: int = 1) -> list[Made]:
        made: list[Made] = []
        # No more records are read than can be of use: so the position is that after the last one made.
        while len(made) < n and not self.ended:
            records = self._read(n - len(made))
            done = _outcomes(records[index::count], self._settings, work)
            shares = gather(done, "reading documents") if count > 1 else [done]
            for at, (number, source, raw) in enumerate(records):
                value, document, rules, detail = shares[at % count][at // count]
                self._kept[source] += document
                self.dropped.update(rules)
                if value is not None:
                    made.append(Made(number, raw.where, value))
                    self._of_use += 1
                elif not document:
                    self._last[source] = f"{raw.where} {RULES[rules[0]]}{detail and f' ({detail})'}"
            self._refuse_useless(hint)
        return made

    def _read(self, n: int) -> list[tuple[int, int, Raw]]:
        """The next n records with their numbers and those of their sources; fewer at the end."""
        records = []
        for _ in range(n):
            try:
                source, raw = next(self._records)
            except StopIteration:
                self.ended = True
                break
            records.append((self._number, source, raw))
            self._number += 1
        return records

    def _refuse_useless(self, hint: str) -> None:
        drawn = self._records.drawn
        for number, kept in enumerate(self._kept):
            seen = self.ended or drawn[number] >= PATIENCE or self._passes[number].number > 0
            if not kept and drawn[number] and seen:
                raise InputError(
                    f"no documents in {self._names[number]}: none of {drawn[number]:,} records is one; "
                    f"the last, {self._last[number]}"
                )
        documents = sum(self._kept)
        if not self._of_use and (self.ended or documents >= PATIENCE):
            rules = ", ".join(f"{count:,} {rule}" for rule, count in self.dropped.most_common())
            raise InputError(
                f"no use for any of {documents:,} documents of {', '.join(self._names)} ({rules}): {hint}"
            )


def _outcomes(
    records: Sequence[tuple[int, int, Raw]], settings: DocumentsConfig, work: Work
) -> list[list[Any]]:
    """Of each record what was made of it, whether it is a document, what it is counted by, and more."""
    parsed: list[Parsed] = [parse(raw, settings) for _, _, raw in records]
    documents = [
        Document(number, raw.where, told.text)
        for (number, _, raw), told in zip(records, parsed, strict=True)
        if told.text
    ]
    results = iter(work(documents) if documents else ())
    outcomes = []
    for told in parsed:
        value, rule = next(results) if told.text else (None, "")
        outcomes.append([value, bool(told.text), [r for r in (told.rule, rule) if r], told.detail])
    return outcomes
