"""What facts say of a text: the share of its statements that are true."""

from collections import Counter
from collections.abc import Sequence

from pretrainrl_jax.facts.statements import Statements
from pretrainrl_jax.judging.protocol import Case, Part, Scores


def facts(statements: Statements, silence: float, seen: Counter[str]) -> Part:
    """The part that scores a text by true / (true + false), its statements counted.

    A statement belongs to a candidate if it is complete there, by its full stop or by the text's own end:
    that the candidate completes a sentence of the prefix counts, what the prefix said before does not.
    Unknown statements are not counted. `silence` is the score of a text that states nothing true and nothing
    false. `seen` counts what was found by its verdict, over all cases: a fact set that matches nothing shows.
    """

    def judge(cases: Sequence[Case]) -> Scores:
        return [
            [
                score(case.prefix, candidate, bool(case.ended) and case.ended[place])
                for place, candidate in enumerate(case.candidates)
            ]
            for case in cases
        ]

    def score(prefix: str, candidate: str, ended: bool) -> float:
        found = statements.find(prefix + candidate, since=len(prefix), ended=ended)
        verdicts = [statement.verdict for statement in found]
        seen.update(verdicts)
        right, wrong = verdicts.count("true"), verdicts.count("false")
        return right / (right + wrong) if right or wrong else silence

    return judge
