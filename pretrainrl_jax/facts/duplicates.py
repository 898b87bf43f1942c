"""Rows that ask the same question: of one category merged, kept or left out; their truths are shared."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact


def settle(
    facts: Sequence[Fact], rule: Literal["merge", "keep", "drop"]
) -> tuple[list[Fact], dict[int, int | None]]:
    """The facts that stay, in their order, and of the index of each other one the index of the earlier fact
    that took it in, or None where it is left out.

    "merge": the first row of a question takes the answers of the later ones as aliases, their rewordings,
    and the greatest popularity. "keep": nothing happens. "drop": where the answers of two rows differ,
    normalised, all rows of the question are left out, and where they agree they are merged.
    """
    if rule == "keep":
        return list(facts), {}
    changed: dict[int, Fact] = {}
    fate: dict[int, int | None] = {}
    for indices in _groups(facts):
        group = [facts[at] for at in indices]
        if rule == "drop" and len({frozenset(map(normalise, fact.answers)) for fact in group}) > 1:
            fate.update(dict.fromkeys(indices))
        else:
            changed[indices[0]] = replace(
                group[0],
                answers=tuple(dict.fromkeys(answer for fact in group for answer in fact.answers)),
                popularity=max(fact.popularity for fact in group),
                rewordings=tuple(dict.fromkeys(text for fact in group for text in fact.rewordings)),
                answer_popularity=max(f.answer_popularity for f in group if f.answer == group[0].answer),
            )
            fate.update(dict.fromkeys(indices[1:], indices[0]))
    return [changed.get(at, fact) for at, fact in enumerate(facts) if at not in fate], fate


def share_truths(facts: Iterable[Fact], told: Sequence[Fact]) -> tuple[list[Fact], int]:
    """The facts, each with what any fact of `told` answers to its very question; and how many that changed.

    One prompt has one set of truths, whatever category or subject a row asks it for: what one row says is
    true must never be a falsehood of another. A fact's own answers come first.
    """
    often = Counter(fact.question for fact in told)
    answers: dict[str, dict[str, None]] = {}
    for fact in told:
        if often[fact.question] > 1:
            answers.setdefault(fact.question, {}).update(dict.fromkeys(fact.answers))
    shared, changed = [], 0
    for fact in facts:
        if others := answers.get(fact.question):
            own = tuple(dict.fromkeys((*fact.answers, *others)))
            if own != fact.answers:
                fact, changed = replace(fact, answers=own), changed + 1
        shared.append(fact)
    return shared, changed


def _groups(facts: Sequence[Fact]) -> list[list[int]]:
    """Indices of the facts of each question that is asked more than once."""
    earliest: dict[str, dict[str, int]] = {}
    more: dict[int, list[int]] = {}
    for at, fact in enumerate(facts):
        if (seen := earliest.setdefault(fact.category, {}).setdefault(fact.question, at)) != at:
            more.setdefault(seen, [seen]).append(at)
    return list(more.values())
