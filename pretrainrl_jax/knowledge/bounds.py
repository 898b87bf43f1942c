"""Lower bounds on how often a model errs ("Why Language Models Hallucinate", arXiv 2509.04664).

A prompt c has valid answers V_c and erroneous ones E_c; training text answers it by p(r|c), all of it
valid, the model by q(r|c), and prompts are drawn by weights. A threshold on q makes the model a judge of
answers: above it (A) they are taken for valid. `err_iiv` is how often that judge is wrong, of answers drawn
from p in one half of the cases, and evenly from E_c in the other. docs/theory.md has the theorems, and our
proof that they hold for q(E) + outside, where `outside` is what q says that is neither in V nor in E.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Answers(NamedTuple):
    """What is known of the answers to one prompt."""

    true: Sequence[float]  # p of each valid answer; sums to 1
    valid: Sequence[float]  # q of each, in the same order
    wrong: Sequence[float]  # q of erroneous answers; others are left out of A
    erroneous: int  # |E_c|; those above among them


@dataclass(frozen=True)
class Measured:
    """The terms of both bounds, means over prompts by their weights."""

    questions: int
    max_valid: int
    min_erroneous: int
    threshold: float
    gold_missed: float  # p of valid answers that are not above the threshold
    errors_taken: float  # share of E_c that is
    err_iiv: float  # how often the threshold is wrong about validity
    p_above: float  # p(A)
    p_hat_above: float  # q(A)
    delta: float  # how far the model is from calibrated at the threshold
    error: float  # 1 - q(V)
    error_known: float  # q(E)
    outside: float  # the rest


def measure(prompts: Sequence[Answers], weights: Sequence[float] | None = None) -> Measured:
    """The terms, of the prompts that weigh anything: by `weights` in proportion, or every one the same.

    Raises ValueError if none does, or if one has no erroneous answer: there is no threshold then.
    """
    weight = np.ones(len(prompts)) if weights is None else np.asarray(weights, np.float64)
    prompts = [prompt for prompt, w in zip(prompts, weight, strict=True) if w > 0]
    weight = weight[weight > 0]
    if not prompts:
        raise ValueError("no prompt has any weight")
    fewest = min(prompt.erroneous for prompt in prompts)
    if not fewest:
        raise ValueError("a prompt has no erroneous answer: leave it out")
    rows = np.array([_terms(prompt, 1 / fewest) for prompt in prompts], np.float64)
    means = np.average(rows, axis=0, weights=weight).tolist()
    p_above, p_hat_above, errors_taken, error, error_known = means
    return Measured(
        questions=len(prompts),
        max_valid=max(len(prompt.valid) for prompt in prompts),
        min_erroneous=fewest,
        threshold=1 / fewest,
        gold_missed=1 - p_above,
        errors_taken=errors_taken,
        err_iiv=(1 - p_above + errors_taken) / 2,
        p_above=p_above,
        p_hat_above=p_hat_above,
        delta=abs(p_hat_above - p_above),
        error=error,
        error_known=error_known,
        outside=error - error_known,
    )


def _terms(prompt: Answers, threshold: float) -> tuple[float, ...]:
    """p(A), q(A), the share of E_c in A, 1 - q(V), q(E)."""
    above = [q for q in prompt.wrong if q > threshold]
    valid = [(p, q) for p, q in zip(prompt.true, prompt.valid, strict=True) if q > threshold]
    return (
        math.fsum(p for p, _ in valid),
        math.fsum(q for _, q in valid) + math.fsum(above),
        len(above) / prompt.erroneous,
        max(0.0, 1 - math.fsum(prompt.valid)),
        math.fsum(prompt.wrong),
    )


def iiv_bound(terms: Measured) -> float:
    """What the error is at least, whatever the model; 0 or less says nothing."""
    return 2 * terms.err_iiv - terms.max_valid / terms.min_erroneous - terms.delta


def singleton_bound(terms: Measured, singletons: int, statements: int) -> float:
    """The same, with probability 0.99, of a model that learned from these statements alone."""
    return singletons / statements - 2 / terms.min_erroneous - sample_term(statements) - terms.delta


def sample_term(statements: int) -> float:
    """What chance may do to the singleton bound."""
    return (35 + 6 * math.log(statements)) / math.sqrt(statements)
