"""Sweeps: which cells there are, what they share, and that each is what a run of its own would be."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import command_line
from helpers.command_line import (
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    files,
    repeatable,
    summary,
    undrawn,
)
from scipy import stats

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.cells import cells
from pretrainrl_jax.config import OBJECTIVES, Config, ObjectiveConfig, SweepConfig
from pretrainrl_jax.report.sweep import Row, chosen, differences, table
from pretrainrl_jax.report.systems import Systems
from pretrainrl_jax.stages.sweep import take_over

KNOWN = Systems(OBJECTIVES)
AXES = ("--sweep.ntp_weight=0.1,1", "--sweep.negatives=2,3")
NAMES = ["ntp_weight=0.1,negatives=2", "ntp_weight=0.1,negatives=3", "ntp_weight=1,negatives=2",
         "ntp_weight=1,negatives=3"]  # fmt: skip


# Cells.


def test_every_combination_once_seeds_outermost() -> None:
    config = replace(Config(), sweep=SweepConfig(seed=(3, 4), beta=(0.1, 1.0), beams=(4,)))
    assert [cell.name for cell in cells(config)] == [
        "seed=3,beta=0.1,beams=4",
        "seed=3,beta=1,beams=4",
        "seed=4,beta=0.1,beams=4",
        "seed=4,beta=1,beams=4",
    ]
    assert cells(Config()) == []


def test_any_setting_is_swept_under_its_own_name(tmp_path: Path, tiny_config: Path) -> None:
    from pretrainrl_jax.command_line import parse

    words = ["--sweep.train.passes=1,3", "--sweep.objectives.own.anchor.weight=0,0.5", "--sweep.seed=4"]
    words += ["--sweep.mine.sources=beam;beam,pool", "--objectives.own.ntp.answer=1", "--train.systems=own"]
    config = parse(["run", "--config", str(tiny_config), *words]).config
    every = cells(config)
    assert len(every) == 8
    assert every[0].name == "seed=4,train.passes=1,objectives.own.anchor.weight=0,mine.sources=beam"
    assert every[-1].name == "seed=4,train.passes=3,objectives.own.anchor.weight=0.5,mine.sources=beam+pool"
    last = every[-1].config
    assert (last.seed, last.train.passes, last.mine.sources) == (4, 3, ("beam", "pool"))
    assert last.objectives["own"].anchor.weight == 0.5
    assert last.sweep == SweepConfig()
    in_file = replace(config, sweep=SweepConfig(seed=(4,), over={"train.passes": (1, 3)}))  # type: ignore[arg-type]
    assert [cell.config.train.passes for cell in cells(in_file)] == [1, 3]


def test_values_stand_where_they_belong_and_nowhere_else() -> None:
    swept = SweepConfig(
        seed=(7,), ntp_weight=(0.5,), beta=(0.3,), learning_rate=(1e-4,), negatives=(2,), beams=(9,)
    )
    (cell,) = cells(replace(Config(), sweep=swept))
    config, default = cell.config, Config()
    assert (config.seed, config.mine.negatives, config.mine.beams) == (7, 2, 9)
    assert config.sweep == SweepConfig()
    for name in ("ntp", "ntp_answer", "ntp_weighted"):  # without negatives there is no lambda, no beta
        assert config.objectives[name] == replace(default.objectives[name], learning_rate=1e-4)
    for name in ("dpo", "rpo", "pretrainrl"):
        before, now = default.objectives[name], config.objectives[name]
        assert (now.dpo.beta, now.learning_rate, now.dpo.weight) == (0.3, 1e-4, before.dpo.weight)
        for weight in ("question", "answer", "answer_mean"):
            assert getattr(now.ntp, weight) == 0.5 * getattr(before.ntp, weight)
    rest = {"objectives": default.objectives, "mine": default.mine, "seed": 0}
    assert replace(config, **rest) == default


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--sweep.beta=0.1,0.1"], ["sweep.beta", "name each once"]),
        (["run", "--sweep.beta=-1"], ["sweep.beta is -1", "greater than or equal to 0"]),
        (["run", "--sweep.negatives=1.5"], ["sweep.negatives is 1.5", "a valid integer"]),
        (["run", "--sweep.beta=a"], ["sweep.beta is a", "a valid number"]),
        (["train", "--sweep.beta=1"], ["sweep.* is for `run`"]),
        (["run", "--sweep.negatives=0"], ["mine.negatives is 0"]),
        (["run", "--sweep.train.passes=1,a"], ["train.passes is a", "a valid number"]),
        (["run", "--sweep.train.passes=0"], ["train.passes is 0"]),
        (["run", "--sweep.train.passes=2,2"], ["sweep.train.passes", "name each once"]),
        (["run", "--sweep.train.pases=2"], ["unknown setting --sweep.train.pases"]),
        (["run", "--sweep.sweep.beta=2"], ["sweep.sweep.beta"]),
        (["run", "--sweep.over=2"], ["sweep.over is 2"]),
        (["run", "--sweep.evaluate.text=a/b,a_b"], ["two cells would be called evaluate.text=a_b"]),
        (["train", "--sweep.train.passes=1,2"], ["sweep.* is for `run`"]),
        (["run", "--sweep.train.passes="], ["train.passes is empty", "a valid number"]),
        (
            ["run", "--facts.path=f.csv", "--sweep.world.facts=50,60"],
            ["sweep.world.facts: no result of these runs depends on it"],
        ),
        (["run", "--sweep.mesh.data=1,2"], ["sweep.mesh.data: no result of these runs depends on it"]),
        (
            ["run", "--sweep.checkpoint.keep=1,2"],
            ["sweep.checkpoint.keep: no result of these runs depends on it"],
        ),
        (["run", "--sweep.evaluate.thresholds=0.5;0.6"], ["no result of these runs depends on it"]),
        (["run", "--sweep.beta=1,2", "--train.systems=ntp"], ["sweep.beta: no result of these runs"]),
        (["run", "--sweep.anchor.tokens=5,6", "--train.systems=ntp"], ["sweep.anchor.tokens: no result"]),
        (
            ["run", "--sweep.ntp_weight=1,2", "--sweep.objectives.pretrainrl.ntp.answer=1,2"],
            ["sweep.ntp_weight changes the same"],
        ),
        (
            ["run", "--sweep.objectives.rpo.dpo.beta=1,2", "--train.systems=ntp"],
            ["sweep.objectives.rpo.dpo.beta: no result of these runs depends on it"],
        ),
        (
            ["run", "--sweep.train.passes=1,2", "--train.device_seconds=3"],
            ["sweep.train.passes: no result of these runs depends on it"],
        ),
        (["run", "--sweep.mine.beams=4,5", "--sweep.beams=4"], ["another axis of the sweep sets the same"]),
        (
            ["run", "--sweep.beta=0.1,0.5", "--sweep.objectives.ntp_answer.dpo.weight=0,1"],
            ["sweep.beta: another axis of the sweep sets the same"],
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_made(
    words: list[str], expected: list[str], tmp_path: Path, tiny_config: Path
) -> None:
    said = complaint(call(words[0], "--config", tiny_config, "--workdir", tmp_path / "new", *words[1:]))
    assert all(text in said for text in expected), said
    assert not (tmp_path / "new").exists()


# A whole sweep.


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, compiled: Path) -> tuple[Path, str]:
    """A workdir in which a sweep has run, interrupted once on the way, and what it printed at the end."""
    workdir = tmp_path_factory.mktemp("sweep") / "work"
    words = ("run", "--config", tiny_config, "--workdir", workdir, *AXES)
    with pytest.MonkeyPatch.context() as patch:
        from pretrainrl_jax.training import session

        patch.setattr(session, "MetricsWriter", Signalled)
        patch.setattr(Signalled, "when", ("train/pretrainrl", 3))
        stopped = call(*words)
    assert stopped.code == 130
    assert f"Go on with: python -m pretrainrl_jax.main run --config {tiny_config}" in stopped.err
    ran = call(*words)
    assert ran.code == 0, ran.err
    return workdir, ran.out


def test_each_thing_is_made_once(swept: tuple[Path, str]) -> None:
    workdir, _ = swept
    made = [
        path.relative_to(workdir / "cells").as_posix()
        for cell in NAMES
        for path in sorted((workdir / "cells" / cell).rglob("*"))
        if not path.is_symlink() and (path.name == "trees.array_record" or path.name == "model.json")
    ]
    source, second = NAMES[:2]
    assert made == [
        f"{source}/checkpoints/pretrain/model.json",
        f"{source}/checkpoints/train/ntp_answer/model.json",
        f"{source}/checkpoints/train/pretrainrl/model.json",
        f"{source}/mined/trees.array_record",
        f"{second}/checkpoints/train/pretrainrl/model.json",
        f"{second}/mined/trees.array_record",
        *(f"{cell}/checkpoints/train/pretrainrl/model.json" for cell in NAMES[2:]),
    ]


def test_a_cell_is_what_a_run_of_its_own_is(
    swept: tuple[Path, str], tmp_path: Path, tiny_config: Path
) -> None:
    cell, alone = swept[0] / "cells" / NAMES[2], tmp_path / "alone"
    ran = call(
        "run", "--config", tiny_config, "--workdir", alone, "--mine.negatives=2",
        "--objectives.pretrainrl.ntp.question=1", "--objectives.pretrainrl.ntp.answer=1",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for stage in command_line.STAGES:
        assert_same_parameters(cell, alone, stage)
    assert repeatable(summary(cell)) == repeatable(summary(alone))
    assert json.loads((cell / "config.json").read_text()) == json.loads((alone / "config.json").read_text())
    stages = [[line["stage"] for line in _metrics(path)] for path in (cell, alone)]
    assert sorted(stages[0]) == sorted(stages[1])
    with undrawn():
        assert call("report", "--workdir", cell).code == 0
    assert call("ask", "What is it?", "--workdir", cell).code == 0


def _metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_table_has_each_systems_own_values(swept: tuple[Path, str]) -> None:
    workdir, out = swept
    shown = json.loads((workdir / "sweep.json").read_text())
    assert [(row["system"], {k: f"{v:g}" for k, v in row["values"].items()}) for row in shown] == [
        ("base", {}),
        ("ntp_answer", {}),  # depends on neither
        *(("pretrainrl", dict(part.split("=") for part in name.split(","))) for name in NAMES),
    ]
    for row, name in zip(shown[2:], NAMES, strict=True):
        told = summary(workdir / "cells" / name)["systems"]
        rise = told["pretrainrl"]["text_nll"] - told["base"]["text_nll"]
        assert row["seeds"] == {"0": told["pretrainrl"] | {"forgetting": pytest.approx(rise)}}
    written = (workdir / "sweep.md").read_text()
    assert written.strip() in out
    lines = [line for line in written.split("\n\n")[0].splitlines() if "PretrainRL" in line]
    acc = [row["seeds"]["0"]["acc"] for row in shown[2:]]
    assert [line.split(" | ")[1:4] for line in lines] == [
        [*(part.split("=")[1] for part in name.split(",")), f"{100 * rate:.1f}"]
        for name, rate in zip(NAMES, acc, strict=True)
    ]


def test_orders_share_all_but_the_training_and_make_one_row(
    tmp_path: Path, tiny_config: Path, compiled: Path
) -> None:
    words = ("run", "--config", tiny_config, "--workdir", tmp_path / "work", "--train.systems=ntp_answer")
    ran = call(*words, "--sweep.train.order=0,1")
    assert ran.code == 0, ran.err
    first, second = (tmp_path / "work" / "cells" / f"train.order={n}" for n in range(2))
    for name in ("checkpoints/pretrain", "mined/trees.array_record", "evaluations/base.json"):
        assert (second / name).is_symlink()
        assert not (first / name).is_symlink()
    with pytest.raises(AssertionError):
        assert_same_parameters(first, second, "train/ntp_answer")
    shown = json.loads((tmp_path / "work" / "sweep.json").read_text())
    assert [(row["system"], row["values"], list(row["seeds"])) for row in shown] == [
        ("base", {}, ["all"]),
        ("ntp_answer", {}, ["0", "1"]),
    ]
    assert "of 2 orders" in ran.out
    assert "paired by order" in ran.out
    table = (tmp_path / "work" / "sweep.md").read_text()
    (base,) = (line for line in table.splitlines() if line.startswith("| base |"))
    assert "±" not in base  # it was evaluated once


@pytest.mark.slow
def test_a_finished_sweep_is_only_shown_again_and_may_grow(
    swept: tuple[Path, str], tmp_path: Path, tiny_config: Path
) -> None:
    workdir, _ = swept
    before = files(workdir / "cells")
    ran = call("run", "--config", tiny_config, "--workdir", workdir, *AXES)
    assert ran.code == 0, ran.err
    trained = {name: content for name, content in files(workdir / "cells").items() if "/report/" not in name}
    assert trained == {name: content for name, content in before.items() if "/report/" not in name}
    shown = call("report", "--workdir", workdir)
    assert shown.code == 0, shown.err
    assert (workdir / "sweep.md").read_text().strip() in shown.out
    more = call("run", "--config", tiny_config, "--workdir", workdir, *AXES, "--sweep.beta=1,2")
    assert more.code == 0, more.err
    again = {name: content for name, content in files(workdir / "cells").items() if "/report/" not in name}
    assert {name: again[name] for name in trained} == trained  # nothing made before is touched
    values = [row["values"] for row in json.loads((workdir / "sweep.json").read_text())]
    assert len([row_values for row_values in values if row_values]) == 8


def test_a_stage_that_was_linked_in_part_is_linked_again(tmp_path: Path) -> None:
    """As a run leaves it that is killed while it links, or right after."""
    other, workdir = tmp_path / "seed=0", tmp_path / "seed=1"
    (other / "mined").mkdir(parents=True)
    write_json(other / "finished.json", {"mine": {"negatives": 3}})
    for name in ("fingerprint.json", "statistics.json"):
        (other / "mined" / name).write_text("its own")
    (workdir / "mined").mkdir(parents=True)
    (workdir / "mined" / "statistics.json").write_text("half of it")
    cell: Any = SimpleNamespace(workdir=workdir)

    take_over(cell, {"mine": other})
    assert not (workdir / "finished.json").exists()  # begun here already, it stays
    assert (workdir / "mined" / "statistics.json").read_text() == "half of it"

    write_json(workdir / "linking.json", "mine")
    take_over(cell, {"mine": other})
    marks = {"mine": {"negatives": 3, "from": "seed=0"}}
    assert json.loads((workdir / "finished.json").read_text()) == marks
    assert {path.name: path.read_text() for path in (workdir / "mined").iterdir()} == {
        "fingerprint.json": "its own", "statistics.json": "its own",
    }  # fmt: skip
    assert not (workdir / "linking.json").exists()

    write_json(workdir / "linking.json", "mine")
    take_over(cell, {"mine": other})
    assert not (workdir / "linking.json").exists()
    assert json.loads((workdir / "finished.json").read_text()) == marks


@pytest.mark.slow
def test_each_cell_has_the_facts_of_its_own_settings_and_all_are_read_before(
    tmp_path: Path, tiny_config: Path
) -> None:
    words = ("run", "--config", tiny_config, "--train.systems=ntp", "--mine.sources=", "--train.passes=1")
    ran = call(*words, "--workdir", tmp_path / "work", "--sweep.world.facts=40,56", "--evaluate.samples=0")
    assert ran.code == 0, ran.err
    rows = json.loads((tmp_path / "work" / "sweep.json").read_text())
    counts = {row["values"]["world.facts"]: row["seeds"]["0"]["groups"] for row in rows}
    assert counts[40]["trained"]["count"] < counts[56]["trained"]["count"] <= 56
    said = complaint(
        call(*words, "--workdir", tmp_path / "no", f"--sweep.evaluate.text={tiny_config},{tmp_path}/none")
    )
    assert "none: No such file or directory; check evaluate.text" in said
    assert not (tmp_path / "no" / "cells").exists()


def test_lists_may_be_empty(tiny_config: Path) -> None:
    from pretrainrl_jax.command_line import parse

    words = ["--sweep.mine.sources=;beam", "--train.systems=ntp"]
    config = parse(["run", "--config", str(tiny_config), *words]).config
    with_none, _ = [cell.config.mine.sources for cell in cells(config)]
    assert with_none == ()


def test_an_unfinished_sweep_has_no_table(tmp_path: Path, tiny_config: Path) -> None:
    from pretrainrl_jax.command_line import parse
    from pretrainrl_jax.workdir import prepare_workdir

    config = parse(["run", "--config", str(tiny_config), "--sweep.beta=1,2"]).config
    prepare_workdir(tmp_path / "new", config, create=True)
    assert "run the sweep to its end" in complaint(call("report", "--workdir", tmp_path / "new"))


# The table.


def system(acc: float, paraphrase: float | None = None, nll: float = 2.0) -> dict[str, Any]:
    groups = {} if paraphrase is None else {"paraphrase": {"acc": paraphrase, "count": 1000}}
    rates = {"acc": acc, "hr": acc, "mrr": acc, "prob": None}
    return rates | {"text_nll": nll, "device_seconds": 1.0, "groups": groups}


def test_means_spread_and_paired_differences() -> None:
    ours, theirs = (0.31, 0.36, 0.40), (0.30, 0.33, 0.38)
    rows = [
        Row("ntp", {}, {str(i): system(x) for i, x in enumerate(theirs)}),
        Row("pretrainrl", {}, {str(i): system(x) for i, x in enumerate(ours)}),
    ]
    shown = table(rows, [], KNOWN).splitlines()
    half = stats.t.ppf(0.975, 2) * stats.sem(ours)
    assert shown[-1].startswith(f"| PretrainRL | {100 * statistics.mean(ours):.1f} ± {100 * half:.1f} |")
    assert "Prob" not in shown[0]  # nobody has one
    # The interval is that of a paired t-test.
    points = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
    low, high = stats.ttest_rel(ours, theirs).confidence_interval()
    (line,) = differences(rows, [], KNOWN).splitlines()[2:]
    assert line == (
        f"| PretrainRL − NTP | {statistics.mean(points):+.1f} | {100 * low:+.1f} to {100 * high:+.1f} "
        "| +1.0, +3.0, +2.0 |"
    ).replace("-", "−")
    assert (
        differences(
            [Row("ntp", {}, {"0": system(0.1)}), Row("pretrainrl", {}, {"0": system(0.2)})], [], KNOWN
        )
        == ""
    )


def test_objectives_of_ones_own_are_compared_with_the_best_or_with_what_is_to_be_above() -> None:
    rows = [
        Row(name, {}, {str(seed): system(x) for seed in range(2)})
        for name, x in (("base", 0.1), ("one", 0.3), ("two", 0.4))
    ]
    own = {"one": ObjectiveConfig("First"), "two": ObjectiveConfig()}
    heads = [line.split(" | ")[0] for line in differences(rows, [], Systems(own)).splitlines()[2:]]
    assert heads == ["| two − base", "| two − First"]
    own["one"] = ObjectiveConfig("First", above=("two",))
    heads = [line.split(" | ")[0] for line in differences(rows, [], Systems(own)).splitlines()[2:]]
    assert heads == ["| First − base", "| First − two"]
    assert differences(rows[:1], [], Systems(own)) == ""


def test_rows_are_compared_at_equal_values() -> None:
    def row(name: str, values: dict[str, float], acc: float) -> Row:
        return Row(name, values, {"0": system(acc), "1": system(acc)})

    rows = [
        row("ntp", {"learning_rate": 1e-3}, 0.1),
        row("ntp", {"learning_rate": 1e-2}, 0.2),
        row("pretrainrl", {"learning_rate": 1e-3, "beta": 1.0}, 0.5),
        row("pretrainrl", {"learning_rate": 1e-2, "beta": 1.0}, 0.7),
    ]
    lines = differences(rows, ["beta", "learning_rate"], KNOWN).splitlines()[2:]
    assert [line.split(" | ")[1:4] for line in lines] == [["1", "0.001", "+40.0"], ["1", "0.01", "+50.0"]]


def test_values_are_chosen_on_held_out_wordings() -> None:
    rows = [
        Row("ntp", {"learning_rate": 0.1}, {"0": system(0.9, 0.2), "1": system(0.9, 0.3)}),
        Row("ntp", {"learning_rate": 0.2}, {"0": system(0.5, 0.3), "1": system(0.5, 0.4)}),
        Row("base", {}, {"0": system(0.1, 0.9)}),
    ]
    best = "- NTP: learning_rate 0.2, chosen on held-out wordings (35.0%, the best 35.0%)\n"
    assert chosen(rows, ["learning_rate"], KNOWN) == best
    bare = [Row("ntp", {"beta": x}, {"0": system(x)}) for x in (0.4, 0.2)]
    assert (
        chosen(bare, ["beta"], KNOWN)
        == "- NTP: beta 0.4, chosen on trained wordings (40.0%, the best 40.0%)\n"
    )


@pytest.mark.parametrize(("rate", "taken"), [(0.286, 0.2), (0.285, 0.1)])
def test_within_one_standard_error_less_forgetting_decides(rate: float, taken: float) -> None:
    # 1,000 questions at 30 %: the standard error is 1.449 points.
    rows = [
        Row("ntp", {"beta": 0.1}, {"0": system(0.5, 0.30, nll=3.0)}),
        Row("ntp", {"beta": 0.2}, {"0": system(0.4, rate, nll=1.5)}),
    ]
    assert f"beta {taken}, chosen" in chosen(rows, ["beta"], KNOWN)
