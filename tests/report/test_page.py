"""The report of a synthetic workdir: self-contained, escaped, complete, and clear about what is missing."""

import base64
import dataclasses
import itertools
import json
import math
import re
from html import escape
from pathlib import Path

import pytest
from helpers.made_workdirs import (
    EVIL,
    SYSTEMS,
    by_system,
    change,
    evaluation,
    parse,
    question,
    table,
    write,
    write_workdir,
)

from pretrainrl_jax.config import OBJECTIVES, Config, DpoConfig, NtpConfig, ObjectiveConfig, TrainConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.report import charts, drawing
from pretrainrl_jax.report.inputs import read_metrics
from pretrainrl_jax.report.outcomes import changes, trained
from pretrainrl_jax.report.page import settings, write_report
from pretrainrl_jax.report.summary import pair, summarise
from pretrainrl_jax.report.systems import Systems

KNOWN = Systems(OBJECTIVES)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return write_workdir(tmp_path)


def test_one_file_that_asks_for_nothing(workdir: Path) -> None:
    path = write_report(workdir)
    assert path == workdir / "report" / "index.html"
    html = path.read_text("utf-8")
    tags = parse(html)
    # The idea; loss, margin and log-probability of the truth, as that of the falsehoods is no number here.
    assert len(tags.addresses) == 1 + 3
    assert all(address.startswith("data:image/") for address in tags.addresses)
    assert not tags.tags & {"script", "link", "iframe"}
    assert not re.search(r"url\(|@import", html)


def test_the_page_says_how_it_measured(workdir: Path) -> None:
    html = write_report(workdir).read_text("utf-8")
    text = re.sub(r"\s+", " ", html)
    assert "No train/test split is described in the paper; accuracy is on the trained facts" in text
    assert "rule “exact”" in text
    assert "k = 10" in text
    assert "prefers-color-scheme: dark" in text
    for words in ("seed 17", "Accuracy on trained facts: 20.0% before, 60.0% with PretrainRL", "5 updates"):
        assert words in text
    for words in ("1,990", "2,000", "9,000", "known true", "123", "Turin", "41.0%"):
        assert words in text


def test_summary_json_is_written_beside_it(workdir: Path) -> None:
    write_report(workdir)
    summary = json.loads((workdir / "report" / "summary.json").read_text("utf-8"))
    assert list(summary["systems"]) == ["base", "dpo", "ntp", "ntp_answer", "pretrainrl"]
    assert summary["systems"]["pretrainrl"]["acc"] == 0.6
    assert summary["dataset"] == "small world"
    assert summary["model"] == "qwen3 with 2 layers of width 128"


def test_model_text_is_escaped(workdir: Path) -> None:
    for system in ("base", "pretrainrl"):
        path = workdir / "evaluations" / f"{system}.json"
        asked = json.loads(path.read_text("utf-8"))["questions"]
        said = {"prediction": EVIL, "answer": EVIL}
        marked = [
            {**q, **said, "question": f"{EVIL}{i}", "category": f"{EVIL}{i % 2}"} for i, q in enumerate(asked)
        ]
        change(path, questions=marked)
    change(workdir / "config.json", name=EVIL)
    (workdir / "evaluations" / "ntp.json").unlink()
    write(workdir / "evaluations" / "evil.json", evaluation(EVIL, 0.3))
    change(
        workdir / "mined" / "statistics.json",
        examples=[{"question": EVIL, "answer": EVIL, "negatives": [[EVIL, 0.5]]}],
        dropped={EVIL: {EVIL: 3}},
    )
    notes = {"seconds": 1.0, "device": EVIL, "ended": EVIL, "from": EVIL}
    write(workdir / "finished.json", {EVIL: notes, f"train/{EVIL}": notes})
    shape = {"family": EVIL, "width": EVIL}
    write(workdir / "checkpoints" / "pretrain" / "model.json", {"shape": shape})
    tags = parse(write_report(workdir).read_text("utf-8"))
    assert "script" not in tags.tags
    gone, flipped = (table(tags, "question")[0], table(tags, "question")[-1])
    assert all(text.startswith("<script>") for row in (gone, flipped) for text in row[:4])
    assert any(row[0].startswith(EVIL) for row in table(tags, "category"))
    assert any(row[-1] == f"taken over from {EVIL}" for row in table(tags, "stage"))
    assert any(row[0] == EVIL for row in table(tags, "system", "loss"))


def test_half_a_surrogate_pair_does_not_stop_the_report(workdir: Path) -> None:
    path = workdir / "evaluations" / "base.json"
    asked = json.loads(path.read_text("utf-8"))["questions"]
    change(path, questions=[{**q, "prediction": "\ud83d"} for q in asked])
    assert write_report(workdir).exists()


def test_numbers_that_are_missing_or_nan(workdir: Path) -> None:
    path = workdir / "evaluations" / "pretrainrl.json"
    evaluated = json.loads(path.read_text("utf-8"))
    nothing = {"p_truth": math.nan, "p_falsehood": None, "popularity": math.nan, "falsehood": None}
    evaluated["questions"] = [{**q, **nothing} for q in evaluated["questions"]]
    evaluated["groups"]["trained"].update(acc=math.nan, prob=None)
    evaluated["by_popularity"][0]["acc"] = math.nan
    write(path, {**evaluated, "text_nll": math.nan, "device_seconds": None, "unfinished_beams": math.nan})
    html = write_report(workdir).read_text("utf-8")
    nulls = escape(", ".join(Config().facts.nulls))  # a setting's words, which the page shows
    html = re.sub(r"data:image/[^\"]*", "", html.replace(nulls, ""))
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", html)
    written = (workdir / "report" / "summary.json").read_text("utf-8")
    assert "NaN" not in written
    assert json.loads(written)["systems"]["pretrainrl"]["acc"] is None


def test_base_alone_without_training_or_mining(workdir: Path) -> None:
    for system in SYSTEMS:
        if system != "base":
            (workdir / "evaluations" / f"{system}.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    (workdir / "mined" / "statistics.json").unlink()
    html = write_report(workdir).read_text("utf-8")
    assert "Nothing was mined" in html
    assert "<h2>Training</h2>" not in html
    assert "Question by question" not in html


def test_a_trained_system_without_base(workdir: Path) -> None:
    for system in ("base", "dpo", "ntp", "pretrainrl"):
        (workdir / "evaluations" / f"{system}.json").unlink()
    html = write_report(workdir).read_text("utf-8")
    assert "Accuracy on trained facts: 50.0% with NTP (answers only)" in html


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "does not hold a JSON object"),
        ("evaluations/base.json", '{"system": "base"', "base.json cannot be read"),
        ("metrics.jsonl", '{"stage": \n{"stage": "pretrain"}\n', "metrics.jsonl line 1 is not JSON"),
    ],
)
def test_bad_input_is_one_line(workdir: Path, name: str, content: str | None, words: str) -> None:
    if content is None:
        (workdir / name).unlink()
    else:
        (workdir / name).write_text(content, "utf-8")
    with pytest.raises(InputError, match=words) as error:
        write_report(workdir)
    assert "\n" not in str(error.value)


def test_a_workdir_without_evaluations(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {})
    with pytest.raises(InputError, match="holds no evaluation"):
        write_report(tmp_path)


def test_a_system_is_named_and_evaluated_once(workdir: Path) -> None:
    folder = workdir / "evaluations"
    write(folder / "again.json", evaluation("ntp", 0.2))
    with pytest.raises(InputError, match=r"ntp\.json is a second evaluation of the system ntp"):
        write_report(workdir)
    write(folder / "again.json", {"groups": {}})
    with pytest.raises(InputError, match=r"again\.json does not name its system"):
        write_report(workdir)


def test_a_last_line_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "pretrain", "step": 1, "loss": 2.0}\n{"stage": "pre', "utf-8")
    assert [m["step"] for m in read_metrics(path)] == [1]
    path.write_bytes(b'{"stage": "pretrain", "step": 1, "loss": 2.0}\n{"stage": "\xff\xfe')
    assert [m["step"] for m in read_metrics(path)] == [1]


def test_changes_count_gains_on_trained_and_losses_on_all_facts() -> None:
    before = {"questions": [question(i, i in (0, 9)) for i in range(6)]}
    before["questions"] += [question(9, True, "held_out"), question(2, False, "paraphrase")]
    after = {"questions": [question(i, i in (1, 2)) for i in range(6)]}
    after["questions"] += [question(9, False, "held_out"), question(2, True, "paraphrase")]
    flips = changes(before, after)
    assert (flips["gained"]["count"], flips["gained"]["of"]) == (2, 5)
    assert (flips["lost"]["count"], flips["lost"]["of"]) == (2, 2)
    assert [row["group"] for row in flips["lost"]["rows"]] == ["held out", "trained"]
    assert [row["question"][-2:] for row in flips["gained"]["rows"]] == ["2?", "1?"]  # least popular first


def test_the_pictured_pair() -> None:
    evaluations = [evaluation(name, acc) for name, acc in SYSTEMS.items()]
    assert pair(summarise(by_system(evaluations), "d", "m"), KNOWN) == ("base", "pretrainrl")
    assert pair(summarise(by_system(evaluations[:-1]), "d", "m"), KNOWN) == ("base", "ntp_answer")
    assert pair(summarise(by_system(evaluations[:1]), "d", "m"), KNOWN) == ("base", None)
    assert pair(summarise(by_system(evaluations[2:3]), "d", "m"), KNOWN) == ("ntp", None)


def test_share_above_the_diagonal() -> None:
    points = [(0.5, 0.1), (0.1, 0.5), (0.2, 0.2), (0.3, None), (math.nan, 0.1)]
    questions = [{"p_truth": truth, "p_falsehood": falsehood} for truth, falsehood in points]
    assert charts.share_above(questions) == pytest.approx(2 / 5)


def test_the_idea_takes_trained_and_unseen_facts_in_the_trained_wording() -> None:
    facts = trained(evaluation("base", 0.5))
    assert len(facts) == 60
    assert {q["group"] for q in facts.values()} == {"trained", "unseen"}
    assert any(q["correct"] for q in facts.values())  # not overwritten by their paraphrases, all wrong here


def test_the_idea_as_a_file(workdir: Path) -> None:
    drawn = charts.idea(KNOWN, evaluation("base", 0.2), evaluation("pretrainrl", 0.6))
    assert drawn
    assert drawn.startswith(b"\x89PNG")
    assert charts.idea(KNOWN, {"system": "base", "questions": []}) is None
    path = write_report(workdir).with_name("idea.png")
    assert base64.b64encode(path.read_bytes()).decode() in (workdir / "report" / "index.html").read_text()
    path.unlink()
    for evaluated in (workdir / "evaluations").glob("*.json"):
        change(evaluated, questions=[])
    write_report(workdir)
    assert not path.exists()
    # Probabilities may all be zero.
    flat = [question(i, True, popularity=0.0, p_truth=0.0, p_falsehood=None) for i in range(3)]
    assert charts.idea(KNOWN, {"system": "ntp", "questions": flat})


def test_pictures_leave_no_global_state_behind() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    charts.idea(KNOWN, evaluation("base", 0.2))
    assert dict(matplotlib.rcParams) == before


def test_a_resumed_run_draws_each_step_once() -> None:
    lines = [
        {"stage": "train/ntp", "step": s, "loss": v} for s, v in ((1, 5.0), (2, 4.0), (2, 3.0), (3, 2.0))
    ]
    steps, values = charts.series(lines, "train/ntp", "loss")
    assert steps.tolist() == [1, 2, 3]
    assert values.tolist() == [5.0, 3.0, 2.0]


def test_what_was_evaluated_while_training_is_drawn_apart(workdir: Path) -> None:
    assert "While training" not in write_report(workdir).read_text("utf-8")
    plain = charts.curves(read_metrics(workdir / "metrics.jsonl"), KNOWN)
    with (workdir / "metrics.jsonl").open("a") as file:
        for system, step in itertools.product(("ntp", "dpo"), (0, 4, 8)):
            sample = {"sample_acc": 0.1 * step, "sample_hr": 0.5, "sample_text_nll": 2.0}
            file.write(json.dumps({"stage": f"train/{system}", "step": step, **sample}) + "\n")
    metrics = read_metrics(workdir / "metrics.jsonl")
    assert charts.curves(metrics, KNOWN) == plain
    titles = [title for title, _ in charts.curves(metrics, KNOWN, charts.SAMPLED)]
    assert titles == ["accuracy on the sample", "loss on text"]
    tags = parse(write_report(workdir).read_text("utf-8"))
    assert "While training: evaluated on a sample 200 trained questions" in tags.text
    assert len(tags.addresses) == 1 + 2 + 3
    alone = [line for line in metrics if "sample_hr" in line]
    assert charts.curves(alone, KNOWN) == []
    unknown = charts.curves([{**alone[0], "sample_acc": math.nan}], KNOWN, charts.SAMPLED)
    assert [title for title, _ in unknown] == titles[1:]


def test_a_run_of_ones_own_objectives_is_told_by_their_labels(workdir: Path) -> None:
    mine = ObjectiveConfig(
        "Mine <b>", "my own", ntp=NtpConfig(answer=0.5), dpo=DpoConfig(2.0, beta=0.3), learning_rate=2e-4
    )
    own = {"z-own": mine, "a_plain": ObjectiveConfig(ntp=NtpConfig(answer=1.0))}
    write(
        workdir / "config.json",
        dataclasses.asdict(Config(objectives=own, train=TrainConfig(systems=tuple(own)))),
    )
    for system in SYSTEMS:
        if system != "base":
            (workdir / "evaluations" / f"{system}.json").unlink()
    for system, acc in (("a_plain", 0.5), ("z-own", 0.6), ("before", 0.3)):
        write(workdir / "evaluations" / f"{system}.json", evaluation(system, acc))
    tags = parse(write_report(workdir).read_text("utf-8"))
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in table(tags, "system", "loss")]
    assert [row[:3] for row in rows] == [
        ["Mine <b>", "0.5 · NTP(answer) + 2 · DPO(β = 0.3)", "0.0002"],
        ["a_plain", "NTP(answer)", "0.001"],
        ["before", "not recorded", "–"],
    ]
    assert "A_plain is below my own (50.0% against 60.0%)" in tags.text


def test_no_negatives_is_not_drawn_as_zero() -> None:
    lines = [{"stage": "train/ntp", "step": s, "loss": 0.0, "logp_negative": -0.0} for s in (1, 2)]
    assert len(charts.series(lines, "train/ntp", "logp_negative")[0]) == 0
    assert len(charts.series(lines, "train/ntp", "loss")[0]) == 2
    lines[1]["logp_negative"] = -1.0
    assert charts.series(lines, "train/ntp", "logp_negative")[1].tolist() == [0.0, -1.0]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    lines = [{"stage": "train/ntp", "step": s, "loss": float(s)} for s in range(100_000)]
    steps, _ = charts.series(lines, "train/ntp", "loss")
    assert len(steps) < 1300
    assert steps[-1] == 99_999


def test_settings_mark_what_differs_from_the_default() -> None:
    config = json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(Config(), seed=17))))
    assert settings(config | {"new": 1}).texts() == [["seed", "17", "0"], ["new", "1", ""]]


def test_systems_are_told_apart_without_colour() -> None:
    for part in drawing.Look._fields:
        seen = [getattr(look, part) for look in (drawing.BASE, *drawing.LOOKS)]
        assert len(set(seen)) == len(seen)
    looks = drawing.looks(["new", "base", "newer"], KNOWN)
    assert looks["base"] == drawing.BASE
    assert looks["new"] != looks["newer"]
    many = {f"system{i}": ObjectiveConfig() for i in range(60)}
    assert len(set(drawing.looks(list(many), Systems(many)).values())) == 60


def test_todays_systems_keep_their_looks() -> None:
    looks = drawing.looks(["pretrainrl", "ntp", "base", "rpo"], KNOWN)
    assert {name: (look.color, look.marker) for name, look in looks.items()} == {
        "base": ("#777777", "X"),
        "ntp": ("#56B4E9", "s"),
        "rpo": ("#CC79A7", "P"),
        "pretrainrl": ("#D55E00", "o"),
    }
    own = Systems({**OBJECTIVES, "mine": ObjectiveConfig()})
    assert drawing.looks(["mine", "ntp"], own) == {"mine": drawing.LOOKS[8], "ntp": looks["ntp"]}


def test_tables_and_pictures_of_a_workdir_without_outcomes(workdir: Path) -> None:
    for system in SYSTEMS:
        change(workdir / "evaluations" / f"{system}.json", questions=[])
    tags = parse(write_report(workdir).read_text("utf-8"))
    # The rates are still there, with Wilson's interval of 12 of 60.
    assert any(row[:2] == ["base", "20.0 11.8–31.8"] for rows in tags.tables for row in rows)
    assert "By popularity" not in tags.text
