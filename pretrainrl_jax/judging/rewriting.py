"""Rewriting without a model: what a suffix states falsely is corrected."""

from collections.abc import Sequence

from pretrainrl_jax.facts.statements import Statements, corrected
from pretrainrl_jax.judging.protocol import RewriteCase, Rewriter


def exact_rewriter(statements: Statements) -> Rewriter:
    """The rewriter that puts true answers in the place of false ones, and copies all else as it is.

    A false statement counts where it is complete in the suffix: one that the prefix begins counts too. Only
    the suffix changes: of an answer that begins in the prefix only the rest is replaced, where the true
    answer begins with the same characters; else that statement stays, since no suffix can mend it.
    """

    def rewrite(cases: Sequence[RewriteCase]) -> list[str]:
        return [_rewritten(statements, case) for case in cases]

    return rewrite


def _rewritten(statements: Statements, case: RewriteCase) -> str:
    begin, text = len(case.prefix), case.prefix + case.suffix
    for statement in reversed(statements.find(text, since=begin)):  # places before a change stay right
        if statement.verdict == "false":
            right = corrected(text, statement)
            if right.startswith(case.prefix):
                text = right
    return text[begin:]
