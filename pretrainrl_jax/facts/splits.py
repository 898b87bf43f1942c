"""Which facts are kept, held out or well known; the first two by hashes, so that none depends on another."""

import hashlib
import heapq
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pretrainrl_jax.facts.record import Fact

Item = TypeVar("Item")
HEAD_SHARE = 0.15  # of all facts, the best known ones; so it is in the small world
ROW_ID = re.compile(r"row\d+")  # made of a row's number, where the source gives no id of its own


def split(facts: Iterable[Fact], holdout_every: int) -> tuple[list[Fact], list[Fact]]:
    """The facts that are trained and those only evaluated: one question in n, by the hash of its text.

    Equal questions always land on one side, and a fact's side stays whatever else the source holds. 0 holds
    out none.
    """
    return one_in(holdout_every, facts, lambda fact: " ".join(fact.question.split()))


def one_in(n: int, items: Iterable[Item], text: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """The other items, and those that are the one in n by the hash of their text; none are for 0."""
    sides: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        sides[bool(n) and hashed(text(item)) % n == 0].append(item)
    return sides


def subsample(facts: Sequence[Fact], limit: int, seed: int) -> list[Fact]:
    """The `limit` facts whose ids, with the seed, have the smallest hashes, in their original order.

    All of them for 0 or where they are fewer. By one seed, a smaller choice is part of a larger one, and the
    order of the facts does not matter: where the source gave no id, question and category stand in for it,
    and the answer where these are another's, too.
    """

    def key(fact: Fact) -> tuple[int, str]:
        name = f"{fact.category}\n{fact.question}" if ROW_ID.fullmatch(fact.id) else fact.id
        return hashed(f"{seed} {name}"), fact.answer

    return smallest(facts, key, limit)


def smallest(items: Sequence[Item], key: Callable[[Item], Any], limit: int) -> list[Item]:
    """The `limit` items with the smallest keys, in their order; all for 0 or where they are fewer."""
    if not limit or limit >= len(items):
        return list(items)
    order = ((key(item), at) for at, item in enumerate(items))
    return [items[at] for at in sorted(at for _, at in heapq.nsmallest(limit, order))]


def hashed(text: str) -> int:
    """64 bits that are a text's own, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def head(facts: Iterable[Fact]) -> Callable[[Fact], bool]:
    """Whether a fact is among the best-known share of these; none is where all are equally popular."""
    ranked = sorted((fact.popularity for fact in facts), reverse=True)
    if not ranked:
        return lambda fact: False
    least, head_from = ranked[-1], ranked[max(0, math.ceil(HEAD_SHARE * len(ranked)) - 1)]
    return lambda fact: fact.popularity >= head_from > least
