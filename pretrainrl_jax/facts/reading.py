"""All facts a configuration asks for: read from its source, cleaned, merged, and a part of them kept."""

import difflib
import gc
import os
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from pretrainrl_jax.config import Config, FactsConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts import cleaning
from pretrainrl_jax.facts.blocks import blocks
from pretrainrl_jax.facts.columns import Columns, Survey, check_column, choose_columns
from pretrainrl_jax.facts.datasets import open_hf, open_tfds, read_entityquestions
from pretrainrl_jax.facts.duplicates import settle, share_truths
from pretrainrl_jax.facts.files import Row, Source, is_folder, is_remote
from pretrainrl_jax.facts.from_rows import FactMaker
from pretrainrl_jax.facts.questions import read_templates
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.sorting import SHOWN, Dropped, Sorted, short
from pretrainrl_jax.facts.splits import subsample
from pretrainrl_jax.facts.tables import read_delimited, read_json, read_json_lines, read_parquet

READERS: dict[str, Callable[[str, Source], Iterable[Row]]] = {
    "csv": partial(read_delimited, delimiter=","), "tsv": partial(read_delimited, delimiter="\t"),
    "json": read_json, "jsonl": read_json_lines, "parquet": read_parquet, "tfds": open_tfds, "hf": open_hf,
    "entityquestions": read_entityquestions,
}  # fmt: skip
MOST_EXAMPLES = 64  # of a few-shot prompt


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
    columns: Columns | None = None  # what was read as what; None of a made-up world
    head: list[Fact] = field(default_factory=list)  # of the rows left out, those asked beside (`facts.head`)


def read_facts(config: Config) -> Reading:
    """The facts a configuration asks for: a file or data set, or the synthetic world.

    Raises InputError for a source that cannot be read, or one without facts.
    """
    if config.facts.path:
        with _without_collector():
            reading = _read(config.facts, config.evaluate.by)
    elif config.evaluate.by:
        raise InputError("evaluate.by names columns of a file of facts: there is none without facts.path")
    else:
        from pretrainrl_jax.facts.world import make_world  # only here: it imports NumPy

        world = make_world(config.world, config.seed)
        reading = Reading(world, rows=len(world), source="the synthetic world")
    facts = subsample(reading.facts, config.facts.limit, config.seed)
    head = best_known_beyond(reading.facts, facts, config.facts)
    beyond = Counter({cleaning.BEYOND_LIMIT: len(reading.facts) - len(facts)})
    return replace(
        reading, facts=facts, head=head, repaired=+reading.repaired, left_out=+(reading.left_out + beyond)
    )


def best_known_beyond(every: Sequence[Fact], chosen: Sequence[Fact], settings: FactsConfig) -> list[Fact]:
    """The `facts.head` best-known facts of a source that are not among those chosen, best known first.

    None of them asks what one of those asks. Raises InputError where the source does not say how well known
    its facts are, or has fewer others.
    """
    if not (count := settings.head):
        return []
    where = settings.path or "the small world"
    asked = {" ".join(fact.question.split()) for fact in chosen}  # of whatever category
    others = [fact for fact in every if " ".join(fact.question.split()) not in asked]
    if len(others) < count:
        beyond = f"has {len(others)} facts beyond facts.limit"
        raise InputError(f"facts.head={count}: {where} {beyond}; give fewer")
    if not any(fact.popularity for fact in others):
        raise InputError(f"facts.head={count}: {where} says of no fact how well known it is; leave it 0")
    return sorted(others, key=lambda fact: (-fact.popularity, fact.id))[:count]


def format_of(settings: Source) -> str:
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


def read_rows(settings: Source) -> Iterator[Row]:
    """The rows of `facts.path` by the reader of its format.

    Raises InputError for a source that cannot be read, when its rows are asked for.
    """
    form, path = format_of(settings), settings.path
    yield from READERS[form](path.partition(":")[2] if form in ("tfds", "hf") else path, settings)


def _read(settings: FactsConfig, by: Sequence[str] = ()) -> Reading:
    """Every row judged: the facts, duplicates settled, and the others by what became of them."""
    rows, columns = _sorted(settings, by)
    for unknown in (category for category in settings.categories if category not in rows.categories):
        near = difflib.get_close_matches(unknown, rows.categories, n=1)
        known = ", ".join(name or "(blank)" for name, _ in rows.categories.most_common(20))
        also = f"did you mean {near[0]}?" if near else f"there are {known}"
        raise InputError(f"facts.categories: {settings.path} has no category {unknown!r}: {also}")
    facts, dropped, repaired = rows.facts, rows.dropped, rows.maker.repaired
    left_out = Counter({cleaning.OTHER_CATEGORY: rows.maker.seen.rows - len(facts) - len(dropped)})
    stay, fate = settle(facts, settings.duplicates)
    merged = []
    for at, into in sorted(fate.items()):
        where = f"{short(rows.origins[at])} {facts[at].row}"
        asks = f"{facts[at].question} | {', '.join(facts[at].answers)}"
        if into is None:
            dropped.append(Dropped(where, cleaning.CONFLICTING, asks[:SHOWN]))
        else:
            merged.append(Dropped(where, cleaning.MERGED, f"into {facts[into].id}: {asks}"[:SHOWN]))
    if not stay:
        rules = (Counter(row.rule for row in dropped) + left_out).most_common()
        why = ", ".join(f"{number} {rule}" for rule, number in rules)
        example = f"; the first is {dropped[0].where}: {dropped[0].text}" if dropped else ""
        raise InputError(f"no facts in {settings.path}: of {rows.maker.seen.rows} rows {why}{example}")
    stay, repaired[cleaning.SHARED] = share_truths(stay, [*facts, *rows.elsewhere])
    count = rows.maker.seen.rows
    return Reading(stay, dropped, repaired, merged, +left_out, count, settings.path, columns)


def _sorted(settings: FactsConfig, by: Sequence[str]) -> tuple[Sorted, Columns]:
    """All rows of a source sorted, and its columns.

    The keys of all rows say what is in which column, and no row is kept. So rows are sorted as the first
    block says, and the source is read a second time where the others say otherwise.
    """
    templates = read_templates(settings.questions)
    others = [read_templates([entry], "facts.rewordings") for entry in settings.rewordings]
    rows = _twice(settings)
    read_templates(settings.reversed, "facts.reversed", "a", "answer")
    named = [name for value in asdict(settings.columns).values() for name in (value, *value.split(","))]
    seen = Survey(frozenset(map(str.strip, (*named, *by))))

    def begun() -> Sorted:
        at = f"{settings.path}, line 1" if format_of(settings) in ("csv", "tsv", "jsonl") else seen.first
        columns = choose_columns(seen, settings, at)
        for path in by:
            check_column(seen, path, "evaluate.by", at)
        return Sorted(FactMaker(settings, seen, columns, templates, others, tuple(by)))

    early: Sorted | None = None
    for block in blocks(rows()):
        first = not seen.rows
        seen.add(block)
        try:
            early = begun() if first else early
            if early:
                early.add(block)
        except InputError:  # is said below, if later rows do not make it right
            early = None
    if not seen.rows:
        raise InputError(f"no facts in {settings.path}: it holds no rows")
    late = begun()
    if early and early.stands(seen, late.maker.columns):
        return early, late.maker.columns
    for block in blocks(rows()):
        late.add(block)
    return late, late.maker.columns


@contextmanager
def _without_collector() -> Generator[None]:
    """Python's search for cycles rests: rows have none, and it would look at all of them time and again.

    At its end they count as old at once, where it would look at all of them a first time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # To count what is frozen takes long for few rows; what somebody else has frozen stays so.
            if gc.get_count()[0] > 100_000 and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _twice(settings: FactsConfig) -> Callable[[], Iterable[Row]]:
    """The rows each time it is called; those of a pipe, which can be read but once, are remembered."""
    path = settings.path
    if is_remote(path) or not os.path.exists(path) or os.path.isfile(path) or os.path.isdir(path):
        return lambda: read_rows(settings)
    rows = list(read_rows(settings))
    return lambda: rows


def read_examples(path: str) -> tuple[tuple[str, str], ...]:
    """Questions and canonical answers of a file of facts, in its order.

    Raises InputError, also for a row that is no fact: all that the file holds is shown, or nothing.
    """
    try:
        reading = read_facts(Config(facts=FactsConfig(path=path)))
    except InputError as error:
        told = str(error).replace(": set facts.format", "").replace("facts.path", "ask.examples")
        raise InputError(f"--ask.examples: {told}") from None
    for row in reading.dropped:
        raise InputError(f"--ask.examples: {row.where}: {row.rule} ({cleaning.RULES[row.rule]}): {row.text}")
    if len(reading.facts) > MOST_EXAMPLES:
        many = f"{path} holds {len(reading.facts)} facts, and all are shown in one prompt"
        raise InputError(f"--ask.examples: {many}: keep at most {MOST_EXAMPLES}")
    return tuple((fact.question, fact.answer) for fact in reading.facts)
