"""What facts say of a text: the share of its statements that are true."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from pretrainrl_jax.judging.protocol import Case, Part, Scores

TAIL = 400  # last characters of a prefix in which a statement may begin that the candidate completes


class Stated(Protocol):
    """A statement in a text: `facts.statements.Statement`."""

    @property
    def end(self) -> int:
        """Where it is complete, in characters from the text's beginning."""
        ...

    @property
    def verdict(self) -> str:
        """true, false or unknown."""
        ...


class Finder(Protocol):
    """Finds statements: `facts.statements.Statements`."""

    def find(self, text: str) -> Sequence[Stated]:
        """The statements of a text, in order."""
        ...


def facts(finder: Finder, silence: float, seen: Counter[str]) -> Part:
    """The part that scores a text by true / (true + false), its statements counted.

    A statement belongs to a candidate if it is complete there: that the candidate completes a sentence of
    the prefix counts, what the prefix said before does not. Unknown statements are not counted.

    Args:
        finder: knows what is true.
        silence: the score of a text that states nothing true and nothing false.
        seen: counts what was found by its verdict, over all cases: a fact set that matches nothing shows.
    """

    def judge(cases: Sequence[Case]) -> Scores:
        scores = []
        for case in cases:
            before = tail(case.prefix)
            scores.append(own := [])
            for candidate in case.candidates:
                stated = [s.verdict for s in finder.find(before + candidate) if s.end > len(before)]
                seen.update(stated)
                right, wrong = stated.count("true"), stated.count("false")
                own.append(right / (right + wrong) if right or wrong else silence)
        return scores

    return judge


def tail(prefix: str) -> str:
    """The end of a prefix, from a space on: half a name could be another's."""
    if len(prefix) <= TAIL:
        return prefix
    end = prefix[-TAIL:]
    space = next((place for place, character in enumerate(end) if character.isspace()), 0)
    return end[space:]
