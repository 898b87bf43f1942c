"""`facts`: what a source of facts or preferences holds, and what reading dropped or changed. Needs no JAX."""

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType

from pretrainrl_jax.atomic import write_text
from pretrainrl_jax.config import ColumnsConfig, Config
from pretrainrl_jax.facts.cleaning import REPAIRS, RULES
from pretrainrl_jax.facts.columns import Columns, shown
from pretrainrl_jax.facts.reading import Reading, read_facts
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.sorting import Dropped
from pretrainrl_jax.facts.splits import split, subsample
from pretrainrl_jax.preferences import record, rows
from pretrainrl_jax.preferences.reading import Preferences, read_preferences
from pretrainrl_jax.preferences.trees import Built, build
from pretrainrl_jax.trees.tokenization import load_tokenizer, tokenizer_folder
from pretrainrl_jax.workdir import refused_writing

CATEGORIES = 40  # shown, the largest first
ROWS = 10  # shown of the facts, and of each rule
SOME, LENGTH = 3, 300  # rows of preferences shown of each rule, and characters of a text
BAR = 40  # characters of the longest bar
EDGES = [float(f"{lead}e{power}") for power in range(-323, 309) for lead in (1, 3)]  # two bins a decade


def show_facts(config: Config, workdir: Path) -> None:
    """Read the facts of a configuration and print what they are.

    Rows that became no fact of their own are written to `workdir`/facts/dropped.jsonl, where there are any.
    Raises InputError for a source that cannot be read, or one without facts, or a workdir that is none.
    """
    reading = read_facts(config)
    facts = reading.facts
    trained, held_out = split(facts, config.facts.holdout_every)
    lost = sorted([*reading.dropped, *reading.merged], key=lambda row: list(RULES).index(row.rule))
    lines = [
        f"{reading.source}: {reading.rows:,} rows read",
        f"{len(facts):,} facts: {len(trained):,} trained, {len(held_out):,} held out "
        f"(facts.holdout_every={config.facts.holdout_every})"
        + (f", and beside them the {len(reading.head):,} best known of the others" if reading.head else ""),
        *_columns(reading.columns, config.facts.questions),
        *_categories(facts),
        *_histogram([fact.popularity for fact in facts]),
        *_some(facts),
        *_repairs(reading.repaired),
        *_losses(reading, lost),
    ]
    path = workdir / "facts" / "dropped.jsonl"
    with refused_writing(workdir):
        path.unlink(missing_ok=True)
        if lost:
            texts = (json.dumps(asdict(row), ensure_ascii=False) for row in lost)
            write_text(path, "".join(f"{row}\n" for row in texts))
            lines.append(f"all of them: {path}")
    print("\n".join(lines))


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


def _categories(facts: Sequence[Fact]) -> list[str]:
    """Facts, different answers, the commonest of them and a question of each category, the largest first."""
    by_category: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_category[fact.category].append(fact)
    head = f"  {'category':<20} {'facts':>9} {'share':>7} {'answers':>8}  {'most common':<22} as"
    lines = [f"categories: {len(by_category):,}", head]
    largest = sorted(by_category.items(), key=lambda item: (-len(item[1]), item[0]))
    for category, members in largest[:CATEGORIES]:
        answers = Counter(fact.answer for fact in members)
        common, times = answers.most_common(1)[0]
        counts = f"{len(members):>9,} {len(members) / len(facts):>7.1%} {len(answers):>8,}"
        most = f"{times:,} {common}"
        lines.append(f"  {category or '(none)':<20.20} {counts}  {most:<22.22} {members[0].question:.40}")
    if rest := largest[CATEGORIES:]:
        lines.append(f"  and {len(rest):,} more, of {sum(len(members) for _, members in rest):,} facts")
    return [*lines, ""]


def _histogram(popularity: Sequence[float]) -> list[str]:
    """Facts by the logarithm of their popularity; those of 0 first."""
    if not any(popularity):
        return ["popularity: the source states none", ""]
    bins = Counter(bisect_right(EDGES, value) for value in popularity)
    places = [place for place in bins if place]
    lines = [f"popularity: {min(popularity):,.6g} to {max(popularity):,.6g}"]
    for place in [0] * (0 in bins) + list(range(min(places), max(places) + 1)):
        label = f"{EDGES[place - 1]:,.12g} to {EDGES[place]:,.12g}" if place else "0"
        bar = "█" * math.ceil(BAR * bins[place] / max(bins.values()))
        lines.append(f"  {label:>24} {bins[place]:>9,}  {bar}".rstrip())
    return [*lines, ""]


def _some(facts: Sequence[Fact]) -> list[str]:
    lines = ["some of them: id | category | popularity | question | answer"]
    for fact in subsample(facts, ROWS, 0):
        about = fact.id, fact.category, f"{fact.popularity:,.6g}", fact.question, fact.answer
        more = len(fact.answers) - 1
        lines.append(f"  {' | '.join(about)}" + (f" (or {more} more)" if more else ""))
    return [*lines, ""]


def _repairs(repaired: Counter[str]) -> list[str]:
    told = [f"  {repaired[rule]:,} {rule}: {why}" for rule, why in REPAIRS.items() if repaired[rule]]
    return ["repaired" if told else "repaired: nothing", *told, ""]


def _losses(reading: Reading, lost: Sequence[Dropped]) -> list[str]:
    counts = Counter(row.rule for row in lost) + reading.left_out
    if not counts:
        return ["dropped: nothing"]
    total = f"of {reading.rows:,} rows, {counts.total():,} became no fact of their own"
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


def show_preferences(config: Config) -> None:
    """Read the preferences of a configuration and print what they are, and the first as it is read.

    Raises InputError for a source that cannot be read, or one without preferences.
    """
    settings, train = config.preferences, config.train
    read = read_preferences(settings, config.seed)
    lines, built = _counted(read, settings.holdout_every), Built()
    if folder := tokenizer_folder(config.tokenizer.path, config.model.path):
        tokenizer = load_tokenizer(folder)
        built = build(read.comparisons, tokenizer, train.row_length, train.layout, settings.control_tokens)
        for tree in built.trees[:1]:
            chosen = next(b.tokens for b in tree.branches if b.role == "chosen")
            texts = [
                json.dumps(tokenizer.backend.decode(t), ensure_ascii=False) for t in (tree.prefix, chosen)
            ]
            lines.append(f"the first, as the model reads it: {' | '.join(text[1:-1] for text in texts)}")
    else:
        lines.append("which fit in a row is not known without a tokenizer (--model.path, --tokenizer.path)")
    comparison = read.comparisons[0]
    lines.append(f"the first: {record.shown(comparison.prompt, LENGTH)}")
    for kind in ("chosen", "rejected"):
        lines.append(f"  {kind:9} {record.shown(getattr(comparison.pairs[0], kind), LENGTH)}")
    counts = Counter(row.rule for row in read.dropped) + read.left_out + built.dropped
    lines.append("left out" if counts else "left out: nothing")
    lines += losses(rows.RULES, counts, read.dropped, SOME, built.examples)
    print("\n".join(lines))


def _counted(read: Preferences, holdout_every: int) -> list[str]:
    """Rows, columns, prompts and pairs."""
    used = [f"{what} = {column or '(their common beginning)'}" for what, column in read.columns.items()]
    lines = [
        f"{read.source}: {read.rows:,} rows",
        f"columns: {', '.join(used)}",
        f"columns not read: {shown(read.unused, 40)}",
    ]
    for side, part in zip(
        ("trained", "held out"), record.split(read.comparisons, holdout_every), strict=True
    ):
        pairs = sum(len(comparison.pairs) for comparison in part)
        told = f"{len(part):,} prompts, {pairs:,} pairs"
        lines.append(f"{side} (preferences.holdout_every={holdout_every}): {told}")
    for what, pairs in (
        ("repeated pairs, which count as often", read.repeated),
        ("pairs stated both ways, of which each is kept", read.both_ways),
    ):
        lines += [f"{what}: {pairs:,}"] if pairs else []
    return lines
