"""Held-out texts that a model and the base model continue: whose continuation the judge finds better."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from pretrainrl_jax.config import Config
from pretrainrl_jax.decoding.decode import bucket
from pretrainrl_jax.documents.cut import Cut, cut, tokenised
from pretrainrl_jax.documents.stream import Document
from pretrainrl_jax.judging.protocol import Case, Judge
from pretrainrl_jax.training.loading import Loaded
from pretrainrl_jax.trees.tokenization import Tokenizer, text_after

TIE = 0.5  # of a win


class Continued(NamedTuple):
    """A text that a model continued."""

    prefix: str
    suffix: str  # the text's own continuation
    written: str
    ended: bool  # the model ended the text there


def cut_texts(texts: Sequence[str], tokenizer: Tokenizer, config: Config) -> list[Cut]:
    """The first `selfimprove.compared` texts that are long enough, cut as documents are."""
    settings = config.selfimprove
    documents = [Document(number, f"text {number + 1}", text) for number, text in enumerate(texts)]
    cuts = (
        cut(document, tokens, tokenizer.start, settings, config.seed)
        for document, (tokens, _) in zip(documents, tokenised(tokenizer, documents), strict=True)
        if tokens
    )
    return list(islice((one for one in cuts if one), settings.compared))


def continue_greedily(loaded: Loaded, cuts: Sequence[Cut], config: Config) -> list[Continued]:
    """What a model finds likeliest, token by token, after each prefix."""
    settings, tokenizer = config.selfimprove, loaded.tokenizer
    written = loaded.rollouts(
        [one.prefix for one in cuts],
        samples=1,
        max_new_tokens=settings.suffix,
        temperature=0.0,
        top_p=1.0,
        seed=config.seed,
        batch=config.evaluate.batch,
        numbers=[one.number for one in cuts],
        shortest=bucket(settings.length - settings.suffix) // 2,
    )
    return [
        Continued(
            tokenizer.decode(one.prefix),
            text_after(tokenizer, one.prefix, one.suffix),
            text_after(tokenizer, one.prefix, rollout.tokens),
            rollout.tokens[-1] in tokenizer.eos,
        )
        for one, (rollout,) in zip(cuts, written, strict=True)
    ]


def won(judge: Judge, base: Sequence[Continued], other: Sequence[Continued]) -> list[float | None]:
    """Of each prefix whether the judge scores the other model's continuation higher than the base's.

    1 where it does, 0 where it scores it lower, ½ where it scores both the same or they are the same text,
    which is not judged; None where the judge has no score.
    """
    pairs = list(zip(base, other, strict=True))
    cases = [
        Case(one.prefix, (one.written, two.written), one.suffix, (one.ended, two.ended))
        for one, two in pairs
        if one.written != two.written
    ]
    verdicts = iter(judge(cases).scores if cases else ())
    results: list[float | None] = []
    for one, two in pairs:
        before, after = (0.0, 0.0) if one.written == two.written else next(verdicts)
        if before is None or after is None:
            results.append(None)
        else:
            results.append(TIE if before == after else float(after > before))
    return results
