"""`facts --preferences.path`: what a file of preferences holds, and what is left out. Needs no JAX."""

import json
from collections import Counter

from pretrainrl_jax.config import Config
from pretrainrl_jax.facts.columns import shown as names
from pretrainrl_jax.preferences.reading import Preferences, read_preferences
from pretrainrl_jax.preferences.record import shown, split
from pretrainrl_jax.preferences.rows import RULES
from pretrainrl_jax.preferences.trees import Built, build
from pretrainrl_jax.stages.facts import losses
from pretrainrl_jax.trees.tokenization import load_tokenizer, tokenizer_folder

ROWS = 3  # shown of each rule
LENGTH = 300  # characters shown of a text


def show_preferences(config: Config) -> None:
    """Read the preferences of a configuration and print what they are, and the first as it is read.

    Raises InputError for a source that cannot be read, or one without preferences.
    """
    settings, train = config.preferences, config.train
    read = read_preferences(settings, config.seed)
    lines, built = _counts(read, settings.holdout_every), Built()
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
    lines.append(f"the first: {shown(comparison.prompt, LENGTH)}")
    for kind in ("chosen", "rejected"):
        lines.append(f"  {kind:9} {shown(getattr(comparison.pairs[0], kind), LENGTH)}")
    counts = Counter(row.rule for row in read.dropped) + read.left_out + built.dropped
    lines.append("left out" if counts else "left out: nothing")
    lines += losses(RULES, counts, read.dropped, ROWS, built.examples)
    print("\n".join(lines))


def _counts(read: Preferences, holdout_every: int) -> list[str]:
    """Rows, columns, prompts and pairs."""
    used = [f"{what} = {column or '(their common beginning)'}" for what, column in read.columns.items()]
    lines = [
        f"{read.source}: {read.rows:,} rows",
        f"columns: {', '.join(used)}",
        f"columns not read: {names(read.unused, 40)}",
    ]
    for side, part in zip(("trained", "held out"), split(read.comparisons, holdout_every), strict=True):
        pairs = sum(len(comparison.pairs) for comparison in part)
        told = f"{len(part):,} prompts, {pairs:,} pairs"
        lines.append(f"{side} (preferences.holdout_every={holdout_every}): {told}")
    for what, pairs in (
        ("repeated pairs, which count as often", read.repeated),
        ("pairs stated both ways, of which each is kept", read.both_ways),
    ):
        lines += [f"{what}: {pairs:,}"] if pairs else []
    return lines
