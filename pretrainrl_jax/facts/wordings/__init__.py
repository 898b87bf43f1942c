"""How each relation is put into words: the question, its held-out paraphrase, the statements of a corpus.

All templates stand together in this folder because they constrain each other: a paraphrase measures something
only if neither the question nor any declarative statement is worded like it.
"""

from pretrainrl_jax.facts.wordings.entityquestions import ENTITYQUESTIONS
from pretrainrl_jax.facts.wordings.filler import FILLER, FILLER_WORDS
from pretrainrl_jax.facts.wordings.popqa import POPQA
from pretrainrl_jax.facts.wordings.wording import FALLBACK, Wording
from pretrainrl_jax.facts.wordings.world import WORLD

__all__ = [
    "ENTITYQUESTIONS",
    "FALLBACK",
    "FILLER",
    "FILLER_WORDS",
    "POPQA",
    "WORDINGS",
    "WORLD",
    "Wording",
    "paraphrase",
    "statements",
    "subject_of",
]

WORDINGS = POPQA | ENTITYQUESTIONS | WORLD


def paraphrase(relation: str, subject: str) -> str:
    """The held-out wording of the relation's question; "" for a relation without one."""
    wording = WORDINGS.get(relation)
    return wording.paraphrase.format(subject=subject) if wording else ""


def statements(relation: str) -> tuple[str, ...]:
    """The declarative templates of a relation; generic ones where the relation is not known."""
    wording = WORDINGS.get(relation)
    return wording.statements if wording else FALLBACK


def subject_of(relation: str, question: str) -> str:
    """Whom or what the question is about: the text in the place of `{subject}` in the relation's question.

    Spaces around it are left out. "" where the question is worded otherwise or names nothing, or where the
    relation is not known.
    """
    wording = WORDINGS.get(relation)
    if not wording:
        return ""
    before, after = wording.question.split("{subject}")
    if not (question.startswith(before) and question.endswith(after)):
        return ""
    return question[len(before) : len(question) - len(after)].strip()  # empty too where the two ends overlap
