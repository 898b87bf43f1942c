"""What the page says of the run: taken from the workdir's files, and said to be missing where it is."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest
from helpers.made_workdirs import change, evaluation, parse, table, write, write_workdir

from pretrainrl_jax.config import OBJECTIVES, DpoConfig, NtpConfig, ObjectiveConfig
from pretrainrl_jax.model import shape as shapes
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.families import FAMILIES
from pretrainrl_jax.report.formats import brief, duration
from pretrainrl_jax.report.inputs import Inputs
from pretrainrl_jax.report.page import write_report
from pretrainrl_jax.report.run import about, facts_line, hardware, loss_text, parameters, stages
from pretrainrl_jax.report.summary import summarise
from pretrainrl_jax.report.systems import Systems

KNOWN = Systems(OBJECTIVES)

SHAPE: dict[str, Any] = {
    "family": "qwen3", "vocabulary": 96, "width": 24, "layers": 3, "heads": 4, "kv_heads": 2,
    "head_width": 8, "mlp_width": 40, "rope_theta": 1e4, "norm_epsilon": 1e-6, "tied": True,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(family: str, tied: bool) -> None:
    shape = SHAPE | {"family": family, "tied": tied}
    params = jax.eval_shape(Model(shapes.from_json(shape)).init, jax.random.key(0))
    assert parameters(shape) == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        SHAPE | {"width": None},
        SHAPE | {"family": "other"},
        SHAPE | {"of_a_later_version": 8},
        {key: value for key, value in SHAPE.items() if key != "tied"},
    ],
)
def test_parameters_that_cannot_be_known(bad: dict[str, Any]) -> None:
    assert parameters(bad) is None


def test_the_model_in_words() -> None:
    inputs = Inputs({"model": {"path": "some/where/Qwen3-8B"}}, KNOWN, {}, [], {}, SHAPE)
    (_, model), *_ = about(inputs)
    assert model.startswith("Qwen3-8B; ")
    assert "; 3 layers of width 24, 4 heads of 8 (2 of keys and values), MLP of 40, vocabulary of " in model
    assert "where" not in model


def test_the_data_in_words() -> None:
    summary = summarise({"base": evaluation("base", 0.2)}, "PopQA", "m")
    assert facts_line(summary, {"train": {"passes": 3}}) == (
        "60 trained on, 60 of these never stated in pretraining, 60 held out, 3 passes"
    )
    assert facts_line(summary, {"train": {"passes": 3, "device_seconds": 1234}}).endswith(
        "60 held out, 1,234 device seconds a system"
    )
    alone = facts_line(summary, {"train": {"passes": 3, "systems": []}})
    assert "60 asked about" in alone
    assert "passes" not in alone
    assert facts_line(summarise({"base": {}}, "PopQA", "m"), {}) == "not recorded"


def test_losses_as_sums() -> None:
    objective = ObjectiveConfig(ntp=NtpConfig(question=1.0, answer=0.5), dpo=DpoConfig(weight=1.0, beta=0.1))
    assert loss_text(objective).replace("\u00a0", " ") == "NTP(question) + 0.5 · NTP(answer) + DPO(β = 0.1)"
    assert loss_text(ObjectiveConfig(ntp=NtpConfig(answer=0.5))).endswith("NTP(answer)")
    assert loss_text(ObjectiveConfig(ntp=NtpConfig(answer_mean=2))) == "2\u00a0·\u00a0NTP(answer) per token"
    assert loss_text(ObjectiveConfig()) == "not recorded"


def test_stages_in_the_order_of_a_run() -> None:
    finished = {
        "evaluate/base": {"seconds": 7.0},
        "train/pretrainrl": {"device_seconds": 61.0, "skipped": 3},
        "train/dpo": {"skipped": 0, "seconds": 3725.0, "device": "8 x H200", "from": "beta-1/seed0"},
        "mine": {"negatives": 10},
        "pretrain": {
            "seconds": 12.34,
            "host_peak_bytes": 3 << 29,
            "device": "1 x cpu",
            "ended": "2026-01-02T03:04:05.678+00:00",
        },
    }
    section = stages(finished, KNOWN)
    assert section.heads == [
        "stage", "wall clock", "device time", "peak memory", "device", "ended, UTC", "notes"
    ]  # fmt: skip
    assert [tuple(row) for row in section.texts()] == [
        ("pretrain", "12.3 s", "", "1.50 GiB", "1 x cpu", "2026-01-02 03:04:05", ""),
        ("train DPO alone", "1 h 2 min", "", "", "8 x H200", "", "taken over from beta-1/seed0"),
        ("train PretrainRL", "", "1 min 1 s", "", "", "", "updates skipped as not finite: 3"),
        ("evaluate base", "7.0 s", "", "", "", "", ""),
    ]  # fmt: skip
    assert hardware(finished) == (
        "8 x H200 and 1 x cpu; 19.3 s of wall-clock time in all (2 of 4 stages not recorded)"
    )


def test_an_old_workdir_recorded_little() -> None:
    section = stages(
        {"pretrain": {"device_seconds": 2.0}, "mine": {}, "evaluate/base": {"seconds": None}}, KNOWN
    )
    assert (section.heads, section.texts()) == (["stage", "device time"], [["pretrain", "2.0 s"]])
    assert stages({"mine": {}}, KNOWN).rows == []
    assert hardware({"mine": {}}) == "not recorded; time not recorded"
    assert stages({}, KNOWN).rows == []


def test_durations() -> None:
    assert [duration(s) for s in (0.04, 59.94, 60, 3599.4, 3599.6, 90061)] == [
        "0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 1 min",
    ]  # fmt: skip
    assert duration(None) == "–"


def test_numbers_of_any_size() -> None:
    assert [brief(x) for x in (0, 0.0123, 9.94, 9.96, 1234.5, 1e6, 12.34e6, 99.6e6, 1.5e9, -2e6)] == [
        "0", "0.012", "9.9", "10", "1,234", "1 million", "12.3 million", "100 million", "1,500 million",
        "-2 million",
    ]  # fmt: skip


def test_the_run_on_the_page(tmp_path: Path) -> None:
    workdir = write_workdir(tmp_path)
    write(workdir / "checkpoints" / "pretrain" / "model.json", {"shape": SHAPE})
    write(workdir / "finished.json", {"train/ntp": {"seconds": 5.0, "device": "1 x cpu", "skipped": 2}})
    tags = parse(write_report(workdir).read_text("utf-8"))
    losses = {row[0]: row[1:] for row in table(tags, "system", "loss")}
    assert list(losses) == ["DPO alone", "NTP", "NTP (answers only)", "PretrainRL"]
    rate = f"{OBJECTIVES['ntp'].learning_rate:g}"
    assert losses["NTP"] == ["NTP(question) + NTP(answer)", rate, "8"]
    assert losses["PretrainRL"][2] == "–"  # it wrote no metrics here
    assert table(tags, "stage", "wall clock") == [
        ["train NTP", "5.0 s", "1 x cpu", "updates skipped as not finite: 2"]
    ]
    assert f"{parameters(SHAPE):,} parameters" in tags.text


@pytest.mark.parametrize("finished", ["{}", '{"mine": 3, "train/ntp": {"seconds": "x", "device": null}}'])
def test_the_page_without_records(tmp_path: Path, finished: str) -> None:
    workdir = write_workdir(tmp_path)
    (workdir / "finished.json").write_text(finished, "utf-8")
    change(workdir / "config.json", objectives={})
    tags = parse(write_report(workdir).read_text("utf-8"))
    assert "How long, and on what" not in tags.text
    assert {row[1] for row in table(tags, "system", "loss")} == {"not recorded"}
    json.loads((workdir / "report" / "summary.json").read_text("utf-8"))
