"""A run on preferences from the command line: one command, a table, a page, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.chat import CHATML, chat_tokenizer
from helpers.command_line import Ran, assert_same_parameters, call, complaint, summary
from helpers.transformers_models import peer

SYSTEMS = ("dpo", "ntp", "ntp_answer", "ntp_weighted", "pretrainrl")
CONFIG = f"""
from dataclasses import replace
from pretrainrl_jax.config import *

config = Config(
    model=ModelConfig(path="model"),
    pretrain=PretrainConfig(epochs=0, row_length=64),
    train=TrainConfig(systems={SYSTEMS}, passes=2, questions=8, row_length=96, dpo_scale="pairs"),
    preferences=PreferencesConfig(holdout_every=4),
    checkpoint=CheckpointConfig(every_steps=1),
)
"""


def rows() -> list[dict[str, Any]]:
    made = []
    for number in range(32):
        prompt = [{"role": "user", "content": f"What is {number}?"}]
        answers = [[{"role": "assistant", "content": text}] for text in ("Rome", "the Arno", f"{number} a")]
        made.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1 : 2 + number % 2]})
    return [*made, {"prompt": "x", "chosen": "", "rejected": "y", "score": 3}]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a model, a configuration and a file of preferences."""
    folder = tmp_path_factory.mktemp("inputs")
    size = chat_tokenizer(folder / "sized", CHATML).size
    peer("llama2", 1.0, vocab_size=size).save_pretrained(folder / "model")
    chat_tokenizer(folder / "model", CHATML)
    (folder / "config.py").write_text(CONFIG)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return folder


def words(inputs: Path, workdir: Path, *more: str) -> list[str]:
    given = ["run", "--config", inputs / "config.py", "--workdir", workdir]
    paths = [f"--preferences.path={inputs / 'pairs.jsonl'}", f"--model.path={inputs / 'model'}"]
    return [*map(str, given), *paths, *more]


@pytest.fixture(scope="module")
def ran(inputs, tmp_path_factory, compiled) -> tuple[Path, Ran]:
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    done = call(*words(inputs, workdir))
    assert done.code == 0, done.err
    return workdir, done


def test_one_command_trains_evaluates_and_reports(ran):
    workdir, done = ran
    assert "preferences: 33 rows, columns: prompt prompt, chosen chosen, rejected rejected" in done.out
    assert "left out: 1 no chosen" in done.out
    found = summary(workdir)
    assert list(found["systems"]) == ["base", *SYSTEMS]
    base, dpo = found["systems"]["base"], found["systems"]["dpo"]
    assert (base["of"], base["margin"], base["reward_accuracy"]) == ("held_out", 0.0, None)
    assert 0 < base["prompts"] < 16
    for system in found["systems"].values():
        low, high = system["preference_accuracy_interval"]
        assert 0 <= low <= system["preference_accuracy"] <= high <= 1
        assert system["pairs"] == base["pairs"]
        assert math.isfinite(system["text_nll"])
    low, high = dpo["margin_interval"]
    assert 0 < low < dpo["margin"] < high  # it learnt something that holds for prompts it never saw
    assert dpo["reward_accuracy"] > 0.9
    assert found["systems"]["ntp_answer"]["text_nll"] < base["text_nll"]
    page = (workdir / "report" / "index.html").read_text()
    for text in ("reward accuracy", "What is"):
        assert text in page, text
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    begins = next(line for line in metrics if line["stage"] == "train/dpo")
    assert begins["loss_dpo"] == pytest.approx(math.log(2), abs=2e-6)


def test_measures_are_those_of_the_stored_log_probabilities(ran):
    workdir, _ = ran
    base, dpo = (json.loads((workdir / "evaluations" / f"{s}.json").read_text()) for s in ("base", "dpo"))
    before, after = (np.array([pair[2:4] for pair in e["scores"]]) for e in (base, dpo))
    weight = np.array([pair[1] for pair in dpo["scores"]])
    margin = (after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])
    found = summary(workdir)["systems"]["dpo"]
    assert found["margin"] == pytest.approx(np.average(margin, weights=weight), abs=1e-6)
    assert found["reward_accuracy"] == pytest.approx(np.average(margin > 0, weights=weight))
    assert found["preference_accuracy"] == pytest.approx(
        np.average(after[:, 0] > after[:, 1], weights=weight)
    )
    assert found["change"]["after"] == found["preference_accuracy"]


def test_finished_stages_are_skipped_and_references_are_reused(inputs, ran):
    workdir, _ = ran
    before = (workdir / "mined" / "trees.array_record").stat().st_mtime_ns
    done = call(*words(inputs, workdir))
    assert done.code == 0
    assert "mine: finished, skipped" in done.out
    assert (workdir / "mined" / "trees.array_record").stat().st_mtime_ns == before


def test_an_interrupted_training_goes_on_to_the_same_parameters(
    inputs, ran, tmp_path, signalled, monkeypatch
):
    workdir = tmp_path / "workdir"
    only = "--train.systems=dpo"
    monkeypatch.setattr(signalled, "when", ("train/dpo", 2))
    assert call(*words(inputs, workdir, only)).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    assert call(*words(inputs, workdir, only)).code == 0
    assert_same_parameters(workdir, ran[0], "train/dpo")


def test_references_of_other_rows_are_refused(inputs, ran, tmp_path):
    workdir = ran[0]
    stamp = workdir / "mined" / "fingerprint.json"
    text = stamp.read_text()
    made = json.loads(text)
    made["made_with"]["preferences"] = "another"
    stamp.write_text(json.dumps(made))
    try:
        done = call(
            "train", "--workdir", str(workdir), "--train.systems=own", "--objectives.own.dpo.weight=1"
        )
        assert "are of something else: preferences was another" in complaint(done)
        (workdir / "evaluations" / "base.json").rename(tmp_path / "base.json")
        assert "holds other pairs than those of" in complaint(call("evaluate", "--workdir", str(workdir)))
        stamp.unlink()
        assert "has no finished mine: run `mine`" in complaint(call("evaluate", "--workdir", str(workdir)))
        (tmp_path / "base.json").rename(workdir / "evaluations" / "base.json")
    finally:
        stamp.write_text(text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--model.path=", "--pretrain.epochs=1"],
            "preferences need a model: set --model.path to its folder",
        ),
        (["--train.systems=dpo,rpo"], "train.systems names rpo, which mines falsehoods again"),
        (["--evaluate.every_steps=2"], "evaluate.every_steps is for facts"),
        (["--sweep.beta=0.1,0.2"], "sweep.* is for facts"),
        (["--facts.path=x.csv"], "facts.path and preferences.path are both set"),
        (["--evaluate.text=nowhere.txt"], "cannot read nowhere.txt"),
        (["--preferences.path=nowhere.jsonl"], "check preferences.path"),
        (["--preferences.holdout_every=1"], "preferences.holdout_every is 1"),
        (["--train.row_length=8"], "no pair of"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(inputs, tmp_path, more, message):
    given = words(inputs, tmp_path / "workdir", *more)
    assert message in complaint(call(*given))


def test_facts_shows_what_is_read(inputs, tmp_path):
    done = call("facts", f"--preferences.path={inputs / 'pairs.jsonl'}", f"--model.path={inputs / 'model'}")
    assert done.code == 0, done.err
    for line in (
        "pairs.jsonl: 33 rows",
        "columns: prompt = prompt, chosen = chosen, rejected = rejected",
        "columns not read: score",
        "trained (preferences.holdout_every=10): ",
        "the first, as the model reads it: <|im_start|>",
        "<|im_start|>user\\nWhat is 0?<|im_end|>\\n<|im_start|>assistant\\n | Rome<|im_end|>\\n",
        "1 no chosen: no better answer is given",
        "pairs.jsonl, line 33",
        "the first: [user] What is 0?",
        "  rejected  [assistant] the Arno",
    ):
        assert line in done.out, line


def test_facts_shows_how_often_pairs_stand_there(tmp_path):
    path = tmp_path / "pairs.jsonl"
    answers = [("a", "b"), ("a", "b"), ("b", "a"), ("a", "c")]
    rows = [{"prompt": "Q", "chosen": chosen, "rejected": rejected} for chosen, rejected in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = call("facts", f"--preferences.path={path}")
    assert done.code == 0, done.err
    for line in (
        "trained (preferences.holdout_every=10): 1 prompts, 3 pairs",
        "repeated pairs, which count as often: 1",
        "pairs stated both ways, of which each is kept: 2",
        "which fit in a row is not known without a tokenizer",
        "left out: nothing",
    ):
        assert line in done.out, line


def test_facts_shows_what_is_left_out_where_nothing_fits(inputs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "?" * 9999, "chosen": " a", "rejected": " b"}) + "\n")
    done = call("facts", f"--preferences.path={path}", f"--model.path={inputs / 'model'}")
    assert done.code == 0, done.err
    assert "as the model reads it" not in done.out
    assert "1 too long" in done.out


def test_text_of_ones_own_tells_what_is_forgotten(inputs, ran, tmp_path):
    workdir, path = tmp_path / "workdir", tmp_path / "text.txt"
    path.write_text("What is the capital of Arno?\n\nFlorence. Rome.\n")
    done = call(*words(inputs, workdir, "--train.systems=ntp_answer", f"--evaluate.text={path}"))
    assert done.code == 0, done.err
    base = summary(workdir)["systems"]["base"]
    assert base["text"] == str(path)
    assert base["text_nll"] != summary(ran[0])["systems"]["base"]["text_nll"]


def test_the_chat_template_is_exported_untouched(inputs, ran, tmp_path):
    done = call("export", "--workdir", str(ran[0]), "--to", str(tmp_path / "exported"))
    assert done.code == 0, done.err
    for path in (inputs / "model").glob("*token*"):
        assert (tmp_path / "exported" / path.name).read_bytes() == path.read_bytes(), path.name
