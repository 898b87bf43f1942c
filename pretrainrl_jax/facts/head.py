"""Which facts are well known."""

import math
from collections.abc import Callable, Iterable

from pretrainrl_jax.facts.record import Fact

HEAD_SHARE = 0.15  # of all facts, the best known ones; so it is in the small world


def head(facts: Iterable[Fact], share: float = HEAD_SHARE) -> Callable[[Fact], bool]:
    """Whether a fact is among the most popular share of these; none is where all are equally popular."""
    ranked = sorted((fact.popularity for fact in facts), reverse=True)
    if not ranked:
        return lambda fact: False
    least, head_from = ranked[-1], ranked[max(0, math.ceil(share * len(ranked)) - 1)]
    return lambda fact: fact.popularity >= head_from > least
