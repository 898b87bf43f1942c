"""Parts of a judge that ask a model, wherever it runs: on the run's devices, or on a server."""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Literal, NamedTuple

from pretrainrl_jax.judging.prompts import Prompt
from pretrainrl_jax.judging.protocol import Case, Counts, Part, Scored, total

ALONE = 0.5  # the score of a candidate that has no other to be compared with
Pairs = Literal["all", "pivot", "sample"]
Texts = dict[str, str]  # by the names of a prompt's places


class Answer(NamedTuple):
    """What a model says to one prompt."""

    shares: Sequence[float] | None  # of each verdict, the best first, of sum 1; None: none could be read
    counts: Counts = MappingProxyType({})  # what happened on the way


Ask = Callable[[Prompt, Sequence[Texts]], Sequence[Answer]]
"""Asks one prompt with different texts in its places."""


def pairwise(
    ask: Callable[[Sequence[Texts]], Sequence[Answer]], pairs: Pairs = "all", opponents: int = 1
) -> Callable[[Sequence[Case]], Scored]:
    """The part `quality`: a candidate's score is the mean of what it wins in all its comparisons.

    `ask` is given a prefix with the first and the second text, which differ. The first share of its answer is
    the probability that the first is the better one.

    Of K candidates every ordered pair is judged once: K(K − 1) verdicts, 2(K − 1) about each, where it wins
    p as the first text and 1 − p as the second. So a judge that prefers the place and not the text finds
    all equal. `pairs` = "pivot" compares all with the first candidate alone, "sample" each with so many
    `opponents` that are drawn by what the texts are.

    A comparison without a verdict is in no mean; a candidate with verdicts on fewer than half of its
    comparisons has no score. The counts of a case tell what the judge prefers: see `preferences`.
    """

    def judge(cases: Sequence[Case]) -> Scored:
        chosen: list[list[tuple[int, int]]] = []
        for case in cases:
            both = paired(len(case.candidates), pairs, opponents, repr((case.prefix, case.candidates)))
            chosen.append([order for i, j in both for order in ((i, j), (j, i))])
        asked: list[Texts] = []
        for (prefix, texts, *_), own in zip(cases, chosen, strict=True):
            asked += [{"prefix": prefix, "first": texts[i], "second": texts[j]} for i, j in own]
        answers, scores, counts = iter(ask(asked)), list[list[float | None]](), list[Counts]()
        for case, own in zip(cases, chosen, strict=True):
            given = {pair: next(answers) for pair in own}
            won = {pair: None if one.shares is None else one.shares[0] for pair, one in given.items()}
            scores.append(_means(len(case.candidates), won))
            counts.append(preferences(case.candidates, won) | total(one.counts for one in given.values()))
        return Scored(scores, counts)

    return judge


def paired(candidates: int, pairs: Pairs, opponents: int, drawn_by: str = "") -> list[tuple[int, int]]:
    """The pairs of so many candidates that are compared, each once, by their places."""
    places = range(candidates)
    if pairs == "pivot":
        return [(0, place) for place in places[1:]]
    both = list(combinations(places, 2))
    if pairs == "all":
        return both
    # In a circle in random order each meets those that follow: everyone has as many comparisons.
    circle = random.Random(hashlib.sha256(drawn_by.encode()).digest()).sample(places, len(places))
    apart = [abs(circle.index(i) - circle.index(j)) for i, j in both]
    return [pair for pair, far in zip(both, apart, strict=True) if min(far, len(circle) - far) <= opponents]


def preferences(candidates: Sequence[str], verdicts: dict[tuple[int, int], float | None]) -> dict[str, float]:
    """What verdicts on ordered pairs say of the judge, as sums over one case.

    `comparisons` with a verdict and `first_won` of them; `unequal` ones, whose texts differ in length, and
    `longer_won` of them; pairs judged in both `orders`, and `orders_differ` of them, where two orders prefer
    different texts. A tie is half a win, and agrees with all.
    """
    known = {pair: p for pair, p in verdicts.items() if p is not None}
    longer = [
        p if len(candidates[i]) > len(candidates[j]) else 1 - p
        for (i, j), p in known.items()
        if len(candidates[i]) != len(candidates[j])
    ]
    orders = [(p, 1 - known[j, i]) for (i, j), p in known.items() if i < j and (j, i) in known]
    return {
        "comparisons": len(known),
        "first_won": math.fsum(known.values()),
        "unequal": len(longer),
        "longer_won": math.fsum(longer),
        "orders": len(orders),
        "orders_differ": sum((one - 0.5) * (other - 0.5) < 0 for one, other in orders),
    }


def _means(candidates: int, verdicts: dict[tuple[int, int], float | None]) -> list[float | None]:
    won: list[list[float | None]] = [[] for _ in range(candidates)]
    for (i, j), p in verdicts.items():
        won[i].append(p)
        won[j].append(None if p is None else 1 - p)
    means: list[float | None] = []
    for own in won:
        known = [p for p in own if p is not None]
        # Exactly rounded, so that candidates with the same verdicts are equal in whatever order these came.
        mean = math.fsum(known) / len(known) if known else ALONE
        means.append(None if 2 * len(known) < len(own) else mean)
    return means


def pointwise(prompt: Prompt, ask: Ask) -> Part:
    """Candidates one by one: the mean of the verdicts' worth, from 1 of the best to 0 of the worst."""

    def judge(cases: Sequence[Case]) -> Scored:
        texts = [
            {"prefix": case.prefix, "suffix": candidate, "reference": case.reference}
            for case in cases
            for candidate in case.candidates
        ]
        answers = iter(ask(prompt, [{name: text[name] for name in prompt.places} for text in texts]))
        own = [[next(answers) for _ in case.candidates] for case in cases]
        scores = [[None if one.shares is None else worth(one.shares) for one in of_case] for of_case in own]
        return Scored(scores, [total(answer.counts for answer in of_case) for of_case in own])

    return judge


def worth(shares: Sequence[float]) -> float:
    """The mean of what verdicts are worth, from 1 of the first to 0 of the last in equal steps."""
    last = len(shares) - 1
    return math.fsum(share * (1 - place / last) for place, share in enumerate(shares))
