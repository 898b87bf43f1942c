"""How a question is put to the model, and how its answer ends.

The separator belongs to the answer (" Florence"), and every branch ends in one canonical terminator: a line
break under the few-shot template, EOS otherwise. Without it, "Quebec" as a negative would push down
"Quebec City".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, document

Examples = tuple[tuple[str, str], ...]  # (question, answer)
EXAMPLES: Examples = (  # for a model that has no facts to choose them from
    ("What is the capital of France?", "Paris"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ("What is the chemical symbol of gold?", "Au"),
)
SHOWN = 3  # examples of a few-shot prompt, as the paper shows
INSTRUCTION = "Answer the following questions in as few words as possible."  # PretrainRL's few-shot prompt


@dataclass(frozen=True)
class Template:
    """`few_shot` puts examples before the question and ends answers at a line break; bare asks as it is."""

    kind: str  # "bare" or "few_shot"
    examples: Examples = ()  # few_shot only
    categories: tuple[str, ...] = ()  # of each example; where given, one is never shown to its own category
    rule: str = ""  # how answers are scored, where the prompt states it

    def prefix(self, question: str, category: str | None = None) -> str:
        """All text before the answer; that of all questions of a category begins alike."""
        if self.kind == "bare":
            return f"{self.rule}\n{question}" if self.rule else question
        shown = self.examples
        if self.categories:
            others = zip(self.examples, self.categories, strict=True)
            shown = [example for example, own in others if own != category][:SHOWN]
        examples = "".join(f"Question: {q}\nAnswer: {a}\n" for q, a in shown)
        instruction = f"{INSTRUCTION} {self.rule}".rstrip()
        return f"{instruction}\n{examples}Question: {question}\nAnswer:"

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads, and digests are of."""
        return {name: x for name, x in asdict(self).items() if x or name not in ("categories", "rule")}

    @staticmethod
    def from_json(described: Mapping[str, Any]) -> "Template":
        """The template that a model's or a workdir's files describe."""
        examples = tuple((q, a) for q, a in described["examples"])
        categories = tuple(described.get("categories", ()))
        return Template(described["kind"], examples, categories, described.get("rule", ""))

    def terminator(self, tokenizer: Tokenizer) -> int:
        """The canonical terminator's id: the last token of every branch."""
        return tokenizer.newline if self.kind == "few_shot" else tokenizer.eos[0]

    def terminators(self, tokenizer: Tokenizer, vocabulary: int) -> np.ndarray:
        """bool [vocabulary]: the tokens that end a beam."""
        return ends_at(tokenizer, vocabulary, newline=self.kind == "few_shot")


def check_fits(tokenizer: Tokenizer, vocabulary: int, where: object = "") -> None:
    """Raises InputError unless every token that a text may have, BOS and EOS have a row of the embedding.

    A control token that was added beyond the rows, such as <pad>, comes of no text and stops nobody.
    """
    if (size := max(tokenizer.used) + 1) > vocabulary:
        raise InputError(
            f"{where or 'tokenizer and model'}: the tokenizer has {size} tokens and the model's "
            f"embedding {vocabulary} rows: they do not belong together"
        )


def ends_at(tokenizer: Tokenizer, vocabulary: int, *, newline: bool) -> np.ndarray:
    """bool [vocabulary]: EOS ids, and with `newline` every token whose text contains a line break.

    Raises InputError if a token has no row.
    """
    check_fits(tokenizer, vocabulary)
    mask = np.zeros(vocabulary, bool)
    mask[list(tokenizer.eos)] = True
    if newline:
        rows = tokenizer.has_newline[:vocabulary]
        mask[: len(rows)] |= rows
    return mask


def choose_examples(facts: Sequence[Fact], outside: bool = False) -> list[Fact]:
    """The facts shown in few-shot prompts: the best known, each of another category.

    `outside` adds as many as it takes for every category to have `SHOWN` of others, or as many as there are,
    by turns of all categories where there are few of them.
    """
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, Fact]] = []
    for fact in sorted(facts, key=lambda f: (-f.popularity, f.id)):
        ranked.append((turns[fact.category], fact))
        turns[fact.category] += 1
    in_turn = [fact for _, fact in sorted(ranked, key=lambda item: item[0])]
    if not outside or len(turns) < 2:
        return in_turn[: min(SHOWN, len(turns))]

    def enough(category: str) -> int:
        others = (count for count, fact in enumerate(in_turn, 1) if fact.category != category)
        return max(islice(others, SHOWN))

    return in_turn[: max(map(enough, turns))]


@dataclass(frozen=True)
class Encoded:
    """Prefixes and their branches as tokens."""

    prefixes: list[tuple[int, ...]]
    branches: list[list[tuple[int, ...]]]  # of each prefix
    separate: int  # branches encoded apart, since the joint tokenisation does not begin with the prefix's


def encode_continuations(
    tokenizer: Tokenizer, prompts: Sequence[str], texts: Sequence[Sequence[str]]
) -> Encoded:
    """Tokens of each prompt and of each text that continues it; no special token is added.

    A text's are tokenise(prompt + text) without the prompt's. Where the joint tokenisation does not begin
    with the prompt's tokens, or has no more, the text is encoded by itself and counted.
    """
    prefixes = tokenizer.encode_all(prompts)
    asked = zip(prompts, texts, strict=True)
    joint = iter(tokenizer.encode_all([prompt + text for prompt, own in asked for text in own]))
    branches: list[list[tuple[int, ...]]] = []
    separate = 0
    for prefix, own in zip(prefixes, texts, strict=True):
        encoded = []
        for text in own:
            both = next(joint)
            if both[: len(prefix)] == prefix and len(both) > len(prefix):
                encoded.append(both[len(prefix) :])
            else:
                separate += 1
                encoded.append(tokenizer.encode(text))
        branches.append(encoded)
    return Encoded(prefixes, branches, separate)


def encode_branches(
    tokenizer: Tokenizer, template: Template, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> Encoded:
    """Tokens of each prompt (`Template.prefix`), BOS first, and of each answer as a branch of it.

    That is " " + answer as it continues the prompt (`encode_continuations`), then the terminator.
    """
    encoded = encode_continuations(tokenizer, prompts, [[f" {answer}" for answer in own] for own in answers])
    end = (template.terminator(tokenizer),)
    branches = [[tokens + end for tokens in own] for own in encoded.branches]
    return Encoded([tokenizer.start + prefix for prefix in encoded.prefixes], branches, encoded.separate)


def documents(tokenizer: Tokenizer, texts: Sequence[str], row_length: int) -> list[AnswerTree]:
    """Each text as a tree ending in EOS; one longer than a row becomes several, and none of it is cut."""
    encoded = enumerate(tokenizer.encode_all(texts))
    return [tree for n, tokens in encoded for tree in of_document(tokenizer, str(n), tokens, row_length)]


def of_document(tokenizer: Tokenizer, name: str, tokens: Sequence[int], row_length: int) -> list[AnswerTree]:
    """The trees of a document's tokens, its EOS after them."""
    room = row_length + 1 - len(tokenizer.start)  # a branch's last token is not read
    # Without BOS, neighbouring pieces share a token: the last one predicted is the first one read.
    shared = 1 - len(tokenizer.start)
    ended = (*tokens, tokenizer.eos[0])
    starts = range(0, max(1, len(ended) - shared), room - shared)
    return [document(f"{name}:{s}", ended[s : s + room], tokenizer.bos) for s in starts]
