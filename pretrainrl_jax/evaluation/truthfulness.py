"""What a model states when it continues texts: truths, falsehoods, or nothing; and its loss on text."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.config import Config
from pretrainrl_jax.decoding.decode import bucket, sample_batch
from pretrainrl_jax.documents.world import SEPARATOR, MadeDocuments
from pretrainrl_jax.evaluation.texts import paragraphs
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.statements import Statement, Statements
from pretrainrl_jax.facts.wordings import wording_of
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.templates import documents, ends_at
from pretrainrl_jax.trees.tokenization import text_after
from pretrainrl_jax.trees.tree import AnswerTree

SAMPLES = 4  # free continuations of a prefix
NGRAM = 3  # tokens
CONTEXT = 2  # sentences before a statement, at most
BOUNDARY = re.compile(r"[.!][\"')\]]*\s+|\n+")

Json = dict[str, Any]
Advance = Callable[[int], None]


class Prefix(NamedTuple):
    """A text that ends where the answer of its last statement is missing."""

    text: str
    begin: int  # character where that statement begins
    fact: Fact  # what it is about
    wrong: str = ""  # the false answer that training documents give


class Continuation(NamedTuple):
    """What a model wrote after a prefix."""

    text: str
    tokens: tuple[int, ...]
    ended: bool  # the model ended the text there


def evaluate_truthfulness(
    loaded: Loaded,
    facts: Sequence[Fact],
    made: MadeDocuments,
    statements: Statements,
    config: Config,
    begin: Callable[[int], Advance] = lambda total: lambda n: None,
) -> Json:
    """What a model's continuations state, and how well it predicts `held_out_texts`.

    Of each kind of prefix there are `documents.held_out` at most. Where documents are read and facts are not,
    nothing is asked about facts: no text tells of a made-up world.

    Args:
        made: documents about the facts; empty where others are read. `statements` are of the same facts.
        begin: called with the number of prefixes and texts; gives what is called with those finished.

    Returns:
        "named", of prefixes that name subject and relation of facts of all degrees of popularity: whether the
        greedy continuation completes the statement, and how (`named`). "free", of prefixes of the texts: what
        sampled continuations state (`stated`). "corrupted", of prefixes of false statements that documents
        make: whether the greedy continuation repeats the false answer or gives a true one. "text_nll" and
        "text_tokens" of each text, in nats. "distinct_ngrams" and "repetition" of sampled ones: `variety`.
    """
    count, settings = config.documents.held_out, config.selfimprove
    texts = held_out_texts(made, config)[:count]
    of_facts = made.texts or config.facts.path
    asked = named_prefixes(facts, made.held_out, count, config.seed, statements.is_head) if of_facts else []
    misled = corrupted_prefixes(made.texts, statements, count, config.seed)
    opened = free_prefixes(texts, config.seed)
    trees = documents(loaded.tokenizer, texts, settings.length)
    advance = begin(len(asked) + len(misled) + SAMPLES * len(opened) + len(trees))

    begun = [*asked, *misled]
    greedy = continuations(loaded, [prefix.text for prefix in begun], 0.0, config, advance)
    # One sample of each prompt, so that nothing is compiled anew for several of one.
    repeated = [prefix for prefix in opened for _ in range(SAMPLES)]
    drawn = iter(continuations(loaded, repeated, 1.0, config, advance))
    free = [[next(drawn) for _ in range(SAMPLES)] for _ in opened]
    completed = [completes(*pair, statements) for pair in zip(begun, greedy, strict=True)]
    nats, tokens = text_nll(loaded, len(texts), trees, settings.length, config.evaluate.batch, advance)
    return {
        "named": [named(*pair, statements) for pair in zip(asked, completed[: len(asked)], strict=True)],
        "free": [stated(*pair, statements) for pair in zip(opened, free, strict=True)],
        "corrupted": [repeats(*pair) for pair in zip(misled, completed[len(asked) :], strict=True)],
        "text_nll": nats,
        "text_tokens": tokens,
        **variety([one.tokens for of_prefix in free for one in of_prefix]),
    }


def held_out_texts(made: MadeDocuments, config: Config) -> Sequence[str]:
    """Made documents that are held out, or where there are none all those of `evaluate.text`."""
    if made.held_out or not config.evaluate.text:
        return made.held_out
    return paragraphs(config.evaluate.text, "evaluate.text")


def named_prefixes(
    facts: Sequence[Fact], contexts: Sequence[str], count: int, seed: int, is_head: Callable[[Fact], bool]
) -> list[Prefix]:
    """Statements of `count` facts up to the answer: half of them head facts, evenly over ranks of popularity.

    Each is in a wording of its relation that ends with the answer, and has a sentence or two before it from
    the beginning of one of `contexts`, which do not speak of the same subject.
    """
    random = np.random.default_rng([seed, 6])
    ranked = sorted(facts, key=lambda fact: (-fact.popularity, fact.id))
    head = [fact for fact in ranked if is_head(fact)]
    rest = ranked[len(head) :]
    of_head = min(len(head), max(count // 2, count - len(rest)))
    prefixes = []
    for number, fact in enumerate([*_evenly(head, of_head), *_evenly(rest, count - of_head)]):
        before = contexts[number % len(contexts)].split(SEPARATOR) if contexts else []
        lines = [line for line in before if not fact.subject or fact.subject not in line]
        context = "".join(line + SEPARATOR for line in lines[: random.integers(1, CONTEXT + 1)])
        wordings = wording_of(fact.category).statements if fact.subject else ()
        templates = [text for text in wordings if text.endswith("{answer}.")]
        if templates:
            template = templates[random.integers(len(templates))].removesuffix("{answer}.").rstrip()
            begun = template.replace("{relation}", fact.category).replace("{subject}", fact.subject)
        else:
            begun = fact.question
        prefixes.append(Prefix(context + begun, len(context), fact))
    return prefixes


def _evenly(facts: Sequence[Fact], count: int) -> list[Fact]:
    """So many of them, or all, from the middle of stretches of equal length."""
    taken = min(count, len(facts))
    return [facts[(2 * number + 1) * len(facts) // (2 * taken)] for number in range(taken)]


def corrupted_prefixes(texts: Sequence[str], statements: Statements, count: int, seed: int) -> list[Prefix]:
    """Documents up to the answer of a false statement, at most `count` of them.

    Statements whose answer is not their last word are left out, and those of which the document has spoken.
    """
    read = [(text, said) for text in texts for said in statements.find(text, ended=True)]
    false = [(text, said) for text, said in read if said.verdict == "false"]
    prefixes: list[Prefix] = []
    for at in np.random.default_rng([seed, 7]).permutation(len(false)):
        text, said = false[at]
        first = not said.start or said.subject not in text[: said.start]
        if said.fact and first and said.answer_start + len(said.answer) == said.end:
            prefixes.append(Prefix(text[: said.answer_start].rstrip(), said.start, said.fact, said.answer))
    return prefixes[:count]


def free_prefixes(texts: Sequence[str], seed: int) -> list[str]:
    """Of each text that has several sentences what stands before one of them, drawn at random."""
    random = np.random.default_rng([seed, 8])
    prefixes = []
    for text in texts:
        places = [match.end() for match in BOUNDARY.finditer(text) if match.end() < len(text)]
        if places:
            prefixes.append(text[: places[random.integers(len(places))]])
    return prefixes


def completes(prefix: Prefix, continuation: Continuation, statements: Statements) -> Statement | None:
    """The statement that a prefix begins, where its continuation completes it."""
    begun = len(prefix.text)
    read = statements.find(prefix.text + continuation.text, since=begun, ended=continuation.ended)
    return next((s for s in read if prefix.begin <= s.start < begun and s.verdict != "unknown"), None)


def named(prefix: Prefix, completed: Statement | None, statements: Statements) -> Json:
    """The verdict on a completed statement, "none" where there is none; whether it is about a head fact."""
    return {"verdict": completed.verdict if completed else "none", "head": statements.is_head(prefix.fact)}


def repeats(prefix: Prefix, completed: Statement | None) -> Json:
    """Whether a completed statement gives the false answer that documents give, or a true one."""
    repeated = completed is not None and normalise(completed.answer) == normalise(prefix.wrong)
    return {"repeated": repeated, "true": completed is not None and completed.verdict == "true"}


def stated(prefix: str, written: Sequence[Continuation], statements: Statements) -> Json:
    """What continuations of a prefix state: how often truly, falsely, of nobody known; which facts.

    "facts" are the ids of those stated truly, each once; "head" is how many of them are head facts.
    """
    read: list[Statement] = []
    for one in written:
        read += statements.find(prefix + one.text, since=len(prefix), ended=one.ended)
    verdicts = Counter(statement.verdict for statement in read)
    right = {s.fact.id: s.fact for s in read if s.fact and s.verdict == "true"}
    return {
        **{verdict: verdicts[verdict] for verdict in ("true", "false", "unknown")},
        "facts": list(right),
        "head": sum(map(statements.is_head, right.values())),
    }


def variety(texts: Sequence[tuple[int, ...]]) -> Json:
    """Of the 3-grams of tokens; None where there are none.

    `distinct_ngrams`: the share of distinct ones among those of all texts; `repetition`: the mean over texts
    of the share of its own that stand in it before.
    """
    grams = [[text[at : at + NGRAM] for at in range(len(text) - NGRAM + 1)] for text in texts]
    grams = [own for own in grams if own]
    together = [gram for own in grams for gram in own]
    return {
        "distinct_ngrams": len(set(together)) / len(together) if together else None,
        "repetition": float(np.mean([1 - len(set(own)) / len(own) for own in grams])) if grams else None,
    }


def continuations(
    loaded: Loaded, prefixes: Sequence[str], temperature: float, config: Config, advance: Advance
) -> list[Continuation]:
    """What a model writes after each prefix, of which it sees the last tokens, as a policy does."""
    tokenizer, vocabulary, settings = loaded.tokenizer, loaded.model.shape.vocabulary, config.selfimprove
    room = settings.length - settings.suffix
    if not prefixes:
        return []
    shown = max(1, room - len(tokenizer.start))
    prompts = [tokenizer.start + tokens[-shown:] for tokens in tokenizer.encode_all(prefixes)]
    drawn = sample_batch(
        loaded.model,
        loaded.params,
        prompts,
        ends_at(tokenizer, vocabulary, newline=False),
        samples=1,
        max_new_tokens=settings.suffix,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        seed=config.seed % (1 << 32),
        batch=config.evaluate.batch,
        shortest=bucket(room) // 2,
        advance=advance,
    )
    return [
        Continuation(text_after(tokenizer, prompt, one.tokens), one.tokens, one.finished)
        for prompt, (one,) in zip(prompts, drawn, strict=True)
    ]


def text_nll(
    loaded: Loaded,
    texts: int,
    trees: Sequence[AnswerTree],
    row_length: int,
    rows: int,
    advance: Advance,
) -> tuple[list[float], list[int]]:
    """Negative log-likelihood of each text and its end, in nats, and how many tokens were predicted.

    `trees` are of so many `texts`, as `documents` makes them.
    """
    nats, tokens = [0.0] * texts, [0] * texts
    scores = score_trees(
        loaded.model, loaded.params, trees, row_length=row_length, rows=rows, advance=advance
    )
    for tree, (logp,) in zip(trees, scores, strict=True):
        number = int(tree.id.partition(":")[0])  # a long text is several trees
        nats[number] -= logp
        tokens[number] += size(tree, question=False).targets
    return nats, tokens
