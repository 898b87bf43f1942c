"""How much work a configuration is, where its data is not read: questions, tokens, documents."""

import random
from pathlib import Path
from typing import NamedTuple

from pretrainrl_jax.config import Config
from pretrainrl_jax.trees.tree import AnswerTree, Branch

# Questions that are trained, as PretrainRL (arXiv 2602.01875) counts them.
QUESTIONS = {"popQA.tsv": 12_518, "entityquestions": 176_560}
PROMPTS = {"bare": 17, "few_shot": 96}  # tokens of a prompt at most, of PopQA's under Qwen's tokenizer
SAMPLED = 2000  # trees that stand for all


class Questions(NamedTuple):
    """Questions that are trained, and where their number comes from."""

    number: int
    source: str


def questions(config: Config) -> Questions:
    """How many questions a configuration trains: read, where its file is there; else as published."""
    path = Path(config.facts.path)
    if path.exists() or not config.facts.path:
        from pretrainrl_jax.facts.reading import read_facts
        from pretrainrl_jax.facts.splits import split

        facts = read_facts(config).facts
        where = path.name or "the small world"
        return Questions(len(split(facts, config.facts.holdout_every)[0]), f"read of {where}")
    known = QUESTIONS.get(path.name, 10_000)
    source = f"{path.name} is not here: as published" if path.name in QUESTIONS else "assumed"
    limit = config.facts.limit
    return Questions(min(known, limit) if limit else known, source)


def trees(count: int, negatives: int) -> list[AnswerTree]:
    """Trees with lengths as PopQA's have under Qwen's tokenizer: 1 answer and `negatives`, each with its end.

    Their tokens are all 0: nothing is computed of them but their lengths.
    """
    drawn = random.Random(0)

    def branch(number: int) -> Branch:
        tokens = (0,) * drawn.randint(2, 4)
        return Branch(tokens, "rejected" if number else "chosen", reference_logp=-1.0)

    def tree(number: int) -> AnswerTree:
        prefix = (0,) * drawn.randint(9, 17)
        return AnswerTree(str(number), prefix, tuple(map(branch, range(1 + negatives))))

    return [tree(number) for number in range(min(count, SAMPLED))]


def visible(tree: AnswerTree) -> int:
    """Pairs of tokens of which one sees the other, itself included."""
    prefix = len(tree.prefix)
    pairs = prefix * (prefix + 1) // 2
    for branch in tree.branches:
        read = len(branch.tokens) - 1
        pairs += read * prefix + read * (read + 1) // 2
    return pairs
