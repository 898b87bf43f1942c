"""What training made worse: every measure on which a system is below the base model beyond chance."""

from typing import NamedTuple

from pretrainrl_jax.report.columns import Sheet, compared, sheet
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.outcomes import GROUPS, Key, common, difference, example, grouped, truth
from pretrainrl_jax.report.tables import Divisions, examples

SHOWN = 10  # questions whose truth lost most probability


class Worse(NamedTuple):
    """What a page shows of it."""

    falls: Sheet  # sets of questions whose interval of the change lies below zero
    lost: Sheet  # the `SHOWN` questions whose truth lost most probability
    words: list[str]


def worse(before: Json, after: Json, divisions: Divisions, names: list[str]) -> Worse:
    """What a system does worse than the base model: groups, parts of the trained facts, text, single truths.

    From the evaluations of both, all parts of trained facts, and what the two are called.
    """
    old, new = grouped(before), grouped(after)
    unseen = {key for key, asked in old["trained"].items() if asked.get("group") == "unseen"}
    # A list: parts of popularity have one name where many facts have one popularity.
    sets: list[tuple[str, set[Key]]] = [("trained facts unseen in pretraining", unseen)]
    sets += [(f"{head} {part}", keys) for head, rows in divisions.items() for part, keys in rows]
    pairs = [(name, common(old[group], new[group])) for group, name in GROUPS.items()]
    for name, keys in sets:
        asked = {key: question for key, question in old["trained"].items() if key in keys}
        pairs.append((name, common(asked, new["trained"])))
    changes = [(name, apart) for name, two in pairs if (apart := difference(two))]
    falls = [(name, apart) for name, apart in changes if apart.worse]
    heads = [f"{name}, %" for name in names]
    both = [two for group in ("trained", "held_out") for two in common(old[group], new[group])]
    known = [(two, *map(truth, two)) for two in both]
    moved = [(q - p, two) for two, p, q in known if p is not None and q is not None]
    lost = sorted((item for item in moved if item[0] < 0), key=lambda item: item[0])
    one, other = number(before.get("text_nll")), number(after.get("text_nll"))
    rise = 0.0 if one is None or other is None else other - one
    words = []
    if changes:
        of = f"{len(changes)} sets of questions (groups, popularity, categories)"
        words.append(f"Accuracy is lower beyond its 95 % interval on {len(falls) or 'none'} of {of}.")
    if one is not None and other is not None:
        how = "rose" if rise > 0 else "did not rise"
        words.append(f"The loss on held-out text {how}: from {one:.3f} to {other:.3f} nats a token.")
    if moved:
        of = f"{len(moved):,} questions, trained and held out"
        words.append(f"The truth became less probable in {len(lost):,} of {of}.")
    if words and not (falls or lost or rise > 0):
        words.insert(0, "Nothing that was measured of both got worse than the base model.")
    return Worse(
        sheet(compared("questions", *heads, apart="change, points"), falls, "accuracy on"),
        examples([example(*two) for _, two in lost[:SHOWN]], *names),
        words,
    )
