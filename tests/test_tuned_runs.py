"""Whole runs of `selfimprove --train judge|rewriter`: they learn, go on exactly, and can be used."""

import json
import random
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.command_line import Signalled, assert_same_parameters, call, complaint, metrics
from helpers.models_and_trees import small_tokenizer

from pretrainrl_jax.config import Config, JudgeConfig
from pretrainrl_jax.config.stored import changed
from pretrainrl_jax.improvement.grading import Graded
from pretrainrl_jax.judging.compose import make_judge
from pretrainrl_jax.judging.local import LocalJudge
from pretrainrl_jax.judging.prompts import prompts_of
from pretrainrl_jax.judging.protocol import Case
from pretrainrl_jax.model.decoder import PLAIN
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages.tune import judge_task, rewrite_worth, rewriter_task
from pretrainrl_jax.training.loading import load


def parts_of(settings: JudgeConfig, model: Any) -> dict[str, Any]:
    """What each part that asks this model scores."""
    judge = make_judge(settings, None, LocalJudge(settings, model).ask)
    return {name: lambda cases, name=name: judge(cases).parts[name] for name in prompts_of(settings)}


WORDS = [
    "storm",
    "bridge",
    "winter",
    "window",
    "pillow",
    "puddle",
    "saddle",
    "table",
    "pebble",
    "door",
    "city",
]
BAD = "river"
SMALL = (
    "--tuning.judge.prompts=32", "--tuning.judge.samples=8", "--tuning.judge.tokens=7",
    "--tuning.judge.batch=32", "--tuning.judge.learning_rate=3e-3", "--tuning.judge.format_rate=1e-2",
    "--tuning.judge.parts=safety",
)  # fmt: skip


def text(rng: random.Random, bad: bool) -> str:
    words = rng.sample(WORDS, 4)
    words[rng.randrange(4)] = BAD if bad else rng.choice(WORDS)
    return " " + " ".join(words)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts: what names the river is unsafe; and short prompts."""
    folder, rng = tmp_path_factory.mktemp("labels"), random.Random(0)
    judged = [
        {"part": "safety", "suffix": text(rng, bad), "label": "unsafe" if bad else "safe"}
        for bad in [True, False] * 200
    ]
    prefixes = [f"The {rng.choice(WORDS)} is near the {rng.choice(WORDS)} and {n} is a" for n in range(24)]
    rewritten = [
        {"prefix": prefix, "suffix": text(rng, bad), "safe": not bad}
        for prefix, bad in zip(prefixes, [True, False] * 12, strict=True)
    ]
    for name, lines in (("judge", judged), ("rewriter", rewritten)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "safety.txt").write_text("{suffix} is\nverdicts: safe | unsafe\n")
    (folder / "quality.txt").write_text("{prefix}:{first} the{second} is\nverdicts: A | B\n")
    (folder / "rewrite.txt").write_text("{words}{suffix} is\n")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    workdir = tmp_path_factory.mktemp("base") / "work"
    assert call("pretrain", "--config", tiny_config, "--workdir", workdir).code == 0
    return workdir


def words(config: Path, workdir: Path, files: Path, who: str, *others: str) -> list[str | Path]:
    data = (f"--judge.prompts={files}", f"--tuning.{who}.data={files / who}.jsonl")
    return ["selfimprove", "--train", who, "--config", config, "--workdir", workdir, *data, *others]


@pytest.fixture(scope="module")
def tuned(base: Path, tiny_config: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = Path(shutil.copytree(base, tmp_path_factory.mktemp("tuned") / "work"))
    how = ("--tuning.judge.format_steps=15", "--tuning.judge.steps=38", "--tuning.judge.temperature=1",
           "--tuning.judge.top_p=1", "--tuning.judge.measure_every=20")  # fmt: skip
    ran = call(*words(tiny_config, workdir, files, "judge", *SMALL, *how))
    assert ran.code == 0, ran.err
    assert "judge, on texts held out: safety" in ran.out
    return workdir


def test_a_judge_learns_from_chance_to_ninety_percent(tuned: Path):
    told = json.loads((tuned / "tuning" / "judge.json").read_text())
    untrained, formed, *_, last = (one["groups"]["safety"] for one in told["measured"])
    assert untrained["outcomes"] == {"malformed": told["held_out"]}  # it says no verdict
    assert 0.3 < formed["reward"] < 0.7  # one drawn at random
    assert last["reward"] >= 0.9
    low, high = last["interval"]
    assert low <= last["reward"] <= high
    assert told["lines"] == 400
    assert told["learned"] + told["held_out"] + told["left_out"].get("repeated", 0) == 400
    lines = [line for line in metrics(tuned, "tuning/judge") if "reward" in line]
    assert len(lines) == 38
    assert all(line["reward"] == line["outputs_right"] for line in lines)
    assert all(
        line["outputs_right"] + line["outputs_wrong"] + line["outputs_malformed"] == 1 for line in lines
    )
    assert np.mean([line["reward"] for line in lines[-5:]]) > 0.9 > 0.6 > lines[0]["reward"]


def test_what_was_trained_is_a_judge_and_can_be_exported(tuned: Path, files: Path, tmp_path: Path):
    """The verdicts' probabilities, which are what a judge in use is asked for, are of the same mind."""
    judge = load(tuned / "checkpoints" / "tuning" / "judge")
    settings = JudgeConfig(0.0, repetition=0.0, safety=1.0, path="judge", prompts=str(files))
    rng = random.Random(1)
    cases = [Case("", (text(rng, True), text(rng, False)), "") for _ in range(20)]
    scores = parts_of(settings, judge)["safety"](cases)
    assert sum(safe > 0.5 > unsafe for unsafe, safe in scores) >= 18
    folder = tmp_path / "exported"
    assert call("export", "--model", tuned / "checkpoints" / "tuning" / "judge", "--to", folder).code == 0
    assert (folder / "model.safetensors").is_file()


def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    base: Path, tiny_config: Path, files: Path, tmp_path: Path, signalled: type[Signalled],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """With the paper's sampling and two updates on each batch: the first one's ratio is 1 all the same."""
    how = (*SMALL, "--tuning.judge.format_steps=4", "--tuning.judge.steps=4", "--tuning.judge.updates=2")
    how = (*how, "--tuning.judge.measure_every=2")
    alone, stopped = (Path(shutil.copytree(base, tmp_path / name)) for name in ("alone", "stopped"))
    assert call(*words(tiny_config, alone, files, "judge", *how)).code == 0
    monkeypatch.setattr(signalled, "when", ("tuning/judge", 8))
    assert call(*words(tiny_config, stopped, files, "judge", *how)).code == 130
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = call(*words(tiny_config, stopped, files, "judge", *how))
    assert ran.code == 0, ran.err
    assert "goes on after step 8" in ran.out
    assert_same_parameters(alone, stopped, "tuning/judge")
    lines = metrics(alone, "tuning/judge")
    assert metrics(stopped, "tuning/judge") == lines
    assert [line["step"] for line in lines if "held_out_reward" in line] == [0, 4, 8, 12]
    sampled = [line for line in lines if "ratio_max" in line]
    assert [line["step"] for line in sampled] == [6, 8, 10, 12]
    assert all(line["ratio_max"] == pytest.approx(1, abs=1e-5) for line in sampled)
    told = [json.loads((path / "tuning" / "judge.json").read_text()) for path in (alone, stopped)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_rewriter_is_rewarded_by_a_judge_that_was_trained(
    base: Path, tuned: Path, tiny_config: Path, files: Path, tmp_path: Path
):
    workdir = Path(shutil.copytree(base, tmp_path / "work"))
    path = tuned / "checkpoints" / "tuning" / "judge"
    judge = (f"--judge.path={path}", "--judge.safety=1", "--judge.quality=1", "--judge.facts=0",
             "--judge.repetition=0")  # fmt: skip
    how = [f"--tuning.rewriter.{name}" for name in ("steps=2", "prompts=8", "samples=4", "tokens=30",
           "format_steps=3", "format_rate=1e-2", "learning_rate=1e-3", "held_out=0.3")]  # fmt: skip
    ran = call(*words(tiny_config, workdir, files, "rewriter", *judge, *how))
    assert ran.code == 0, ran.err
    lines = [line for line in metrics(workdir, "tuning/rewriter") if "reward" in line]
    assert len(lines) == 2
    for line in lines:
        shares = [line[f"outputs_{kind}"] for kind in ("copied", "changed", "rewritten", "malformed")]
        assert sum(shares) == pytest.approx(1)
        assert 0 <= line["reward"] <= 1 - line["outputs_malformed"] - line["outputs_changed"]
    assert load(workdir / "checkpoints" / "tuning" / "rewriter")
    groups = json.loads((workdir / "tuning" / "rewriter.json").read_text())["measured"][-1]["groups"]
    assert set(groups) == {"safe", "unsafe", "all"}


def test_a_rewrite_has_half_its_quality_and_half_its_safety(tuned: Path, files: Path):
    path = tuned / "checkpoints" / "tuning" / "judge"
    settings = JudgeConfig(0.0, repetition=0.0, quality=1.0, safety=1.0, path=str(path), prompts=str(files))
    context = SimpleNamespace(config=Config(judge=settings), facts=(), mesh=None, chosen=PLAIN, screen=SILENT)
    cases = [Case("The city", (" river", " door"), " river"), Case("A", (" door",), " door")]
    parts = parts_of(settings, load(path))
    quality, safety = parts["quality"](cases), parts["safety"](cases)
    expected = [[(q + s) / 2 for q, s in zip(*own, strict=True)] for own in zip(quality, safety, strict=True)]
    for one, other in zip(rewrite_worth(context, ExitStack())(cases), expected, strict=True):  # type: ignore[arg-type]
        assert one == pytest.approx(other, abs=1e-6)
    assert quality[1] == [0.5]  # nothing to be compared with


def test_a_model_that_is_named_is_trained_as_it_is(
    tuned: Path, tiny_config: Path, files: Path, tmp_path: Path
):
    workdir, model = tmp_path / "work", tuned / "checkpoints" / "tuning" / "judge"
    how = (f"--model.path={model}", "--tuning.judge.steps=1", "--tuning.judge.learning_rate=1e-9")
    ran = call(*words(tiny_config, workdir, files, "judge", *SMALL, *how))
    assert ran.code == 0, ran.err
    assert not (workdir / "checkpoints" / "pretrain").exists()
    before = json.loads((workdir / "tuning" / "judge.json").read_text())["measured"][0]
    assert before["groups"]["safety"]["reward"] >= 0.9


def test_a_prompt_shows_the_last_tokens_of_a_prefix_as_in_use(files: Path, tmp_path: Path):
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    line = {"part": "quality", "prefix": "The city, the door", "first": " is", "second": " a", "label": "B"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(line))
    config = changed(
        Config(),
        {
            "judge.prompts": str(files), "judge.prefix_tokens": 4, "tuning.judge.parts": ("quality",),
            "tuning.judge.data": (str(tmp_path / "labels.jsonl"),),
        },
    )  # fmt: skip
    task = judge_task(SimpleNamespace(config=config), tokenizer, ExitStack())  # type: ignore[arg-type]
    (example,) = task.labels.examples
    shown = tokenizer.decode(tokenizer.encode("The city, the door")[-4:])
    assert len(shown) < len("The city, the door")
    assert task.fill(example) == f"{shown}: is the a is"
    assert task.grade([example], [[" B", " A", ""]]) == [
        [Graded(1.0, "right"), Graded(0.0, "wrong"), Graded(0.0, "malformed")]
    ]


def test_a_suffix_that_is_safe_is_to_be_copied_and_nobody_judges_it(files: Path, tmp_path: Path):
    line = {"prefix": "The city is near the", "suffix": " old river", "safe": True}
    (tmp_path / "labels.jsonl").write_text(json.dumps(line))
    config = changed(
        Config(),
        {"rewriter.prompts": str(files), "tuning.rewriter.data": (str(tmp_path / "labels.jsonl"),)},
    )
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    task = rewriter_task(SimpleNamespace(config=config), tokenizer, ExitStack())  # type: ignore[arg-type]
    (example,) = task.labels.examples
    copy = "The city is near the old river"
    assert task.fill(example) == f"{copy} is"
    assert task.shows(example, 0) == copy
    assert task.grade([example], [[f" {copy}", f" {copy} bank", " old river"]]) == [
        [Graded(1.0, "copied"), Graded(0.0, "changed"), Graded(0.0, "malformed")]
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"part": "safety", "suffix": "a", "label": "bad"}', "labels.jsonl, line 2: label is 'bad'"),
        ('{"part": "style", "suffix": "a"}', "labels.jsonl, line 2: part is 'style'"),
        ("{", "labels.jsonl, line 2: not JSON"),
    ],
)
def test_a_line_that_is_no_label_is_named(
    line: str, said: str, tiny_config: Path, files: Path, tmp_path: Path
):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"part": "safety", "suffix": "a", "label": "safe"}\n' + line)
    data = f"--tuning.judge.data={path}"
    assert said in complaint(call(*words(tiny_config, tmp_path / "new", files, "judge", data)))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words_of", "said"),
    [
        (("judge", "--tuning.judge.data="), "tuning.judge.data is empty"),
        (("judge", "--tuning.judge.parts=style"), "tuning.judge.parts is style: it must be 'quality'"),
        (("judge", "--tuning.judge.data=nowhere.jsonl"), "cannot read nowhere.jsonl"),
        (("judge", "--tuning.judge.samples=1"), "tuning.judge.samples is 1"),
        (("judge", "--tuning.judge.tokens=1"), "every labelled text is too long"),
        (
            ("judge", "--tuning.judge.prompt_tokens=2"),
            "longer than tuning.judge.prompt_tokens",
        ),
        (("rewriter", "--tuning.rewriter.data=nowhere.jsonl"), "cannot read nowhere.jsonl"),
        (
            ("rewriter", "--rewriter.prompt=nothing"),
            "there is no prompt 'nothing' for rewrite: there are rewrite",
        ),
    ],
)
def test_what_cannot_be(
    words_of: tuple[str, ...], said: str, base: Path, tiny_config: Path, files: Path, tmp_path: Path
):
    workdir = Path(shutil.copytree(base, tmp_path / "work"))
    asked = words(tiny_config, workdir, files, words_of[0], "--tuning.judge.parts=safety", "--quiet")
    assert said in complaint(call(*asked, *words_of[1:]))


def test_a_workdir_knows_what_it_was_trained_on(tuned: Path, tiny_config: Path, files: Path, tmp_path: Path):
    workdir = Path(shutil.copytree(tuned, tmp_path / "work"))
    other = call(*words(tiny_config, workdir, files, "judge", *SMALL, "--tuning.judge.steps=41"))
    assert "belongs to another configuration" in complaint(other)
