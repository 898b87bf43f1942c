"""The fact: what a question asks, what is true, and how well known it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One question with everything that counts as a true answer to it."""

    id: str  # stable within a source: its own id, or the row number where that is blank
    question: str  # as asked in training
    answers: tuple[str, ...]  # the canonical answer first, then its aliases; never empty
    category: str  # the relation: "capital", "P17", …; "" where the source names none
    subject: str  # the name of what is asked about; "" where it is not known apart from the question
    subject_key: str  # the subject's id in the source, or its name, or the question where neither is known
    popularity: float  # how often the subject is looked for (page views a month, or the world's own weight)
    row: int  # line or item of the source the fact came from, 1-based; 0 for made-up facts
    paraphrase: str = ""  # another wording, never trained on after pretraining; "" where there is none
    rewordings: tuple[str, ...] = ()  # further ones that training may use (`train.wordings`)
    answer_popularity: float = 0.0  # how often the canonical answer is looked for; 0 where it is not known
    columns: tuple[tuple[str, str], ...] = ()  # name and text of the columns that evaluate.by names

    @property
    def answer(self) -> str:
        """The canonical answer, the one that is trained."""
        return self.answers[0]
