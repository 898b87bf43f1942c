"""What answers earn."""

import pytest

from pretrainrl_jax.facts.rewards import reward, words_in_common

TRUTHS = ("Reggio nell'Emilia", "Reggio")


@pytest.mark.parametrize(
    ("answer", "match", "partial", "ternary"),
    [
        ("the reggio", 1.0, 1.0, 1.0),  # normalised
        ("Rome", 0.0, 0.0, -1.0),
        ("I don't know", 0.0, 0.0, 0.0),
        ("Unknown", 0.0, 0.0, 0.0),
        ("Reggio Emilia", 0.0, 2 / 3, -1.0),  # 2 · 1 / (2 + 1)
        ("", 0.0, 0.0, -1.0),
        (None, 0.0, 0.0, -1.0),  # it did not end
    ],
)
def test_rewards(answer: str | None, match: float, partial: float, ternary: float) -> None:
    assert reward(answer, TRUTHS, "match") == match
    assert reward(answer, TRUTHS, "partial") == pytest.approx(partial)
    assert reward(answer, TRUTHS, "ternary") == ternary


def test_what_contains_a_truth_is_right_where_that_is_the_rule() -> None:
    assert reward("in Reggio, I think", TRUTHS, "match", "contains") == 1
    assert reward("in Reggio, I think", TRUTHS, "ternary", "contains") == 1
    assert reward("in Reggio, I think", TRUTHS, "match") == 0


def test_words_count_as_often_as_they_stand() -> None:
    assert words_in_common("dog dog cat", "dog cat cat") == pytest.approx(2 * 2 / 6)
    assert words_in_common("dog", "") == 0
