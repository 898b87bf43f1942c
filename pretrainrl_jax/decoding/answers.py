"""Questions in, answers as text out: beam search between a template and a tokenizer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrainrl_jax.decoding.decode import decode
from pretrainrl_jax.decoding.decoded import Decoded
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One beam as text: cut at its first line break, stripped.

    It is as probable as its tokens times all terminators together at its end, whatever terminator a model was
    taught to end with; beams are ranked by the most probable one alone.
    """

    text: str
    tokens: tuple[int, ...]
    logp: float  # summed log-probability in nats, its end included where finished
    finished: bool = True
    token_logps: tuple[float, ...] = ()  # of each token, then of any terminator: what is summed
    score: float = math.nan  # what it was ranked by: its end is its most probable terminator


@dataclass(frozen=True)
class Sample:
    """One random continuation as text, exactly as drawn (spaces and line breaks are kept), then `Decoded`."""

    text: str
    tokens: tuple[int, ...]
    logp: float  # summed log-probability (nats) of the model as it is, terminator included where finished
    sampled_logp: float  # the same under the tempered, truncated distribution it was drawn from
    finished: bool
    token_logps: tuple[float, ...] = ()  # of each token, then of the terminator; `logp` is their sum
    sampled_token_logps: tuple[float, ...] = ()  # likewise of `sampled_logp`


def read_answers(values: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """The answers whose fields by name these are, as JSON gives them back."""
    fields: Any = ({name: tuple(x) if type(x) is list else x for name, x in a.items()} for a in values)
    return [Answer(**each) for each in fields]


def distinct(answers: Iterable[Answer]) -> dict[str, Answer]:
    """The answers by normalised text, without later ones of equal text: two spellings are one answer."""
    kept: dict[str, Answer] = {}
    for answer in answers:
        kept.setdefault(normalise(answer.text), answer)
    return kept


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The answer that tokens spell: their text before the first line break, stripped."""
    return tokenizer.decode(tokens).split("\n")[0].strip()


def read_answer(tokenizer: Tokenizer, beam: Decoded) -> Answer:
    text = answer_text(tokenizer, beam.tokens)
    if not beam.finished:
        return Answer(text, beam.tokens, beam.logp, False, beam.token_logps, beam.logp)
    *of_tokens, ending = beam.token_logps
    logp = beam.logp - ending + beam.ending_logp
    return Answer(text, beam.tokens, logp, True, (*of_tokens, beam.ending_logp), beam.logp)


def read_sample(tokenizer: Tokenizer, drawn: Decoded) -> Sample:
    *fields, _ = vars(drawn).values()
    return Sample(tokenizer.decode(drawn.tokens), *fields)


def answer_questions(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    template: Template,
    prompts: Sequence[str],
    **search: Any,
) -> list[list[Answer]]:
    """The answers to each prompt (`Template.prefix`) by their scores, best first, unfinished ones last.

    `search` is what else `decode.decode` takes.
    """
    encoded = [tokenizer.start + ids for ids in tokenizer.encode_all(prompts)]
    terminators = template.terminators(tokenizer, model.shape.vocabulary)
    decoded = decode(model, params, encoded, terminators, **search)
    return [[read_answer(tokenizer, h) for h in beams] for beams in decoded]
