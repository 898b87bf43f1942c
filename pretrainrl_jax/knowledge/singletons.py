"""How often the training text states each prompt, and what that tells of those it never states.

A prompt is a question, as it is worded; namesakes who are asked about in the same words are one. Any sentence
that states one of its facts counts as a statement of it, whatever its wording, and one that contradicts them
all, too: a text that is wrong has answered. Statements are counted, never distinct facts: dividing by these
would give several times the singleton rate of "Why Language Models Hallucinate" (arXiv 2509.04664).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.knowledge.intervals import Z

LINE = "\n"  # no statement goes on behind it


@dataclass(frozen=True)
class Counts:
    """Statements of a set of facts in a text."""

    source: str  # "corpus", "documents" or "files"
    occurrences: Mapping[str, int]  # of every prompt
    texts: int = 0
    characters: int = 0
    false: int | None = None  # of the statements, those that contradict the facts; None: nobody looked
    unknown: int | None = None  # statements about other subjects, which are no statements of these prompts
    shares: Mapping[str, float] | None = None  # of each fact's id its probability in a statement, where known
    missing_mass: float | None = None  # probability that a new statement is of a prompt never stated
    notes: tuple[str, ...] = ()  # sentences about what was counted

    @property
    def statements(self) -> int:
        """N."""
        return sum(self.occurrences.values())

    def stated(self, times: int) -> int:
        """Prompts that are stated exactly so often."""
        return sum(count == times for count in self.occurrences.values())

    @property
    def singleton_rate(self) -> float:
        """Prompts stated exactly once, by the number of statements. Raises ZeroDivisionError without any."""
        return self.stated(1) / self.statements

    def missing_mass_interval(self) -> tuple[float, float]:
        """Where the missing mass is with probability 0.95, by Good-Turing: around the singleton rate.

        The rate itself is counted, not estimated, and has no interval; drawing statements anew with repeats,
        as a bootstrap does, would make singletons rarer than they are. This is Esty's normal interval
        (1983), from singletons and doubletons.
        """
        n, once, twice = self.statements, self.stated(1), self.stated(2)
        spread = Z * math.sqrt(once * (1 - once / n) + 2 * twice) / n
        return max(0.0, once / n - spread), min(1.0, once / n + spread)


def of_mentions(facts: Sequence[Fact], mentions: Mapping[str, int], texts: Sequence[str]) -> Counts:
    """The counts of our own corpus: `mentions` by fact id, and the sentences that they are among."""
    occurrences = dict.fromkeys((fact.question for fact in facts), 0)
    for fact in facts:
        occurrences[fact.question] += mentions[fact.id]
    return Counts("corpus", occurrences, len(texts), sum(map(len, texts)), false=0, unknown=0)


def drawn_by(counts: Counts, facts: Sequence[Fact], shares: Iterable[float]) -> Counts:
    """The counts of statements whose facts were drawn with these probabilities [facts]."""
    of_facts = {fact.id: float(share) for fact, share in zip(facts, shares, strict=True)}
    unseen = (of_facts[fact.id] for fact in facts if not counts.occurrences[fact.question])
    return replace(counts, shares=of_facts, missing_mass=math.fsum(unseen))


class Counter:
    """Counts the statements of facts in texts, one text after another.

    What it holds grows with the facts, not with the texts.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._statements = Statements(facts)
        self._occurrences = dict.fromkeys((fact.question for fact in facts), 0)
        self._about = [0, 0, 0, 0]  # texts, characters, false statements, those of unknown subjects

    def find(self, text: str) -> tuple[dict[str, int], int, int]:
        """Statements in a text: by prompt, false ones, and of unknown subjects."""
        found = [one for line in text.split(LINE) for one in self._statements.find(line, ended=True)]
        prompts: dict[str, int] = {}
        for fact in filter(None, (statement.fact for statement in found)):
            prompts[fact.question] = prompts.get(fact.question, 0) + 1
        false = sum(statement.fact is not None and statement.verdict == "false" for statement in found)
        return prompts, false, len(found) - sum(prompts.values())

    def add(self, characters: int, prompts: Mapping[str, int], false: int, unknown: int) -> None:
        """Count a text, of what `find` found in it."""
        for question, count in prompts.items():
            self._occurrences[question] += count
        seen = 1, characters, false, unknown
        self._about = [before + now for before, now in zip(self._about, seen, strict=True)]

    def counts(self, source: str) -> Counts:
        """What was counted so far."""
        texts, characters, false, unknown = self._about
        return Counts(source, dict(self._occurrences), texts, characters, false, unknown)
