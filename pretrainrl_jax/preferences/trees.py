"""Comparisons as answer trees: a prompt's tokens, and those of every answer as a branch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.preferences import rows as judged
from pretrainrl_jax.preferences.record import Comparison, Message, Preferred, Text, key, plain
from pretrainrl_jax.trees.layouts import Layout, size
from pretrainrl_jax.trees.tokenization import Tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, Pair, select

Tokens = tuple[int, ...]


@dataclass
class Built:
    """Trees of comparisons, and what was left out or laid otherwise."""

    trees: list[AnswerTree] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # pairs, by rule
    examples: dict[str, str] = field(default_factory=dict)  # by rule the first prompt's id and why
    cut: int = 0  # prompts whose last tokens are told with the answers
    split: int = 0  # prompts laid as several trees, since their answers do not fit in one row

    def drop(self, rule: str, pairs: int, why: str = "") -> None:
        """Count pairs that are left out."""
        self.dropped[rule] += pairs
        self.examples.setdefault(rule, why)


def build(
    comparisons: Sequence[Comparison],
    tokenizer: Tokenizer,
    row_length: int,
    layout: Layout = "shared",
    control_tokens: bool = False,
) -> Built:
    """A tree for each comparison, its pairs named, without reference log-probabilities.

    The prefix is what the tokens of the prompt and of the prompt with each answer have in common: the prompt,
    but where a chat template writes it otherwise before an answer, or a token spans its end (counted). The
    branches are the rest, terminators included. An answer that is better than one and worse than another
    stands as two branches, one of each role.

    A pair that takes more than a row of that layout is left out; a prompt whose pairs fit only one by one is
    laid as several trees, in whose first one a chosen answer counts for next-token prediction. A pair whose
    texts spell control tokens is left out without `control_tokens`. Raises InputError if there are messages,
    and the tokenizer has no chat template.
    """
    built = Built()
    for comparison in comparisons:
        clean = comparison if control_tokens else _without_control(comparison, tokenizer, built)
        if not clean.pairs:
            continue
        try:
            prompt, branches = encode(clean, tokenizer, control_tokens)
        except _Refused as refused:
            built.drop(judged.TEMPLATE, len(clean.pairs), str(refused))
            continue
        places = zip(prompt, *branches.values(), strict=False)  # up to the end of the shortest
        shared = len([*takewhile(lambda tokens: len(set(tokens)) == 1, places)])
        built.cut += shared < len(prompt)
        tree = _tree(clean, prompt[:shared], {name: t[shared:] for name, t in branches.items()}, built)
        trees = _fitting(tree, row_length, layout, built)
        built.split += len(trees) > 1
        built.trees += trees
    return built


class _Refused(Exception):
    """A chat template that takes no such messages."""


def encode(
    comparison: Comparison, tokenizer: Tokenizer, control_tokens: bool = False
) -> tuple[Tokens, dict[str, Tokens]]:
    """The tokens of the prompt, and of the prompt with each answer and what ends it, by the answer's key."""
    every = {key(answer): answer for pair in comparison.pairs for answer in (pair.chosen, pair.rejected)}
    if isinstance(comparison.prompt, str):
        end = tokenizer.eos[0]
        ends = tokenizer.backend.convert_ids_to_tokens(end)
        joint = [comparison.prompt + str(answer).removesuffix(str(ends)) for answer in every.values()]
        encode_all = tokenizer.encode_rendered if control_tokens else tokenizer.encode_all
        prompt, *answers = (
            ids if ids[: len(tokenizer.start)] == tokenizer.start else tokenizer.start + ids
            for ids in encode_all([comparison.prompt, *joint])
        )
        return prompt, {name: (*ids, end) for name, ids in zip(every, answers, strict=True)}
    told = ((*comparison.prompt, *answer) for answer in every.values() if not isinstance(answer, str))
    rendered = [render(tokenizer, comparison.prompt, generate=True), *(render(tokenizer, t) for t in told)]
    prompt, *answers = tokenizer.encode_rendered(rendered)
    return prompt, dict(zip(every, answers, strict=True))


def render(tokenizer: Tokenizer, messages: Sequence[Message], generate: bool = False) -> str:
    """What the tokenizer's own chat template makes of messages; with `generate` an answer is to follow.

    Raises InputError without a template, _Refused if it takes no such messages.
    """
    if not tokenizer.backend.chat_template:
        raise InputError(
            "the preferences are messages, and the model's tokenizer has no chat template: give texts, or a "
            "model whose folder has chat_template.jinja"
        )
    try:
        return tokenizer.backend.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=generate
        )
    except Exception as error:  # a template may raise anything
        raise _Refused(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _without_control(comparison: Comparison, tokenizer: Tokenizer, built: Built) -> Comparison:
    """The comparison without the pairs that spell a control token."""

    def spelt(text: Text) -> str:
        if isinstance(text, str):
            parts = [text.removesuffix(str(tokenizer.backend.convert_ids_to_tokens(tokenizer.eos[0])))]
        else:
            parts = [plain(message) for message in text]
        return next((control for control in tokenizer.control_texts for part in parts if control in part), "")

    of_prompt = spelt(comparison.prompt)
    kept: list[Preferred] = []
    for pair in comparison.pairs:
        if control := of_prompt or spelt(pair.chosen) or spelt(pair.rejected):
            built.drop(judged.CONTROL, 1, control)
        else:
            kept.append(pair)
    return replace(comparison, pairs=tuple(kept))


def _tree(comparison: Comparison, prefix: Tokens, tokens: Mapping[str, Tokens], built: Built) -> AnswerTree:
    """All pairs of a prompt as one tree; equal answers are one branch."""
    places: dict[tuple[Tokens, str], int] = {}
    branches: list[Branch] = []

    def place(answer: Text, role: Any) -> int:
        name = tokens[key(answer)], role
        if name not in places:
            places[name] = len(branches)
            branches.append(Branch(name[0], role))
        return places[name]

    pairs: Counter[tuple[int, int]] = Counter()
    for pair in comparison.pairs:
        chosen, rejected = tokens[key(pair.chosen)], tokens[key(pair.rejected)]
        if not chosen or not rejected:
            built.drop(judged.EMPTY, 1)
        elif chosen == rejected:
            built.drop(judged.EQUAL, 1)
        else:
            pairs[place(pair.chosen, "chosen"), place(pair.rejected, "rejected")] += pair.rows
    return AnswerTree(
        comparison.id, prefix, tuple(branches), tuple(Pair(*both, float(n)) for both, n in pairs.items())
    )


def _fitting(tree: AnswerTree, row_length: int, layout: Layout, built: Built) -> list[AnswerTree]:
    """The tree, or several of its pairs, none longer than a row."""
    if not tree.pairs:
        return []

    def part(pairs: Sequence[Pair]) -> AnswerTree:
        return select(replace(tree, pairs=tuple(pairs)), {p for pair in pairs for p in pair[:2]})

    def fits(pairs: Sequence[Pair]) -> bool:
        return size(part(pairs), layout).time <= row_length

    if fits(tree.pairs):
        return [tree]
    parts: list[list[Pair]] = []
    for pair in tree.pairs:
        if not fits([pair]):
            built.drop(judged.TOO_LONG, 1)
        elif parts and fits([*parts[-1], pair]):
            parts[-1].append(pair)
        else:
            parts.append([pair])
    counted: set[Tokens] = set()  # chosen answers that an earlier part has
    laid = []
    for number, pairs in enumerate(parts):
        made = part(pairs)
        branches = tuple(
            replace(b, weight=0.0) if b.role == "chosen" and b.tokens in counted else b for b in made.branches
        )
        counted |= {b.tokens for b in made.branches if b.role == "chosen"}
        laid.append(replace(made, id=f"{tree.id}/{number}" if number else tree.id, branches=branches))
    return laid
