"""The numbers of what a system knows: against values computed by hand."""

import math

import numpy as np
import pytest
from helpers.made_knowledge import answered, evaluation

from pretrainrl_jax.knowledge.confidence import area_under_risk_coverage, bootstrap, ece
from pretrainrl_jax.knowledge.intervals import wilson
from pretrainrl_jax.report.knowledge import figures
from pretrainrl_jax.report.knowledge.tables import surest
from pretrainrl_jax.report.outcomes import common, grouped

# Confidence and whether it is right, of five questions.
FIVE = [(0.95, True), (0.8, False), (0.6, True), (0.3, True), (0.2, False)]


def five(**changes) -> list[dict]:
    return [answered(i, "trained", sure, right, **changes) for i, (sure, right) in enumerate(FIVE)]


def test_states_and_probabilities_by_hand():
    told = figures.of_questions(five(), {})
    assert {state: each["value"] for state, each in told["states"].items()} == {
        "knows": 0.4, "unsure": 0.2, "misled": 0.2, "in reach": 0.0, "unknown": 0.2,
    }  # fmt: skip
    assert told["states"]["knows"]["interval"] == wilson(2, 5)
    truths = [0.95, 0.1, 0.6, 0.3, 0.4]
    falsehoods_ = [0.025, 0.8, 0.2, 0.35, 0.2]
    assert told["p_truth"]["value"] == pytest.approx(np.mean(truths))
    assert told["p_falsehood"]["value"] == pytest.approx(np.mean(falsehoods_))
    margins = [math.log(t / f) for t, f in zip(truths, falsehoods_, strict=True)]
    assert told["margin"]["value"] == pytest.approx(np.median(margins))
    assert told["above"]["value"] == 0.6
    assert (told["first"]["value"], told["among"]["value"], told["rank"]) == (0.6, 0.8, 1.0)


def test_a_question_without_a_falsehood_has_no_margin_and_is_above():
    told = figures.probabilities([answered(0, "trained", 0.5, True, falsehood=None, p_falsehood=None)])
    assert told["margin"] == {"value": None, "interval": None, "questions": 0}
    assert told["above"]["value"] == 1.0
    assert told["p_falsehood"]["value"] == 0.0


def test_targets_are_the_rule_on_paper():
    told = figures.of_questions(five(), {"thresholds": [0.0, 0.5, 0.75, 0.9], "penalties": []})["targets"]
    assert [t["penalty"] for t in told] == pytest.approx([0, 1, 3, 9])
    assert [t["answered"] for t in told] == [1.0, 0.6, 0.4, 0.2]
    assert [t["score"]["value"] for t in told] == pytest.approx([3 / 5, (2 - 1) / 5, (1 - 3) / 5, 1 / 5])
    assert [t["accuracy"]["value"] for t in told] == pytest.approx([0.6, 2 / 3, 0.5, 1.0])
    assert [t["kept"] for t in told] == [None, "yes", "unclear", "yes"]
    own = figures.of_questions(five(), {"thresholds": [0.5], "penalties": [2.0]})["targets"]
    assert (own[0]["penalty"], own[0]["score"]["value"]) == (2.0, pytest.approx((2 - 2) / 5))


def test_nothing_answered_is_neither_right_nor_wrong():
    (last,) = figures.of_questions(five(), {"thresholds": [0.99]})["targets"]
    assert (last["accuracy"], last["kept"], last["score"]["value"]) == (None, None, 0.0)
    # Nobody who is exactly as confident as the threshold answers, nor who gives no answer at all.
    none, half = figures.targets(np.array([0.5, 0.0]), np.array([True, False]), {"thresholds": [0.5, 0.0]})
    assert (none["answered"], half["answered"], half["abstained"]) == (0, 0.5, 0.5)


def test_a_verdict_knows_what_chance_may_do():
    assert figures.verdict(np.array([True] * 6 + [False] * 4), 0.75) == "unclear"
    assert figures.verdict(np.array([True] * 60 + [False] * 40), 0.75) == "no"
    assert figures.verdict(np.array([True] * 8 + [False] * 2), 0.75) == "yes"


def test_calibration_before_and_after():
    told = figures.of_questions(five(), {})
    sure, hits = map(np.array, zip(*FIVE, strict=True))
    assert told["confidence"]["aurc"]["value"] == pytest.approx(area_under_risk_coverage(sure, hits))
    assert told["confidence"]["ideal"] == pytest.approx((1 / 4 + 2 / 5) / 5)
    assert told["confidence"]["random"] == 0.4
    assert told["confidence"]["brier"]["value"] == pytest.approx(np.mean((sure - hits) ** 2))
    assert told["calibrated"]["ece"] == pytest.approx(ece(sure**1.5, hits))
    assert "calibrated" not in figures.of_questions(five(calibrated=None), {})


def test_what_older_versions_did_not_measure_is_absent():
    new = ("best", "best_right", "confidence", "calibrated", "samples", "samples_right", "choice_right")
    old = [{key: value for key, value in q.items() if key not in new} for q in five()]
    told = figures.of_questions(old, {})
    assert set(told) == {
        "questions", "p_truth", "first", "among", "rank", "p_falsehood", "margin", "above"
    }  # fmt: skip
    assert figures.consistency(old, [1.0]) is None
    assert figures.rubric({"questions": old}) == []


def test_two_samples_beside_as_many_answers_by_probability():
    # Sample pairs agree on questions 0, 1 and 4; by probability the three surest are 0, 1 and 2.
    samples = [["a", "a"], ["b", "b"], ["a", "c"], ["a", None], ["d", "d"]]
    right = [[True] * 2, [False] * 2, [True, False], [True, False], [False] * 2]
    asked = [q | {"samples": s, "samples_right": r} for q, s, r in zip(five(), samples, right, strict=True)]
    told = figures.consistency(asked, [0.0, 3.0])
    assert told is not None
    assert (told["two_agree"]["answered"]["value"], told["two_agree"]["accuracy"]["value"]) == (0.6, 1 / 3)
    assert [s["value"] for s in told["two_agree"]["scores"]] == pytest.approx([1 / 5, (1 - 6) / 5])
    assert told["probability"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert [s["value"] for s in told["probability"]["scores"]] == pytest.approx([2 / 5, (2 - 3) / 5])
    # Shares of the most frequent answer are 1, 1, .5, .5, 1, and right for 0, 2 and 3.
    area = area_under_risk_coverage(np.array([1, 1, 0.5, 0.5, 1]), np.array([1, 0, 1, 1, 0], bool))
    assert told["agreement"]["aurc"]["value"] == pytest.approx(area)


def test_where_no_two_samples_agree_nothing_is_answered():
    asked = [q | {"samples": ["a", "b"], "samples_right": [True, False]} for q in five()]
    told = figures.consistency(asked, [1.0])
    assert told is not None
    for way in ("two_agree", "probability"):
        assert told[way]["answered"]["value"] == 0.0
        assert told[way]["accuracy"] is None
        assert told[way]["scores"][0]["value"] == 0.0


def test_open_and_closed_on_paper():
    closed = ["right"] * 2 + ["wrong"] * 8
    opened = ["right", "abstained"] + ["abstained"] * 6 + ["wrong"] * 2
    rows = figures.rubric({"rubric": {"closed": closed, "open": {"9": opened, "0": closed}}})
    assert [row["penalty"] for row in rows] == [0.0, 9.0]
    assert (rows[0]["gap"]["value"], rows[0]["p"]) == (0.0, 1.0)
    assert rows[1]["closed"]["value"] == pytest.approx((2 - 72) / 10)
    assert rows[1]["open"]["value"] == pytest.approx((1 - 18) / 10)
    assert rows[1]["gap"]["value"] == pytest.approx(5.3)
    assert rows[1]["gap"]["interval"][0] > 0
    assert rows[1]["p"] <= 0.002
    assert rows[1]["open_shares"] == pytest.approx({"right": 0.1, "wrong": 0.2, "abstained": 0.7})
    assert figures.rubric({"rubric": {"closed": closed, "open": {"1": opened[:5]}}}) == []


def test_a_bootstrap_p_is_that_of_a_normal_mean():
    values = np.random.default_rng(1).normal(0.2, 1, 100)
    z = values.mean() / (values.std() / 10)
    assert figures.zero(values) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.03)
    assert figures.zero(values[:1]) == 1.0


def test_answers_that_are_said_again_and_again():
    asked = [answered(i, "trained", 0.6, False, best="Rome", prediction="Rome") for i in range(3)]
    asked += [answered(9, "held_out", 0.4, True, best="rome", prediction="rome")]
    asked += [answered(10, "trained", 0.4, False, best="Oslo")]
    (rome,) = figures.repeated({"questions": asked})
    assert rome == {"answer": "Rome", "said": 4, "true": 1, "confidence": pytest.approx(0.55)}


def test_an_answer_without_text_is_an_answer_and_no_answer_is_none():
    asked = [answered(i, "trained", 0.9, False, best="") for i in range(2)]
    asked += [answered(i, "trained", 0.0, False, best=None) for i in range(2, 4)]
    (empty,) = figures.repeated({"questions": asked})
    assert (empty["answer"], empty["said"]) == ("(no text)", 2)
    assert [row[1] for row in surest({"questions": asked}).texts()] == ["(no text)"] * 2


def test_the_surest_falsehoods_are_of_each_fact_once():
    made = {"questions": [*five(), answered(1, "paraphrase", 0.99, False)]}
    assert [row[3] for row in surest(made).texts()] == ["80.0%", "20.0%"]
    old = {"questions": [{k: v for k, v in q.items() if k != "best_right"} for q in made["questions"]]}
    assert surest(old).rows == figures.repeated(old) == []


def test_what_changed_between_two_systems():
    before = {"questions": [answered(i, "trained", sure, right) for i, (sure, right) in enumerate(FIVE)]}
    after = {"questions": [answered(i, "trained", 0.9, i > 0) for i in range(5)]}
    told = figures.changes(before, after)
    assert told["flips"]["trained"] == {"questions": 5, "gained": 2, "lost": 1, "p": 1.0}
    assert told["states"]["unknown"] == {
        "knows": 1, "unsure": 0, "misled": 0, "in reach": 0, "unknown": 0
    }  # fmt: skip
    assert told["states"]["knows"]["misled"] == 1
    assert sum(sum(row.values()) for row in told["states"].values()) == 5
    assert told["groups"]["trained"]["before"] == 0.6
    assert told["groups"]["trained"]["after_interval"] == wilson(4, 5)


def test_true_answers_that_were_never_trained():
    def asked(truths: int, canonical: float, all_true: float, index: int = 0) -> dict:
        return answered(index, "trained", 0.5, True, truths=truths, p_truth=canonical, p_aliases=all_true)

    before = [asked(2, 0.2, 0.6), asked(2, 0.1, 0.3, 1), asked(3, 0.1, 0.1, 2), asked(1, 0.1, 0.1, 3)]
    after = [asked(2, 0.8, 0.9), asked(2, 0.5, 0.8, 1), asked(3, 0.4, 0.5, 2), asked(1, 0.9, 0.9, 3)]
    sides = [grouped({"questions": side})["trained"] for side in (before, after)]
    told = figures.suppressed(common(*sides))
    assert told is not None
    assert told["questions"] == 3
    assert [each["value"] for each in told["canonical"]] == pytest.approx([0.4 / 3, 1.7 / 3])
    assert [each["value"] for each in told["others"]] == pytest.approx([0.6 / 3, 0.5 / 3])
    assert (told["suppressed"]["value"], told["suppressed"]["questions"]) == (0.5, 2)
    assert figures.suppressed(common(*sides)[3:]) is None
    old = {"questions": [before[0], *(question | {"p_aliases": None} for question in before[1:])]}
    told = figures.suppressed(common(grouped(old)["trained"], sides[1]))
    assert told is not None
    assert (told["questions"], told["canonical"][1]["value"]) == (1, 0.8)


def test_neighbours_are_parts_of_the_held_out_facts():
    groups = grouped(evaluation("base", 0.3, 30))
    parts = [groups[name] for name in ("neighbour_subject", "neighbour_answer", "distant")]
    assert [len(part) for part in parts] == [5, 5, 5]
    assert set().union(*parts) == set(groups["held_out"])
    assert len(groups["reversed"]) == 15


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_intervals_of_a_mean_and_a_median(statistic):
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap(statistic, values) or (0, 0)
    width = 2 * 1.96 * 2 / 20 * (1 if statistic is np.mean else 1.2533)
    assert low < statistic(values) < high
    assert high - low == pytest.approx(width, rel=0.2)
    assert bootstrap(statistic, values[:1]) is None
    assert bootstrap(np.mean, np.ones(5)) == (1.0, 1.0)
