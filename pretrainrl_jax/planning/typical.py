"""How much work a configuration is: what its data holds, read where it is there; else as published."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.config import Config
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.evaluation.factual import OWN_WORDING
from pretrainrl_jax.facts.questions import read_templates, reversed_facts
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.splits import split
from pretrainrl_jax.preferences.reading import read_preferences
from pretrainrl_jax.preferences.record import Text, plain
from pretrainrl_jax.preferences.record import split as comparisons_split
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, Role

# Questions as PretrainRL (arXiv 2602.01875) counts them, and their categories.
PUBLISHED = {"popQA.tsv": (12_518, 16), "entityquestions": (176_560, 24)}
ASSUMED = 10_000, 10
PROMPTS = {"bare": 17, "few_shot": 96}  # tokens of a prompt at most, of PopQA's under Qwen's tokenizer
REVERSED = 0.64  # of PopQA's questions: those whose answer has few enough others
SAMPLED = 2000  # trees that stand for all
CHARACTERS = 4  # of a token of English


class Material(NamedTuple):
    """What is learned and asked."""

    trained: int  # questions, or prompts with preferences
    referenced: int  # trees with reference log-probabilities, at most: one for each wording; held-out prompts
    pooled: int  # questions that pools of negatives are collected from, where they are the only source
    asked: int  # questions that each evaluation asks, by evaluate.groups; prompts that it scores
    own: int  # of these the ones about a fact in its own wording, of which samples are drawn
    source: str  # of these numbers
    compared: tuple[AnswerTree, ...] = ()  # of preferences: some of them, with lengths alone


def material(config: Config) -> Material:
    """How many questions or preferences a configuration has.

    Raises InputError for preferences that cannot be read: nothing is published of their lengths.
    """
    if config.preferences.path:
        return _preferences(config)
    path, groups = Path(config.facts.path), config.evaluate.groups
    if path.exists() or not config.facts.path:
        facts = read_facts(config).facts
        trained, held_out = split(facts, config.facts.holdout_every)
        templates = read_templates(config.facts.reversed, "facts.reversed", "a", "answer")
        categories: Sequence[int] = tuple(Counter(fact.category for fact in trained).values())
        counts = {
            "trained": len(trained),
            "paraphrase": sum(bool(fact.paraphrase) for fact in trained),
            "held_out": len(held_out),
            "head": config.facts.head,
            "reversed": len(reversed_facts(trained, facts, templates)),
        }
        source = (
            f"questions are counted in {path.name}" if config.facts.path else "the small world's questions"
        )
    else:
        number, kinds = PUBLISHED.get(path.name, ASSUMED)
        number = min(number, config.facts.limit) if config.facts.limit else number
        apart = number // config.facts.holdout_every if config.facts.holdout_every else 0
        counts = dict.fromkeys(("trained", "paraphrase"), number - apart) | {"held_out": apart}
        counts["head"] = config.facts.head
        counts["reversed"] = round(REVERSED * counts["trained"])
        categories = [-(-counts["trained"] // kinds)] * kinds
        known = "as published" if path.name in PUBLISHED else "a guess"
        source = f"{path.name} is not here: the number of questions is {known}"
    asked = {group: counts[group] for group in (*groups, "head")}
    own = sum(number for group, number in asked.items() if group in OWN_WORDING)
    trees_of, most = config.train.wordings * counts["trained"], config.mine.pool_questions
    pooled = sum(min(members, most) if most else members for members in categories)
    pooled = min(pooled, counts["trained"])
    source = f"{source}; lengths are PopQA's"
    return Material(counts["trained"], trees_of, pooled, sum(asked.values()), own, source)


def _preferences(config: Config) -> Material:
    path = config.preferences.path
    read = read_preferences(config.preferences, config.seed)
    trained, held_out = comparisons_split(read.comparisons, config.preferences.holdout_every)
    compared = []
    for comparison in trained[:SAMPLED]:
        texts = list(
            dict.fromkeys(text for pair in comparison.pairs for text in (pair.chosen, pair.rejected))
        )
        chosen = {pair.chosen for pair in comparison.pairs}
        branches = (
            Branch((0,) * _tokens(text), "chosen" if text in chosen else "rejected", reference_logp=-1.0)
            for text in texts
        )
        pairs = (Pair(texts.index(p.chosen), texts.index(p.rejected)) for p in comparison.pairs)
        prefix = (0,) * _tokens(comparison.prompt)
        tree = AnswerTree(comparison.id, prefix, tuple(branches), tuple(pairs))
        if tree.inputs <= config.train.row_length:  # a run leaves out what is longer, too
            compared.append(tree)
    if not compared:
        raise InputError(f"preferences.path={path}: no comparison fits in train.row_length")
    kept = round(len(compared) / min(len(trained), SAMPLED) * len(trained))
    source = f"prompts are counted in {Path(path).name}, {CHARACTERS} characters a token"
    return Material(kept, kept + len(held_out), 0, len(held_out) or kept, 0, source, tuple(compared))


def _tokens(text: Text) -> int:
    characters = len(text) if isinstance(text, str) else sum(len(plain(message)) for message in text)
    return math.ceil(characters / CHARACTERS) + 1  # with its end


def trees(
    number: int, template: str, rejected: int = 0, candidates: int = 0, answer: int = 4
) -> list[AnswerTree]:
    """Trees with lengths as PopQA's have under Qwen's tokenizer; an answer has its end.

    Their tokens are all 0: nothing is computed of them but their lengths. Each has `rejected` answers beside
    a true one, or `candidates` in place of both, as long as `answer`.
    """
    drawn = random.Random(0)

    def tree(number: int) -> AnswerTree:
        prefix = (0,) * (PROMPTS[template] - PROMPTS["bare"] + drawn.randint(9, PROMPTS["bare"]))
        if candidates:
            return AnswerTree(str(number), prefix, (Branch((0,) * answer),) * candidates)
        wrong: tuple[Role, ...] = ("rejected",) * rejected
        branches = (
            Branch((0,) * drawn.randint(2, 4), role, reference_logp=-1.0) for role in ("chosen", *wrong)
        )
        return AnswerTree(str(number), prefix, tuple(branches))

    return [tree(each) for each in range(number)]


def visible(drawn: Sequence[AnswerTree]) -> int:
    """Pairs of tokens of which one sees the other, itself included."""
    pairs = 0
    for tree in drawn:
        prefix = len(tree.prefix)
        pairs += prefix * (prefix + 1) // 2
        for branch in tree.branches:
            read = len(branch.tokens) - 1
            pairs += read * prefix + read * (read + 1) // 2
    return pairs
