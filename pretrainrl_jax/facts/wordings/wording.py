"""What the templates of a relation are, and the generic ones."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """The templates of one relation; `{subject}` and `{answer}` (and `{relation}`) are filled in."""

    question: str  # ends in '?'; the answer follows after a space
    paraphrase: str  # the same question in a wording that training after pretraining never uses
    statements: tuple[str, ...]  # declarative sentences, each ends in '.'
    proper: bool = True  # the answers of a made-up world are proper names, capitalised


FALLBACK = (
    "The {relation} of {subject} is {answer}.",
    "For {subject}, the {relation} is {answer}.",
    "{subject} has {answer} as its {relation}.",
)
