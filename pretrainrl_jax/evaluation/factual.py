"""Factual question answering: ACC, HR@k, MRR@k and Prob@k, from answers and log-probabilities.

PretrainRL (arXiv 2602.01875), evaluation: ACC is whether the greedy answer is right, HR@k whether any of k
beams is, MRR@k the reciprocal rank of the first right one, Prob@k its probability, over hits only. Ours
beside it: the probability of the truth over all questions, by teacher forcing.

Every probability here is that of an answer's tokens times all terminators together at its end, whichever way
it was measured, so that they can be compared.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pretrainrl_jax.decoding.answers import Answer, distinct
from pretrainrl_jax.facts.matching import Truths, matches, normalise, truths_of
from pretrainrl_jax.facts.record import Fact

OWN_WORDING = ("trained", "held_out")
"""The groups of questions that ask a fact in its own wording, each fact once."""
GROUPS = (
    "trained", "unseen", "paraphrase", "held_out", "held_out_head", "neighbour_subject", "neighbour_answer",
    "distant", "head", "reversed"
)  # fmt: skip


class Belief(NamedTuple):
    """An answer in all the spellings among a question's beams, which normalised are one text."""

    text: str  # as its most probable spelling has it
    confidence: float  # the probability of them together, each with all terminators at its end
    right: bool
    spellings: tuple[tuple[int, ...], ...]  # tokens of each, without terminators


NOTHING = Belief("", 0.0, False, ())


@dataclass(frozen=True)
class Outcome:
    """How a model did on one question."""

    fact: Fact
    question: str  # as it was asked: the trained wording or the paraphrase
    group: str  # "trained", "paraphrase", "held_out" or "reversed"
    prediction: str  # the greedy answer
    correct: bool
    rank: int | None  # of the first right beam, from 1
    p_hit: float | None  # that beam's probability
    p_truth: float  # probability of the canonical answer, teacher-forced
    p_aliases: float  # of all true answers: teacher-forced, and right beams that spell them otherwise
    falsehood: str | None  # the most probable wrong answer among its beams, in all its spellings
    p_falsehood: float | None
    truths: int  # distinct true answers
    believed: tuple[Belief, ...]  # the distinct answers among its beams, most probable first
    unfinished: int  # beams without a terminator at the length limit: never a hit, but counted
    beams: int
    measured_twice: int  # answers that were both found by beam search and teacher-forced
    apart: float  # the most that the two log-probabilities of one of these differ by, nats

    @property
    def best(self) -> Belief:
        """The answer the model is most confident of; one of no probability where no beam with a text ended.

        A model that says nothing has not answered.
        """
        return next((belief for belief in self.believed if normalise(belief.text)), NOTHING)


class Truth(NamedTuple):
    """A true answer and how probable it is, teacher-forced."""

    text: str
    tokens: tuple[int, ...]  # without a terminator
    logp: float  # nats, with all terminators


def judge(
    fact: Fact,
    question: str,
    group: str,
    greedy: Sequence[Answer],
    beams: Sequence[Answer],
    forced: Sequence[Truth],
    rule: Any,
    known: Truths = MappingProxyType({}),
) -> Outcome:
    """Compare a question's answers with what is true, by `matches`' rule.

    True are the fact's answers, and what `known_truths` knows of the wording.

    `greedy` is the answer of a one-beam search: an unfinished or missing one is wrong. `beams` are those of
    the beam search, best first, `forced` those of `fact.answers`, each once.
    """
    truths = truths_of(fact, question, known)

    def is_right(text: str) -> bool:
        return matches(text, truths, rule)

    ended = [a for a in beams if a.finished]
    finished = list(distinct(ended).values())
    hits = [is_right(a.text) for a in finished]
    rank = hits.index(True) + 1 if any(hits) else None
    spelt = {truth.tokens: truth.logp for truth in forced}
    apart = [abs(a.logp - spelt[a.tokens]) for a in ended if a.tokens in spelt]
    others = [a.logp for a in ended if a.tokens not in spelt and is_right(a.text)]
    answer = greedy[0] if greedy else Answer("", (), -math.inf, finished=False)
    believed = beliefs(ended, is_right)
    wrong = next((belief for belief in believed if not belief.right and normalise(belief.text)), None)
    return Outcome(
        fact,
        question,
        group,
        prediction=answer.text,
        correct=answer.finished and is_right(answer.text),
        rank=rank,
        p_hit=None if rank is None else math.exp(finished[rank - 1].logp),
        p_truth=math.exp(forced[0].logp),
        p_aliases=min(1.0, sum(map(math.exp, [*spelt.values(), *others]))),
        falsehood=None if wrong is None else wrong.text,
        p_falsehood=None if wrong is None else wrong.confidence,
        truths=len({*map(normalise, truths)} - {""}),
        believed=tuple(believed),
        unfinished=sum(not a.finished for a in beams),
        beams=len(beams),
        measured_twice=len(apart),
        apart=max(apart, default=0.0),
    )


def beliefs(answers: Sequence[Answer], is_right: Callable[[str], bool]) -> list[Belief]:
    """Finished answers of equal normalised text as one, the most probable first.

    Two beams never have the same tokens, so that their probabilities may be added.
    """
    spelled: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        spelled[normalise(answer.text)].append(answer)
    made = []
    for own in spelled.values():
        likely = max(own, key=lambda a: a.logp)
        mass = min(1.0, math.fsum(math.exp(a.logp) for a in own))
        made.append(Belief(likely.text, mass, is_right(likely.text), tuple(a.tokens for a in own)))
    return sorted(made, key=lambda belief: -belief.confidence)


def measures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The metrics of a set of questions, rates in [0, 1]; `prob` is None where nothing was hit."""
    hits = [o.p_hit for o in outcomes if o.p_hit is not None]
    return {
        "count": len(outcomes),
        "acc": _mean([o.correct for o in outcomes]),
        "hr": _mean([o.rank is not None for o in outcomes]),
        "mrr": _mean([0.0 if o.rank is None else 1 / o.rank for o in outcomes]),
        "prob": _mean(hits) if hits else None,
        "prob_all": _mean([o.p_truth for o in outcomes]),
        "prob_aliases": _mean([o.p_aliases for o in outcomes]),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def groups(
    outcomes: Sequence[Outcome],
    unseen: Callable[[Fact], bool],
    head: Callable[[Fact], bool],
    neighbour: Callable[[Fact], str],
) -> dict[str, dict[str, Any]]:
    """Metrics of every group that has questions.

    "unseen" are the trained facts that pretraining never stated; "held_out_head" the well-known facts that
    were not trained: what training may make a model forget. The held-out facts are neighbours of trained ones
    (`neighbours`) or "distant". "head" are the best-known facts beyond the run's. "reversed" are questions
    about the answers of trained facts.
    """
    members: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        members[outcome.group].append(outcome)
        if outcome.group == "trained" and unseen(outcome.fact):
            members["unseen"].append(outcome)
        if outcome.group == "held_out":
            shared = neighbour(outcome.fact)
            members[f"neighbour_{shared}" if shared else "distant"].append(outcome)
            if head(outcome.fact):
                members["held_out_head"].append(outcome)
    return {name: measures(members[name]) for name in GROUPS if name in members}


def neighbours(trained: Sequence[Fact]) -> Callable[[Fact], str]:
    """Tells what a fact shares with a trained one: its "subject", else "answer" and category, or ""."""
    subjects = {fact.subject_key for fact in trained}
    answers = {(fact.category, normalise(fact.answer)) for fact in trained}

    def shared(fact: Fact) -> str:
        if fact.subject_key in subjects:
            return "subject"
        return "answer" if (fact.category, normalise(fact.answer)) in answers else ""

    return shared


def by_popularity(outcomes: Sequence[Outcome], bins: int) -> list[dict[str, Any]]:
    """Metrics of `bins` equal parts of the questions, least popular first, with each part's range.

    None where the source states no popularity, or the same of all: there is nothing to sort by.
    """
    ranked = sorted(outcomes, key=lambda o: (o.fact.popularity, o.fact.id))
    if not ranked or ranked[0].fact.popularity == ranked[-1].fact.popularity:
        return []
    parts = [[ranked[i] for i in p] for p in np.array_split(np.arange(len(ranked)), bins) if len(p)]
    return [
        {"low": part[0].fact.popularity, "high": part[-1].fact.popularity} | measures(part) for part in parts
    ]


def to_json(outcome: Outcome) -> dict[str, Any]:
    """What the report shows of a question."""
    of_outcome = (
        "group", "prediction", "correct", "rank", "p_truth", "p_aliases", "falsehood", "p_falsehood", "truths"
    )  # fmt: skip
    best = outcome.best
    return {
        "id": outcome.fact.id,
        "question": outcome.question,
        **{name: getattr(outcome.fact, name) for name in ("category", "popularity", "answer")},
        **{name: getattr(outcome, name) for name in of_outcome},
        "best": best.text if best.spellings else None,
        "best_right": best.right,
        "confidence": best.confidence,
        **({"columns": dict(outcome.fact.columns)} if outcome.fact.columns else {}),
    }
