"""Two workdirs side by side: on the questions they share, and never A for B."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.made_workdirs import EVIL, asked, change, parse, question, table, write, write_workdir

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.intervals import paired
from pretrainrl_jax.report.compare import Comparison, comparison_table, read_comparison, write_comparison
from pretrainrl_jax.stages.report import compare


def world(right: range, held_out: int = 5, count: int = 100, **changes: Any) -> list[dict[str, Any]]:
    """Questions of which those numbered so are answered right; two categories in turn."""
    questions = [question(i, i in right, category=f"c{i % 2}", **changes) for i in range(count)]
    questions += [question(i, i in right, "paraphrase", question=f"{i}, please?") for i in range(count)]
    return questions + [question(1000 + i, i < held_out, "held_out", **changes) for i in range(20)]


def workdir(path: Path, systems: dict[str, list[dict[str, Any]]], **settings: Any) -> Path:
    write_workdir(path, **settings)
    for old in (path / "evaluations").iterdir():
        old.unlink()
    for place, (system, questions) in enumerate(systems.items()):
        evaluation = asked(system, questions, text_nll=2.0 + place, device_seconds=10.0 * (place + 1))
        write(path / "evaluations" / f"{place}.json", evaluation)
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    a = workdir(tmp_path / "first", {"base": world(range(20)), "ntp": world(range(50))})
    b = workdir(
        tmp_path / "second",
        {"base": world(range(20)), "ntp": world(range(10, 80), 9), "rpo": world(range(99))},
        name="small world",
    )
    change(b / "evaluations" / "1.json", text_nll=3.5, device_seconds=None)
    return a, b


def test_systems_of_both_on_common_questions(two: tuple[Path, Path]) -> None:
    page = compare(*two)
    assert page == two[0] / "report" / "compare-second.html"
    tags = parse(page.read_text("utf-8"))
    assert not tags.tags & {"script", "link", "iframe", "img"}
    # Wrong in A and right in B: 50 to 79; the reverse: 0 to 9.
    difference = paired([(i < 50, 10 <= i < 80) for i in range(100)])
    assert difference is not None
    rows = table(tags, "system", "questions")
    assert [row[:5] for row in rows] == [
        ["base", "trained facts", "100", "20.0", "20.0"],
        ["base", "trained facts, paraphrased", "100", "20.0", "20.0"],
        ["base", "held-out facts", "20", "25.0", "25.0"],
        ["NTP", "trained facts", "100", "50.0", "70.0"],
        ["NTP", "trained facts, paraphrased", "100", "50.0", "70.0"],
        ["NTP", "held-out facts", "20", "25.0", "45.0"],
    ]
    assert rows[3][5] == f"+20.0 [+{100 * difference.low:.1f} to +{100 * difference.high:.1f}]"
    assert table(tags, "system", "text NLL of A")[1] == ["NTP", "3.000", "3.500", "+0.500", "20.0", "–"]
    assert table(tags, "setting") == [["name", "–", "small world"]]
    # Even numbers: 0 to 48 in A, 10 to 78 in B; odd ones likewise.
    assert [row[:4] for row in table(tags, "category")] == [
        ["c0", "50", "50.0", "70.0"],
        ["c1", "50", "50.0", "70.0"],
    ]
    assert "Evaluated only in B: Iterative RPO." in tags.text
    assert "Left out" not in tags.text


def test_what_flipped_between_the_two(two: tuple[Path, Path]) -> None:
    gained, lost = list(read_comparison(*two).details.items())[1:]
    assert gained[0] == "Wrong in A, right in B, 30 of 50 facts: NTP"
    assert lost[0] == "Right in A, wrong in B, 10 of 50 facts: NTP"
    assert len(gained[1].rows) == 10
    assert {row[0] for row in lost[1].texts()} == {f"What is the capital of Arno {i}?" for i in range(10)}
    assert {tuple(row[1:4]) for row in lost[1].texts()} == {("Florence", "Florence ✓", "Rome ✗")}
    page, back = write_comparison(two[1], two[0])
    assert "Wrong in A, right in B, 10 of 30 facts: NTP" in back.details
    assert "Wrong in A, right in B, 10 of 30 facts: NTP" in parse(page.read_text("utf-8")).text


def test_the_most_accurate_system_of_both_is_the_one_shown(two: tuple[Path, Path]) -> None:
    # dpo leads in A, ntp in B and over both; base is no candidate, however good, unless it is alone.
    rights = {"base": (99, 99), "dpo": (60, 20), "ntp": (50, 70)}
    for systems, best in ((rights, "NTP"), ({"base": (99, 98)}, "base")):
        a, b = (
            workdir(two[0].parent / f"{best}{side}", {s: world(range(n[side])) for s, n in systems.items()})
            for side in (0, 1)
        )
        assert {title.split(": ")[-1] for title in read_comparison(a, b).details} == {best}


def accuracies(comparison: Comparison) -> dict[tuple[str, str], list[str]]:
    return {(row[0], row[1]): row[2:] for row in comparison.sheets["Accuracy"].texts()}


def test_the_other_way_round_signs_turn(two: tuple[Path, Path]) -> None:
    back = read_comparison(two[1], two[0])
    assert accuracies(back)["NTP", "trained facts"][3].startswith("−20.0 [")
    assert "Evaluated only in A: Iterative RPO." in back.remarks


def test_the_same_workdir_twice(two: tuple[Path, Path]) -> None:
    page, comparison = write_comparison(two[1], two[1])
    assert page.name == "compare-second.html"
    assert "Settings that differ" not in comparison.sheets
    assert [title.split(":")[0] for title in comparison.details] == ["By category"]
    assert all(row[3].startswith("0.0 [") for row in accuracies(comparison).values())


def test_the_terminal_is_told_the_same(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    page = compare(*two)
    printed = capsys.readouterr().out
    assert str(page) in printed
    lines = comparison_table(read_comparison(*two)).splitlines()
    assert all(line in printed for line in lines)
    assert "A = first: small world, qwen3 with 2 layers of width 128, seed 17" in lines
    row = next(line.split() for line in lines if line.split()[:1] == ["NTP"])
    assert row[:7] == ["NTP", "trained", "facts", "100", "50.0", "70.0", "+20.0"]
    drawn = [line for line in lines if "facts" in line and not line.startswith("-")]
    assert max(map(len, drawn)) <= 100
    costs = lines[lines.index("Loss on text, and time") + 1 :]
    (row,) = [line.split() for line in costs if line.split()[:1] == ["NTP"]]
    assert row == ["NTP", "3.000", "3.500", "+0.500", "20.0", "–"]


def test_only_questions_of_one_wording_and_group_are_paired(two: tuple[Path, Path]) -> None:
    reworded = world(range(100))
    for i in range(30):
        reworded[i]["question"] = f"And the capital of Arno {i}?"
    reworded[99]["group"] = "held_out"  # trained in A
    b = workdir(two[1].parent / "third", {"ntp": reworded})
    comparison = read_comparison(two[0], b)
    ntp = accuracies(comparison)
    assert ntp["NTP", "trained facts"][:2] == ["69", f"{100 * 20 / 69:.1f}"]
    assert ntp["NTP", "held-out facts"][0] == "20"
    assert "Left out: 31 questions that only A was asked, and 31 that only B was." in comparison.remarks
    assert "Evaluated only in A: base." in comparison.remarks


def test_settings_of_different_versions(two: tuple[Path, Path]) -> None:
    config = json.loads((two[1] / "config.json").read_text("utf-8"))
    del config["seed"]
    config["new"] = {"setting": [1, 2]}
    write(two[1] / "config.json", config)
    settings = read_comparison(*two).sheets["Settings that differ"].texts()
    assert ["seed", "17", "0"] in settings  # what is missing is what it was before it existed
    assert ["new.setting", "not set", "1, 2"] in settings


def test_text_is_escaped(tmp_path: Path) -> None:
    said = {"prediction": EVIL, "answer": EVIL}
    worlds = [world(right, **said) for right in (range(50), range(10, 80))]
    paths = [workdir(tmp_path / f"{i}<b>", {EVIL: w}) for i, w in enumerate(worlds)]
    change(paths[0] / "config.json", name=EVIL, odd={EVIL: EVIL})
    tags = parse(compare(*paths).read_text("utf-8"))
    assert not tags.tags & {"script", "b"}
    assert table(tags, "system")[0][0] == EVIL
    assert [f"odd.{EVIL}", EVIL, "not set"] in table(tags, "setting")
    assert {tuple(row[1:3]) for row in table(tags, "question")} == {(EVIL, f"{EVIL} ✗")}
    assert "0<b>" in tags.text


@pytest.mark.parametrize("turned", [False, True])
def test_what_cannot_be_compared_is_refused(two: tuple[Path, Path], turned: bool) -> None:
    other = two[0].parent / "other"
    strangers = [{**q, "id": f"x{q['id']}"} for q in world(range(50))]
    bad: dict[Path, str] = {
        two[0].parent / "nowhere": "nowhere is no folder: name a workdir whose systems are evaluated",
        workdir(other / "a", {}): "holds no evaluation: run evaluate before report",
        workdir(other / "b", {"dpo": world(range(9))}): "evaluated no system in common",
        workdir(other / "c", {"ntp": strangers}): "have no question in common",
        workdir(other / "d", {"ntp": []}): "have no question in common",
    }
    change(other / "b" / "config.json", objectives={"dpo": 1})
    bad[other / "b"] = "config.json does not hold the objectives of a run"
    pairs = workdir(other / "f", {"ntp": world(range(9))})
    change(pairs / "config.json", preferences={"path": "pairs.jsonl"})
    bad[pairs] = "--compare is for runs on facts, and .*f is one on preferences"
    by_hand = workdir(other / "g", {"ntp": world(range(9))})
    change(by_hand / "config.json", facts="facts.csv")
    bad[by_hand] = "g/config.json holds no settings under 'facts', but 'facts.csv'"
    (other / "e").mkdir()
    bad[other / "e"] = "config.json is missing"
    for path, words in bad.items():
        with pytest.raises(InputError, match=words) as error:
            compare(*((path, two[0]) if turned else (two[0], path)))
        assert "\n" not in str(error.value)
        assert path.name in str(error.value)
    assert not list(two[0].glob("report/compare*"))


def test_a_clear_difference_of_one_point_may_be_the_seed(tmp_path: Path) -> None:
    a, b = (
        workdir(tmp_path / name, {"ntp": [question(i, i < right) for i in range(1000)]})
        for name, right in (("a", 500), ("b", 515))
    )
    assert read_comparison(a, b).sheets["Accuracy"].rows[0][-1].tone == "up"
    assert read_comparison(a, b).remarks[-1] == (
        "Under 2 points one seed of each does not tell two runs apart."
    )
