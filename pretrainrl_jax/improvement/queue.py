"""Documents that were sampled and are not learned yet: what stands between the devices and a judge."""

import base64
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.decoding.rollouts import Rollout
from pretrainrl_jax.documents.cut import Cut

TOKEN, LOGP = (
    np.dtype("<i4"),
    np.dtype("<f8"),
)  # a log-probability is a Python float: 8 bytes keep it as it is


class Sampled(NamedTuple):
    """The documents of one step, continued."""

    after: int  # steps that had taught something when its policy sampled
    cuts: tuple[Cut, ...]
    rollouts: tuple[tuple[Rollout, ...], ...]  # of each cut


def packed(sampled: Sampled) -> dict[str, Any]:
    """The same as JSON holds it, to the bit.

    Arrays are compressed texts. A step of the paper's size (256 documents of 2,048 tokens, 16 rollouts of 128
    tokens each) takes up to 7 MB for a small vocabulary and 10 MB for a large one, in each checkpoint.
    """
    rollouts = [rollout for own in sampled.rollouts for rollout in own]
    stretches = [part for cut in sampled.cuts for part in (cut.document, cut.prefix, cut.suffix)]
    stretches += [rollout.tokens for rollout in rollouts]
    return {
        "after": sampled.after,
        "numbers": [cut.number for cut in sampled.cuts],
        "names": [cut.name for cut in sampled.cuts],
        "rollouts": [len(own) for own in sampled.rollouts],
        "lengths": _text(map(len, stretches), TOKEN),
        "tokens": _text(chain.from_iterable(stretches), TOKEN),
        "logps": _text(chain.from_iterable(rollout.logps for rollout in rollouts), LOGP),
    }


def unpacked(values: dict[str, Any]) -> Sampled:
    """What `packed` was given."""
    lengths = _numbers(values["lengths"], TOKEN)
    stretches = _stretches(_numbers(values["tokens"], TOKEN), lengths)
    named = list(zip(values["numbers"], values["names"], strict=True))
    cuts = [Cut(number, name, next(stretches), next(stretches), next(stretches)) for number, name in named]
    logps = _stretches(_numbers(values["logps"], LOGP), lengths[3 * len(cuts) :])
    rollouts = map(Rollout, stretches, logps)
    own = tuple(tuple(islice(rollouts, count)) for count in values["rollouts"])
    return Sampled(values["after"], tuple(cuts), own)


def _text(numbers: Any, kind: np.dtype) -> str:
    return base64.b64encode(zlib.compress(np.fromiter(numbers, kind).tobytes())).decode("ascii")


def _numbers(text: str, kind: np.dtype) -> list[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).tolist()


def _stretches(values: list[Any], lengths: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """The values one after another, in stretches of these lengths."""
    return (tuple(values[begin:end]) for begin, end in pairwise(accumulate(lengths, initial=0)))
