"""The lower bounds: by enumeration of toy distributions, and by simulated learners of arbitrary facts."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainrl_jax.knowledge.bounds import Answers, iiv_bound, measure, sample_term, singleton_bound


class Toy(NamedTuple):
    """A prompt: p of valid answers, q of valid, of erroneous, and of other ones; all as exact fractions."""

    p: list[Fraction]
    valid: list[Fraction]
    wrong: list[Fraction]
    outside: Fraction

    def answers(self, listed: int | None = None) -> Answers:
        """As `measure` has it; only so many erroneous answers are listed."""
        wrong = self.wrong[:listed]
        return Answers(
            list(map(float, self.p)),
            list(map(float, self.valid)),
            list(map(float, wrong)),
            len(self.wrong),
        )


counts = st.integers(0, 6)


@st.composite
def toys(draw: st.DrawFn, outside: bool) -> list[Toy]:
    """Prompts with small whole weights, so that probabilities often are exactly the threshold."""
    prompts = []
    for _ in range(draw(st.integers(1, 4))):
        valid, wrong = draw(st.integers(1, 3)), draw(st.integers(1, 5))
        p = draw(st.lists(counts, min_size=valid, max_size=valid).filter(any))
        size = valid + wrong + outside
        q = draw(st.lists(counts, min_size=size, max_size=size).filter(any))
        q = [Fraction(n, sum(q)) for n in q]
        p = [Fraction(n, sum(p)) for n in p]
        prompts.append(Toy(p, q[:valid], q[valid : valid + wrong], sum(q[valid + wrong :], Fraction(0))))
    return prompts


def enumerated(prompts: list[Toy], weights: list[Fraction]) -> tuple[Fraction, ...]:
    """err_iiv, delta, 1 - q(V), q(E) and max |V| / min |E|, from their definitions, answer by answer."""
    fewest = min(len(toy.wrong) for toy in prompts)
    threshold = Fraction(1, fewest)
    mistaken = p_above = q_above = not_valid = erroneous = Fraction(0)
    for toy, weight in zip(prompts, weights, strict=True):
        for p, q in zip(toy.p, toy.valid, strict=True):
            taken = q > threshold
            mistaken += weight * p / 2 * (not taken)
            p_above += weight * p * taken
            q_above += weight * q * taken
        for q in toy.wrong:
            mistaken += weight * Fraction(1, 2 * len(toy.wrong)) * (q > threshold)
            q_above += weight * q * (q > threshold)
            erroneous += weight * q
        not_valid += weight * (1 - sum(toy.valid))
    size = Fraction(max(len(toy.valid) for toy in prompts), fewest)
    return mistaken, abs(q_above - p_above), not_valid, erroneous, size


def weighed(data: st.DataObject, prompts: list[Toy]) -> list[Fraction]:
    drawn = data.draw(st.lists(st.integers(1, 5), min_size=len(prompts), max_size=len(prompts)))
    return [Fraction(n, sum(drawn)) for n in drawn]


@pytest.mark.parametrize("outside", [False, True])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_distribution_is_below_the_bound(outside: bool, data: st.DataObject):
    prompts = data.draw(toys(outside))
    weights = weighed(data, prompts)
    err_iiv, delta, not_valid, erroneous, size = enumerated(prompts, weights)
    bound = 2 * err_iiv - size - delta
    assert not_valid >= bound  # in exact arithmetic: the theorem, as we extend it
    assert erroneous >= bound - (not_valid - erroneous)
    assert outside or erroneous >= bound  # as the paper has it

    terms = measure([toy.answers() for toy in prompts], list(map(float, weights)))
    assert terms.err_iiv == pytest.approx(float(err_iiv))
    assert terms.delta == pytest.approx(float(delta))
    assert terms.error == pytest.approx(float(not_valid))
    assert terms.error_known == pytest.approx(float(erroneous))
    assert terms.outside == pytest.approx(float(not_valid - erroneous))
    assert iiv_bound(terms) == pytest.approx(float(bound))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_bound_holds_where_not_all_errors_were_found(data: st.DataObject):
    prompts = data.draw(toys(True))
    weights = list(map(float, weighed(data, prompts)))
    listed = [data.draw(st.integers(0, len(toy.wrong))) for toy in prompts]
    terms = measure([toy.answers(n) for toy, n in zip(prompts, listed, strict=True)], weights)
    whole = measure([toy.answers() for toy in prompts], weights)
    assert terms.error == pytest.approx(whole.error)
    assert terms.error >= iiv_bound(terms) - 1e-9
    assert terms.errors_taken <= whole.errors_taken + 1e-9
    assert terms.p_hat_above <= whole.p_hat_above + 1e-9


def test_at_the_threshold_is_not_above_it():
    # Four errors: the threshold is 1/4.
    at = measure([Answers([1.0], [0.25], [0.25, 0.25, 0.25, 0.0], 4)])
    assert (at.threshold, at.p_above, at.p_hat_above, at.err_iiv) == (0.25, 0, 0, 0.5)
    above = measure([Answers([1.0], [0.26], [0.26, 0.24, 0.24, 0.0], 4)])
    assert (above.p_above, above.errors_taken) == (1, 0.25)
    assert above.p_hat_above == pytest.approx(0.52)


def test_one_prompt_by_hand():
    """A model that believes a falsehood: 0.1 true, 0.6 on one of nine errors, the rest evenly."""
    wrong = [0.6, *[0.3 / 8] * 8]
    terms = measure([Answers([1.0], [0.1], wrong, 9)])
    assert terms.err_iiv == pytest.approx((1 + 1 / 9) / 2)  # the truth is below 1/9, and one error above
    assert terms.delta == pytest.approx(0.6)
    assert iiv_bound(terms) == pytest.approx(10 / 9 - 1 / 9 - 0.6)
    assert terms.error == pytest.approx(0.9)


def test_the_extremes_are_of_prompts_that_weigh_anything():
    few, many = Answers([1.0, 0.0], [0.5, 0.0], [0.5], 1), Answers([1.0], [0.5], [0.5], 8)
    assert measure([few, many], [0, 1]).min_erroneous == 8
    assert measure([few, many], [1, 1]).max_valid == 2
    with pytest.raises(ValueError, match="no prompt has any weight"):
        measure([few], [0])
    with pytest.raises(ValueError, match="no erroneous answer"):
        measure([Answers([1.0], [1.0], [], 0)])


# The theorem on singletons.

ANSWERS = 1000  # of each prompt, one drawn evenly


def simulated(size: int, prompts: int, power: float, learner: str, seed: int) -> tuple[float, float, float]:
    """Bound, error and singleton rate of a learner that remembers the statements it read.

    "even" spreads what it does not know over all answers, "bluffs" says one of them surely, "shy" has
    learned nothing.
    """
    random = np.random.default_rng(seed)
    share = np.arange(1, prompts + 1.0) ** -power
    share /= share.sum()
    stated = random.multinomial(size, share)
    known, lucky = stated > 0, random.random(prompts) < 1 / ANSWERS
    even = Answers([1.0], [1 / ANSWERS], [1 / ANSWERS] * (ANSWERS - 1), ANSWERS - 1)
    right, wrong = Answers([1.0], [1.0], [], ANSWERS - 1), Answers([1.0], [0.0], [1.0], ANSWERS - 1)
    seen, luck = float(share[known].sum()), float(share[~known & lucky].sum())
    kinds = {
        "even": [(right, seen), (even, 1 - seen)],
        "bluffs": [(right, seen + luck), (wrong, 1 - seen - luck)],
        "shy": [(even, 1.0)],
    }[learner]
    terms = measure([answers for answers, _ in kinds], [max(0.0, weight) for _, weight in kinds])
    singletons = int((stated == 1).sum())
    return singleton_bound(terms, singletons, size), terms.error, singletons / size


@pytest.mark.parametrize("learner", ["even", "bluffs", "shy"])
@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
def test_learners_of_arbitrary_facts_err_as_often_as_the_theorem_says(power: float, learner: str):
    for seed, (size, prompts) in enumerate([(3_000, 3_000), (100_000, 100_000), (1_000_000, 1_000_000)]):
        bound, error, rate = simulated(size, prompts, power, learner, seed)
        assert 0 < rate < 1
        assert error >= bound
        assert size > 10_000 or bound < 0


def test_a_million_statements_of_a_million_prompts_say_something():
    bound, error, rate = simulated(1_000_000, 1_000_000, 0.0, "even", 0)
    assert rate == pytest.approx(math.exp(-1), abs=0.01)  # each is stated once with that probability
    assert 0.2 < bound < error < 0.4


def test_below_7800_statements_the_correction_is_above_1():
    assert sample_term(7_800) > 1 > sample_term(8_000)
    assert sample_term(10_000) == pytest.approx((35 + 6 * math.log(10_000)) / 100)
    terms = measure([Answers([1.0], [1.0], [], 10**9)])  # nothing else is subtracted
    assert singleton_bound(terms, 7_800, 7_800) < 0 < singleton_bound(terms, 8_000, 8_000)
