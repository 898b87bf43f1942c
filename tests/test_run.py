"""Whole runs in a tiny world: what a workdir holds, what a rerun does, and how a stopped run goes on."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import command_line
from helpers.command_line import (
    STAGES,
    SYSTEMS,
    Ran,
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    files,
    metrics,
    repeatable,
    summary,
    unfinish,
)

from pretrainrl_jax.command_line import read_config
from pretrainrl_jax.config import Config
from pretrainrl_jax.decoding.answers import Answer, read_answers
from pretrainrl_jax.facts.world import make_world
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.stages.asking import Asker, outcome
from pretrainrl_jax.stages.context import Context
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.checkpoints import Progress, Saver
from pretrainrl_jax.training.interrupts import stop_requested
from pretrainrl_jax.trees.records import read_trees

FIGURES = {  # of every line of metrics.jsonl that a stage of training writes
    "loss", "loss_ntp", "logp_gold", "grad_norm", "learning_rate", "questions_per_second",
    "tokens_per_second", "pad_fraction", "skipped",
}  # fmt: skip
CONTRASTS = {"loss_dpo", "reward_margin", "logp_negative"}  # null where no term computes them
RATES = ("acc", "hr", "mrr", "prob")


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    return read_config(str(tiny_config))


# What a finished workdir holds.


def test_a_run_leaves_what_the_contract_names(finished: Path) -> None:
    assert (finished / "report" / "index.html").stat().st_size > 10_000
    assert list((finished / "mined").glob("*.array_record"))
    for stage in STAGES:
        folder = finished / "checkpoints" / stage
        assert (folder / "model.json").is_file()
        assert (folder / "tokenizer" / "special_ids.json").is_file()
        (step,) = (p for p in folder.iterdir() if p.name.isdigit())
        assert command_line.items(step) == {"params", "about"}  # nothing is left to train
        assert list((finished / "tensorboard" / stage).glob("events.out.tfevents.*"))
    scrap = ("partial", "orbax-checkpoint-tmp", ".parts", ".damaged")
    assert not [p for p in finished.rglob("*") if any(word in p.name for word in scrap)]


def test_the_resolved_config_is_kept(finished: Path, config: Config) -> None:
    kept = json.loads((finished / "config.json").read_text())
    assert kept["name"] == "tiny world"
    assert kept["world"]["facts"] == 60
    assert kept["mine"]["drop_overlapping"] is Config().mine.drop_overlapping
    assert kept["train"]["systems"] == list(config.train.systems)


def test_what_a_run_prints(finished_run: tuple[Path, Ran]) -> None:
    workdir, ran = finished_run
    lines = ran.out.splitlines()
    assert re.fullmatch(r"backend \w+, \d+ x .+", lines[0])
    assert lines[-1] == f"report: {workdir / 'report' / 'index.html'}"
    for start in ("pretrain: ", "mine: ", *(f"train/{s}: " for s in SYSTEMS), "evaluate/base: "):
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert "skipped" not in ran.out
    assert "Warning" not in ran.err
    progress = ("pretrain ", "mine/", "train/", "evaluate/")
    assert all(line.startswith(progress) for line in ran.err.splitlines()), ran.err


def test_mined_trees_have_one_truth_and_scored_falsehoods(finished: Path, config: Config) -> None:
    trees = read_trees(finished / "mined" / "trees.array_record")
    assert len(trees) == 49  # of 60 facts about every sixth is held out, by a hash
    for tree in trees:
        roles = [branch.role for branch in tree.branches]
        assert roles == ["chosen"] + ["rejected"] * (len(roles) - 1)
        assert len(roles) <= 1 + config.mine.negatives
        assert all(branch.reference_logp < 0 for branch in tree.branches)
        # With the same template, the score of a beam is the beam's own.
        for branch in tree.branches[1:]:
            assert branch.reference_logp == pytest.approx(branch.behaviour_logp, abs=1e-4, rel=1e-5)
    statistics = json.loads((finished / "mined" / "statistics.json").read_text())
    assert statistics["negatives"] == sum(len(tree.branches) - 1 for tree in trees) > 20


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_have_the_names_of_the_contract(stage: str, finished: Path) -> None:
    lines = metrics(finished, stage)
    steps = [line["step"] for line in lines]
    assert steps == list(range(1, len(lines) + 1))  # so few steps are all written
    for line in lines:
        contrasts = CONTRASTS if stage.startswith("train") else set()
        more = {"reward_accuracy"} if stage == "train/pretrainrl" else set()
        assert set(line) == FIGURES | contrasts | more | {"stage", "step"}
        assert all(math.isfinite(line[name]) for name in FIGURES | more)
        assert all((line[name] is None) == (stage == "train/ntp_answer") for name in contrasts)
        assert line["loss"] > 0
        assert line["logp_gold"] < 0
        assert 0 <= line["pad_fraction"] < 1
        assert line["skipped"] == 0
        assert line["grad_norm"] > 0
        assert 0 < line["learning_rate"] <= 0.01
        assert line["tokens_per_second"] > line["questions_per_second"] > 0
    assert checkpoints.latest_step(finished / "checkpoints" / stage) == steps[-1]


def test_training_begins_at_the_base_model(finished: Path) -> None:
    line = metrics(finished, "train/pretrainrl")[0]
    assert line["loss_dpo"] == pytest.approx(math.log(2), abs=2e-6)
    assert line["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert line["loss"] == pytest.approx(line["loss_ntp"] + line["loss_dpo"], rel=1e-5)
    lines = metrics(finished, "pretrain")
    assert lines[-1]["loss"] < lines[0]["loss"] - 1


def test_events_are_those_of_the_metrics(finished: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    (path,) = (finished / "tensorboard" / "train" / "pretrainrl").glob("events.out.tfevents.*")
    content, at, events = path.read_bytes(), 0, {}
    while at < len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        record = content[at + 12 : at + 12 + size]
        assert masked_crc32c(record) == int.from_bytes(content[at + 12 + size : at + 16 + size], "little")
        event = Event.FromString(record)
        events |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        at += size + 16
    lines = metrics(finished, "train/pretrainrl")
    expected = {(x["step"], k): v for x in lines for k, v in x.items() if k not in ("stage", "step")}
    assert events == pytest.approx(expected, rel=1e-6)


def test_the_summary_has_the_keys_of_the_contract(finished: Path, config: Config) -> None:
    written = summary(finished)
    assert set(written) == {"dataset", "model", "systems", "signatures"}
    assert written["dataset"] == "tiny world"
    assert list(written["systems"]) == ["base", *SYSTEMS]
    for system in written["systems"].values():
        assert {*RATES, "by_popularity", "text_nll", "device_seconds"} <= set(system)
        for rates in (system, *system["by_popularity"], *system["groups"].values()):
            assert all(rates[name] is None or 0 <= rates[name] <= 1 for name in RATES)
            assert rates["acc"] <= rates["hr"]
            assert rates["mrr"] <= rates["hr"]
        assert 0 < system["text_nll"] < math.log(600)
        assert 0 < system["device_seconds"] < 100
        assert [part["count"] for part in system["by_popularity"]] == [25, 24]
        assert [part["count"] for part in system["by_popularity_paraphrase"]] == [25, 24]
        assert system["groups"]["held_out"]["count"] == 11
    # Training on answers makes them more probable.
    base, trained = written["systems"]["base"], written["systems"]["ntp_answer"]
    assert trained["groups"]["trained"]["prob_all"] > base["groups"]["trained"]["prob_all"]


# Running again.


def test_a_rerun_changes_nothing_but_the_report(workdir: Path, tiny_config: Path) -> None:
    before = files(workdir)
    ran = call("run", "--config", tiny_config, "--workdir", workdir)
    assert ran.code == 0
    assert "pretrain: finished, skipped" in ran.out
    assert "mine: finished, skipped" in ran.out
    after = files(workdir)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"report/index.html", "report/summary.json", "report/idea.png", "lock"}
    assert after["report/summary.json"][0] == before["report/summary.json"][0]
    assert ran.err == ""


@pytest.mark.parametrize("checkpoint_too", [False, True])
def test_a_system_without_its_mark_is_trained_again(
    checkpoint_too: bool, workdir: Path, finished: Path, tiny_config: Path
) -> None:
    # A run killed between its last save and its mark leaves the checkpoint there already: it is taken.
    unfinish(workdir, lambda stage: stage == "train/pretrainrl", checkpoints=checkpoint_too)
    before = files(workdir)
    ran = call("run", "--config", tiny_config, "--workdir", workdir)
    assert ran.code == 0, ran.err
    trained = ["train/pretrainrl"] if checkpoint_too else []
    assert [line.split("  ")[0] for line in ran.err.splitlines()] == trained
    assert_same_parameters(workdir, finished, "train/pretrainrl")
    after = files(workdir)
    changed = {name for name in {*before, *after} if after.get(name) != before.get(name)}
    others = ("report/", "finished.json", "metrics.jsonl", "lock")
    here = ("checkpoints/train/pretrainrl/", "tensorboard/train/pretrainrl/")
    assert {name for name in changed if not name.startswith((*others, *here))} == set()
    for stage in STAGES:
        assert repeatable(metrics(workdir, stage)) == repeatable(metrics(finished, stage))
    marks, expected = (json.loads((folder / "finished.json").read_text()) for folder in (workdir, finished))
    assert repeatable(marks) == repeatable(expected)


def test_verbs_one_after_another_do_what_run_does(
    finished: Path, tiny_config: Path, compiled: Path, tmp_path: Path
) -> None:
    for verb in ("pretrain", "mine", "train", "evaluate", "report"):
        ran = call(verb, "--config", tiny_config, "--workdir", tmp_path / "run")
        assert ran.code == 0, ran.err
    assert repeatable(summary(tmp_path / "run")) == repeatable(summary(finished))
    for stage in STAGES:
        assert_same_parameters(tmp_path / "run", finished, stage)
        assert repeatable(metrics(tmp_path / "run", stage)) == repeatable(metrics(finished, stage))
    for name in ("mined/statistics.json", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("mine", "no finished pretrain: run `pretrain`"),
        ("train", "no finished pretrain: run `pretrain`"),
        ("evaluate", "no finished pretrain: run `pretrain`"),
        ("report", "holds no evaluation: run evaluate"),
    ],
)
def test_a_verb_out_of_turn_says_what_comes_first(
    verb: str, missing: str, finished: Path, tiny_config: Path, tmp_path: Path
) -> None:
    shutil.copy(finished / "config.json", tmp_path)
    assert missing in complaint(call(verb, "--config", tiny_config, "--workdir", tmp_path))


def test_evaluating_before_training_says_what_comes_first(workdir: Path, tiny_config: Path) -> None:
    unfinish(workdir, lambda stage: stage.endswith("/ntp_answer"))
    said = complaint(call("evaluate", "--config", tiny_config, "--workdir", workdir))
    assert "no finished train/ntp_answer: run `train`" in said


def test_training_before_mining_says_what_comes_first(workdir: Path, tiny_config: Path) -> None:
    unfinish(workdir, lambda stage: stage == "train/ntp_answer" or stage == "mine")
    shutil.rmtree(workdir / "mined")
    said = complaint(call("train", "--config", tiny_config, "--workdir", workdir))
    assert "no mined trees" in said
    assert "run `mine`" in said


def test_rows_too_short_for_any_question_are_refused(workdir: Path, tiny_config: Path) -> None:
    settings = json.loads((workdir / "config.json").read_text())
    settings["train"]["row_length"] = 2
    (workdir / "config.json").write_text(json.dumps(settings))
    unfinish(workdir, lambda stage: stage != "pretrain")
    words = ("mine", "--config", tiny_config, "--workdir", workdir, "--train.row_length=2")
    ran = call(*words)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("error: there is no question to train on")
    assert "Traceback" not in ran.err


# Asking.


@pytest.mark.parametrize("how", ["workdir", "stage", "step"])
def test_ask_shows_answers_with_their_probabilities(how: str, finished: Path, config: Config) -> None:
    question = make_world(config.world, config.seed)[0].question
    stage = finished / "checkpoints" / "train" / "ntp_answer"
    path = {
        "workdir": finished,
        "stage": stage,
        "step": stage / str(checkpoints.latest_step(stage)),
    }[how]
    option = "--workdir" if how == "workdir" else "--model.path"
    ran = call("ask", question, option, path, "--evaluate.beams=4", "--evaluate.max_new_tokens=6")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    backend, model, *answers = ran.out.splitlines()
    assert backend.startswith("backend ")
    if how == "workdir":
        assert model.startswith(f"model {finished / 'checkpoints' / 'train'}")
    else:
        assert model == f"model {path}"
    shares, texts = zip(*(re.fullmatch(r" *([\d.]+)%  (.+)", line).groups() for line in answers), strict=True)
    assert len(answers) >= 2
    assert len(set(texts)) == len(texts)
    assert list(map(float, shares)) == sorted(map(float, shares), reverse=True)
    assert 0 < sum(map(float, shares)) <= 100.01


def test_ask_says_that_no_answer_ended(finished: Path) -> None:
    base = finished / "checkpoints" / "pretrain"
    words = ("ask", "What is the capital of Arno?", f"--model.path={base}", "--evaluate.beams=1")
    ran = call(*words, "--evaluate.max_new_tokens=1")
    assert ran.code == 0, ran.err
    *_, said, begun = ran.out.splitlines()
    assert said == "no answer ends within evaluate.max_new_tokens=1 tokens; so far:"
    assert re.fullmatch(r" *[0-9.e-]+%  .* …", begun)


def test_ask_few_shot_serves_a_model_that_was_not_trained_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(model, params, tokenizer, template, prompts, **options):
        asked.extend(prompts)
        return [[Answer("Ulm", (1,), math.log(0.25), True)] for _ in prompts]

    monkeypatch.setattr("pretrainrl_jax.stages.asking.answer_questions", answer)
    shown = tmp_path / "shown.csv"
    shown.write_text("question,answer\nWhere is Varn?,Lomel\nWhere is Isk?,Tarn\n")
    words = ("ask", "Where is Om? ", f"--model.path={finished / 'checkpoints' / 'pretrain'}")
    for options in ([], ["--template=bare"], ["--template=few_shot"], [f"--ask.examples={shown}"]):
        ran = call(*words, *options)
        assert ran.code == 0, ran.err
        assert ran.out.splitlines()[-1] == " 25.00%  Ulm"
    bare, also_bare, ours, theirs = asked
    assert bare == also_bare == "Where is Om?"
    assert ours.startswith("Answer the following questions")
    assert ours.count("Question: ") == 4
    assert theirs.endswith(
        "Question: Where is Varn?\nAnswer: Lomel\nQuestion: Where is Isk?\nAnswer: Tarn\n"
        "Question: Where is Om?\nAnswer:"
    )
    said = complaint(call(*words, "--template=bare", f"--ask.examples={shown}"))
    assert "--template=bare shows no examples" in said
    (tmp_path / "open.csv").write_text("question,answer\nWho?,me\nWhere is {}?,here\n")
    said = complaint(call(*words, f"--ask.examples={tmp_path / 'open.csv'}"))
    assert "open.csv, line 3: open question" in said
    many = "".join(f"Where is {n}?,{n}\n" for n in range(65))
    (tmp_path / "many.csv").write_text(f"question,answer\n{many}")
    said = complaint(call(*words, f"--ask.examples={tmp_path / 'many.csv'}"))
    assert "many.csv holds 65 facts, and all are shown in one prompt: keep at most 64" in said
    assert "--ask.examples: cannot read" in complaint(call(*words, f"--ask.examples={tmp_path / 'none.csv'}"))


def test_trained_bare_and_asked_few_shot_every_answer_has_one_probability(
    finished: Path, config: Config
) -> None:
    """The model was taught to end in EOS; a few-shot answer also ends at any line break.

    What it answers is taken as true: so the truths are what beam search finds.
    """
    asking = replace(config, evaluate=replace(config.evaluate, template="few_shot", beams=8))
    context = Context(asking, finished, make_mesh(config.mesh), make_world(config.world, config.seed))
    loaded = context.load("train/ntp_answer")
    questions = [(fact, fact.question, "trained") for fact in context.asked[:6]]
    asker = Asker(context, loaded, context.config.evaluate)
    said = [read_answers(each["beams"]) for each in asker.answers(questions)]
    believed = [
        (replace(fact, answers=tuple(b.text for b in beams if b.finished and b.text)), wording, group)
        for (fact, wording, group), beams in zip(questions, said, strict=True)
    ]
    outcomes = [outcome(context, *both) for both in zip(believed, asker.answers(believed), strict=True)]
    assert sum(one.measured_twice for one in outcomes) > 10
    assert max(one.apart for one in outcomes) < 1e-3
    assert all(one.p_hit and one.p_aliases >= one.p_hit * (1 - 1e-6) for one in outcomes)


# Stopping and going on.


@pytest.mark.parametrize(
    ("stage", "step", "number"),
    [
        ("pretrain", 7, signal.SIGTERM),
        ("train/pretrainrl", 3, signal.SIGINT),
        ("train/pretrainrl", -1, signal.SIGTERM),  # during the last step
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    stage: str,
    step: int,
    number: signal.Signals,
    workdir: Path,
    finished: Path,
    tiny_config: Path,
    signalled: type[Signalled],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    total = metrics(finished, stage)[-1]["step"]
    step = step if step > 0 else total
    unfinish(workdir, lambda name: name == stage)
    verb = ("train" if "/" in stage else stage, "--config", tiny_config, "--workdir", workdir)
    monkeypatch.setattr(signalled, "number", number)
    monkeypatch.setattr(signalled, "when", (stage, step))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ran = call(*verb)
    assert ran.code == 130
    said = f"interrupted: {stage} stopped after step {step} of {total} and saved. Go on with: "
    assert ran.err.splitlines()[-1] == said + command_line.command(*verb)
    assert "Traceback" not in ran.err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert stage not in json.loads((workdir / "finished.json").read_text())
    folder = workdir / "checkpoints" / stage
    assert checkpoints.latest_step(folder) == step
    assert command_line.items(folder / str(step)) == {"params", "training", "about"}

    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call(*verb)
    assert ran.code == 0, ran.err
    assert_same_parameters(workdir, finished, stage)
    assert repeatable(metrics(workdir, stage)) == repeatable(metrics(finished, stage))
    assert all(command_line.items(p) == {"params", "about"} for p in folder.iterdir() if p.name.isdigit())


def test_seconds_before_interruptions_count(
    workdir: Path, tiny_config: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinish(workdir, lambda name: name == "train/pretrainrl")
    words = ("train", "--config", tiny_config, "--workdir", workdir)
    write = Signalled.write
    with monkeypatch.context() as slow:
        slow.setattr(signalled, "write", lambda *a: (time.sleep(0.4), write(*a))[1])
        for step in (2, 4):  # two slow steps each time
            slow.setattr(signalled, "when", ("train/pretrainrl", step))
            assert call(*words).code == 130
    assert call(*words).code == 0
    seconds = json.loads((workdir / "finished.json").read_text())["train/pretrainrl"]["device_seconds"]
    assert 1.6 < seconds < 200


def test_a_run_saves_as_often_as_it_is_told(
    workdir: Path, finished: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinish(workdir, lambda stage: stage == "train/ntp_answer")
    saved = []

    def noted(name: str):
        save = getattr(Saver, name)

        def save_and_note(self: Saver, state, progress: Progress) -> None:
            saved.append((int(state.step), name))
            save(self, state, progress)
            if len(saved) == 2:
                self.wait()
                raise OSError("the machine is gone")

        return save_and_note

    monkeypatch.setattr(Saver, "save", noted("save"))
    monkeypatch.setattr(Saver, "finish", noted("finish"))
    words = ("train", "--config", tiny_config, "--workdir", workdir, "--checkpoint.every_steps=2")
    assert call(*words).code == 1
    assert call(*words).code == 0
    total = metrics(finished, "train/ntp_answer")[-1]["step"]
    assert saved == [(n, "save") for n in range(2, total, 2)] + [(total, "finish")]
    assert_same_parameters(workdir, finished, "train/ntp_answer")
    assert repeatable(metrics(workdir, "train/ntp_answer")) == repeatable(
        metrics(finished, "train/ntp_answer")
    )


def test_sigterm_outside_training_is_an_interruption_too(
    workdir: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object, **__: object) -> None:
        assert callable(signal.getsignal(signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("pretrainrl_jax.stages.asking.answer_questions", answer)
    unfinish(workdir, lambda stage: stage == "mine")
    before = signal.getsignal(signal.SIGTERM)
    ran = call("mine", "--config", tiny_config, "--workdir", workdir)
    assert ran.code == 130
    said = command_line.command("mine", "--config", tiny_config, "--workdir", workdir)
    assert ran.err.splitlines()[-1] == f"interrupted; what is finished is kept. Go on with: {said}"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_requested() as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGINT)
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_from_outside_saves_and_exits_with_130(
    tiny_config: Path,
    compiled_environment: dict[str, str],
    tmp_path: Path,
    finished: Path,
) -> None:
    assert finished  # what it compiled is used again here
    words = [sys.executable, "-m", "pretrainrl_jax.main", "pretrain", "--pretrain.epochs=100"]
    words += ["--config", str(tiny_config), "--workdir", str(tmp_path / "run")]
    environment = os.environ | compiled_environment | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    written = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 900
    while not (written.is_file() and written.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 130, err
    last = err.splitlines()[-1]
    ending = re.escape(f"and saved. Go on with: {command_line.command(*words[3:])}")
    said = re.fullmatch(rf"interrupted: pretrain stopped after step (\d+) of (\d+) {ending}", last)
    assert said, err
    assert "Traceback" not in err
    step = int(said[1])
    assert 0 < step < int(said[2])
    folder = tmp_path / "run" / "checkpoints" / "pretrain"
    assert checkpoints.latest_step(folder) == step
    assert command_line.parameters(tmp_path / "run", "pretrain")


def test_a_stage_goes_on_with_the_settings_of_its_workdir(workdir):
    """No --config is needed, nor the overrides the workdir was made with; a change is still refused."""
    for verb in ("train", "evaluate"):
        ran = command_line.call(verb, "--workdir", workdir)
        assert ran.code == 0, ran.err
        assert f"{verb}/pretrainrl: finished, skipped" in ran.out
    changed = command_line.call("evaluate", "--workdir", workdir, "--seed=5")
    assert changed.code == 2
    assert "seed was 0, now 5" in changed.err


def test_an_evaluation_that_was_removed_is_made_again(workdir: Path) -> None:
    path = workdir / "evaluations" / "ntp_answer.json"
    path.unlink()
    ran = call("evaluate", "--workdir", workdir)
    assert ran.code == 0, ran.err
    assert "evaluate/base: finished, skipped" in ran.out
    assert path.is_file()


def test_quiet_prints_results_alone_and_verbose_what_was_written(workdir: Path) -> None:
    unfinish(workdir, lambda stage: stage in ("mine", "train/ntp_answer", "evaluate/ntp_answer"))
    verbose = Path(shutil.copytree(workdir, workdir.with_name("verbose")))
    for verb in ("mine", "train", "evaluate"):
        ran = call(verb, "--workdir", workdir, "--quiet")
        assert (ran.code, ran.out, ran.err) == (0, "", "")
    ran = call("report", "--workdir", workdir, "--quiet")
    assert "% of trained facts" in ran.out.splitlines()[0]  # the table is a result
    assert (ran.code, ran.err) == (0, "")
    shutil.rmtree(workdir / "evaluations")
    assert "holds no evaluation" in complaint(call("report", "--workdir", workdir, "--quiet"))
    out = "".join(call(verb, "--workdir", verbose, "--verbose").out for verb in ("mine", "train"))
    assert f"{verbose / 'mined' / 'mine.parts' / 'beams' / '000000.json'}: 49 results" in out
    assert re.search(r"^train/ntp_answer: compiled in [\d.]+ s$", out, re.M)
    assert re.search(r"^checkpoint ntp_answer: step \d+$", out, re.M)
