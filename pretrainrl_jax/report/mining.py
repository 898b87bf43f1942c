"""The report's part on mining: `mined/statistics.json`, and what later rounds mined."""

import itertools
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.mining.candidates import REASONS
from pretrainrl_jax.report.columns import Cell, Sheet, Told, at, count, figure, in_percent, listed, sheet
from pretrainrl_jax.report.formats import Json, chance, percent, spread
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems

SOURCES = {
    "beam": "own beams",
    "pool": "pool",
    "popularity": "popular answers",
    "constrained": "known answers",
}
"""What the sources of negatives are called."""

CATEGORIES = 60  # categories shown, the largest
SHOWN = 20  # falsehoods shown of a category, and of a question
OPEN = 8  # of these that are shown at once


class Mined(NamedTuple):
    """What a workdir holds of mining."""

    statistics: Json | None  # of the base model's negatives; None where there are none
    rounds: dict[str, dict[str, Json]]  # by system and number: what was mined again while it trained


def read(folder: Path) -> Mined:
    """The statistics under a workdir's `mined`. Raises InputError if a file of them cannot be read."""
    rounds: dict[str, dict[str, Json]] = {}
    for path in sorted(folder.glob("*/round*.json"), key=lambda path: (len(path.stem), path.stem)):
        rounds.setdefault(path.parent.name, {})[path.stem.removeprefix("round")] = read_json(path)
    described = folder / "statistics.json"
    return Mined(read_json(described) if described.is_file() else None, rounds)


def section(mined: Mined, known: Systems) -> Json | None:
    """Everything the page shows of mining; None where nothing was mined."""
    found = mined.statistics or {}
    if not found and not mined.rounds:
        return None
    categories = list((found.get("categories") or {}).items())[:CATEGORIES]
    asked = [(each["question"], each["answer"], each) for each in spread(found.get("examples") or [])]
    return {
        "figures": listed(FIGURES, found),
        "filters": filters(found),
        "categories": sheet(
            COLUMNS,
            [(name or "(no category)", _said(own.get("falsehoods")), own) for name, own in categories],
            "category", "commonest falsehoods",
        ),
        "examples": sheet({"falsehoods": lambda each: _said(each["negatives"])}, asked, "question", "truth"),
        "rounds": rounds(mined, known),
    }  # fmt: skip


def filters(mined: Json) -> Sheet:
    """How many candidates each filter took of each source, in the order of `REASONS`, and what was left.

    Reasons that took nothing and sources that gave nothing are left out.
    """
    dropped: dict[str, dict[str, int]] = mined.get("dropped") or {}
    kept: dict[str, int] = mined.get("by_source") or {}
    sources = [source for source, counts in dropped.items() if any(counts.values()) or kept.get(source)]
    rows: list[tuple[str, dict[str, int]]] = []
    for reason in dict.fromkeys([*REASONS, *itertools.chain(*dropped.values())]):
        counts = {source: dropped[source].get(reason, 0) for source in sources}
        words = [reason.replace("_", " "), *([REASONS[reason]] if reason in REASONS else [])]
        rows += [(": ".join(words), counts)] if any(counts.values()) else []
    if rows and kept:  # a source without negatives is not named there
        rows.append(("kept as negatives", dict.fromkeys(sources, 0) | kept))
    columns = {SOURCES.get(source, source): at(count, source) for source in sources}
    return sheet(columns, rows, "candidates taken, and why")


def _said(falsehoods: Iterable[Any] | None) -> Cell:
    """Falsehoods with their probabilities, and of how many questions' beams each is, where that is told."""
    texts = [
        f"{each['text']} ({each['questions']:,} · {chance(each['probability'])})"
        if isinstance(each, dict)
        else f"{each[0]} ({chance(each[1])})"
        for each in itertools.islice(falsehoods or (), SHOWN)
    ]
    return Cell(", ".join(texts[:OPEN]), more=", ".join(texts[OPEN:]))


def _without(entry: Json) -> str:
    without, questions = entry.get("without_negatives"), entry.get("questions")
    return percent(without / questions, "") if without is not None and questions else ""


def _by_source(mined: Json) -> str:
    counts = mined.get("by_source") or {}
    names = [source for source in dict.fromkeys([*SOURCES, *counts]) if counts.get(source)]
    return ", ".join(f"{counts[name]:,} {SOURCES.get(name, f'from {name}')}" for name in names)


def _length(value: list[str]) -> str:
    return count(len(value)) if value else ""


one_place, two_places = (partial(figure, places=places) for places in (1, 2))
SHARED: dict[str, Told] = {
    "distinct answers": at(one_place, "distinct_answers"),
    "entropy, nats": at(two_places, "entropy"),
}
WITHOUT: dict[str, Told] = {"no negative left,\u00a0%": _without}
FIGURES: dict[str, Told] = {
    "questions": at(count, "questions"),
    **WITHOUT,
    "with negatives": at(count, "with_negatives"),
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
    **WITHOUT,
    **SHARED,
    "pool: cosine": at(two_places, "agreement", "cosine"),
    "pool: Spearman": at(two_places, "agreement", "spearman"),
}
ROUND_COLUMNS: dict[str, Told] = {"negatives": at(count, "negatives"), **SHARED, **WITHOUT}


def rounds(mined: Mined, known: Systems) -> list[tuple[str, Sheet]]:
    """Of each system that mined again, its rounds below the base model's negatives."""
    first = [("base model", mined.statistics)] if mined.statistics else []
    told = sorted(mined.rounds.items(), key=lambda item: known.place(item[0]))
    rows = [(known.label(system), [*first, *own.items()]) for system, own in told]
    return [(label, sheet(ROUND_COLUMNS, own, "round")) for label, own in rows]
