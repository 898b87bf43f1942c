"""The report's part on mining: `mined/statistics.json`, and what later rounds mined, as a reader sees them.

Nothing here trusts a file: what is missing, or has another shape than `mining.statistics.describe` writes
today, is left out of the page and stops nothing.
"""

import itertools
import math
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.mining.candidates import REASONS
from pretrainrl_jax.report import charts
from pretrainrl_jax.report.columns import Sheet, Told, at, count, figure, in_percent, listed, sheet
from pretrainrl_jax.report.formats import Json, chance, number, percent, spread
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems

CATEGORIES = 60  # categories shown, the largest

SOURCES = {
    "beam": "own beams",
    "pool": "pool",
    "popularity": "popular answers",
    "constrained": "known answers",
}
"""What the sources of negatives are called."""


class Mined(NamedTuple):
    """What a workdir holds of mining."""

    statistics: Json | None  # of the base model's negatives; None where there are none, or no reading them
    rounds: dict[str, dict[int, Json]]  # by system and number: what was mined again while it trained


def read(folder: Path) -> Mined:
    """The statistics under a workdir's `mined`; a file that cannot be read is passed over."""
    rounds: dict[str, dict[int, Json]] = {}
    for path in sorted(folder.glob("*/round*.json")):
        named = re.fullmatch("round([0-9]+)", path.stem)
        if named and (statistics := _read(path)):
            rounds.setdefault(path.parent.name, {})[int(named[1])] = statistics
    return Mined(_read(folder / "statistics.json"), rounds)


def _read(path: Path) -> Json | None:
    try:
        return read_json(path)
    except InputError:
        return None


def section(mined: Mined, known: Systems) -> Json | None:
    """Everything the page shows of mining; None where there is nothing."""
    statistics = mined.statistics or {}
    counts = histogram(statistics)
    parts = {
        "figures": listed(FIGURES, statistics) if "negatives" in statistics else [],
        "filters": filters(statistics),
        "diversity": charts.diversity(counts),
        "categories": categories(statistics),
        "examples": examples(statistics),
        "rounds": rounds(mined, known),
    }
    return parts | {"diversity_alt": in_words(counts)} if any(parts.values()) else None


def filters(mined: Json) -> Sheet | None:
    """How many candidates each filter took of each source, in the order of `REASONS`; None without any.

    Reasons that took nothing and sources that gave nothing are left out.
    """
    dropped = {source: _counts(counts) for source, counts in _map(mined.get("dropped")).items()}
    kept = _counts(mined.get("by_source"))
    sources = [source for source, counts in dropped.items() if any(counts.values()) or kept.get(source)]
    rows = []
    for reason in dict.fromkeys([*REASONS, *itertools.chain(*dropped.values())]):
        counts = {source: dropped[source].get(reason, 0) for source in sources}
        words = [reason.replace("_", " "), *([REASONS[reason]] if reason in REASONS else [])]
        rows += [(": ".join(words), counts)] if any(counts.values()) else []
    if rows and isinstance(mined.get("by_source"), dict):  # a source without negatives is not named there
        rows.append(("kept as negatives", dict.fromkeys(sources, 0) | kept))
    columns = {SOURCES.get(source, source): at(count, source) for source in sources}
    return sheet(columns, rows, "candidates taken, and why") if rows else None


def histogram(mined: Json) -> dict[int, int]:
    """Questions by their number of distinct answers, from the smallest number to the largest."""
    counts = _counts(mined.get("distinct_histogram"))
    known = {int(d): n for d, n in counts.items() if d.isascii() and d.isdigit() and len(d) < 4}
    return dict(sorted(known.items())) if any(known.values()) else {}


def in_words(counts: dict[int, int]) -> str:
    """What the picture of `histogram` shows, for those who do not see it."""
    if not counts:
        return ""
    most = max(counts, key=lambda d: counts[d])
    return (
        f"Questions by their number of distinct answers, from {min(counts)} to {max(counts)}; {most} is the "
        f"most frequent, with {counts[most]:,} question{'' if counts[most] == 1 else 's'}"
    )


def _without(entry: Json) -> str:
    without, questions = (number(entry.get(key)) for key in ("without_negatives", "questions"))
    return percent(without / questions, "") if without is not None and questions else ""


def _each(mined: Json) -> str:
    negatives, having = (number(mined.get(key)) for key in ("negatives", "with_negatives"))
    return figure(negatives / having, 1) if negatives is not None and having else ""


def _by_source(mined: Json) -> str:
    counts = _counts(mined.get("by_source"))
    names = [source for source in dict.fromkeys([*SOURCES, *counts]) if counts.get(source)]
    return ", ".join(f"{counts[name]:,} {SOURCES.get(name, f'from {name}')}" for name in names)


def _length(value: object) -> str:
    return count(len(_list(value))) if _list(value) else ""


one_place, two_places = (partial(figure, places=places) for places in (1, 2))
SHARED: dict[str, Told] = {
    "distinct answers": at(one_place, "distinct_answers"),
    "entropy, nats": at(two_places, "entropy"),
}
WITHOUT = "no negative left,\u00a0%"
FIGURES: dict[str, Told] = {
    "questions": at(count, "questions"),
    "no negative left": at(count, "without_negatives"),
    WITHOUT: _without,
    "with negatives": at(count, "with_negatives"),
    "each has": _each,
    "negatives": at(count, "negatives"),
    "by source": _by_source,
    "answers of few-shot examples, %": at(in_percent, "of_examples"),
    "perplexity of the negatives": at(one_place, "perplexity"),
    "questions decoded": at(count, "decoded"),
    **SHARED,
    "pool: cosine": at(two_places, "pool_agreement", "cosine"),
    "pool: Spearman": at(two_places, "pool_agreement", "spearman"),
    "pool: questions": at(count, "pool_agreement", "questions"),
    "pool: categories": at(count, "pool_agreement", "categories"),
    "left out: longer than a row": at(_length, "too_long"),
    "left out: no tokens in a true answer": at(_length, "no_tokens"),
}
COLUMNS: dict[str, Told] = {
    "questions": at(count, "questions"),
    WITHOUT: _without,
    **SHARED,
    "pool: cosine": at(two_places, "agreement", "cosine"),
    "pool: Spearman": at(two_places, "agreement", "spearman"),
}
ROUND_COLUMNS: dict[str, Told] = {"negatives": at(count, "negatives"), **SHARED, WITHOUT: _without}


def categories(mined: Json) -> Json | None:
    """The largest categories' figures, falsehoods, pools; without columns that none of them has."""
    entries = {
        name: entry
        for name, entry in _map(mined.get("categories")).items()
        if isinstance(entry, dict) and entry
    }
    ranked = sorted(entries.items(), key=lambda item: -(number(item[1].get("questions")) or 0.0))[:CATEGORIES]
    table = sheet(COLUMNS, [(name or "(no category)", entry) for name, entry in ranked], "category")
    rows = [
        {
            "cells": cells,
            "falsehoods": [
                (f["text"], _count(f.get("questions")), chance(number(f.get("probability"))))
                for f in _objects(entry.get("falsehoods"), "text")
            ],
            "pool": _texts(entry.get("pool")),
            "example": "".join(_texts([entry.get("example")])),
        }
        for cells, (_, entry) in zip(table.texts(), ranked, strict=True)
    ]
    if len(table.heads) == 1 and not any(row["falsehoods"] or row["pool"] for row in rows):
        return None
    return {"heads": table.heads, "rows": rows, "more": len(entries) - len(rows)}


def examples(mined: Json) -> list[Json]:
    """Some mined questions, evenly spread over the ones the statistics hold."""
    shown = []
    for example in _objects(mined.get("examples"), "question"):
        pairs = [n for n in _list(example.get("negatives")) if isinstance(n, list) and len(n) == 2]
        negatives = [(text, chance(number(p))) for text, p in pairs if _texts([text])]
        answer = "".join(_texts([example.get("answer")])) or "–"
        if negatives:
            shown.append({"question": example["question"], "answer": answer, "negatives": negatives})
    return spread(shown)


def rounds(mined: Mined, known: Systems) -> list[tuple[str, Sheet]]:
    """Of each system that mined again, its rounds below the base model's negatives."""
    tables = []
    for system in sorted(mined.rounds, key=known.place):
        rows: list[Any] = [("base model", mined.statistics)] if mined.statistics else []
        rows += [(str(place), entry) for place, entry in sorted(mined.rounds[system].items())]
        table = sheet(ROUND_COLUMNS, rows, "round")
        tables += [(known.label(system), table)] if len(table.heads) > 1 else []
    return tables


# What a file may hold


def _map(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: object, key: str) -> list[Json]:
    """Of a list the objects that hold a text by that key."""
    return [item for item in _list(value) if isinstance(item, dict) and _texts([item.get(key)])]


def _count(value: object) -> int | None:
    known = number(value)
    return None if known is None or known < 0 else math.floor(known)


def _counts(value: object) -> dict[str, int]:
    counts = {name: _count(n) for name, n in _map(value).items()}
    return {name: n for name, n in counts.items() if n is not None}


def _texts(value: object) -> list[str]:
    """Of a list the texts that say something."""
    return [item for item in _list(value) if isinstance(item, str) and item]
