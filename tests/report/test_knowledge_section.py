"""The page on what a model knows: all of it there, escaped, and silent about what was not measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.made_knowledge import evaluation, measure_knowledge, theory
from helpers.made_workdirs import EVIL, SYSTEMS, Tags, change, parse, table, write_workdir

from pretrainrl_jax.report.knowledge.theory import notes
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.stages.report import report

QUESTIONS = (
    "What does it know?",
    "What does it believe falsely?",
    "Does it know the difference?",
    "What did training change?",
    "How much error must there be?",
)
TWO = {"base": 0.25, "pretrainrl": 0.6}


def alone(workdir: Path, *systems: str) -> None:
    for path in (workdir / "evaluations").glob("*.json"):
        if path.stem not in systems:
            path.unlink()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    made = write_workdir(tmp_path)
    measure_knowledge(made, TWO, facts=24)
    alone(made, *TWO)
    return made


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are put together, and not painted, which takes most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *given, **how: None)


def page(workdir: Path) -> Tags:
    return parse(write_report(workdir).read_text("utf-8"))


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report" / "summary.json").read_text("utf-8"))


def test_the_four_questions_and_the_theory(workdir: Path) -> None:
    tags = page(workdir)
    for question in QUESTIONS:
        assert question in tags.text
    assert all(address.startswith("data:image/") for address in tags.addresses)
    # Reliability of two systems, mistakes; the others are as before.
    assert len(tags.addresses) == 2 + 1 + 1 + 3
    told = summary(workdir)["systems"]["pretrainrl"]["knowledge"]
    assert set(told) == {
        "trained", "held_out", "temperature", "repeated", "consistency", "rubric", "theory", "changes"
    }  # fmt: skip
    (row,) = [row for row in table(tags, "system", "knows, %") if row[0] == "PretrainRL"]
    assert row[1].split()[0] == f"{100 * told['trained']['states']['knows']['value']:.1f}"
    moved = table(tags, "before", "after: knows")
    assert [row[0] for row in moved] == ["knows", "unsure", "misled", "in reach", "unknown", "all after"]
    assert moved[-1][-1] == "24"
    targets = table(tags, "system", "target t")
    assert [row[1] for row in targets] == ["0", "0.5", "0.75", "0.9"] * 2
    groups = [row[0] for row in table(tags, "questions", "number")]
    assert "trained facts, asked in reverse" in groups
    assert "held-out facts of a trained subject" in groups
    assert "By continent" in tags.text


@pytest.mark.usefixtures("unpainted")
def test_a_bound_that_says_nothing_is_told_as_such(workdir: Path) -> None:
    tags = page(workdir)
    (iiv, singleton) = (table(tags, "system", *head) for head in (("questions", "error, %"), ("error, %",)))
    assert iiv[0][1:4] == ["2,400", "82.0", "53.1"]
    assert iiv[0][-1] == "at least so much error, as measured"
    assert singleton[0][1:3] == ["50.0", "−97.0"]
    assert singleton[0][-1] == "nothing: it is not above 0"
    assert "3 questions are left out of the bounds" in tags.text
    (details,) = [t for t in tags.tables if t[0][:3] == ["system", "threshold", "true answers missed"]]
    assert {"errors taken", "above it: model", "above it: data", "bound on the known"} < {*details[0]}
    for counted in ("texts looked through19,000", "statements, N", "stated exactly once"):
        assert counted in tags.text
    assert "missing mass, Good-Turing3.2% (2.7% to 3.6%); known here: 3.3%" in tags.text
    path = workdir / "evaluations" / "base.json"
    change(path, theory=theory(iiv=theory()["iiv"] | {"holds": False}))
    (iiv,) = (row for row in table(page(workdir), "system", "questions", "error, %") if row[0] == "base")
    assert iiv[-1] == "it is above the error: these numbers contradict each other"
    change(path, theory=theory(iiv=None, singleton=None, statements=None, categories=[]))
    change(workdir / "evaluations" / "pretrainrl.json", theory=None)
    assert "The error is that of answers drawn" in page(workdir).text


@pytest.mark.usefixtures("unpainted")
def test_one_that_is_not_shown_first_alone_lists_its_questions(tmp_path: Path) -> None:
    """Those of the pictures, base and the method, were evaluated without: the other one is looked at."""
    workdir = write_workdir(tmp_path)
    measure_knowledge(workdir, {"ntp": 0.4}, facts=24)
    alone(workdir, "base", "ntp", "pretrainrl")
    for system in ("base", "pretrainrl"):
        change(workdir / "evaluations" / f"{system}.json", questions=[])
    assert "The wrong answers NTP is surest of" in page(workdir).text


@pytest.mark.usefixtures("unpainted")
def test_a_model_that_was_not_trained(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone(workdir, "base")
    path = workdir / "evaluations" / "base.json"
    change(path, temperature={"reason": "fewer than 30 held-out facts"})
    tags = page(workdir)
    assert "What did training change?" not in tags.text
    text = tags.text[tags.text.index(QUESTIONS[0]) : tags.text.index("How much error")]
    assert "trained facts" not in text.lower()
    assert table(tags, "system", "not fitted") == [["base", "fewer than 30 held-out facts"]]
    report(workdir)
    said = capsys.readouterr().out
    assert "Does it know the difference? Most probable answers to facts" in said
    assert "Wrong answers that base gives again and again" in tags.text
    assert table(tags, "it says", "to questions")
    assert "Answers that became right or wrong" not in tags.text


@pytest.mark.usefixtures("unpainted")
def test_the_terminal_has_one_row_a_system_within_100_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = write_workdir(tmp_path)
    measure_knowledge(workdir, SYSTEMS, facts=24)
    report(workdir)
    said = capsys.readouterr().out
    shown = said[said.index("Does it know the difference?") :].split("\n- ")[0].splitlines()
    assert max(map(len, shown)) <= 100
    assert "…" not in "".join(shown)
    heads = " ".join(shown[1:3]).split()
    assert heads.count("score") == 3
    for word in ("right", "knows", "misled", "AURC", "ECE", "Brier", "t=0.5", "t=0.75", "t=0.9"):
        assert word in heads
    told = summary(workdir)["systems"]["ntp"]["knowledge"]["trained"]
    (row,) = [line for line in shown if line.strip().startswith("NTP ") and "only" not in line]
    assert row.split()[1:5] == [
        f"{100 * told['confidence']['accuracy']['value']:.1f}",
        f"{100 * told['states']['knows']['value']:.1f}",
        f"{100 * told['states']['misled']['value']:.1f}",
        f"{told['confidence']['aurc']['value']:.3f}",
    ]
    assert "NTP (answers only)" in "".join(shown)


@pytest.mark.usefixtures("unpainted")
def test_evaluations_of_older_versions(workdir: Path) -> None:
    new = {
        "p_aliases", "truths", "best", "best_right", "confidence", "calibrated", "samples", "samples_right",
        "choice", "choice_right", "choice_confidence", "columns", "neighbour",
    }  # fmt: skip
    for system in TWO:
        made = evaluation(system, TWO[system], 24)
        asked = [{k: v for k, v in q.items() if k not in new} for q in made["questions"]]
        change(
            workdir / "evaluations" / f"{system}.json",
            questions=[q for q in asked if q["group"] != "reversed"],
            temperature={},
            rubric=None,
            theory=None,
        )
    tags = page(workdir)
    for question, there in zip(QUESTIONS, (True, True, False, True, False), strict=True):
        assert (question in tags.text) is there
    assert "knows, %" not in [head for rows in tags.tables for head in rows[0]]
    told = summary(workdir)["systems"]["pretrainrl"]["knowledge"]
    assert "states" not in told["trained"]
    assert told["changes"]["flips"]["trained"]["questions"] == 24
    (row, _) = table(tags, "system", "probability of the truth")
    assert row[0] == "base"


@pytest.mark.usefixtures("unpainted")
def test_one_system_may_be_older_than_the_other(workdir: Path) -> None:
    path = workdir / "evaluations" / "base.json"
    asked = json.loads(path.read_text("utf-8"))["questions"]
    lacking = ("best_right", "best", "confidence")
    change(path, questions=[{k: v for k, v in q.items() if k not in lacking} for q in asked])
    tags = page(workdir)
    assert [row[0] for row in table(tags, "system", "target t")] == ["PretrainRL"] * 4
    assert "From state to state" not in tags.text
    (row, _) = table(tags, "system", "knows, %")
    assert row[:3] == ["base", "–", "–"]


@pytest.mark.usefixtures("unpainted")
def test_text_of_models_and_files_is_escaped(workdir: Path) -> None:
    for system in TWO:
        path = workdir / "evaluations" / f"{system}.json"
        asked = json.loads(path.read_text("utf-8"))["questions"]
        evil = dict.fromkeys(("best", "prediction", "answer", "falsehood"), EVIL)
        marked = [
            {**q, **evil, "question": f"{EVIL}{i}", "category": f"{EVIL}{i % 2}"}
            | {"columns": {EVIL: EVIL * (i % 2)}}
            for i, q in enumerate(asked)
        ]
        notes = theory(notes=[EVIL], categories=[{**theory()["iiv"], "category": EVIL}])
        change(path, questions=marked, theory=notes, temperature={"reason": EVIL})
    tags = page(workdir)
    assert "script" not in tags.tags
    assert tags.text.count("<script>") > 50
    assert any(row[0] == "(none)" for row in table(tags, EVIL))


@pytest.mark.usefixtures("unpainted")
def test_many_values_of_a_column_are_told_together(workdir: Path) -> None:
    path = workdir / "evaluations" / "base.json"
    asked = json.loads(path.read_text("utf-8"))["questions"]
    change(path, questions=[q | {"columns": {"land": f"land {i % 60}"}} for i, q in enumerate(asked)])
    alone(workdir, "base")
    asked = len(table(page(workdir), "land"))
    assert asked == 24  # of each fact its own
    measure_knowledge(workdir, {"base": 0.3}, facts=90)
    asked = json.loads(path.read_text("utf-8"))["questions"]
    change(path, questions=[q | {"columns": {"land": f"land {i % 60}"}} for i, q in enumerate(asked)])
    rows = table(page(workdir), "land")
    assert len(rows) == 26
    assert rows[-1][0] == "35 others"
    assert sum(int(row[1]) for row in rows) == 90


@pytest.mark.usefixtures("unpainted")
def test_a_column_with_one_value_divides_nothing_and_other_questions_show_no_change(workdir: Path) -> None:
    for system in TWO:
        path = workdir / "evaluations" / f"{system}.json"
        asked = json.loads(path.read_text("utf-8"))["questions"]
        change(path, questions=[q | {"id": f"{system} {q['id']}", "columns": {"land": "x"}} for q in asked])
    text = page(workdir).text
    assert "by land" not in text.lower()
    assert "What did training change?" not in text


@pytest.mark.usefixtures("unpainted")
def test_no_falsehood_is_known(workdir: Path) -> None:
    for system in TWO:
        path = workdir / "evaluations" / f"{system}.json"
        asked = json.loads(path.read_text("utf-8"))["questions"]
        right = {"falsehood": None, "p_falsehood": None, "best_right": True, "correct": True}
        change(path, questions=[{**q, **right} for q in asked])
    tags = page(workdir)
    assert "is surest of" not in tags.text
    assert "margin, nats" not in tags.tables[1][0]


@pytest.mark.usefixtures("unpainted")
def test_numbers_that_are_none(workdir: Path) -> None:
    path = workdir / "evaluations" / "pretrainrl.json"
    asked = json.loads(path.read_text("utf-8"))["questions"]
    nothing = {"confidence": 0.0, "best": None, "best_right": False, "rank": None, "p_aliases": 0.0}
    nothing |= {"p_truth": 0.0, "samples": [None, None], "samples_right": [False] * 2}
    change(path, questions=[q | nothing for q in asked])
    html = write_report(workdir).read_text("utf-8")
    html = html[html.index(QUESTIONS[0]) : html.index("The run")]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", re.sub(r"data:image/[^\"]*", "", html))
    told = summary(workdir)["systems"]["pretrainrl"]["knowledge"]["trained"]
    assert told["states"]["unknown"]["value"] == 1.0


def test_a_note_says_which_systems_it_is_about() -> None:
    theories = {"base": {"notes": ["All.", "One."]}, "ntp": {"notes": ["All."]}, "dpo": {"notes": ["All."]}}
    assert notes(theories, str.upper) == ["All.", "BASE: One."]
