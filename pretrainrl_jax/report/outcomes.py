"""The outcome of every question, as an evaluation lists them, and what two systems have in common."""

from collections.abc import Iterable

from pretrainrl_jax.knowledge.intervals import Difference, paired
from pretrainrl_jax.report.formats import Json, number, spread

Key = tuple[str, str]  # id of a fact and the wording it was asked in
Questions = dict[str, dict[Key, Json]]  # by group, as `GROUPS`
Pairs = list[tuple[Json, Json]]  # one question's outcome in each of two systems


GROUPS = {
    "trained": "trained facts",
    "paraphrase": "trained facts, paraphrased",
    "held_out": "held-out facts",
    "held_out_head": "held-out facts, best known",
    "reversed": "trained facts, asked in reverse",
    "neighbour_subject": "held-out facts of a trained subject",
    "neighbour_answer": "held-out facts with a trained answer",
    "distant": "held-out facts with neither",
    "head": "best-known facts beyond the run's",
}
"""The groups whose questions can be told apart in an evaluation, as a reader calls them."""

NEIGHBOURS = {"subject": "neighbour_subject", "answer": "neighbour_answer", "": "distant"}
"""The groups of held-out facts, by what the evaluation says they share with a trained fact."""


def grouped(evaluation: Json) -> Questions:
    """The questions of each of `GROUPS`; those unseen in pretraining are among the trained.

    The best known of the held-out facts are not marked, only counted; they are its most popular ones, as
    every fact above one popularity is among them.
    """
    questions: Questions = {group: {} for group in GROUPS}
    for question in evaluation.get("questions") or []:
        group = "trained" if question.get("group") == "unseen" else question.get("group")
        if group in questions:
            key = str(question.get("id")), str(question.get("question"))
            questions[group][key] = question
            if group == "held_out" and (shared := question.get("neighbour")) in NEIGHBOURS:
                questions[NEIGHBOURS[shared]][key] = question
    of_head = (evaluation.get("groups") or {}).get("held_out_head") or {}
    ranked = sorted(questions["held_out"].items(), key=lambda item: -popularity(item[1]))
    questions["held_out_head"] = dict(ranked[: int(number(of_head.get("count")) or 0)])
    return questions


def trained(evaluation: Json) -> dict[Key, Json]:
    """The trained facts in their trained wording."""
    return grouped(evaluation)["trained"]


def popularity(question: Json) -> float:
    """Of the fact asked about; 0 where it is not known."""
    return number(question.get("popularity")) or 0.0


def common(one: dict[Key, Json], other: dict[Key, Json]) -> Pairs:
    """The questions both systems were asked, in the order of the first."""
    return [(question, other[key]) for key, question in one.items() if key in other]


def right(question: Json) -> bool:
    """Whether the greedy answer is right."""
    return bool(question.get("correct"))


def truth(question: Json) -> float | None:
    """How probable the model finds what is true, in all the spellings that were measured.

    Older versions tell that of the canonical answer alone.
    """
    return number(question.get("p_aliases", question.get("p_truth")))


def difference(pairs: Iterable[tuple[Json, Json]]) -> Difference | None:
    """The two systems' accuracy, and by how much the second's is higher."""
    return paired((right(one), right(other)) for one, other in pairs)


def shared(before: Json, after: Json) -> dict[str, Pairs]:
    """The questions of each of `GROUPS` that both systems were asked."""
    old, new = grouped(before), grouped(after)
    return {group: common(old[group], new[group]) for group in GROUPS}


def flips(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The questions only the second got right, and those only the first did, least popular first."""
    ranked = sorted(pairs, key=lambda two: popularity(two[0]))
    gained = [two for two in ranked if right(two[1]) and not right(two[0])]
    return gained, [two for two in ranked if right(two[0]) and not right(two[1])]


def kept(before: Json, after: Json) -> Json:
    """Of the head's facts that one system answers rightly the other's accuracy, and how many they are."""
    known = [right(other) for one, other in shared(before, after)["head"] if right(one)]
    return {"count": len(known), "acc": sum(known) / len(known)} if known else {}


def changes(before: Json, after: Json) -> dict[str, Json]:
    """Questions a system gets right that the base got wrong, and the reverse, with examples of both.

    Gains are counted on trained facts. Losses are counted on held-out facts too, since training can only
    take those away; paraphrases are left out, as they are the same facts again.
    """
    pairs = shared(before, after)
    return flipped(pairs["trained"], pairs["trained"] + pairs["held_out"])


def flipped(taught: Pairs, every: Pairs) -> dict[str, Json]:
    """The gains among some questions and the losses among others: how many of how many, and examples.

    The examples are at even distances: a choice that nobody made by looking at them.
    """
    wrong, known = (sum(right(one) is hit for one, _ in p) for p, hit in ((taught, False), (every, True)))
    sides = {"gained": (flips(taught)[0], wrong), "lost": (flips(every)[1], known)}
    return {
        side: {"count": len(pairs), "of": among, "rows": [example(*two) for two in spread(pairs)]}
        for side, (pairs, among) in sides.items()
    }


def example(before: Json, after: Json) -> Json:
    """What the page shows of a question and the answers to it."""
    return {
        **{key: before.get(key) for key in ("question", "answer")},
        "group": "held out" if before.get("group") == "held_out" else "trained",
        "right_before": right(before),
        "right_after": right(after),
        "before": before.get("prediction"),
        "after": after.get("prediction"),
        "p_before": truth(before),
        "p_after": truth(after),
    }
