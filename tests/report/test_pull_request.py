"""Two workdirs as Markdown, their flips and their confidence: against tables computed by hand."""

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import call, complaint
from helpers.made_workdirs import EVIL, asked, change, parse, question, table, write, write_workdir
from markdown_it import MarkdownIt

from pretrainrl_jax.knowledge.confidence import mcnemar
from pretrainrl_jax.report.compare import (
    comparison_markdown,
    comparison_table,
    measured_confidence,
    read_comparison,
)
from pretrainrl_jax.stages.report import compare


def sure(index: int, right: bool, confidence: float, **values: Any) -> dict[str, Any]:
    return question(index, right, confidence=confidence, best_right=right, **values)


def workdir(path: Path, systems: dict[str, list[dict[str, Any]]], **settings: Any) -> Path:
    write_workdir(path, **settings)
    for old in (path / "evaluations").iterdir():
        old.unlink()
    for system, questions in systems.items():
        write(path / "evaluations" / f"{system}.json", asked(system, questions, text_nll=2.0))
    return path


# Of A the first two of ten are right, of B the second to the ninth: seven gained, one lost.
A = [sure(i, i < 2, 0.8 if i < 5 else 0.2) for i in range(10)]
B = [sure(i, 1 <= i < 9, 0.6) for i in range(10)]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    held_out = [sure(100, True, 0.5, group="held_out")]
    a = workdir(tmp_path / "first", {"base": A, "ntp": A + held_out})
    return a, workdir(tmp_path / "second", {"base": A, "ntp": B + held_out}, name="small | world\nof B")


FLIPPED = ["system", "facts", "gained", "lost", "p (McNemar)"]


def rows(text: str) -> list[list[list[str]]]:
    """The tables of Markdown as another reader sees them, cells as text."""
    html = MarkdownIt("js-default").enable("table").render(text)
    return parse(html).tables


def test_mcnemar_by_hand() -> None:
    # 2 (C(8, 0) + C(8, 1)) / 2^8
    assert mcnemar(7, 1) == pytest.approx(18 / 256)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1
    assert mcnemar(0, 20) == pytest.approx(2 / 2**20)


def test_confidence_by_hand() -> None:
    figures = measured_confidence(list(zip(A, B, strict=True)))
    # A: 5 of 10 at 0.8, two right; 5 at 0.2, none right.
    assert figures["ECE"] == pytest.approx((0.5 * (0.8 - 0.4) + 0.5 * 0.2, 0.2))
    assert figures["Brier"] == pytest.approx(
        ((2 * 0.2**2 + 3 * 0.8**2 + 5 * 0.2**2) / 10, (8 * 0.4**2 + 2 * 0.6**2) / 10)
    )
    # Of the five most confident three are wrong, at an even pace; then all the others.
    area = (5 * 0.6 + sum((3 + k) / (5 + k) for k in range(1, 6))) / 10
    assert figures["AURC"] == pytest.approx((area, 0.2))
    states = {name: figures[name] for name in ("knows", "unsure", "misled", "in reach", "unknown")}
    assert states == {
        "knows": (0.2, 0.8), "unsure": (0, 0), "misled": (0.3, 0.2), "in reach": (0, 0), "unknown": (0.5, 0)
    }  # fmt: skip


def test_confidence_of_an_older_version_is_left_out() -> None:
    older = [question(i, True) for i in range(10)]
    assert measured_confidence(list(zip(A, older, strict=True))) == {}
    assert measured_confidence(list(zip(older, A, strict=True))) == {}
    assert measured_confidence([]) == {}


def test_the_tables(two: tuple[Path, Path]) -> None:
    text = comparison_markdown(read_comparison(*two))
    accuracies, flipped, confidence, known, _, settings = rows(text)
    assert accuracies[0] == ["system", "questions", "number", "A, %", "B, %", "B − A, points [95 %]"]
    base, ntp, held_out = accuracies[1:]
    assert base[:5] == ["base", "trained facts", "10", "20.0", "20.0"]
    assert ntp[:5] == ["NTP", "trained facts", "10", "20.0", "80.0"]
    # Half a question more of each outcome: 6 / 12, and 1.96 times the root of (9 / 12 − 1 / 4) / 12.
    assert ntp[5:] == ["+60.0 [+10.0 to +90.0]"]
    assert held_out[:5] == ["NTP", "held-out facts", "1", "100.0", "100.0"]
    assert flipped == [FLIPPED, ["base", "10", "0", "0", "1.000"], ["NTP", "10", "7", "1", "0.070"]]
    assert confidence[0] == ["system", "AURC", "ECE", "Brier"]
    assert confidence[2][2:] == ["0.300 → 0.200", "0.220 → 0.200"]
    assert known[0][:2] == ["system", "knows, %"]
    assert known[2][:2] == ["NTP", "20.0 → 80.0"]
    assert settings[1:] == [["name", "–", "small | world of B"]]
    assert "new in B" not in text


def test_bars_and_line_breaks_end_no_cell_and_texts_are_no_markup(tmp_path: Path) -> None:
    evil = f"a|b\nc `d` *e* [f](http://g) {EVIL}"
    paths = [workdir(tmp_path / f"{i}|x", {"evil": A}) for i in (0, 1)]
    for path in paths:
        change(path / "evaluations" / "evil.json", system=evil)
    change(paths[1] / "config.json", name=evil)
    text = comparison_markdown(read_comparison(*paths))
    accuracies, *_, settings = rows(text)
    shown = " ".join(evil.split())
    assert accuracies[1][0] == shown
    assert settings[1] == ["name", "–", shown]
    assert {len(row) for row in accuracies} == {6}
    html = MarkdownIt("js-default").enable("table").render(text)
    assert not parse(html).tags & {"script", "a", "em", "code"}
    assert "B: 1|x" in parse(html).text


def test_new_signatures_alone_are_told(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for path in two:
        change(path / "evaluations" / "ntp.json", text_nll=3.0)  # both forget
    wrong = [sure(i, False, 0.9, prediction="Dal") for i in range(40)]
    before = [sure(i, False, 0.1, prediction=f"a{i}") for i in range(40)]
    write(two[0] / "evaluations" / "dpo.json", asked("dpo", before))
    write(two[1] / "evaluations" / "dpo.json", asked("dpo", wrong))
    for path in two:
        write(path / "evaluations" / "base.json", asked("base", before, text_nll=2.0))
    comparison = read_comparison(*two)
    told = {(s["system"], s["name"]) for s in comparison.signatures}
    assert told == {("dpo", "swallowed category"), ("dpo", "overconfidence")}
    text = comparison_markdown(comparison)
    assert "#### Signatures of failure that are new in B" in text
    assert "- DPO alone: swallowed category: the commonest wrong answer in capital, now 'dal'" in text
    assert "forgetting" not in text
    assert "! new in B: DPO alone: overconfidence: trained facts: ECE" in comparison_table(comparison)
    assert "Signatures of failure that are new in B" in parse(compare(*two).read_text("utf-8")).text
    back = read_comparison(two[1], two[0]).signatures
    assert "dpo" not in {signature["system"] for signature in back}


def test_page_and_terminal_have_flips_and_confidence(two: tuple[Path, Path]) -> None:
    tags = parse(compare(*two).read_text("utf-8"))
    flips = table(tags, *FLIPPED)
    assert flips == [["base", "10", "0", "0", "1.000"], ["NTP", "10", "7", "1", "0.070"]]
    assert table(tags, "system", "AURC")[1] == ["NTP", "0.671 → 0.200", "0.300 → 0.200", "0.220 → 0.200"]
    assert table(tags, "system", "knows, %")[1][:2] == ["NTP", "20.0 → 80.0"]
    lines = comparison_table(read_comparison(*two)).splitlines()
    told = [line.split() for line in lines if line.split()[:1] == ["NTP"]]
    assert ["NTP", "10", "7", "1", "0.070"] in told
    assert ["NTP", *["0.671", "→", "0.200", "0.300", "→", "0.200", "0.220", "→", "0.200"]] in told
    assert any(row[1:4] == ["20.0", "→", "80.0"] for row in told)
    assert max(map(len, lines[: lines.index("Loss on text, and time")])) <= 100


def test_it_is_written_always_and_printed_on_demand(two: tuple[Path, Path]) -> None:
    text = comparison_markdown(read_comparison(*two))
    ran = call("report", "--compare", *two)
    assert ran.code == 0, ran.err
    written = two[0] / "report" / "compare-second.md"
    assert written.read_text("utf-8") == text
    assert written.name in ran.out
    assert not re.search(r"^\|", ran.out, re.MULTILINE)
    written.unlink()
    ran = call("report", "--compare", *two, "--markdown")
    assert ran.code == 0, ran.err
    assert ran.out == text
    assert written.read_text("utf-8") == text


def test_markdown_is_of_a_comparison(two: tuple[Path, Path]) -> None:
    assert "--compare" in complaint(call("report", "--workdir", two[0], "--markdown"))
