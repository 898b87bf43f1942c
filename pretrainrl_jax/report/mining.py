"""The report's part on mining: `mined/statistics.json`, and what later rounds mined, as a reader sees them.

Nothing here trusts a file: what is missing, or has another shape than `mining.statistics.describe` writes
today, is left out of the page and stops nothing.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretrainrl_jax.mining.candidates import REASONS
from pretrainrl_jax.report import charts
from pretrainrl_jax.report.formats import Json, chance, decimals, number, percent, spread
from pretrainrl_jax.report.systems import Systems

EXAMPLES = 10
EXAMPLE_NEGATIVES = 8  # of an example; a pool can give dozens
CATEGORIES = 60  # categories shown, the largest
TOP = 3  # falsehoods of a category that are seen at once

SOURCES = {
    "beam": ("own beams", "from the question's own beams"),
    "pool": ("pool", "from the category's pool"),
    "popularity": ("popular answers", "from the category's best-known answers"),
}
"""Of each source of negatives its name above a column, and in a sentence."""

PAPER = "PretrainRL reports 0.88 and 0.85 for 1,000 questions of EntityQuestions"


class Mined(NamedTuple):
    """What a workdir holds of mining."""

    statistics: Json | None  # of the base model's negatives; None where there are none, or no reading them
    rounds: dict[str, dict[int, Json]]  # by system and number: what was mined again while it trained


def read(folder: Path) -> Mined:
    """The statistics under a workdir's `mined`; a file that cannot be read is passed over."""
    rounds: dict[str, dict[int, Json]] = {}
    for path in sorted(folder.glob("*/round*.json")):
        digits = path.stem.removeprefix("round")
        if digits.isascii() and digits.isdigit() and (found := _read(path)):
            rounds.setdefault(path.parent.name, {})[int(digits)] = found
    return Mined(_read(folder / "statistics.json"), rounds)


def _read(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def section(mined: Mined, known: Systems) -> Json | None:
    """Everything the page shows of mining; None where there is nothing."""
    found = mined.statistics or {}
    counts = histogram(found)
    parts = {
        "sentences": sentences(found),
        "filters": filters(found),
        "histogram": counts,
        "categories": categories(found),
        "examples": examples(found),
        "rounds": rounds(mined, known),
    }
    if not any(parts.values()):
        return None
    return parts | {"diversity": charts.diversity(counts), "diversity_alt": in_words(counts)}


# Words


def sentences(mined: Json) -> list[str]:
    """What was mined, in sentences computed from the numbers; one whose numbers are missing is left out."""
    parts = (_negatives(mined), _diversity(mined), _perplexity(mined), _agreement(mined), _left_out(mined))
    return [part for part in parts if part]


def _negatives(mined: Json) -> str:
    questions, found, negatives = (_count(mined.get(k)) for k in ("questions", "with_negatives", "negatives"))
    if questions is None or found is None or negatives is None:
        return ""
    text = f"{found:,} of {_of(questions, 'question')} {_have(found)} negatives: {negatives:,} in all"
    text += f", {negatives / found:.1f} each" if found else ""
    by_source = _counts(mined.get("by_source"))
    sources = [
        f"{by_source[source]:,} {SOURCES[source][1] if source in SOURCES else f'from {source}'}"
        for source in [*filter(by_source.get, SOURCES), *(s for s in by_source if s not in SOURCES)]
    ]
    text += f", {' and '.join(filter(None, [', '.join(sources[:-1]), sources[-1]]))}." if sources else "."
    without = _count(mined.get("without_negatives"))
    if without == 0:
        text += " No question is left without one."
    elif without is not None and questions:
        text += f" {_of(without, 'question')} ({percent(without / questions)}) {_have(without)} none left."
    return text


def _diversity(mined: Json) -> str:
    decoded, distinct, entropy = (number(mined.get(k)) for k in ("decoded", "distinct_answers", "entropy"))
    if not decoded or distinct is None:
        return ""
    text = f"{_of(int(decoded), 'question')} {'was' if decoded == 1 else 'were'} decoded; the finished beams "
    text += f"of a question hold {decimals(distinct, 1)} distinct answers on average"
    if entropy is None:
        return f"{text}."
    return (
        f"{text}, with an entropy of {decimals(entropy, 2)} nats: that of these answers' probabilities "
        "divided by their sum, 0 where there is one answer only and larger the more answers the model finds "
        "about equally likely."
    )


def _perplexity(mined: Json) -> str:
    perplexity = number(mined.get("perplexity"))
    if perplexity is None:
        return ""
    return f"The base model's perplexity on the negatives is {decimals(perplexity, 1)} a token."


def _agreement(mined: Json) -> str:
    like = _map(mined.get("pool_agreement"))
    questions, of = _count(like.get("questions")), _count(like.get("categories"))
    names = {"cosine": "cosine", "spearman": "Spearman correlation"}
    values = {words: number(like.get(name)) for name, words in names.items()}
    measured = [f"{words} {decimals(v, 2)}" for words, v in values.items() if v is not None]
    if not questions or not of or not measured:
        return ""
    categories = "1 category" if of == 1 else f"{of:,} categories, on average"
    return (
        f"A category's pool collected from {_of(questions, 'question')} against the one from all that were "
        f"decoded, over {categories}: {', '.join(measured)}. {PAPER}."
    )


def _left_out(mined: Json) -> str:
    why = {"too_long": "longer than a row", "no_tokens": "with a true answer that has no tokens"}
    found = [f"{len(ids):,} {words}" for key, words in why.items() if (ids := _list(mined.get(key)))]
    return f"Questions left out of training: {', '.join(found)}." if found else ""


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


# Tables


def filters(mined: Json) -> Json | None:
    """How many candidates each filter took of each source, in the order of `REASONS`; None without any.

    Reasons that took nothing and sources that gave nothing are left out.
    """
    dropped = {source: _counts(of) for source, of in _map(mined.get("dropped")).items()}
    kept = _counts(mined.get("by_source"))
    known = isinstance(mined.get("by_source"), dict)  # a source without negatives is not named there
    sources = [source for source, of in dropped.items() if any(of.values()) or kept.get(source)]
    reasons = [*REASONS, *{r: None for of in dropped.values() for r in of if r not in REASONS}]
    rows = [
        {
            "name": reason.replace("_", " "),
            "meaning": REASONS.get(reason, ""),
            "counts": [dropped[source].get(reason, 0) for source in sources],
        }
        for reason in reasons
    ]
    rows = [row for row in rows if any(row["counts"])]
    if not rows:
        return None
    heads = [SOURCES[source][0] if source in SOURCES else source for source in sources]
    return {"sources": heads, "rows": rows, "kept": [kept.get(s, 0) for s in sources] if known else []}


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
    low, high = min(counts), max(counts)
    return (
        f"Questions by their number of distinct answers, from {low} to {high}; "
        f"{most} is the most frequent, with {_of(counts[most], 'question')}"
    )


class Column(NamedTuple):
    """A column of figures of the categories."""

    head: str
    key: str
    places: int  # decimals shown
    within: str = ""  # the key of the object that holds it
    share: bool = False  # of the questions, shown in %

    def value(self, of: Json) -> float | None:
        """The figure in an entry of the statistics."""
        found = number((_map(of.get(self.within)) if self.within else of).get(self.key))
        whole = number(of.get("questions")) if self.share else 1.0
        return found / whole if found is not None and whole else None

    def shown(self, of: Json) -> str:
        """The same as a reader sees it."""
        return percent(self.value(of), "") if self.share else decimals(self.value(of), self.places)


WITHOUT = Column("no negative left,\u00a0%", "without_negatives", 1, share=True)
DISTINCT = Column("distinct answers", "distinct_answers", 1)
ENTROPY = Column("entropy, nats", "entropy", 2)
COLUMNS = (
    Column("questions", "questions", 0), WITHOUT, DISTINCT, ENTROPY,
    Column("pool: cosine", "cosine", 2, within="agreement"),
    Column("pool: Spearman", "spearman", 2, within="agreement"),
)  # fmt: skip
ROUND_COLUMNS = (Column("negatives", "negatives", 0), DISTINCT, ENTROPY, WITHOUT)


def _measured(columns: Sequence[Column], rows: Sequence[Json]) -> list[Column]:
    """The columns that some row has."""
    return [column for column in columns if any(column.value(row) is not None for row in rows)]


def categories(mined: Json) -> Json | None:
    """The largest categories' figures and commonest falsehoods; without columns that none of them has."""
    found = {name: of for name, of in _map(mined.get("categories")).items() if isinstance(of, dict) and of}
    names = sorted(found, key=lambda name: -(number(found[name].get("questions")) or 0.0))[:CATEGORIES]
    columns = _measured(COLUMNS, [found[name] for name in names])
    rows = [_category(name, found[name], columns) for name in names]
    if not columns and not any(row["top"] or row["pool"] for row in rows):
        return None
    return {"heads": [c.head for c in columns], "rows": rows, "more": len(found) - len(names)}


def _category(name: str, of: Json, columns: Sequence[Column]) -> Json:
    falsehoods = [
        (f["text"], _count(f.get("questions")), chance(number(f.get("probability"))))
        for f in _list(of.get("falsehoods"))
        if isinstance(f, dict) and _said(f.get("text"))
    ]
    pool = [value for value in _list(of.get("pool")) if _said(value)]
    more = [f"{len(falsehoods) - TOP} more"] if len(falsehoods) > TOP else []
    more += [f"the pool's {_of(len(pool), 'value')}"] if pool else []
    return {
        "name": name or "(no category)",
        "example": of.get("example") if _said(of.get("example")) else "",
        "cells": [column.shown(of) for column in columns],
        "top": falsehoods[:TOP],
        "rest": falsehoods[TOP:],
        "pool": pool,
        "more": " and ".join(more),
    }


def examples(mined: Json) -> list[Json]:
    """Some mined questions, evenly spread over the ones the statistics hold."""
    found = [
        {
            "question": example["question"],
            "answer": example.get("answer") if _said(example.get("answer")) else "–",
            "negatives": [
                (n[0], chance(number(n[1])))
                for n in _list(example.get("negatives"))
                if isinstance(n, list) and len(n) == 2 and _said(n[0])
            ],
        }
        for example in _list(mined.get("examples"))
        if isinstance(example, dict) and _said(example.get("question"))
    ]
    shown = spread([example for example in found if example["negatives"]], EXAMPLES)
    for example in shown:
        example["more"] = max(0, len(example["negatives"]) - EXAMPLE_NEGATIVES)
        example["negatives"] = example["negatives"][:EXAMPLE_NEGATIVES]
    return shown


def rounds(mined: Mined, known: Systems) -> list[Json]:
    """Of each system that mined again, its rounds below the base model's negatives."""
    tables = []
    for system in sorted(mined.rounds, key=known.place):
        of = {"base model": mined.statistics} if mined.statistics else {}
        of |= {str(n): mined.rounds[system][n] for n in sorted(mined.rounds[system])}
        columns = _measured(ROUND_COLUMNS, list(of.values()))
        rows = [(name, [column.shown(found) for column in columns]) for name, found in of.items()]
        if columns:
            tables.append({"system": known.label(system), "heads": [c.head for c in columns], "rows": rows})
    return tables


# What a file may hold


def _map(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None or found < 0 else math.floor(found)


def _counts(value: object) -> dict[str, int]:
    counts = {name: _count(n) for name, n in _map(value).items()}
    return {name: n for name, n in counts.items() if n is not None}


def _said(value: object) -> bool:
    return isinstance(value, str) and bool(value)
