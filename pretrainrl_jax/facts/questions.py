"""Questions made from templates, "What is the {p} of {s}?"; also the other way round, about an answer {a}."""

import re
from collections.abc import Mapping, Sequence
from string import Formatter

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.matching import normalise
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.wordings import REVERSED

Templates = Mapping[str, str]  # by category; "" is for all others
# A subject's place in a question of the source, as CounterFact, LAMA and templates write it. The {s} of a
# formula, as in x_{s}, is none.
OPEN = re.compile(r"\{(subject|subj|entity)?\}|\[X\]|(?<![\w\\^}])\{[s0]\}")


def read_templates(
    entries: Sequence[str], setting: str = "facts.questions", slot: str = "s", meaning: str = "subject"
) -> Templates:
    """The templates of `facts.questions`: for every category, or for one, as "capital=Which city … {s}?".

    Those of `facts.reversed` name the answer as {a} instead: `slot` and its `meaning`. Raises InputError for
    a template without it, with another placeholder, or two for the same category.
    """
    named_slot, category_slot = (slot, "", None), ("p", "", None)  # name, format and conversion
    templates: dict[str, str] = {}
    for entry in entries:
        before, equals, after = entry.partition("=")
        one = bool(equals) and "{" not in before
        category, template = (" ".join(before.split()), after.strip()) if one else ("", entry.strip())
        try:
            named = {tuple(part[1:]) for part in Formatter().parse(template) if part[1] is not None}
        except ValueError as error:
            raise InputError(f"{setting}: {entry!r} is no template ({error})") from None
        if not {named_slot} <= named <= {named_slot, category_slot}:
            rule = f"must name the {meaning} as {{{slot}}}, may name the category as {{p}}, and nothing else"
            comma = "a template with a comma can only be set in a configuration file"
            raise InputError(f"{setting}: {entry!r} {rule}; {comma}")
        if category in templates:
            whose = f"the category {category}" if category else "every category"
            both = f"{templates[category]}, {entry}"
            raise InputError(f"{setting} holds two templates for {whose}: {both}")
        templates[category] = template
    return templates


def ask(templates: Templates, category: str, name: str) -> str:
    """The question about a subject, or an answer; "" without its name or a template."""
    template = templates.get(category) or templates.get("", "")
    return template.format(p=category, s=name, a=name) if template and name else ""


def is_open(question: str, subject: str) -> bool:
    """Whether {}, {subject} or [X] stands in a question for its subject, as in "The mother tongue of {} is".

    Where the subject stands there already, {} is text, as in "What does {} mean in Python?".
    """
    there = ("{" in question or "[" in question) and OPEN.search(question)
    return bool(there) and not (subject and subject in question)


def fill_in(question: str, subject: str) -> str:
    """The question about the subject."""
    return OPEN.sub(lambda _: subject, question)


def reversed_facts(trained: Sequence[Fact], facts: Sequence[Fact], templates: Templates) -> list[Fact]:
    """A question about each answer of the trained facts, for whom or what it is the answer.

    Every subject of `facts` with that answer is right, and the best known of those trained is the canonical
    one. Facts without a subject, and categories without a wording, are left out. The templates, with {a} for
    the answer and {p} for the category, go before the known wordings.
    """
    subjects: dict[tuple[str, str], dict[str, float]] = {}  # of each answer, with their popularity
    for fact in facts:
        for answer in dict.fromkeys(map(normalise, fact.answers)) if fact.subject else ():
            named = subjects.setdefault((fact.category, answer), {})
            named[fact.subject] = max(named.get(fact.subject, 0.0), fact.popularity)
    asked: dict[tuple[str, str], Fact] = {}
    for fact in sorted(trained, key=lambda f: (-f.popularity, f.id)):
        key = (fact.category, normalise(fact.answer))
        question = ask(templates, fact.category, fact.answer)
        question = question or REVERSED.get(fact.category, "").replace("{answer}", fact.answer)
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
