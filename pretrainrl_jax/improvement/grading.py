"""What outputs of a judge or a rewriter that learns earn (arXiv 2601.21343), and how well it so does."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pretrainrl_jax.improvement.labels import SAFE, Labelled
from pretrainrl_jax.judging.prompts import read_verdict
from pretrainrl_jax.judging.protocol import Case, JudgeError
from pretrainrl_jax.judging.rewriting import last_words, read_rewrite
from pretrainrl_jax.knowledge.intervals import mean_interval

MALFORMED = "malformed"
VERDICTS = ("right", "wrong", MALFORMED)  # what comes of a judge's output
UNJUDGED = "unjudged"  # a rewrite that the judge gave no verdict to read on
# Of a rewriter's: of safe ones, and of unsafe ones.
REWRITES = ("copied", "changed", "rewritten", UNJUDGED, MALFORMED)


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
    `worth` is asked once about each different rewrite; `cut` leaves the tokens that a candidate may have.
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

    def graded(number: int, text: str | None) -> Graded:
        if text is None:
            return Graded(0.0, MALFORMED)
        if (number, text) not in scores:
            return Graded(1.0, "copied") if text == examples[number].texts[1] else Graded(0.0, "changed")
        if (score := scores[number, text]) is None:
            return Graded(0.0, UNJUDGED)
        if not 0 <= score <= 1:
            where = examples[number].where
            raise JudgeError(f"the judge gave a rewrite of {where} the worth {score!r}: mend it")
        return Graded(score, "rewritten")

    groups = [[graded(number, text) for text in own] for number, own in enumerate(texts)]
    for group in groups:
        if any(one.outcome == UNJUDGED for one in group):  # all earn the same: nothing is learned of it
            group[:] = [one._replace(reward=0.0) for one in group]
    return groups


def measured(examples: Sequence[Labelled], grades: Sequence[Graded]) -> dict[str, Any]:
    """Of one output for each example: by group, and of all, the mean reward with its 95 % interval.

    A group is a part, of which the mean is the accuracy; of a rewriter, the safe suffixes or the others. What
    belongs together is drawn together: both orders of a pair, and what shares a prefix.
    """
    every = list(zip(examples, grades, strict=True))
    groups: dict[str, list[tuple[Labelled, Graded]]] = defaultdict(list)
    for example, graded in every:
        groups[example.label if example.part == "rewrite" else example.part].append((example, graded))
    return {name: _told(own) for name, own in sorted(groups.items())} | {"all": _told(every)}


def _told(both: Sequence[tuple[Labelled, Graded]]) -> dict[str, Any]:
    rewards, keys = [graded.reward for _, graded in both], [example.key for example, _ in both]
    return {
        "count": len(both),
        "reward": sum(rewards) / len(rewards),
        "interval": mean_interval(keys, rewards),
        "outcomes": dict(sorted(Counter(graded.outcome for _, graded in both).items())),
    }


def metrics_of(result: dict[str, Any]) -> dict[str, float | None]:
    """For metrics.jsonl."""
    metrics: dict[str, float | None] = {}
    for name, own in result.items():
        low, high = own["interval"] or (None, None)
        malformed = own["outcomes"].get(MALFORMED, 0) / own["count"]
        told = {"reward": own["reward"], "low": low, "high": high, MALFORMED: malformed}
        suffix = "" if name == "all" else f"_{name}"
        metrics |= {f"held_out_{what}{suffix}": value for what, value in told.items()}
    return metrics


def sentence(result: dict[str, Any]) -> str:
    """In words: the mean reward of each group, which of a judge is its accuracy."""
    told = []
    for name, own in result.items():
        if name == "all" and len(result) == 2:  # there is one group
            continue
        interval, malformed = own["interval"], own["outcomes"].get(MALFORMED, 0)
        shown = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
        lost = f", {malformed} malformed" if malformed else ""
        told.append(f"{name} {100 * own['reward']:.1f} %{shown} of {own['count']}{lost}")
    return "; ".join(told)
