"""What counts as not knowing, what answers are worth, and samples that agree."""

import math

import pytest

from pretrainrl_jax.knowledge.abstention import agreement, is_idk, rule, score, two_agree, verdict


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know",
        "I don’t know.",
        "I do not know who that is.",
        "IDK",
        "Unknown.",
        "Not sure",
        "no idea!",
    ],
)
def test_not_knowing_is_recognised(answer):
    assert is_idk(answer)


@pytest.mark.parametrize("answer", ["Unknown Pleasures", "I", "I dont", "Knowles", "", "Notre Dame", "idkfa"])
def test_answers_are_not_taken_for_it(answer):
    assert not is_idk(answer)


def test_a_right_answer_is_right_whatever_it_reads_like():
    assert verdict("Unknown", True) == "right"
    assert verdict("Unknown", False) == "abstained"
    assert verdict("Rome", False) == "wrong"


def test_open_and_closed_scores_of_a_table_made_on_paper():
    closed = ["right", "right", "wrong", "wrong"]
    stated = ["right", "abstained", "wrong", "abstained"]
    # closed: 2 - 2L over 4; open: 1 - L over 4.
    assert [score(closed, p) for p in (0, 1, 3, 9)] == pytest.approx([0.5, 0, -1, -4])
    assert [score(stated, p) for p in (0, 1, 3, 9)] == pytest.approx([0.25, 0, -0.5, -2])
    assert math.isnan(score([], 1))


def test_the_rule_names_the_penalty():
    assert "costs nothing" in rule(0)
    assert "costs 1 point." in rule(1)
    assert "costs 9 points." in rule(9)
    assert "costs 0.5 points." in rule(0.5)


def test_two_samples_agree():
    assert two_agree(["rome", "rome", "pisa"], [True, True, False]) == (True, True)
    assert two_agree(["rome", "pisa"], [True, False]) == (False, False)
    assert two_agree([None, None], [False, False]) == (False, False)  # neither has an end


def test_agreement_among_samples():
    assert agreement(["rome", "pisa", "pisa", None], [False, True, True, False]) == (0.5, True)
    assert agreement(["rome", "pisa"], [False, True]) == (0.5, False)  # the one drawn first
    assert agreement([None, None], [False, False]) == (0.0, False)
