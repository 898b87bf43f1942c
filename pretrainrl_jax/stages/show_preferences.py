"""`facts --preferences.path`: what a file of preferences holds, and what is left out. Needs no JAX."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from pretrainrl_jax.config import Config
from pretrainrl_jax.facts.columns import shown as names
from pretrainrl_jax.preferences.reading import Preferences, read_preferences
from pretrainrl_jax.preferences.record import Comparison, key, shown, split
from pretrainrl_jax.preferences.rows import RULES
from pretrainrl_jax.preferences.trees import Built, build
from pretrainrl_jax.stages.facts import counted, losses
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer, tokenizer_folder

EXAMPLES = 2
ROWS = 3  # shown of each rule
LENGTH = 300  # characters shown of a text


def show_preferences(config: Config) -> None:
    """Read the preferences of a configuration and print what they are; lengths where there is a tokenizer.

    Raises InputError for a source that cannot be read, or one without preferences.
    """
    settings = config.preferences
    read = read_preferences(settings, config.seed)
    trained, held_out = split(read.comparisons, settings.holdout_every)
    used = [f"{what} = {column or '(their common beginning)'}" for what, column in read.columns.items()]
    lines = [
        f"{read.source}: {counted(read.rows, 'row')}",
        f"columns: {', '.join(used)}",
        f"columns not read: {names(read.unused, 40)}",
        *_counts(read),
        f"{counted(len(trained), 'prompt')} trained with {counted(_pairs(trained), 'pair')}, "
        f"{len(held_out):,} held out with {_pairs(held_out):,} "
        f"(preferences.holdout_every={settings.holdout_every})",
        "",
    ]
    built, folder = None, tokenizer_folder(config.tokenizer.path, config.model.path)
    if folder:
        tokenizer = load_tokenizer(folder)
        train = config.train
        built = build(read.comparisons, tokenizer, train.row_length, train.layout, settings.control_tokens)
        lines += _lengths(built, tokenizer, folder, train.row_length)
    else:
        lines += ["lengths: not known without a tokenizer (--model.path or --tokenizer.path)", ""]
    counts = Counter(row.rule for row in read.dropped) + read.left_out
    counts += built.dropped if built else Counter[str]()
    examples = built.examples if built else {}
    lines += (
        ["left out", *losses(RULES, counts, read.dropped, ROWS, examples)]
        if counts
        else ["left out: nothing"]
    )
    for comparison in read.comparisons[:EXAMPLES]:
        lines += ["", *_example(comparison)]
    print("\n".join(lines), file=sys.stdout)


def _pairs(comparisons: Iterable[Comparison]) -> int:
    return sum(len(comparison.pairs) for comparison in comparisons)


def _counts(read: Preferences) -> list[str]:
    pairs = counted(_pairs(read.comparisons), "pair")
    lines = [f"{counted(len(read.comparisons), 'prompt')}, {pairs} to be compared"]
    for kind in ("chosen", "rejected"):
        answers = Counter(len({key(getattr(pair, kind)) for pair in c.pairs}) for c in read.comparisons)
        lines.append(f"{kind} answers of a prompt: {_histogram(answers)}")
    if read.repeated:
        before = "that stood there before: that one counts as often"
        lines.append(f"repeated: {counted(read.repeated, 'pair')} {before}")
    if read.both_ways:
        reverse = "whose reverse stands there, too; both are kept"
        lines.append(f"both ways: {counted(read.both_ways, 'pair')} {reverse}")
    return lines


def _histogram(counts: Counter[int]) -> str:
    most = sorted(counts.items())[:8]
    more = len(counts) - len(most)
    told = ", ".join(f"{number} ({counted(prompts, 'prompt')})" for number, prompts in most)
    return told + (f", and up to {max(counts)}" if more else "")


def _lengths(built: Built, tokenizer: Tokenizer, folder: str, row_length: int) -> list[str]:
    trees = built.trees
    if not trees:
        return []
    sizes = {
        "prompt": [len(tree.prefix) for tree in trees],
        "chosen": [len(b.tokens) for tree in trees for b in tree.branches if b.role == "chosen"],
        "rejected": [len(b.tokens) for tree in trees for b in tree.branches if b.role == "rejected"],
        "prompt with all answers": [tree.inputs for tree in trees],
    }
    lines = [f"tokens by {folder}, median, 95 % and most (a row holds {row_length}, train.row_length)"]
    for what, lengths in sizes.items():
        median, most = np.percentile(lengths, [50, 95]).round().astype(int).tolist()
        lines.append(f"  {what:24} {median:>7,} {most:>7,} {max(lengths):>7,}")
    for prompts, what in (
        (built.cut, "cut where the template writes it otherwise before an answer"),
        (built.split, "laid as several, since the answers do not fit in one row"),
    ):
        lines += [f"  {counted(prompts, 'prompt')} {what}"] if prompts else []
    tree = trees[0]
    chosen = next(b.tokens for b in tree.branches if b.role == "chosen")
    lines += ["as the model reads it, prompt | chosen answer"]
    return [*lines, f"  {_tokens(tokenizer, tree.prefix)} | {_tokens(tokenizer, chosen)}", ""]


def _tokens(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """What tokens spell, control tokens and line breaks shown."""
    text = json.dumps(tokenizer.backend.decode(list(tokens)), ensure_ascii=False)[1:-1]
    return text if len(text) <= LENGTH else f"{text[: LENGTH // 2]} … {text[-LENGTH // 2 :]}"


def _example(comparison: Comparison) -> list[str]:
    lines = [f"prompt    {shown(comparison.prompt, LENGTH)}"]
    for pair in comparison.pairs[:2]:
        lines += [f"  chosen    {shown(pair.chosen, LENGTH)}", f"  rejected  {shown(pair.rejected, LENGTH)}"]
    if (more := len(comparison.pairs) - 2) > 0:
        lines.append(f"  and {counted(more, 'pair')} more")
    return lines
