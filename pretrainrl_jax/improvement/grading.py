"""What an output of a judge or of a rewriter that learns earns (arXiv 2601.21343)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pretrainrl_jax.improvement.labels import SAFE, Labelled
from pretrainrl_jax.judging.protocol import Case, JudgeError
from pretrainrl_jax.judging.rewriting import last_words, read_rewrite
from pretrainrl_jax.judging.verdicts import read_verdict

MALFORMED = "malformed"
VERDICTS = ("right", "wrong", MALFORMED)  # what comes of a judge's output
UNJUDGED = "unjudged"  # a rewrite that the judge gave no verdict to read on
REWRITES = (
    "copied",
    "changed",
    "rewritten",
    UNJUDGED,
    MALFORMED,
)  # of a rewriter's: of safe ones, and of unsafe ones


class Graded(NamedTuple):
    """An output's reward, in [0, 1], and what it was."""

    reward: float
    outcome: str


Worth = Callable[[Sequence[Case]], Sequence[Sequence[float | None]]]
"""Of each case, of each candidate, its score in [0, 1]; None where the judge gave no verdict to read."""


def grade_verdict(example: Labelled, output: str, verdicts: Sequence[str]) -> Graded:
    """1 where the verdict that is read from an output is the label; 0 where it is not, or none is read."""
    verdict = read_verdict(output, verdicts)
    if verdict is None:
        return Graded(0.0, MALFORMED)
    return Graded(1.0, "right") if verdict == example.label else Graded(0.0, "wrong")


def grade_rewrites(
    examples: Sequence[Labelled],
    outputs: Sequence[Sequence[str]],
    worth: Worth,
    cut: Callable[[Labelled, str], str],
) -> list[list[Graded]]:
    """Of outputs for each example what they earn.

    A safe suffix must come back as it was: 1, else 0. The rewrite of an unsafe one has its worth beside the
    original. An output that does not open with the prefix's last words, or with nothing behind, earns 0.

    Args:
        worth: asked once about each different rewrite.
        cut: a rewrite of an example to the tokens that a candidate may have.
    """
    asked: dict[tuple[int, str], Case] = {}
    texts: list[list[str | None]] = []
    for number, (example, own) in enumerate(zip(examples, outputs, strict=True)):
        prefix, suffix = example.texts
        read = [read_rewrite(output, last_words(prefix)) for output in own]
        if example.label != SAFE[True]:
            read = [text if text is None else cut(example, text) or None for text in read]
            for text in filter(None, read):
                both = (suffix,) if text == suffix else (suffix, text)  # no candidate equals another
                asked[number, text] = Case(prefix, both, suffix)
        texts.append(read)
    scores = {name: own[-1] for name, own in zip(asked, worth(list(asked.values())), strict=True)}
    for (number, _), score in scores.items():
        if score is not None and not 0 <= score <= 1:
            raise JudgeError(
                f"the judge gave a rewrite of {examples[number].where} the worth {score!r}: mend it"
            )

    def graded(number: int, text: str | None) -> Graded:
        if text is None:
            return Graded(0.0, MALFORMED)
        if (number, text) in scores:
            score = scores[number, text]
            return Graded(0.0, UNJUDGED) if score is None else Graded(score, "rewritten")
        return Graded(1.0, "copied") if text == examples[number].texts[1] else Graded(0.0, "changed")

    return [_known([graded(number, text) for text in own]) for number, own in enumerate(texts)]


def _known(group: list[Graded]) -> list[Graded]:
    """The group; where one of it has no verdict all earn the same, so that nothing is learned of it."""
    if all(one.outcome != UNJUDGED for one in group):
        return group
    return [one._replace(reward=0.0) for one in group]
