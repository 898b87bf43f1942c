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
from pretrainrl_jax.report.columns import Sheet, Told, at, count, figure, sheet
from pretrainrl_jax.report.formats import Json, chance, decimals, number, percent, spread
from pretrainrl_jax.report.inputs import read_json
from pretrainrl_jax.report.systems import Systems

EXAMPLES = 10
CATEGORIES = 60  # categories shown, the largest
TOP = 3  # falsehoods of a category that are seen at once

SOURCES = {
    "beam": ("own beams", "from the question's own beams"),
    "pool": ("pool", "from the category's pool"),
    "popularity": ("popular answers", "from the category's best-known answers"),
    "constrained": ("known answers", "from the question's beams among known answers"),
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
        "sentences": sentences(statistics),
        "filters": filters(statistics),
        "diversity": charts.diversity(counts),
        "categories": categories(statistics),
        "examples": examples(statistics),
        "rounds": rounds(mined, known),
    }
    return parts | {"diversity_alt": in_words(counts)} if any(parts.values()) else None


# Words


def sentences(mined: Json) -> list[str]:
    """What was mined, in sentences computed from the numbers; one whose numbers are missing is left out."""
    perplexity, leaked = (number(mined.get(key)) for key in ("perplexity", "of_examples"))
    why = {"too_long": "longer than a row", "no_tokens": "with a true answer that has no tokens"}
    left_out = [f"{len(ids):,} {words}" for key, words in why.items() if (ids := _list(mined.get(key)))]
    parts = (
        _negatives(mined),
        _diversity(mined),
        "" if leaked is None else f"{percent(leaked)} of them are answers of the few-shot examples.",
        f"The base model's perplexity on the negatives is {perplexity:,.1f} a token." if perplexity else "",
        _agreement(mined),
        f"Questions left out of training: {', '.join(left_out)}." if left_out else "",
    )
    return [part for part in parts if part]


def _negatives(mined: Json) -> str:
    keys = ("questions", "with_negatives", "negatives")
    questions, having, negatives = (_count(mined.get(key)) for key in keys)
    if questions is None or having is None or negatives is None:
        return ""
    text = f"{having:,} of {_of(questions, 'question')} {_have(having)} negatives: {negatives:,} in all"
    text += f", {negatives / having:.1f} each" if having else ""
    by_source = _counts(mined.get("by_source"))
    names = [source for source in dict.fromkeys([*SOURCES, *by_source]) if by_source.get(source)]
    sources = [f"{by_source[name]:,} {SOURCES.get(name, ('', f'from {name}'))[1]}" for name in names]
    text += f", {' and '.join(filter(None, [', '.join(sources[:-1]), sources[-1]]))}." if sources else "."
    without = _count(mined.get("without_negatives"))
    if without == 0:
        text += " No question is left without one."
    elif without and questions:
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
        f"{text}, with an entropy of {entropy:.2f} nats: that of these answers' probabilities divided by "
        "their sum, 0 where there is one answer only and larger the more answers the model finds about "
        "equally likely."
    )


def _agreement(mined: Json) -> str:
    like = _map(mined.get("pool_agreement"))
    questions, categories = _count(like.get("questions")), _count(like.get("categories"))
    names = {"cosine": "cosine", "spearman": "Spearman correlation"}
    values = {words: number(like.get(name)) for name, words in names.items()}
    measured = [f"{words} {decimals(v, 2)}" for words, v in values.items() if v is not None]
    if not questions or not categories or not measured:
        return ""
    over = "1 category" if categories == 1 else f"{categories:,} categories, on average"
    return (
        f"A category's pool collected from {_of(questions, 'question')} against the one from all that were "
        f"decoded, over {over}: {', '.join(measured)}. {PAPER}."
    )


def _of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


# Tables


def filters(mined: Json) -> Json | None:
    """How many candidates each filter took of each source, in the order of `REASONS`; None without any.

    Reasons that took nothing and sources that gave nothing are left out.
    """
    dropped = {source: _counts(counts) for source, counts in _map(mined.get("dropped")).items()}
    kept = _counts(mined.get("by_source"))
    sources = [source for source, counts in dropped.items() if any(counts.values()) or kept.get(source)]
    rows: list[tuple[str, str | None, list[int]]] = [
        (reason.replace("_", " "), REASONS.get(reason, ""), counts)
        for reason in dict.fromkeys([*REASONS, *itertools.chain(*dropped.values())])
        if any(counts := [dropped[source].get(reason, 0) for source in sources])
    ]
    if rows and isinstance(mined.get("by_source"), dict):  # a source without negatives is not named there
        rows.append(("kept", None, [kept.get(source, 0) for source in sources]))
    heads = [SOURCES.get(source, (source,))[0] for source in sources]
    return {"sources": heads, "rows": rows} if rows else None


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
        f"Questions by their number of distinct answers, from {min(counts)} to {max(counts)}; "
        f"{most} is the most frequent, with {_of(counts[most], 'question')}"
    )


def _without(entry: Json) -> str:
    without, questions = (number(entry.get(key)) for key in ("without_negatives", "questions"))
    return percent(without / questions, "") if without is not None and questions else ""


SHARED: dict[str, Told] = {
    "distinct answers": at(partial(figure, places=1), "distinct_answers"),
    "entropy, nats": at(partial(figure, places=2), "entropy"),
}
WITHOUT = "no negative left,\u00a0%"
COLUMNS: dict[str, Told] = {
    "questions": at(count, "questions"),
    WITHOUT: _without,
    **SHARED,
    "pool: cosine": at(partial(figure, places=2), "agreement", "cosine"),
    "pool: Spearman": at(partial(figure, places=2), "agreement", "spearman"),
}
ROUND_COLUMNS: dict[str, Told] = {"negatives": at(count, "negatives"), **SHARED, WITHOUT: _without}


def categories(mined: Json) -> Json | None:
    """The largest categories' figures and commonest falsehoods; without columns that none of them has."""
    entries = {
        name: entry
        for name, entry in _map(mined.get("categories")).items()
        if isinstance(entry, dict) and entry
    }
    ranked = sorted(entries.items(), key=lambda item: -(number(item[1].get("questions")) or 0.0))[:CATEGORIES]
    table = sheet(COLUMNS, [(name or "(no category)", entry) for name, entry in ranked], "category")
    said = [_said(entry) for _, entry in ranked]
    if len(table.heads) == 1 and not any(own["top"] or own["pool"] for own in said):
        return None
    rows = [{"cells": cells, **own} for cells, own in zip(table.texts(), said, strict=True)]
    return {"heads": table.heads, "rows": rows, "more": len(entries) - len(rows)}


def _said(entry: Json) -> Json:
    """What stands below a category's figures: falsehoods, the `TOP` commonest apart, its pool, an example."""
    falsehoods = [
        (f["text"], _count(f.get("questions")), chance(number(f.get("probability"))))
        for f in _objects(entry.get("falsehoods"), "text")
    ]
    top, rest, pool = falsehoods[:TOP], falsehoods[TOP:], _texts(entry.get("pool"))
    more = [f"{len(rest)} more"] if rest else []
    more += [f"the pool's {_of(len(pool), 'value')}"] if pool else []
    example = "".join(_texts([entry.get("example")]))
    return {"top": top, "rest": rest, "pool": pool, "more": " and ".join(more), "example": example}


def examples(mined: Json) -> list[Json]:
    """Some mined questions, evenly spread over the ones the statistics hold."""
    shown = []
    for example in _objects(mined.get("examples"), "question"):
        pairs = [n for n in _list(example.get("negatives")) if isinstance(n, list) and len(n) == 2]
        negatives = [(text, chance(number(p))) for text, p in pairs if _texts([text])]
        answer = "".join(_texts([example.get("answer")])) or "–"
        if negatives:
            shown.append({"question": example["question"], "answer": answer, "negatives": negatives})
    return spread(shown, EXAMPLES)


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
