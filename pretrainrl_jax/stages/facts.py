"""`facts`: what a source of facts holds, and what was dropped or changed in reading it. Needs no JAX."""

import json
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType

from rich import box
from rich.console import Console
from rich.table import Table

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.config import ColumnsConfig, Config
from pretrainrl_jax.facts.cleaning import REPAIRS, RULES
from pretrainrl_jax.facts.columns import Columns, shown
from pretrainrl_jax.facts.reading import Reading, read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.sorting import Dropped
from pretrainrl_jax.facts.splits import split, subsample

WIDTH = 110  # of the tables; less on a narrower terminal
CATEGORIES = 40  # shown, the largest first
ROWS = 10  # shown of the facts, and of each rule
BAR = 40  # characters of the longest bar


def show_facts(config: Config, workdir: Path) -> None:
    """Read the facts of a configuration and print what they are.

    Rows that became no fact of their own are written to `workdir`/facts/dropped.jsonl, where there are any.
    Raises InputError for a source that cannot be read, or one without facts.
    """
    began = time.perf_counter()
    reading = read_facts(config)
    seconds = time.perf_counter() - began
    # No markup: what the data hold is never read as such.
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    facts = reading.facts
    trained, held_out = split(facts, config.facts.holdout_every)
    lost = sorted([*reading.dropped, *reading.merged], key=lambda row: list(RULES).index(row.rule))
    parts = [
        f"{reading.source}: {counted(reading.rows, 'row')} read in {seconds:.1f} s",
        f"{counted(len(facts), 'fact')}: {len(trained):,} trained, {len(held_out):,} held out "
        f"(facts.holdout_every={config.facts.holdout_every})"
        + (f", and beside them the {len(reading.head):,} best known of the others" if reading.head else ""),
        *_columns(reading.columns, config.facts.questions),
        _categories(facts),
        *_histogram([fact.popularity for fact in facts]),
        _ten(facts),
        *_repairs(reading.repaired),
        *_losses(reading, lost),
        *_tokenless(config, facts),
    ]
    path = workdir / "facts" / "dropped.jsonl"
    path.unlink(missing_ok=True)
    if lost:
        rows = (json.dumps(asdict(row), ensure_ascii=False) for row in lost)
        write_text(path, "".join(f"{row}\n" for row in rows))
        parts.append(f"all of them: {path}")
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def counted(count: int, noun: str) -> str:
    """A number of things in words."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _table(title: str, columns: Mapping[str, int], right: Iterable[str]) -> Table:
    """A table whose columns are at most so wide; those of 0 take what is left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", expand=True)
    for name, width in columns.items():
        justify, ratio = "right" if name in right else "left", None if width else 1
        table.add_column(name, justify=justify, no_wrap=True, max_width=width or None, ratio=ratio)
    return table


def _columns(columns: Columns | None, templates: Sequence[str]) -> list[str]:
    """Which column was read as what, under the names of facts.columns, and which were not read."""
    if columns is None:
        return []
    named = ((field.name, getattr(columns, field.name)) for field in fields(ColumnsConfig))
    used = {name: (paths,) if isinstance(paths, str) else paths for name, paths in named if paths}
    of_templates = ["the templates of facts.questions"] if templates else []
    used["question"] = (*used.get("question", ()), *of_templates)
    lines = [f"  {name:<18} {shown(paths, 40)}" for name, paths in used.items()]
    unread = shown(columns.unread, 40) if columns.unread else "none"
    return ["columns, by their names in facts.columns", *lines, f"  {'not read':<18} {unread}", ""]


def _categories(facts: Sequence[Fact]) -> Table:
    by_category: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_category[fact.category].append(fact)
    widths = {"category": 20, "facts": 9, "share": 7, "answers": 8, "most common": 22, "as": 0}
    title = "1 category" if len(by_category) == 1 else f"{len(by_category):,} categories"
    table = _table(title, widths, ("facts", "share", "answers"))
    largest = sorted(by_category.items(), key=lambda item: (-len(item[1]), item[0]))
    for category, members in largest[:CATEGORIES]:
        answers = Counter(fact.answer for fact in members)
        common, times = answers.most_common(1)[0]
        share = f"{len(members) / len(facts):.1%}"
        cells = (f"{len(members):,}", share, f"{len(answers):,}", f"{times:,} {common}", members[0].question)
        table.add_row(category or "(none)", *cells)
    if rest := largest[CATEGORIES:]:
        count = sum(len(members) for _, members in rest)
        table.add_row(f"{len(rest):,} more", f"{count:,}", f"{count / len(facts):.1%}")
    return table


def _histogram(popularity: Sequence[float]) -> list[str]:
    """Facts by the logarithm of their popularity, two bins a decade."""
    if not any(popularity):
        return ["popularity: the source states none", ""]
    bins = Counter(_bin(value) for value in popularity)
    nonzero = [place for place in bins if place is not None]
    places = [None] * (None in bins) + list(range(min(nonzero), max(nonzero) + 1))
    most = max(bins.values())
    lines = ["popularity of the subjects"]
    for place in places:
        label = "0" if place is None else f"{_edge(place)} to {_edge(place + 1)}"
        bar = "█" * math.ceil(BAR * bins[place] / most)
        lines.append(f"  {label:>24}  {bins[place]:>9,}  {bar}".rstrip())
    return [*lines, ""]


def _bin(value: float) -> int | None:
    """Two for each power of ten: from 1, from 3, from 10, …; None for 0."""
    if not value:
        return None
    leading, exponent = f"{value:.15e}".split("e")  # exact, where a logarithm would be rounded
    return 2 * int(exponent) + (leading[0] >= "3")


def _edge(place: int) -> str:
    value = float(f"{3 if place % 2 else 1}e{place // 2}")
    return f"{value:,.0f}" if 1 <= value < 1e12 else f"{value:g}"


def _ten(facts: Sequence[Fact]) -> Table:
    widths = {"id": 14, "category": 14, "popularity": 11, "question": 0, "answers": 40}
    table = _table("ten of them" if len(facts) > ROWS else "all of them", widths, ("popularity",))
    for fact in subsample(facts, ROWS, 0):
        more = len(fact.answers) - 1
        answers = fact.answer + (f" (or {more} more)" if more else "")
        table.add_row(fact.id, fact.category, f"{fact.popularity:,.6g}", fact.question, answers)
    return table


def _repairs(repaired: Counter[str]) -> list[str]:
    if not repaired:
        return ["repaired: nothing", ""]
    rules = [rule for rule in REPAIRS if repaired[rule]]
    return ["repaired", *(f"  {repaired[rule]:,} {rule}: {REPAIRS[rule]}" for rule in rules), ""]


def _losses(reading: Reading, lost: Sequence[Dropped]) -> list[str]:
    counts = Counter(row.rule for row in lost) + reading.left_out
    if not counts:
        return ["dropped: nothing"]
    total = f"of {counted(reading.rows, 'row')}, {counts.total():,} became no fact of their own"
    return [total, *losses(RULES, counts, lost, ROWS)]


def losses(
    rules: Mapping[str, str],
    counts: Counter[str],
    lost: Iterable[Dropped],
    most: int,
    examples: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Every rule that took a row, with its count, what it means, and the first rows it took."""
    by_rule: dict[str, list[Dropped]] = defaultdict(list)
    for row in lost:
        by_rule[row.rule].append(row)
    lines: list[str] = []
    for rule in (rule for rule in rules if counts[rule]):
        example = f" ({examples[rule]!r})" if examples.get(rule) else ""
        lines.append(f"  {counts[rule]:,} {rule}: {rules[rule]}{example}")
        lines += [f"    {row.where}: {row.text}" for row in by_rule[rule][:most]]
        if (more := len(by_rule[rule]) - most) > 0:
            lines.append(f"    and {more:,} more")
    return lines


def _tokenless(config: Config, facts: Sequence[Fact]) -> list[str]:
    """Answers that the configured tokenizer, where there is one on this disk, makes no tokens of."""
    paths = config.tokenizer.path, config.model.path
    if not any(paths):
        return []
    from pretrainrl_jax.trees.tokenization import load_tokenizer, tokenizer_folder

    if not (folder := tokenizer_folder(*paths)):
        return []
    answers = list(dict.fromkeys(answer for fact in facts for answer in fact.answers))
    tokens = load_tokenizer(folder).encode_all(answers)
    without = [answer for answer, ids in zip(answers, tokens, strict=True) if not ids]
    named = f": {', '.join(without[:ROWS])}" if without else ""
    return [f"  {len(without):,} no tokens: answers the tokenizer in {folder} cannot spell{named}"]
