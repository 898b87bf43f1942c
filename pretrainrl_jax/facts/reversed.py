"""Facts asked the other way round: "Which country has Paris as its capital?"."""

from collections.abc import Sequence

from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.questions import Templates
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.wordings import REVERSED


def reversed_facts(trained: Sequence[Fact], facts: Sequence[Fact], templates: Templates) -> list[Fact]:
    """A question about each answer of the trained facts, for whom or what it is the answer.

    Every subject of `facts` with that answer is right, and the best known of those trained is the canonical
    one. Facts without a subject, and categories without a wording, are left out.

    Args:
        trained: the facts whose answers are asked about.
        facts: all that are known, `trained` among them.
        templates: by category, with {a} for the answer and {p} for the category; they go before the known
            wordings.
    """
    subjects: dict[tuple[str, str], dict[str, float]] = {}  # of each answer, with their popularity
    for fact in facts:
        for answer in dict.fromkeys(map(normalise, fact.answers)) if fact.subject else ():
            named = subjects.setdefault((fact.category, answer), {})
            named[fact.subject] = max(named.get(fact.subject, 0.0), fact.popularity)
    asked: dict[tuple[str, str], Fact] = {}
    for fact in sorted(trained, key=lambda f: (-f.popularity, f.id)):
        key = (fact.category, normalise(fact.answer))
        question = _ask(templates, fact.category, fact.answer)
        if not fact.subject or not question or key in asked:
            continue
        others = sorted(subjects[key], key=lambda name: (-subjects[key][name], name))
        asked[key] = Fact(
            id=f"reversed {fact.id}",
            question=question,
            answers=tuple(dict.fromkeys([fact.subject, *others])),
            category=fact.category,
            subject=fact.answer,
            subject_key=fact.answer,
            popularity=fact.popularity,
            row=fact.row,
        )
    return list(asked.values())


def _ask(templates: Templates, category: str, answer: str) -> str:
    """The question about an answer; "" where there is no wording."""
    if template := templates.get(category) or templates.get("", ""):
        return template.format(p=category, a=answer)
    return REVERSED.get(category, "").replace("{answer}", answer)
