"""The preferences of a file or data set: rows judged, pairs of one prompt put together."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pretrainrl_jax.config import PreferencesConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.cleaning import Unusable
from pretrainrl_jax.facts.columns import shown
from pretrainrl_jax.facts.files import Row, is_folder, named_for
from pretrainrl_jax.facts.reading import format_of, read_rows
from pretrainrl_jax.facts.sorting import Dropped, said, short
from pretrainrl_jax.facts.written import cells
from pretrainrl_jax.preferences import rows as judged
from pretrainrl_jax.preferences.record import Comparison, Preferred, Text, draw, key

# The usual names, most telling first. Capitals and spaces do not matter.
USUAL = {
    "prompt": ("prompt", "question", "instruction", "query"),
    "chosen": ("chosen", "preferred", "chosen_response"),
    "rejected": ("rejected", "dispreferred", "rejected_response"),
}
PARTS = ("input", "context", "system")  # of a prompt that stands in several columns


@dataclass(frozen=True)
class Preferences:
    """What was read."""

    comparisons: list[Comparison]
    source: str = ""
    rows: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)  # what is used as what; "" for no prompt column
    unused: Sequence[str] = ()  # columns that are not read
    dropped: Sequence[Dropped] = ()  # rows, or single pairs of one, that are not compared; rules: rows.RULES
    left_out: Counter[str] = field(default_factory=Counter)  # prompts that nobody asked for, by rule
    repeated: int = 0  # pairs that another row states, too
    both_ways: int = 0  # pairs of which another row states the reverse


def read_preferences(settings: PreferencesConfig, seed: int) -> Preferences:
    """The preferences of `preferences.path`; rows with the same prompt are one comparison.

    Raises InputError for a source that cannot be read, lacks a column, or states no preference.
    """
    with named_for("preferences", settings):  # who reads it are the readers of facts
        remote = settings.path.startswith(("hf:", "tfds:"))
        if not remote and settings.format == "auto" and is_folder(settings.path):
            raise InputError(f"facts.path={settings.path} is a folder: name a file of it, or hf:FOLDER")
        rows = list(read_rows(settings))
    if not rows:
        raise InputError(f"no preferences in {settings.path}: it holds no rows")
    columns = choose_columns(rows, settings)
    listed = format_of(settings) in ("csv", "tsv")
    by_prompt: dict[str, tuple[Text, dict[tuple[str, str], Preferred]]] = {}
    dropped: list[Dropped] = []
    repeated = 0
    for row in rows:
        held = [_cell(row.values, columns[name]) for name in USUAL]
        where = short(row.where)
        try:
            prompt, *sides = judged.compared(*held, implicit=not columns["prompt"], listed=listed)
        except Unusable as reason:
            dropped.append(Dropped(where, str(reason), said(held)))
            continue
        _, pairs = by_prompt.get(key(prompt), (prompt, {}))
        for chosen, rejected in product(*sides):
            name = key(chosen), key(rejected)
            if name[0] == name[1]:
                dropped.append(Dropped(where, judged.EQUAL, said(held)))
                continue
            known = pairs.get(name)
            repeated += known is not None
            pairs[name] = Preferred(chosen, rejected, (known.rows if known else 0) + 1)
        if pairs:
            by_prompt[key(prompt)] = prompt, pairs
    if not by_prompt:
        counts = Counter(lost.rule for lost in dropped).most_common()
        why = ", ".join(f"{number} {rule}" for rule, number in counts)
        raise InputError(
            f"no preferences in {settings.path}: of {len(rows)} rows {why} ({judged.RULES[counts[0][0]]}); "
            f"the first is {dropped[0].where}"
        )
    every = [Comparison(prompt, tuple(pairs.values())) for prompt, pairs in by_prompt.values()]
    kept = draw(every, settings.limit, seed)
    used = {part for column in columns.values() for part in (column, column.split(".")[0])}
    return Preferences(
        kept,
        settings.path,
        len(rows),
        columns,
        [name for name in _names(rows) if name not in used],
        dropped,
        +Counter({judged.BEYOND_LIMIT: len(every) - len(kept)}),
        repeated,
        sum((r, c) in pairs for _, pairs in by_prompt.values() for c, r in pairs),
    )


def choose_columns(rows: Sequence[Row], settings: PreferencesConfig) -> dict[str, str]:
    """The column of the prompt, "" where there is none, and those of the answers.

    Raises InputError if one that the settings name is not there, or none for an answer, or where a column
    that is part of the prompt would be left out: rows that differ in it alone would be one prompt.
    """
    names = _names(rows)
    spelt = {"_".join(name.casefold().split()): name for name in reversed(names)}
    chosen = {}
    for what, usual in USUAL.items():
        named = getattr(settings.columns, what)
        if named and all(_cell(row.values, named) is None for row in rows):
            where = f"{settings.path}: no column {named} (preferences.columns.{what})"
            raise InputError(f"{where}; there are {shown(names)}")
        chosen[what] = named or next((spelt[name] for name in usual if name in spelt), "")
        if not chosen[what] and what != "prompt":
            missing = f"no column for the {what} answer: set preferences.columns.{what}"
            raise InputError(f"{settings.path}: {missing}; there are {shown(names)}")
    beside = [spelt[name] for name in PARTS if name in spelt and not settings.columns.prompt]
    for name in beside:
        if name not in chosen.values() and any(row.values.get(name) for row in rows):
            raise InputError(
                f"{settings.path}: {name} is a part of the prompt that is not read: join the two in one "
                f"column, or leave it out by preferences.columns.prompt={chosen['prompt'] or 'NAME'}"
            )
    return chosen


def _cell(values: Mapping[str, Any], name: str) -> Any:
    """What a row holds in a column, None where nothing; a dot reaches into nested values."""
    there = cells(values, name) if name else []
    return there[0] if len(there) == 1 else None


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))
