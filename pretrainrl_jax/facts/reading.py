"""All facts a configuration asks for: read from its source, cleaned, merged, and a part of them kept."""

import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice

from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.columns import cell, choose_columns
from pretrainrl_jax.facts.datasets import read_hf, read_tfds
from pretrainrl_jax.facts.duplicates import settle
from pretrainrl_jax.facts.entityquestions import read_entityquestions
from pretrainrl_jax.facts.files import Row, is_folder, is_remote
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.questions import Templates, ask, read_templates
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.facts.tables import read_delimited, read_json, read_json_lines, read_parquet
from pretrainrl_jax.facts.wordings import paraphrase

# Why a row became no fact of its own.
MERGED = "merged duplicate"
CONFLICTING = "conflicting duplicate"
RULES = {
    "no question": "the question is blank, and no template of facts.questions can ask it",
    "no answer": "no answer is given",
    "empty answer": "nothing is left of any answer normalised: punctuation alone",
    "bad popularity": "a popularity is no number, negative or infinite",
    cleaning.NOT_TEXT: "a nested value, or true or false, stands where text should",
    cleaning.BROKEN_TEXT: "half of a surrogate pair stands in a text",
    MERGED: "asks what an earlier row of the category asks; its answers became true of that one",
    CONFLICTING: "asks what another row of the category asks, with other answers (facts.duplicates=drop)",
    "other category": "not among facts.categories",
    "beyond the limit": "not drawn for facts.limit",
}
NO_QUESTION, NO_ANSWER, EMPTY_ANSWER, BAD_POPULARITY, *_, OTHER_CATEGORY, BEYOND_LIMIT = RULES

READERS: dict[str, Callable[[str, FactsConfig], Iterator[Row]]] = {
    "csv": partial(read_delimited, delimiter=","), "tsv": partial(read_delimited, delimiter="\t"),
    "json": read_json, "jsonl": read_json_lines, "parquet": read_parquet, "tfds": read_tfds, "hf": read_hf,
    "entityquestions": read_entityquestions,
}  # fmt: skip
HEAD = 100  # rows by which columns are recognised
SHOWN = 120  # characters of a dropped row
_PLAIN = re.compile("[0-9A-Za-z]")  # a text with one of these is never empty normalised


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that became no fact."""

    where: str  # "popQA.tsv, line 17"
    rule: str  # why, a short name that is counted
    text: str  # what stands there, shortened


@dataclass(frozen=True)
class Reading:
    """What was read: `rows` are the facts, the dropped, the merged and those left out, each once."""

    facts: list[Fact]
    dropped: list[Dropped] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)  # texts that were changed, by rule
    merged: list[Dropped] = field(default_factory=list)  # rows that became part of an earlier one's fact
    left_out: Counter[str] = field(default_factory=Counter)  # rows that nobody asked for, by rule
    rows: int = 0
    source: str = ""  # what was read, in words


def read_facts(config: Config) -> Reading:
    """The facts a configuration asks for: a file or data set, or the synthetic world.

    Raises InputError for a source that cannot be read, or one without facts.
    """
    if config.facts.path:
        reading = _read(config.facts)
    else:
        from pretrainrl_jax.facts.world import make_world  # only here: it imports NumPy

        world = make_world(config.world, config.seed)
        reading = Reading(world, rows=len(world), source="the synthetic world")
    facts = subsample(reading.facts, config.facts.limit, config.seed)
    beyond = Counter({BEYOND_LIMIT: len(reading.facts) - len(facts)})
    return replace(reading, facts=facts, repaired=+reading.repaired, left_out=+(reading.left_out + beyond))


def format_of(settings: FactsConfig) -> str:
    """What `facts.path` is: one of the formats, "tfds" or "hf".

    Raises InputError if its name does not tell and `facts.format` does not say.
    """
    path = settings.path
    if path.startswith(("tfds:", "hf:")):
        return path.partition(":")[0]
    if settings.format != "auto":
        return settings.format
    ending = re.search(r"\.(csv|tsv|json|jsonl|parquet)(\.gz)?$", path, re.IGNORECASE)
    if ending and not os.path.isdir(path):
        return ending[1].lower()
    if is_folder(path):
        return "entityquestions"
    if not is_remote(path) and not os.path.exists(path):
        raise InputError(f"cannot read {path}: No such file or directory; check facts.path")
    known = ".csv .tsv .json .jsonl .parquet"
    raise InputError(f"facts.path={path}: its name ends in none of {known}: set facts.format")


def read_rows(settings: FactsConfig) -> Iterator[Row]:
    """The rows of `facts.path` by the reader of its format.

    Raises InputError for a source that cannot be read, when its rows are asked for.
    """
    form, path = format_of(settings), settings.path
    return READERS[form](path.partition(":")[2] if form in ("tfds", "hf") else path, settings)


def _read(settings: FactsConfig) -> Reading:
    """Every row judged: the facts, duplicates settled, and the others by what became of them."""
    templates = read_templates(settings.questions)
    rows = read_rows(settings)
    head = list(islice(rows, HEAD))
    if not head:
        raise InputError(f"no facts in {settings.path}: it holds no rows")
    at = f"{settings.path}, line 1" if format_of(settings) in ("csv", "tsv", "jsonl") else head[0].where
    chosen = choose_columns(head, settings, at)
    facts: list[Fact] = []
    origins: list[str] = []  # of each fact; a few texts, shared
    dropped: list[Dropped] = []
    repaired: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    taken: set[str] = set()
    kept = frozenset(settings.categories)
    count = 0
    for row in chain(head, rows):
        count += 1
        try:
            category = sys.intern(_text(row, chosen["category"], repaired))
            categories[category] += 1
            if not kept or category in kept:
                facts.append(_fact(row, category, chosen, templates, settings, taken, repaired))
                origins.append(row.origin)
        except cleaning.Unusable as reason:
            dropped.append(Dropped(_short(row.where), str(reason), _shown(row, chosen)))
    unknown = [category for category in settings.categories if category not in categories]
    if unknown:
        near = difflib.get_close_matches(unknown[0], categories, n=1)
        known = ", ".join(name or "(blank)" for name, _ in categories.most_common(20))
        also = f"did you mean {near[0]}?" if near else f"there are {known}"
        raise InputError(f"facts.categories: {settings.path} has no category {unknown[0]!r}: {also}")
    left_out = Counter({OTHER_CATEGORY: count - len(facts) - len(dropped)})
    stay, fate = settle(facts, settings.duplicates)
    merged = []
    for at, into in sorted(fate.items()):
        where = f"{_short(origins[at])} {facts[at].row}"
        said = f"{facts[at].question} | {', '.join(facts[at].answers)}"
        if into is None:
            dropped.append(Dropped(where, CONFLICTING, said[:SHOWN]))
        else:
            merged.append(Dropped(where, MERGED, f"into {facts[into].id}: {said}"[:SHOWN]))
    if not stay:
        rules = (Counter(row.rule for row in dropped) + left_out).most_common()
        why = ", ".join(f"{number} {rule}" for rule, number in rules)
        example = f"; the first is {dropped[0].where}" if dropped else ""
        raise InputError(f"no facts in {settings.path}: of {count} rows {why}{example}")
    return Reading(stay, dropped, repaired, merged, +left_out, count, settings.path)


def _text(row: Row, column: str, repaired: Counter[str]) -> str:
    """A cell as clean text; "" where the column is blank or not there."""
    return cleaning.clean(cleaning.text_in(cell(row.values, column)), repaired) if column else ""


def read_examples(path: str) -> tuple[tuple[str, str], ...]:
    """Questions and canonical answers of a file of facts, in its order. Raises InputError."""
    try:
        facts = read_facts(Config(facts=FactsConfig(path=path))).facts
    except InputError as error:
        raise InputError(f"--ask.examples: {error}") from None
    return tuple((fact.question, fact.answer) for fact in facts)


def _fact(
    row: Row,
    category: str,
    chosen: dict[str, str],
    templates: Templates,
    settings: FactsConfig,
    taken: set[str],
    repaired: Counter[str],
) -> Fact:
    """A row as a fact. Raises cleaning.Unusable if it cannot become one."""
    subject = _text(row, chosen["subject"], repaired)
    question = _text(row, chosen["question"], repaired) or ask(templates, category, subject)
    if not question:
        raise cleaning.Unusable(NO_QUESTION)
    answers = _answers(row, chosen, settings, repaired)
    popularity = _popularity(row, chosen["popularity"], repaired)
    own = _text(row, chosen["id"], repaired)
    # Public copies of PopQA hold some ids twice; "row…" is refused as an id so that it never clashes.
    if not own or own in taken or re.fullmatch(r"row\d+", own):
        own = f"row{row.number}"
    elif chosen["id"]:
        taken.add(own)
    other = paraphrase(category, subject) if subject else ""
    return Fact(
        id=own,
        question=question,
        answers=answers,
        category=category,
        subject=subject,
        subject_key=_text(row, chosen["subject_key"], repaired) or subject or question,
        popularity=popularity,
        row=row.number,
        paraphrase=other if other != question else "",
        answer_popularity=_popularity(row, chosen["answer_popularity"], repaired, of_answer=True),
    )


def _answers(
    row: Row, chosen: dict[str, str], settings: FactsConfig, repaired: Counter[str]
) -> tuple[str, ...]:
    """The canonical answer, then the others, in their order and each once."""
    texts: list[str] = []
    for column in (chosen["answer"], chosen["answers"]):
        strict = column == "possible_answers" and not settings.answer_separator
        try:
            if column:
                texts += cleaning.texts_in(cell(row.values, column), settings.answer_separator, strict)
        except cleaning.BrokenList:
            how = 'write it as ["first", "second"], or set facts.answer_separator'
            raise InputError(f"{row.where}: {column} is not a JSON list: {how}") from None
    answers = list(dict.fromkeys(filter(None, (cleaning.clean(text, repaired) for text in texts))))
    usable = tuple(answer for answer in answers if _PLAIN.search(answer) or normalise(answer))
    if not usable:
        raise cleaning.Unusable(EMPTY_ANSWER if answers else NO_ANSWER)
    repaired[cleaning.EMPTY_ANSWER] += len(answers) - len(usable)
    return usable


def _popularity(row: Row, column: str, repaired: Counter[str], of_answer: bool = False) -> float:
    """0 where it is blank; an answer's also if it is no number: too little depends on it to lose a fact."""
    try:
        popularity = cleaning.popularity_in(cell(row.values, column)) if column else 0.0
    except (ValueError, OverflowError):
        if not of_answer:
            raise cleaning.Unusable(BAD_POPULARITY) from None
        repaired[cleaning.BAD_ANSWER_POPULARITY] += 1
        return 0.0
    repaired[cleaning.NO_POPULARITY] += popularity is None and not of_answer
    return popularity or 0.0


def _short(where: str) -> str:
    return where.rstrip("/").rsplit("/", 1)[-1]


def _shown(row: Row, chosen: dict[str, str]) -> str:
    """What stands in a dropped row, on one line and without what a terminal would obey."""
    cells = (cell(row.values, chosen[name]) for name in ("question", "subject", "answer", "answers"))
    text = " | ".join(str(value)[:SHOWN] for value in cells if value not in (None, ""))
    text = "".join(letter if letter.isprintable() else " " for letter in text or str(dict(row.values)))
    return " ".join(text.split())[:SHOWN]
