"""What training made worse: every measure on which a system is below the base model."""

from typing import NamedTuple

from pretrainrl_jax.knowledge.intervals import Difference
from pretrainrl_jax.report.formats import Json
from pretrainrl_jax.report.outcomes import GROUPS, Pairs, common, difference, grouped, truth
from pretrainrl_jax.report.summary import group_rate
from pretrainrl_jax.report.tables import Row, part

SHOWN = 10  # questions whose truth lost most probability


Fall = tuple[str, Difference]  # some questions, in words, and the change of their accuracy


class Worse(NamedTuple):
    """Everything found worse."""

    falls: list[Fall]  # beyond chance: their intervals lie below zero
    slight: list[Fall]  # within their intervals
    compared: int  # sets of questions looked at
    unpaired: list[tuple[str, float, float]]  # groups known by their rates only: name, before, after
    text_nll: tuple[float, float] | None  # before and after, where it rose
    less_probable: tuple[int, int] | None  # questions whose truth lost probability, and of how many
    lost: Pairs  # the `SHOWN` of them that lost most

    @property
    def nothing(self) -> bool:
        """No measure is below the base model's."""
        return not (self.falls or self.slight or self.unpaired or self.text_nll or self.lost)


def worse(before: Json, after: Json, summary: Json, bins: list[Row], categories: list[Row]) -> Worse:
    """What a system does worse than the base model: groups, popularity bins, categories, text, questions.

    From the evaluation of the base model, that of the system, and what is known of all systems.
    """
    old, new = grouped(before), grouped(after)
    pairs = {group: common(old[group], new[group]) for group in GROUPS}
    changes = [(GROUPS[group], difference(asked)) for group, asked in pairs.items()]
    for kind, rows in (("popularity", bins), ("category", categories)):
        changes += [(f"{kind} {part(row.name)}", row.cells[after["system"]].change) for row in rows]
    measured = [(words, change) for words, change in changes if change]
    lower = [(words, change) for words, change in measured if change.rate < 0]
    one, two = (summary["systems"][e["system"]] for e in (before, after))
    groups = {**GROUPS, "unseen": "facts unseen in pretraining"}
    rates = [(name, group_rate(one, g), group_rate(two, g)) for g, name in groups.items() if not pairs.get(g)]
    nll = one["text_nll"], two["text_nll"]
    both = [(p, *map(truth, p)) for p in pairs["trained"] + pairs["held_out"]]
    known = [(p, new - old) for p, old, new in both if old is not None and new is not None]
    lost = sorted((item for item in known if item[1] < 0), key=lambda item: item[1])
    return Worse(
        falls=[(words, change) for words, change in lower if change.worse],
        slight=[(words, change) for words, change in lower if not change.worse],
        compared=len(measured),
        unpaired=[(name, a, b) for name, a, b in rates if a is not None and b is not None and b < a],
        text_nll=nll if None not in nll and nll[0] < nll[1] else None,
        less_probable=(len(lost), len(known)) if known else None,
        lost=[answers for answers, _ in lost[:SHOWN]],
    )
