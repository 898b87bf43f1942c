"""The summary's contract, its table, and that its sentences follow the numbers whichever way they fall."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.made_workdirs import by_system

from pretrainrl_jax.config import OBJECTIVES, DpoConfig, NtpConfig, ObjectiveConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report import summary as summaries
from pretrainrl_jax.report.summary import forgetting, table
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.report.words import headline, noise, reading

KNOWN = Systems(OBJECTIVES)


def evaluation(system: str, acc: Any, **changes: Any) -> dict[str, Any]:
    """An evaluation of 20,000 questions, so many that two points are more than sampling noise."""
    trained = {"count": 20000, "acc": acc, "hr": 0.7, "mrr": 0.45, "prob": 0.3, "prob_all": 0.2}
    held_out = {"count": 400, "acc": 0.1, "hr": 0.2, "mrr": 0.15, "prob": None, "prob_all": 0.05}
    bins = [{"low": 0.1, "high": 2.0, "count": 400, "acc": acc, "hr": 0.7, "mrr": 0.4, "prob": 0.3}]
    return {
        "system": system,
        "device_seconds": 10.0,
        "text_nll": 1.9,
        "groups": {"trained": trained, "held_out": held_out},
        "by_popularity": bins,
        "unfinished_beams": 0.01,
        "questions": [{"id": "f1"}],
        **changes,
    }


def summarise(evaluations: list[dict[str, Any]], dataset: str, model: str) -> dict[str, Any]:
    return summaries.summarise(by_system(evaluations), dataset, model)


def summary_of(**accuracies: float | None) -> dict[str, Any]:
    evaluations = [evaluation(system, acc) for system, acc in accuracies.items()]
    return summarise(evaluations, "small world", "tiny")


def words_of(**accuracies: float | None) -> str:
    return "\n".join(reading(summary_of(**accuracies), KNOWN))


def test_the_contract_of_summary_json() -> None:
    summary = summarise([evaluation("base", 0.13), evaluation("ntp", 0.36)], "small world", "tiny")
    assert set(summary) == {"dataset", "model", "systems"}
    assert (summary["dataset"], summary["model"]) == ("small world", "tiny")
    assert list(summary["systems"]) == ["base", "ntp"]
    ntp = summary["systems"]["ntp"]
    assert {k: ntp[k] for k in ("acc", "hr", "mrr", "prob")} == {
        "acc": 0.36,
        "hr": 0.7,
        "mrr": 0.45,
        "prob": 0.3,
    }
    assert (ntp["text_nll"], ntp["device_seconds"]) == (1.9, 10.0)
    assert ntp["by_popularity"][0]["count"] == 400
    assert ntp["groups"]["held_out"]["acc"] == 0.1
    assert "questions" not in ntp
    json.dumps(summary, allow_nan=False)


def test_what_is_not_a_number_becomes_null() -> None:
    bad = evaluation("base", math.nan, text_nll=math.inf, device_seconds=None)
    bad["by_popularity"][0].update(low=-math.inf, prob=math.nan)
    base = summarise([bad], "d", "m")["systems"]["base"]
    json.dumps(base, allow_nan=False)
    assert base["acc"] is None
    assert base["text_nll"] is None
    assert base["by_popularity"][0]["low"] is None
    assert base["by_popularity"][0]["acc"] is None


def test_numbers_of_numpy_are_numbers() -> None:
    base = summarise([evaluation("base", np.float32(0.25), text_nll=np.float64(2.0))], "d", "m")["systems"][
        "base"
    ]
    assert (base["acc"], base["text_nll"]) == (0.25, 2.0)
    json.dumps(base)


def test_rates_outside_the_unit_interval_are_refused_and_rounding_is_not() -> None:
    with pytest.raises(InputError, match="ntp: trained: acc is 36, which is not a rate"):
        summarise([evaluation("ntp", 36.0)], "d", "m")
    wrong = evaluation("ntp", 0.3)
    wrong["by_popularity"][0]["hr"] = -0.5
    with pytest.raises(InputError, match=r"by_popularity bin 0: hr is -0\.5"):
        summarise([wrong], "d", "m")
    assert summarise([evaluation("ntp", 1.0000001)], "d", "m")["systems"]["ntp"]["acc"] == 1.0


def test_a_group_without_questions_is_absent() -> None:
    empty = evaluation("base", 0.1)
    empty["groups"]["unseen"] = {"count": 0, "acc": math.nan}
    assert "unseen" not in summarise([empty], "d", "m")["systems"]["base"]["groups"]


def test_the_table_fits_a_terminal_and_shows_percentages() -> None:
    names = ("base", "dpo", "ntp", "ntp_answer", "ntp_weighted", "pretrainrl", "[b]a_new_system_of_tomorrow")
    text = table(summary_of(**dict.fromkeys(names, 0.3642)), KNOWN)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if line.strip().startswith("PretrainRL"))
    assert row.split() == ["PretrainRL", "36.4", "70.0", "45.0", "30.0", "10.0", "1.90", "10.0"]
    assert "unseen" not in text  # of which no system was asked any
    assert "[b]a_new_system" in text  # a name is text, never markup
    assert "ACC" in text
    assert "held-out" in text


def test_base_alone() -> None:
    assert headline(summary_of(base=0.135), KNOWN).endswith("13.5%")
    assert "was not measured" in headline(summary_of(base=None), KNOWN)
    assert reading(summary_of(base=0.135), KNOWN) == reading(summary_of(base=None), KNOWN) == []


def test_pretrainrl_ahead_of_everything() -> None:
    text = words_of(base=0.135, ntp=0.30, ntp_answer=0.33, pretrainrl=0.40)
    assert "PretrainRL is above NTP on question + answer (40.0% against 30.0%): the order the paper" in text
    assert "NTP on answers only is below PretrainRL (33.0% against 40.0%)" in text
    assert "the two differ in more than negatives" in text
    assert "no evidence" not in text
    assert "one seed" in text


def test_the_control_without_negatives_ahead() -> None:
    text = words_of(base=0.135, ntp=0.363, ntp_answer=0.503, pretrainrl=0.399)
    assert "NTP on answers only is above PretrainRL (50.3% against 39.9%)" in text
    assert "no evidence that they help" in text
    assert "the order the paper reports" in text


def test_the_reverse_of_the_paper() -> None:
    text = words_of(base=0.135, ntp=0.45, pretrainrl=0.40)
    assert "PretrainRL is below NTP on question + answer" in text
    assert "the reverse of the paper" in text
    assert "was measured beside PretrainRL: this run cannot say whether the negatives help" in text


def test_iterative_rpo_is_a_baseline_of_its_own() -> None:
    text = words_of(base=0.135, ntp=0.30, rpo=0.43, pretrainrl=0.40)
    assert "PretrainRL is above NTP on question + answer (40.0% against 30.0%): the order" in text
    assert "PretrainRL is below iterative RPO (40.0% against 43.0%): the reverse" in text


@pytest.mark.parametrize("gap", [-0.019, -0.0001, 0.0, 0.019])
def test_small_differences_are_called_noise(gap: float) -> None:
    text = words_of(base=0.135, ntp=0.38, ntp_answer=0.38, pretrainrl=0.38 + gap)
    assert text.count("within noise (2.0 points) of") == 2
    assert "does not tell them apart" in text
    assert "of the paper" not in text
    assert "does not show that they help" in text


def test_a_difference_over_two_points_is_not_noise() -> None:
    text = words_of(ntp=0.38, pretrainrl=0.402)
    assert "is above NTP" in text
    assert "within noise" not in text


def test_few_questions_widen_the_noise() -> None:
    few = [evaluation("ntp", 0.38), evaluation("pretrainrl", 0.42)]
    for one in few:
        one["groups"]["trained"]["count"] = 100
    summary = summarise(few, "d", "m")
    assert noise(summary, "ntp", "pretrainrl") == pytest.approx(13.6, abs=0.1)
    assert "within noise (13.6 points) of" in "\n".join(reading(summary, KNOWN))


def test_the_same_questions_narrow_the_noise() -> None:
    right = {"ntp": range(380), "pretrainrl": range(10, 410)}  # of 1,000 questions 10 lost, 30 gained
    asked = [{"id": f"f{i}", "question": "?", "group": "trained"} for i in range(1000)]
    evaluations = [
        evaluation(
            name,
            len(which) / 1000,
            questions=[{**q, "correct": i in which} for i, q in enumerate(asked)],
        )
        for name, which in right.items()
    ]
    for one in evaluations:
        one["groups"]["trained"]["count"] = 1000
    summary = summarise(evaluations, "d", "m")
    # Half a question more in each of the four outcomes: 30.5 gained, 10.5 lost, of 1,002.
    half = 1.96 * math.sqrt((41 / 1002 - (20 / 1002) ** 2) / 1002)
    against = summary["systems"]["pretrainrl"]["against"]["ntp"]
    assert against["low"] == pytest.approx(20 / 1002 - half, abs=1e-5)
    assert against["high"] == pytest.approx(20 / 1002 + half, abs=1e-5)
    assert (against["questions"], against["before"], against["after"]) == (1000, 0.38, 0.4)
    back = summary["systems"]["ntp"]["against"]["pretrainrl"]
    assert (back["low"], back["high"]) == pytest.approx((-against["high"], -against["low"]))
    assert 100 * half < 2.0
    assert noise(summary, "ntp", "pretrainrl") == 2.0  # one seed: never under two points
    for one in evaluations:
        one["questions"] = []
    apart = summarise(evaluations, "d", "m")
    assert apart["systems"]["ntp"]["against"] == {}
    assert noise(apart, "ntp", "pretrainrl") == pytest.approx(
        196 * math.sqrt((0.38 * 0.62 + 0.4 * 0.6) / 1000), abs=0.01
    )


def test_accuracies_have_their_intervals() -> None:
    evaluated = evaluation("base", 0.5)
    evaluated["groups"]["trained"]["count"] = 100
    base = summarise([evaluated], "d", "m")["systems"]["base"]
    # Wilson's interval of 50 of 100, as it is printed in tables: 40.4 % to 59.6 %.
    assert base["acc_interval"] == pytest.approx((0.404, 0.596), abs=5e-4)
    assert base["groups"]["held_out"]["acc_interval"] == pytest.approx((0.0743, 0.1332), abs=5e-4)
    assert base["by_popularity"][0]["acc_interval"][0] < 0.5
    assert summarise([evaluation("base", None)], "d", "m")["systems"]["base"]["acc_interval"] is None


def test_what_is_kept_of_the_head_is_of_what_the_base_model_knew() -> None:
    """Of 10 facts the base knows 4, the other 3 of these and 2 that the base does not."""
    right = {"ntp": {0, 1, 2, 8, 9}, "base": {0, 1, 2, 3}}
    evaluations = [
        evaluation(
            name,
            0.5,
            questions=[
                {"id": f"f{n}", "question": "?", "group": "head", "correct": n in which} for n in range(10)
            ],
            groups={"trained": {"count": 9, "acc": 0.5}, "head": {"count": 10, "acc": len(which) / 10}},
        )
        for name, which in right.items()
    ]
    summary = summarise(evaluations, "d", "m")
    groups = {name: system["groups"] for name, system in summary["systems"].items()}
    assert (groups["ntp"]["head_kept"]["count"], groups["ntp"]["head_kept"]["acc"]) == (4, 0.75)
    assert "head_kept" not in groups["base"]
    assert "head_kept" not in summarise(evaluations[:1], "d", "m")["systems"]["ntp"]["groups"]


def test_forgetting_is_the_rise_over_base() -> None:
    evaluations = [
        evaluation("base", 0.1, text_nll=1.87),
        evaluation("ntp", 0.3, text_nll=3.17),
        evaluation("dpo", 0.1, text_nll=1.77),
        evaluation("pretrainrl", 0.4, text_nll=3.87),
    ]
    summary = summarise(evaluations, "d", "m")
    assert forgetting(summary) == pytest.approx({"ntp": 1.3, "dpo": -0.1, "pretrainrl": 2.0})
    assert headline(summary, KNOWN).endswith("text loss +2.00")
    evaluations[0]["text_nll"] = None
    assert "Forgetting cannot be read" in "\n".join(reading(summarise(evaluations, "d", "m"), KNOWN))


def test_device_time_says_when_compute_is_not_equal() -> None:
    slow = [evaluation("ntp_answer", 0.4), evaluation("pretrainrl", 0.4, device_seconds=21.0)]
    assert "2.1 times" in "\n".join(reading(summarise(slow, "d", "m"), KNOWN))
    assert "not compared at equal compute" in "\n".join(reading(summarise(slow, "d", "m"), KNOWN))
    even = [evaluation("ntp_answer", 0.4), evaluation("pretrainrl", 0.4, device_seconds=10.5)]
    assert "not compared at equal compute" not in "\n".join(reading(summarise(even, "d", "m"), KNOWN))


def test_every_subset_of_systems_reads() -> None:
    names = ["base", "dpo", "ntp", "ntp_answer", "ntp_weighted", "pretrainrl", "anchored"]
    for mask in range(1, 2 ** len(names)):
        chosen = {name: 0.1 + 0.07 * i for i, name in enumerate(names) if mask >> i & 1}
        sentences = reading(summary_of(**chosen), KNOWN)
        assert all(s.endswith((".", "!")) and "None" not in s and "nan" not in s for s in sentences)
        assert headline(summary_of(**chosen), KNOWN)


OWN = {
    "push": ObjectiveConfig(
        "Push", "pushing apart", ntp=NtpConfig(answer=0.5), dpo=DpoConfig(1.0), above=("plain",)
    ),
    "plain": ObjectiveConfig("Plain", ntp=NtpConfig(answer=1.0)),
}


def own(objectives: dict[str, ObjectiveConfig], **accuracies: float) -> str:
    return "\n".join(reading(summary_of(**accuracies), Systems(objectives)))


def test_objectives_of_ones_own_are_told_by_their_terms() -> None:
    text = own(OWN, base=0.1, push=0.4, plain=0.3)
    assert "Pushing apart is above Plain (40.0% against 30.0%): the order the paper reports" in text
    assert (
        "Plain is below pushing apart (30.0% against 40.0%); the two differ in more than negatives"
    ) in text
    assert "device time" not in text
    back = own(OWN, push=0.3, plain=0.4)
    assert "the reverse of the paper" in back
    assert "it uses no negatives, so this run is no evidence that they help" in back
    assert "No control without negatives was measured beside pushing apart" in own(OWN, push=0.3)


def test_what_no_paper_orders_has_its_best_control_all_the_same() -> None:
    both = {name: replace(objective, above=()) for name, objective in OWN.items()}
    more = {
        **both,
        "alike": ObjectiveConfig(ntp=NtpConfig(answer=0.5)),
        "slow": ObjectiveConfig(ntp=NtpConfig(answer=0.5), learning_rate=1.0),
    }
    text = own(more, push=0.4, plain=0.2, alike=0.3, slow=0.1)
    assert "the paper" not in text
    alike = "Alike is below pushing apart (30.0% against 40.0%); the two differ in negatives alone"
    assert alike in text
    assert "Plain" not in text
    assert "Slow is below pushing apart (10.0% against 40.0%); the two differ in more than" in own(
        more, push=0.4, slow=0.1
    )
    assert "No control without negatives was measured" in own({"push": both["push"]}, push=0.4)


def test_what_only_pushes_apart_makes_no_claim_about_negatives() -> None:
    alone = {"apart": ObjectiveConfig("Apart", dpo=DpoConfig(0.5)), "plain": OWN["plain"]}
    assert "negatives" not in own(alone, base=0.2, apart=0.1, plain=0.3)


def test_the_last_that_a_paper_puts_above_others_is_the_method() -> None:
    assert KNOWN.method(["base", "pretrainrl", "rpo"]) == "pretrainrl"
    assert KNOWN.method(["base", "rpo", "unknown"]) is None
    two = Systems({**OWN, "late": ObjectiveConfig(above=("push",))})
    assert two.method(["late", "push", "plain"]) == "late"
    assert sorted(["x", "late", "base", "push"], key=two.place) == ["base", "push", "late", "x"]
