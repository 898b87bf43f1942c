"""When falsehoods are mined again: training as stretches, each on one set of negatives."""

from typing import NamedTuple

from pretrainrl_jax.config import ObjectiveConfig


class Span(NamedTuple):
    """A stretch of training on one set of negatives: passes over the facts before it, and after it."""

    start: float
    stop: float


def spans(objective: ObjectiveConfig, facts: int, passes: float, steps: int) -> list[Span]:
    """One span, or one for every `remine_every` steps of the `steps` planned.

    They are cut by questions, not by rows, since later rows depend on what is mined then: a span takes
    `remine_every` steps to within the packing of its rows.
    """
    if not objective.remines:
        return [Span(0.0, passes)]
    visits = max(1, round(passes * facts))
    of_round = max(1, round(objective.remine_every * visits / steps))
    starts = range(0, visits, of_round)
    return [Span(start / facts, min(start + of_round, visits) / facts) for start in starts]
