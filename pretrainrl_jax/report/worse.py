"""What training made worse: every measure on which a system is below the base model."""

from typing import Any, NamedTuple

from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.intervals import Difference
from pretrainrl_jax.report.outcomes import GROUPS, Pairs, common, difference, grouped
from pretrainrl_jax.report.summary import group_rate
from pretrainrl_jax.report.tables import Row

SHOWN = 10  # questions whose truth lost most probability


class Fall(NamedTuple):
    """A lower accuracy on some questions."""

    kind: str  # "questions", "popularity" or "category"
    name: Any  # as `tables.Row.name`
    change: Difference


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

    Args:
        before: the evaluation of the base model.
        after: that of the system.
        summary: of all systems.
        bins: accuracy by popularity, of all systems.
        categories: accuracy by category, of all systems.
    """
    old, new = grouped(before), grouped(after)
    pairs = {group: common(old[group], new[group]) for group in GROUPS}
    measured = [Fall("questions", GROUPS[group], d) for group, of in pairs.items() if (d := difference(of))]
    for kind, rows in (("popularity", bins), ("category", categories)):
        measured += [Fall(kind, row.name, d) for row in rows if (d := row.cells[after["system"]].change)]
    lower = [fall for fall in measured if fall.change.rate < 0]
    one, two = (summary["systems"][e["system"]] for e in (before, after))
    nll = one["text_nll"], two["text_nll"]
    known, lost = less_probable(pairs["trained"] + pairs["held_out"])
    return Worse(
        falls=[fall for fall in lower if fall.change.worse],
        slight=[fall for fall in lower if not fall.change.worse],
        compared=len(measured),
        unpaired=_unpaired(one, two, {group for group, of in pairs.items() if of}),
        text_nll=nll if None not in nll and nll[0] < nll[1] else None,
        less_probable=(len(lost), known) if known else None,
        lost=lost[:SHOWN],
    )


def _unpaired(before: Json, after: Json, known: set[str]) -> list[tuple[str, float, float]]:
    names = {**GROUPS, "unseen": "facts unseen in pretraining"}
    found = []
    for group, name in names.items():
        rates = [group_rate(system, group) for system in (before, after)]
        if group not in known and rates[0] is not None and rates[1] is not None and rates[1] < rates[0]:
            found.append((name, rates[0], rates[1]))
    return found


def less_probable(pairs: Pairs) -> tuple[int, Pairs]:
    """How many truths have a probability before and after, and those that lost of it, most first."""
    found = [(number(one.get("p_truth")), number(two.get("p_truth")), (one, two)) for one, two in pairs]
    known = [(b - a, pair) for a, b, pair in found if a is not None and b is not None]
    lost = sorted((k for k in known if k[0] < 0), key=lambda k: k[0])
    return len(known), [two for _, two in lost]
