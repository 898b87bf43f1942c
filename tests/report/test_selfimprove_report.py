"""The report of self-improvement: numbers against plain arithmetic, expectations both ways, escaped pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.improved_workdirs import (
    SETTINGS,
    STEPS,
    TRUTH,
    add_selfimprove,
    evaluation,
    lines,
    write_selfimprove,
)
from helpers.made_workdirs import EVIL, change, parse, table, write, write_workdir
from scipy import stats

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.knowledge.intervals import ratio_interval, wilson
from pretrainrl_jax.report import selfimprove
from pretrainrl_jax.report.charts import by_kind
from pretrainrl_jax.report.inputs import read_inputs
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.stages.report import report

EVALUATIONS = Path("evaluations") / "selfimprove"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return write_selfimprove(tmp_path)


def summarised(workdir: Path) -> dict[str, Any]:
    improved = selfimprove.read(workdir, read_inputs(workdir, evaluated=False))
    assert improved is not None
    return json.loads(json.dumps(selfimprove.summarise(improved)))


def expectation(summary: dict[str, Any], words: str) -> dict[str, Any]:
    return next(one for one in summary["expectations"] if words in one["claim"])


def test_measures_are_plain_ratios_over_prefixes(workdir: Path):
    system = summarised(workdir)["systems"]["online_dpo"]
    own = json.loads((workdir / EVALUATIONS / "online_dpo.json").read_text())
    free = own["free"]
    assert system["named_true"] == sum(p["verdict"] == "true" for p in own["named"]) / len(own["named"])
    assert system["named_false"] == sum(p["verdict"] == "false" for p in own["named"]) / len(own["named"])
    true, false = (sum(p[verdict] for p in free) for verdict in ("true", "false"))
    assert system["free_true"] == true / (true + false)
    assert system["facts"] == np.mean([len(set(p["facts"])) for p in free])
    assert system["distinct_facts"] == len({fact for p in free for fact in p["facts"]})
    assert system["head"] == sum(p["head"] for p in free) / sum(len(p["facts"]) for p in free)
    assert system["repeated"] == np.mean([p["repeated"] for p in own["corrupted"]])
    assert system["won"] == np.mean([p["won"] for p in own["compared"]])
    assert system["text_nll"] == pytest.approx(sum(own["text_nll"]) / sum(own["text_tokens"]))
    for key in selfimprove.MEASURES:
        low, high = system[f"{key}_interval"]
        assert low < system[key] < high
    assert system["against"]["system"] == "next_token"
    apart = system["against"]["named_true"]
    assert apart["difference"] == pytest.approx(TRUTH["online_dpo"] - TRUTH["next_token"])


def test_ratios_are_drawn_as_scipy_draws_them():
    rng = np.random.default_rng(3)
    totals, counts, other = rng.poisson(2, 150), rng.poisson(4, 150), rng.poisson(3, 150)

    def apart(t: np.ndarray, c: np.ndarray, o: np.ndarray) -> float:
        return t.sum() / c.sum() - o.sum() / c.sum()

    wanted = stats.bootstrap(
        (totals, counts, other),
        apart,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=1,
    )
    drawn = ratio_interval(totals, counts, less=(other, counts))
    assert drawn == pytest.approx(wanted.confidence_interval, abs=0.02)
    assert ratio_interval(totals[:1], counts[:1]) is None
    assert ratio_interval(totals, 0 * counts) is None
    sparse = ratio_interval(np.array([1, 0, 0]), np.array([2, 0, 0]))  # most draws have no statement
    assert sparse == (0.5, 0.5)


def test_prefixes_that_are_all_alike_are_not_certain(workdir: Path):
    alike = evaluation("online_dpo", 1.0)
    write(workdir / EVALUATIONS / "online_dpo.json", alike)
    write(workdir / EVALUATIONS / "next_token.json", alike)
    summary = summarised(workdir)
    system = summary["systems"]["online_dpo"]
    assert system["named_true_interval"] == list(wilson(200, 200) or ())
    apart = system["against"]["named_true"]
    assert apart["low"] < 0 == apart["difference"] < apart["high"]
    assert selfimprove.sure(expectation(summary, "more true")["evidence"][0]) == 0
    assert expectation(summary, "more true")["outcome"] != "holds"


def test_expectations_hold_where_numbers_say_so(workdir: Path):
    summary = summarised(workdir)
    assert [one["outcome"] for one in summary["expectations"]] == ["holds"] * 3
    title, true = selfimprove.shown(expectation(summary, "more true"))
    assert title == "The paper's expectation, more true statements than next-token training: holds"
    assert true.texts()[0] == ["online DPO", "next token", "40.0", "60.0", "+20.0"]
    assert true.rows[0][-1].under.startswith("+14")
    title, rollouts = selfimprove.shown(expectation(summary, "more rollouts"))
    assert title.endswith("more rollouts are better: holds")
    assert rollouts.texts()[0][0] == "online DPO (8 rollouts)"
    early, late = (
        np.mean([line["chosen_rollout"] for line in lines("few") if keep(line["step"])])
        for keep in (lambda step: step <= STEPS // 3, lambda step: step > STEPS - STEPS // 3)
    )
    shares = summary["systems"]["few"]["chosen_rollout"]
    assert (shares["before"], shares["after"]) == pytest.approx((early, late))


def test_expectations_that_do_not_hold_are_said_to(workdir: Path):
    write(workdir / EVALUATIONS / "next_token.json", evaluation("next_token", 0.5))
    write(workdir / EVALUATIONS / "few.json", evaluation("few", 0.7))
    metrics = workdir / "metrics.jsonl"
    turned = [json.loads(line) for line in metrics.read_text().splitlines()]
    turned = [line | {"step": STEPS + 1 - line["step"]} for line in turned]
    metrics.write_text("\n".join(map(json.dumps, sorted(turned, key=lambda line: line["step"]))))
    summary = summarised(workdir)
    assert expectation(summary, "more rollouts")["outcome"].startswith("does not hold: the opposite")
    assert expectation(summary, "more often")["outcome"].startswith("does not hold: the opposite")
    write(workdir / EVALUATIONS / "few.json", evaluation("few", 0.2))
    assert expectation(summarised(workdir), "more true")["outcome"] == "holds for some"


def test_what_was_not_asked_is_no_evidence(workdir: Path):
    for system in ("few", "online_dpo", "next_token"):
        change(workdir / EVALUATIONS / f"{system}.json", named=[])
    summary = summarised(workdir)
    assert expectation(summary, "more rollouts")["outcome"] == "was not measured"
    assert expectation(summary, "more true")["outcome"] == "was not measured"


def test_a_page_of_nothing_else(workdir: Path, capsys: pytest.CaptureFixture[str]):
    report(workdir)
    out = capsys.readouterr().out
    assert max(map(len, [line for line in out.splitlines() if line.startswith(" ")])) <= 100
    assert "…" not in "".join(out.splitlines()[:3])  # heads are not cut off
    assert "! online DPO, 2 rollouts, from step 40 until the end: the rollouts' entropy is 0.31 nats" in out
    html = (workdir / "report" / "index.html").read_text("utf-8")
    tags = parse(html)
    assert not tags.tags & {"script", "link", "iframe"}
    assert EVIL not in html
    assert EVIL in tags.text
    assert "Text that collapsed" in tags.text
    assert "True continuations: 30.0% before, 60.0% with online DPO" in tags.text
    # Of the two methods that choose: chosen, rejected and scores; then the six curves of all.
    assert len(tags.addresses) == 2 * 3 + 6
    assert all(address.startswith("data:image/") for address in tags.addresses)
    rows = table(tags, "system", "true, named %")
    assert [row[0] for row in rows] == ["base", "online DPO", "online DPO, 2 rollouts", "next token"]
    assert rows[1][1].startswith("60.0 ")
    assert [row[:2] for row in table(tags, "system", "less")] == [
        ["online DPO", "next token"],
        ["online DPO, 2 rollouts", "next token"],
    ]
    candidates = table(tags, "candidate", "text")
    assert [(row[0], row[2], row[-1]) for row in candidates] == [
        ("rollout", "1.500", "chosen"),
        ("rollout", "0.500", ""),
        ("original", "0.250", "rejected"),
    ]
    assert tags.text.count("The capital of Arno is <script>") == 20
    assert table(tags, "method", "s sampling")[0] == ["online DPO", "1.00", "0.30", "0.20", "0.50"]


def test_what_a_judge_on_a_server_prefers_is_shown(workdir: Path):
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first = next(line["stage"] for line in lines if "learned" in line)
    for number, line in enumerate(line for line in lines if line["stage"] == first):
        line |= {"first_wins": 0.75, "longer_wins": number % 2, "orders_differ": 0.5, "unreadable_share": 0.1}
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    report(workdir)
    rows = table(parse((workdir / "report" / "index.html").read_text("utf-8")), "method", "first wins %")
    assert rows[0][:5] == ["online DPO", "75.0", "50.0", "50.0", "10.0"]


def test_a_page_of_a_run_that_was_judged_beside_the_devices(workdir: Path):
    path = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    first = next(line["stage"] for line in lines if "seconds_judging" in line)
    for line in lines:
        if line["stage"] == first and "seconds_judging" in line:
            del line["seconds_judging"]
            line |= {"seconds_waiting": 2.3, "device_share": 0.425, "judge_share": 0.9, "staleness": 2.0}
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    report(workdir)
    tags = parse((workdir / "report" / "index.html").read_text("utf-8"))
    times = table(tags, "method", "s sampling", "s judging", "s waiting")
    assert times[0] == ["online DPO", "1.00", "–", "2.30", "0.20", "0.50", "42.5", "90.0", "2.0"]
    assert times[-1][-3:] == ["–", "–", "–"]


def test_a_page_beside_trained_objectives(tmp_path: Path):
    before = write_report(write_workdir(tmp_path, **SETTINGS)).read_text("utf-8")
    untouched = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert "Self-improving" not in before
    assert "selfimprove" not in untouched
    after = parse(write_report(add_selfimprove(tmp_path)).read_text("utf-8"))
    assert "Self-improving pretraining" in after.text
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary | {"selfimprove": None} == untouched | {"selfimprove": None}
    assert set(summary["selfimprove"]["systems"]) == set(TRUTH)


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path):
    workdir = write_selfimprove(tmp_path)
    for path in [*(workdir / EVALUATIONS).iterdir(), *(workdir / "selfimprove").glob("*/*.json")]:
        path.unlink()
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines("online_dpo", 1))))
    write_report(workdir)
    summary = summarised(workdir)
    assert {one["outcome"] for one in summary["expectations"]} == {"was not measured"}
    assert selfimprove.headline(summary) == "Self-improving pretraining"
    assert selfimprove.table(summary)


def test_a_second_writing_of_a_step_counts(workdir: Path):
    before = summarised(workdir)["systems"]["online_dpo"]["chosen_rollout"]
    metrics = workdir / "metrics.jsonl"
    lost = [line | {"chosen_rollout": 0.0} for line in lines("online_dpo")[-20:]]
    metrics.write_text("\n".join(map(json.dumps, lost)) + "\n" + metrics.read_text())
    assert summarised(workdir)["systems"]["online_dpo"]["chosen_rollout"] == before


@pytest.mark.parametrize(
    "broken",
    [
        {"named": [{"head": True}]},
        {"free": [{"true": 1}]},
        {"text_nll": [1.0]},
        {"text_nll": ["?"] * 40},
        {"text_nll": [float("nan")] * 40, "text_tokens": [1] * 40},
        {"named": 3},
    ],
)
def test_an_evaluation_of_another_shape_is_refused(workdir: Path, broken: dict[str, Any]):
    change(workdir / EVALUATIONS / "few.json", **broken)
    with pytest.raises(InputError, match=r"evaluations/selfimprove/few\.json lacks") as refused:
        write_report(workdir)
    assert "\n" not in str(refused.value)


def test_no_picture_without_a_choice():
    assert by_kind(lines("next_token"), "next_token", "chosen", "chosen") is None
    assert by_kind(lines("online_dpo"), "online_dpo", "chosen", "chosen")
