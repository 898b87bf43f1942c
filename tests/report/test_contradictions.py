"""Evaluations whose numbers cannot all be true are told as such, and others are not."""

import re
from pathlib import Path

import pytest
from helpers.made_workdirs import asked, change, evaluation, question, write_workdir

from pretrainrl_jax.config import OBJECTIVES
from pretrainrl_jax.report.contradictions import contradictions, other_texts
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.stages.report import report

KNOWN = Systems(OBJECTIVES)
TWICE = {"answers": 40, "apart": 2e-5, "tolerance": 1e-3}


def told(*evaluations) -> list[str]:
    return contradictions(evaluations, KNOWN)


def test_numbers_that_fit_together_are_not_told():
    assert told(evaluation("base", 0.2), evaluation("ntp", 0.4)) == []
    assert told(evaluation("base", 0.2) | {"measured_twice": TWICE}) == []


def test_two_probabilities_of_one_answer():
    (sentence,) = told(evaluation("ntp", 0.4) | {"measured_twice": TWICE | {"apart": 9.2}})
    assert "NTP" in sentence
    assert "9.20 nats apart" in sentence


def test_a_truth_below_the_falsehood_where_the_best_beam_is_right():
    """As an older version evaluated a model that ends its answers otherwise than the template asks."""
    wrong = [question(i, True, p_truth=0.00007, p_falsehood=0.2) for i in range(20)]
    fine = [question(i, i < 30) for i in range(20, 90)]
    (sentence,) = told(asked("pretrainrl", wrong + fine))
    assert "20 of 30 questions" in sentence
    assert told(asked("pretrainrl", wrong[:3] + fine)) == []  # an alias, another spelling
    spelt = [q | {"p_aliases": 0.3} for q in wrong]
    assert told(asked("pretrainrl", spelt + fine)) == []


def test_greedy_answers_that_no_beam_has():
    measured = {"count": 100, "acc": 0.4, "hr": 0.3}
    (sentence,) = told({"system": "ntp", "groups": {"trained": measured}})
    assert "40.0% of the greedy answers" in sentence
    assert told({"system": "ntp", "groups": {"trained": measured | {"acc": 0.31}}}) == []


def test_systems_that_two_versions_evaluated():
    (sentence,) = told(evaluation("base", 0.2), evaluation("ntp", 0.4) | {"measured_twice": TWICE})
    assert sentence.startswith("base")
    assert "older version" in sentence


def test_losses_on_other_texts():
    first, second, third = (evaluation(name, 0.2) for name in ("base", "ntp", "dpo"))
    assert other_texts([first, second], KNOWN) == []  # older ones do not say
    told_first = [first | {"texts": "a"}, second | {"texts": "a"}, third | {"texts": "b"}]
    (sentence,) = other_texts(told_first, KNOWN)
    assert sentence.startswith("DPO")
    assert other_texts(told_first[:2], KNOWN) == []
    assert other_texts([told_first[0], told_first[2] | {"text_nll": None}], KNOWN) == []


def test_page_summary_and_terminal_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workdir = write_workdir(tmp_path)
    assert "contradict each other" not in write_report(workdir).read_text("utf-8")
    change(workdir / "evaluations" / "ntp.json", measured_twice=TWICE | {"apart": 9.2})
    text = re.sub(r"\s+", " ", write_report(workdir).read_text("utf-8"))
    assert "These numbers contradict each other" in text
    assert "9.20 nats apart" in text
    report(workdir)
    assert "! NTP: of 40 answers" in capsys.readouterr().out
