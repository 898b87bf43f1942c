"""A look at a policy while it trains: what it finds, what it leaves as it was, which step it chooses."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.command_line import (
    Ran,
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    items,
    metrics,
    repeatable,
    unfinish,
)

from pretrainrl_jax.config import Config, EvaluateConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.facts.splits import split, subsample
from pretrainrl_jax.stages.watch import watch
from pretrainrl_jax.workdir import read_workdir

STAGE = "train/pretrainrl"
EVERY, SAMPLE = 2, 20
LOOKS = (f"--evaluate.every_steps={EVERY}", f"--evaluate.sample={SAMPLE}")
FOUND = ("sample_acc", "sample_hr", "sample_text_nll")


def train(workdir: Path, *words: str) -> Ran:
    unfinish(workdir, lambda stage: stage in (STAGE, "evaluate/pretrainrl"))
    return call("train", "--workdir", workdir, "--train.systems=pretrainrl", *words)


def looks(workdir: Path) -> list[dict]:
    return [line for line in metrics(workdir, STAGE) if "sample_acc" in line]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A workdir in which training was looked at, and its result evaluated."""
    workdir = Path(shutil.copytree(finished, tmp_path_factory.mktemp("watched") / "run"))
    ran = train(workdir, *LOOKS)
    assert ran.code == 0, ran.err
    assert call("evaluate", "--workdir", workdir).code == 0
    return workdir


def test_it_looks_before_training_every_few_updates_and_changes_nothing(watched: Path, finished: Path):
    plain = metrics(finished, STAGE)
    total = plain[-1]["step"]
    lines = looks(watched)
    assert [line["step"] for line in lines] == list(range(0, total + 1, EVERY))
    assert all(set(line) == {"stage", "step", *FOUND} for line in lines)
    steps = [line for line in metrics(watched, STAGE) if "loss" in line]
    assert repeatable(steps) == repeatable(plain)
    assert_same_parameters(watched, finished, STAGE)


def test_the_first_and_the_last_look_are_what_evaluation_finds_of_the_same_questions(watched: Path):
    """The base model at 0; at the last step, if it was looked at, the finished system."""
    config = read_workdir(watched)
    trained = split(read_facts(config).facts, config.facts.holdout_every)[0]
    sampled = {fact.id for fact in subsample(trained, SAMPLE, config.seed)}
    assert len(sampled) == SAMPLE
    before, *_, last = looks(watched)
    compared = [(before, "base")]
    if last["step"] == metrics(watched, STAGE)[-1]["step"]:
        compared.append((last, "pretrainrl"))
    for line, system in compared:
        evaluated = json.loads((watched / "evaluations" / f"{system}.json").read_text())
        asked = [q for q in evaluated["questions"] if q["group"] == "trained" and q["id"] in sampled]
        assert len(asked) == SAMPLE
        assert line["sample_acc"] == pytest.approx(sum(q["correct"] for q in asked) / SAMPLE)
        assert line["sample_hr"] == pytest.approx(sum(q["rank"] is not None for q in asked) / SAMPLE)


def test_the_report_draws_what_it_found(watched: Path):
    assert call("report", "--workdir", watched).code == 0
    page = (watched / "report" / "index.html").read_text()
    assert "while training" in page.lower()


@pytest.mark.parametrize("by", ["acc", "text_nll"])
def test_the_best_update_can_be_chosen(by: str, workdir: Path):
    """The checkpoint is that of the look with the best score, the last one of equals."""
    unfinish(workdir, lambda stage: stage.startswith(("train", "evaluate")))
    settings = json.loads((workdir / "config.json").read_text())
    settings["evaluate"] |= {"choose": by, "every_steps": 1, "sample": SAMPLE}
    settings["objectives"]["pretrainrl"]["learning_rate"] = 0.1  # so high that it forgets
    (workdir / "config.json").write_text(json.dumps(settings))
    ran = train(workdir)
    assert ran.code == 0, ran.err
    lines = [line for line in looks(workdir) if line["step"]]
    score = {"acc": lambda line: -line["sample_acc"], "text_nll": lambda line: line["sample_text_nll"]}[by]
    best = min(lines, key=lambda line: (score(line), -line["step"]))["step"]
    folder = workdir / "checkpoints" / STAGE
    assert max(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == best
    assert items(folder / str(best)) == {"params", "about"}
    assert f"of the evaluated steps, {best} is the best" in ran.out
    if by == "text_nll":
        assert best < metrics(workdir, STAGE)[-1]["step"]  # else nothing was chosen


def test_a_run_that_was_stopped_looks_at_the_same_steps(
    watched: Path, finished: Path, tmp_path: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
):
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.setattr(signalled, "when", (STAGE, 2 * EVERY))
    assert train(workdir, *LOOKS).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    assert call("train", "--workdir", workdir, *LOOKS).code == 0
    assert looks(workdir) == looks(watched)
    assert_same_parameters(workdir, watched, STAGE)


def test_choosing_by_text_needs_some_held_out():
    config = Config(evaluate=EvaluateConfig(choose="text_nll", every_steps=1))
    context: Any = SimpleNamespace(config=config, asked=(), texts=())
    session: Any = SimpleNamespace(run=None)
    with pytest.raises(InputError, match="is text_nll, and no text is held out: choose by acc"):
        watch(context, session, None, bool)  # type: ignore[arg-type]


def test_choosing_needs_looks(tiny_config: Path, tmp_path: Path):
    ran = call("run", "--config", tiny_config, "--workdir", tmp_path / "run", "--evaluate.choose=acc")
    assert "evaluate.every_steps" in complaint(ran)
    assert not (tmp_path / "run").exists()
