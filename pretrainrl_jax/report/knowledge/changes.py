"""What training changed: a system beside the base model, question by question."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pretrainrl_jax.knowledge.confidence import mcnemar
from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.knowledge.state import STATES, state_of
from pretrainrl_jax.report.formats import Json, number
from pretrainrl_jax.report.knowledge.figures import SETS, confident, estimate, share
from pretrainrl_jax.report.outcomes import GROUPS, Pairs, common, difference, grouped, right

HALF = 0.5


def changes(before: Json, after: Json) -> Json:
    """A system's part of summary.json on what its training changed, from its evaluation and the base's."""
    old, new = grouped(before), grouped(after)
    pairs = {group: common(old[group], new[group]) for group in GROUPS}
    told: Json = {
        "flips": {name: flips(pairs[name]) for name in SETS if pairs[name]},
        "groups": {},
    }
    for group, asked in pairs.items():
        if apart := difference(asked):
            told["groups"][group] = apart._asdict()
            for when, side in zip(("before", "after"), zip(*asked, strict=True), strict=True):
                told["groups"][group][f"{when}_interval"] = wilson(sum(map(right, side)), len(asked))
    if moved := states(pairs["trained"]):
        told["states"] = moved
    if others := suppressed(pairs["trained"]):
        told["suppressed"] = others
    return told


def flips(pairs: Pairs) -> Json:
    """Greedy answers that became right and wrong, and McNemar's exact p that both are equally likely."""
    gained = sum(right(b) and not right(a) for a, b in pairs)
    lost = sum(right(a) and not right(b) for a, b in pairs)
    return {"questions": len(pairs), "gained": gained, "lost": lost, "p": mcnemar(gained, lost)}


def states(pairs: Pairs) -> Json | None:
    """How many facts went from each state of knowledge (outer key) to each (inner); None if not measured."""
    moved = Counter((state_of(a), state_of(b)) for a, b in pairs if len(confident([a, b])) == 2)
    if not moved:
        return None
    return {one: {other: moved[one, other] for other in STATES} for one in STATES}


def suppressed(pairs: Pairs) -> Json | None:
    """What became of true answers that were never trained, of questions that have several; None without any.

    `canonical` is the probability of the answer that was trained, `others` that of all other true ones,
    before and after. `suppressed` are the questions whose others fell to half or less while the canonical
    answer rose, of those whose others had any probability.
    """
    both = [(a, b) for a, b in pairs if (number(a.get("truths")) or 0) >= 2]
    values = [[*_split(a), *_split(b)] for a, b in both]
    known = np.array([row for row in values if None not in row], float).reshape(-1, 4)
    if not len(known):
        return None
    canonical, others, canonical_after, others_after = known.T
    some = others > 0
    fell = (others_after <= HALF * others) & (canonical_after > canonical)
    return {
        "questions": len(known),
        "canonical": [estimate(np.mean, canonical), estimate(np.mean, canonical_after)],
        "others": [estimate(np.mean, others), estimate(np.mean, others_after)],
        "suppressed": share(fell[some]),
    }


def _split(question: Json) -> Sequence[float | None]:
    canonical, everything = number(question.get("p_truth")), number(question.get("p_aliases"))
    if canonical is None or everything is None:
        return None, None
    return canonical, max(0.0, everything - canonical)
