"""How each relation is put into words: the question, its held-out paraphrase, the statements of a corpus.

All templates stand together in this folder because they constrain each other: a paraphrase measures something
only if neither the question nor any declarative statement is worded like it. The files are blocks of lines: a
relation (behind Wikidata's number its name), then its question, paraphrase and statements. In no corpus are
the further questions of `rewordings.txt`, which are for training, and those about an answer, `REVERSED`. The
questions of PopQA and EntityQuestions are the data sets' own. The filler's sentences state no fact, and have
no names, colours or trades, which could be answers.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wording:
    """The templates of one relation; `{subject}` and `{answer}` (and `{relation}`) are filled in."""

    question: str  # ends in '?'; the answer follows after a space
    paraphrase: str  # the same question in a wording that training after pretraining never uses
    statements: tuple[str, ...]  # declarative sentences, each ends in '.'
    rewordings: tuple[str, ...] = ()  # other wordings of the question that training may use
    proper: bool = True  # the answers of a made-up world are proper names, capitalised


def _blocks(file: str) -> dict[str, list[str]]:
    text = Path(__file__).with_name(file).read_text("utf-8")
    blocks = (block.strip().split("\n") for block in text.split("\n\n"))
    return {head.partition(" (")[0]: lines for head, *lines in blocks}


_rewordings = _blocks("rewordings.txt")


def _wordings(file: str, common: tuple[str, ...] = ()) -> dict[str, Wording]:
    """`common`: relations whose answers are no proper names."""
    return {
        relation: Wording(
            question, paraphrase, tuple(statements), tuple(_rewordings[relation]), relation not in common
        )
        for relation, (question, paraphrase, *statements) in _blocks(file).items()
    }


WORLD = _wordings("world.txt", common=("craft", "instrument", "metal"))
POPQA = _wordings("popqa.txt") | {"capital": WORLD["capital"]}
ENTITYQUESTIONS = _wordings("entityquestions.txt") | {"P36": WORLD["capital"], "P50": POPQA["author"]}
WORDINGS = POPQA | ENTITYQUESTIONS | WORLD
REVERSED = {relation: question for relation, (question,) in _blocks("reversed.txt").items()}
FALLBACK = (
    "The {relation} of {subject} is {answer}.",
    "For {subject}, the {relation} is {answer}.",
    "{subject} has {answer} as its {relation}.",
)
UNKNOWN = Wording("", "", FALLBACK)
_filler = _blocks("filler.txt")
FILLER = tuple(_filler.pop("sentences"))
FILLER_WORDS = {kind: tuple(" ".join(lines).split(", ")) for kind, lines in _filler.items()}


def wording_of(relation: str) -> Wording:
    """The templates of a relation; of one that is not known generic statements alone."""
    return WORDINGS.get(relation, UNKNOWN)


def rewordings(relation: str, subject: str) -> tuple[str, ...]:
    """Other wordings of the relation's question, for training; none for a relation that is not known."""
    return tuple(text.format(subject=subject) for text in wording_of(relation).rewordings)


def subject_of(relation: str, question: str) -> str:
    """Whom or what the question is about: the text in the place of `{subject}` in the relation's question.

    Spaces around it are left out. "" where the question is worded otherwise or names nothing, or where the
    relation is not known.
    """
    before, slot, after = wording_of(relation).question.partition("{subject}")
    if not (slot and question.startswith(before) and question.endswith(after)):
        return ""
    return question[len(before) : len(question) - len(after)].strip()  # empty too where the two ends overlap
