"""How a question is put to the model, and how its answer ends.

The separator belongs to the answer (" Florence"), and every branch ends in one canonical terminator: a line
break under the few-shot template, EOS otherwise. Without it, "Quebec" as a negative would push down
"Quebec City".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, document

INSTRUCTION = "Answer the following questions in as few words as possible."  # PretrainRL's few-shot prompt


@dataclass(frozen=True)
class Template:
    """`few_shot` puts examples before the question and ends answers at a line break; bare asks as it is."""

    kind: str  # "bare" or "few_shot"
    examples: tuple[tuple[str, str], ...] = ()  # (question, answer), few_shot only

    def prefix(self, question: str) -> str:
        """All text before the answer."""
        if self.kind == "bare":
            return question
        shown = "".join(f"Question: {q}\nAnswer: {a}\n" for q, a in self.examples)
        return f"{INSTRUCTION}\n{shown}Question: {question}\nAnswer:"

    def terminator(self, tokenizer: Tokenizer) -> int:
        """The canonical terminator's id: the last token of every branch."""
        return tokenizer.newline if self.kind == "few_shot" else tokenizer.eos[0]

    def terminators(self, tokenizer: Tokenizer, vocabulary: int) -> np.ndarray:
        """bool [vocabulary]: the tokens that end a beam."""
        return ends_at(tokenizer, vocabulary, newline=self.kind == "few_shot")


def check_fits(tokenizer: Tokenizer, vocabulary: int, where: object = "") -> None:
    """Every token that a text may have, BOS and EOS have a row of the embedding.

    A control token that was added beyond the rows, such as <pad>, comes of no text and stops nobody.

    Raises:
        InputError: if one has none.
    """
    if (size := max(tokenizer.used) + 1) > vocabulary:
        raise InputError(
            f"{where or 'tokenizer and model'}: the tokenizer has {size} tokens and the model's "
            f"embedding {vocabulary} rows: they do not belong together"
        )


def ends_at(tokenizer: Tokenizer, vocabulary: int, *, newline: bool) -> np.ndarray:
    """bool [vocabulary]: EOS ids, and with `newline` every token whose text contains a line break.

    Raises:
        InputError: if a token has no row.
    """
    check_fits(tokenizer, vocabulary)
    mask = np.zeros(vocabulary, bool)
    mask[list(tokenizer.eos)] = True
    if newline:
        rows = tokenizer.has_newline[:vocabulary]
        mask[: len(rows)] |= rows
    return mask


def choose_examples(facts: Sequence[Fact], count: int = 3) -> list[Fact]:
    """The best-known fact of each of the first `count` categories by popularity: the few-shot examples."""
    chosen: dict[str, Fact] = {}
    for fact in sorted(facts, key=lambda f: (-f.popularity, f.id)):
        chosen.setdefault(fact.category, fact)
    return list(chosen.values())[:count]


@dataclass(frozen=True)
class Encoded:
    """Prefixes and their branches as tokens."""

    prefixes: list[tuple[int, ...]]
    branches: list[list[tuple[int, ...]]]  # of each prefix, terminators included
    separate: int  # branches encoded apart, since the joint tokenisation does not begin with the prefix's


def encode_branches(
    tokenizer: Tokenizer, template: Template, questions: Sequence[str], answers: Sequence[Sequence[str]]
) -> Encoded:
    """Tokens of each question's prefix and of each answer as a branch of it.

    A branch is tokenise(prefix + " " + answer) without the prefix's tokens, then the terminator. Where the
    joint tokenisation does not begin with the prefix's tokens, the answer is encoded by itself and counted.
    """
    texts = [template.prefix(q) for q in questions]
    prefixes = tokenizer.encode_all(texts)
    asked = zip(texts, answers, strict=True)
    joint = iter(tokenizer.encode_all([f"{text} {answer}" for text, own in asked for answer in own]))
    end = (template.terminator(tokenizer),)
    branches: list[list[tuple[int, ...]]] = []
    separate = 0
    for prefix, own in zip(prefixes, answers, strict=True):
        encoded = []
        for answer in own:
            both = next(joint)
            if both[: len(prefix)] == prefix and len(both) > len(prefix):
                encoded.append(both[len(prefix) :] + end)
            else:
                separate += 1
                encoded.append(tokenizer.encode(f" {answer}") + end)
        branches.append(encoded)
    return Encoded([tokenizer.start + p for p in prefixes], branches, separate)


def documents(tokenizer: Tokenizer, texts: Sequence[str], row_length: int) -> list[AnswerTree]:
    """Each text as a tree ending in EOS; one longer than a row becomes several, and none of it is cut."""
    trees = []
    room = row_length + 1 - len(tokenizer.start)  # a branch's last token is not read
    # Without BOS, neighbouring pieces share a token: the last one predicted is the first one read.
    shared = 1 - len(tokenizer.start)
    for number, tokens in enumerate(tokenizer.encode_all(texts)):
        ended = (*tokens, tokenizer.eos[0])
        starts = range(0, max(1, len(ended) - shared), room - shared)
        trees += [document(f"{number}:{s}", ended[s : s + room], tokenizer.bos) for s in starts]
    return trees
