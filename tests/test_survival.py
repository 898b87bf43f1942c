"""Whole runs against what may happen to them: signals, kills, full disks, damage, a second process."""

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import command_line, forked
from helpers.command_line import (
    Ran,
    Signalled,
    assert_same_parameters,
    call,
    complaint,
    fill,
    metrics,
    python,
    repeatable,
    unfinish,
)

from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.stages import asking
from pretrainrl_jax.stages import train as training
from pretrainrl_jax.training import checkpoints, interrupts
from pretrainrl_jax.trees.records import read_trees, write_trees
from pretrainrl_jax.workdir import read_workdir

MAIN = "import sys; from pretrainrl_jax.main import program; sys.exit(program())"
SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


def failure(ran: Ran) -> str:
    """The one line of a failed command, after the lines of its progress."""
    assert ran.code == 1, ran
    assert "Traceback" not in ran.err, ran.err
    *progress, last = ran.err.splitlines()
    assert all(re.match(r"(pretrain|mine|train|evaluate)\S*  \d", line) for line in progress), ran.err
    assert last.startswith("failed: ")
    return last


# Mining and evaluation go on by parts.


@pytest.mark.parametrize(
    ("verb", "result"),
    [("mine", "mined/trees.array_record"), ("evaluate", "evaluations/pretrainrl.json")],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_mining_and_evaluation_go_on_with_the_next_part(
    verb: str, result: str, number: signal.Signals, workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    unfinish(workdir, lambda stage: stage in ("mine", "evaluate/pretrainrl") and stage.startswith(verb))
    (workdir / result).unlink()
    words = (verb, "--workdir", workdir, "--checkpoint.shard_questions=10")
    unstopped = Path(shutil.copytree(workdir, workdir.with_name("whole")))
    assert call(verb, "--workdir", unstopped, "--checkpoint.shard_questions=10").code == 0
    asked: list[tuple[str, ...]] = []
    stop_at = 3

    def answer(model, params, tokenizer, template, questions, **options):
        if len(asked) == stop_at:
            signal.raise_signal(number)
        asked.append((str(options["beams"]), *questions))
        return answer_questions(model, params, tokenizer, template, questions, **options)

    monkeypatch.setattr(asking, "answer_questions", answer)
    ran = call(*words)
    assert ran.code == 130
    last = f"interrupted; what is finished is kept. Go on with: {command_line.command(*words)}"
    assert ran.err.splitlines()[-1] == last
    parts = list(workdir.rglob("*.parts/**/0*.json"))
    assert len(parts) == (3 if verb == "mine" else 1)  # an evaluation asks each part twice
    stop_at = -1
    asked.clear()
    ran = call(*words)
    assert ran.code == 0, ran.err
    questions = [question for call_args in asked for question in call_args[1:] if call_args[0] == "4"]
    expected = 49 if verb == "mine" else 124  # 15 of them are answers asked the other way round
    assert len(questions) == expected - 10 * len(parts)
    assert not list(workdir.rglob("*.parts"))
    if verb == "mine":
        assert read_trees(workdir / result) == read_trees(unstopped / result)
    else:
        one, other = (json.loads((folder / result).read_text()) for folder in (workdir, unstopped))
        assert one == other


# The disk.


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    finished: Path, tiny_config: Path, compiled_environment: dict[str, str], small_disk: Path
) -> None:
    """In a process of its own: what libraries write beside the one line would be seen."""
    workdir, room = small_disk / "run", small_disk / "room"
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("report", "tensorboard"))
    unfinish(workdir, lambda stage: stage == "train/pretrainrl")
    words = ("train", "--config", tiny_config, "--workdir", workdir, "--checkpoint.every_steps=2")
    fill(room, leave=250_000)  # what a checkpoint takes, about
    ran = forked.python(MAIN, *words, **compiled_environment)
    said = failure(ran)
    assert "No space left on device" in said
    hint = f"checkpoints saved before are kept. Make room, then go on with: {command_line.command(*words)}"
    assert said.endswith(hint)
    room.unlink()
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert_same_parameters(workdir, finished, "train/pretrainrl")
    assert repeatable(metrics(workdir, "train/pretrainrl")) == repeatable(
        metrics(finished, "train/pretrainrl")
    )
    assert not list(workdir.rglob("*tmp*"))


@pytest.mark.slow
def test_files_that_may_not_grow_fail_as_a_full_disk_does(
    finished: Path, compiled_environment: dict[str, str], workdir: Path
) -> None:
    """Where nothing can be mounted this is the disk error that is tested."""
    unfinish(workdir, lambda stage: stage == "train/pretrainrl")
    words = ("train", "--workdir", str(workdir), "--checkpoint.every_steps=2")
    code = f"""
import resource, signal, sys
from pretrainrl_jax.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
sys.exit(main({list(words)!r}))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    said = failure(forked.python(code, **compiled_environment))
    assert "File too large" in said
    assert said.endswith(f"Make room, then go on with: {command_line.command(*words)}")
    assert call(*words).code == 0
    assert_same_parameters(workdir, finished, "train/pretrainrl")


def test_a_workdir_that_cannot_be_written_is_refused(
    tiny_config: Path, tmp_path: Path, workdir: Path
) -> None:
    """Root may write everywhere, so the command runs as another user."""
    user = os.geteuid()
    closed = [tmp_path, workdir, workdir / "lock"]
    for path in [workdir, *tmp_path.parents]:  # or another user could not even look
        if path.stat().st_uid == user:
            path.chmod(path.stat().st_mode | 0o055)
    for path in closed:
        path.chmod(0o555)
    try:
        os.seteuid(user or 65534)
        refused = [call("run", "--config", tiny_config, "--workdir", w) for w in (tmp_path / "new", workdir)]
    finally:
        os.seteuid(user)
        for path in closed:
            path.chmod(0o755)
    new, old = map(complaint, refused)
    assert new == f"cannot write to --workdir={tmp_path / 'new'}: Permission denied"
    assert old == f"cannot write to --workdir={workdir}: Permission denied"


def test_a_disk_that_becomes_read_only_ends_the_run_in_one_line(
    finished: Path, small_disk: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    workdir = small_disk / "run"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("report", "tensorboard", "train"))
    unfinish(workdir, lambda stage: stage.startswith("evaluate/base"))

    def answer(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(workdir))

    monkeypatch.setattr(asking, "answer_questions", answer)
    assert "Read-only file system" in failure(call("evaluate", "--workdir", workdir))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = complaint(call("evaluate", "--workdir", workdir))
    assert said == f"cannot write to --workdir={workdir}: Read-only file system"


# Damage, and what is of something else.


def stopped(
    workdir: Path, stage: str, at: int, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[str, ...]:
    """Stop a stage after a step; gives the command that goes on."""
    unfinish(workdir, lambda name: name == stage)
    words = ("train", "--workdir", str(workdir), "--checkpoint.every_steps=1", *more)
    with monkeypatch.context() as patched:
        patched.setattr(Signalled, "when", (stage, at))
        assert call(*words).code == 130
    return words


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    workdir: Path, finished: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = "train/pretrainrl"
    words = stopped(workdir, stage, 4, monkeypatch)
    folder = workdir / "checkpoints" / stage
    assert checkpoints.steps_of(folder)[:2] == [4, 3]
    newest = max((folder / "4" / "params").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2] + b"\x00" + content[len(content) // 2 + 1 :])
    shutil.copytree(folder / "3", folder / "5.orbax-checkpoint-tmp")
    ran = call(*words)
    assert ran.code == 0, ran.err
    said = [line for line in f"{ran.err}{ran.out}".splitlines() if line.startswith(f"{stage}: ")]
    assert said[0] == f"{stage}: the checkpoint of step 5 was not written to its end, and is passed over"
    assert said[1].startswith(f"{stage}: the checkpoint of step 4 is damaged, and is passed over (")
    assert said[2] == f"{stage}: goes on after step 3"
    assert_same_parameters(workdir, finished, stage)
    assert repeatable(metrics(workdir, stage)) == repeatable(metrics(finished, stage))
    assert sorted(p.name for p in folder.iterdir() if "." in p.name) == ["model.json"]


def test_a_checkpoint_of_another_configuration_is_refused(
    workdir: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = stopped(workdir, "train/pretrainrl", 2, monkeypatch)
    path = workdir / "config.json"
    settings = json.loads(path.read_text())
    settings["objectives"]["pretrainrl"]["dpo"]["beta"] = 0.25
    path.write_text(json.dumps(settings))
    ran = call(*words)
    said = complaint(ran._replace(err=ran.err.splitlines()[-1] + "\n"))
    assert "of another run: objectives.pretrainrl.dpo.beta was 1.0, now 0.25. Choose another" in said
    trees = read_trees(workdir / "mined" / "trees.array_record")
    settings["objectives"]["pretrainrl"]["dpo"]["beta"] = 1.0
    path.write_text(json.dumps(settings))
    write_trees(workdir / "mined" / "trees.array_record", trees[:-1])
    assert "of another run: data was " in call(*words).err


def test_a_base_model_made_anew_is_not_finished_until_it_is(
    workdir: Path, finished: Path, signalled: type[Signalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(signalled, "when", ("pretrain", 3))
        assert call("pretrain", "--workdir", workdir, "--config", finished.parent / "tiny.py").code == 130
    assert "pretrain" not in json.loads((workdir / "finished.json").read_text())
    assert checkpoints.steps_of(workdir / "checkpoints" / "pretrain") == [3]
    assert "no finished pretrain" in complaint(call("mine", "--workdir", workdir))
    assert call("pretrain", "--workdir", workdir, "--config", finished.parent / "tiny.py").code == 0
    assert_same_parameters(workdir, finished, "pretrain")


# Two processes.


def test_a_second_process_in_a_workdir_is_refused(finished: Path, workdir: Path, tiny_config: Path) -> None:
    code = """
import sys
from pathlib import Path
from pretrainrl_jax.workdir import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
    words = [sys.executable, "-c", code, str(workdir)]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin
    assert holder.stdout
    assert holder.stdout.readline() == "locked\n"
    for verb in ("run", "pretrain", "mine", "train", "evaluate"):
        said = complaint(call(verb, "--config", tiny_config, "--workdir", workdir))
        assert said.startswith(f"--workdir={workdir} is in use by process {holder.pid} on ")
    holder.kill()  # the lock ends with the process, however that ends
    holder.communicate()
    assert call("evaluate", "--workdir", workdir).code == 0


# Signals and kills in processes of their own.

HANGS = """
import sys, threading
from pretrainrl_jax.main import main
from pretrainrl_jax.training import checkpoints, session
import signal
class Stop(session.MetricsWriter):
    def write(self, step, metrics):
        super().write(step, metrics)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
session.MetricsWriter = Stop
checkpoints.Saver.save = lambda *_: threading.Event().wait()  # a disk that never answers
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_save_that_hangs_is_ended_when_its_grace_is_over(
    workdir: Path, compiled_environment: dict[str, str]
) -> None:
    unfinish(workdir, lambda stage: stage == "train/pretrainrl")
    words = ("train", "--workdir", str(workdir), "--checkpoint.grace_seconds=0.5")
    ran = forked.python(HANGS, *words, **compiled_environment)
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == (
        "interrupted: nothing more was saved within checkpoint.grace_seconds=0.5, and what was saved before "
        f"is kept. Go on with: {command_line.command(*words)}"
    )
    assert "Traceback" not in ran.err


KILLED_IN_SAVE = """
import os, signal, sys, threading
from pathlib import Path
from pretrainrl_jax.main import main
from pretrainrl_jax.training import checkpoints, interrupts
folder, at = Path(sys.argv[1]), int(sys.argv[2])
def watch():
    while not [*folder.glob(f"{at}.orbax-checkpoint-tmp*/params*"), *folder.glob(str(at))]:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
write = checkpoints.Saver._write
def noted(self, state, *rest, **options):
    if int(state.step) == at:
        threading.Thread(target=watch, daemon=True).start()
    write(self, state, *rest, **options)
    if int(state.step) == at:
        threading.Event().wait()  # if it was sooner written than seen
checkpoints.Saver._write = noted
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("when", ["between", "finish"])
def test_killed_while_saving_it_goes_on_from_the_checkpoint_before(
    when: str, workdir: Path, finished: Path, compiled_environment: dict[str, str]
) -> None:
    stage = "train/pretrainrl"
    total = metrics(finished, stage)[-1]["step"]
    at = 4 if when == "between" else total
    unfinish(workdir, lambda name: name == stage)
    words = ("train", "--workdir", str(workdir), "--checkpoint.every_steps=2", "--checkpoint.keep=1")
    folder = workdir / "checkpoints" / stage
    ran = forked.python(KILLED_IN_SAVE, folder, str(at), *words, **compiled_environment)
    assert ran.code == -signal.SIGKILL, ran
    last = checkpoints.latest_step(folder)
    assert last in (at - 2, at)  # `at` where it was sooner written than seen
    ran = call(*words)
    assert ran.code == 0, ran.err
    assert f"{stage}: goes on after step {last}" in ran.out.splitlines()
    assert_same_parameters(workdir, finished, stage)
    assert repeatable(metrics(workdir, stage)) == repeatable(metrics(finished, stage))
    assert not list(folder.glob("*tmp*"))


@pytest.mark.slow
def test_killed_many_times_a_run_ends_as_if_nothing_had_been(
    finished: Path, tiny_config: Path, compiled_environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("--kills", "5", "--seed", "1", "--config", tiny_config, "--train.systems=pretrainrl")
    ran = python(SOAK, "--workdir", tmp_path / "soak", *words, **compiled_environment)
    assert ran.code == 0, ran.out + ran.err
    assert "signals sent: 5 (" in ran.out
    assert ran.out.splitlines()[-1] == "verdict: all equal to the uninterrupted run"
    assert_same_parameters(tmp_path / "soak" / "killed-1", finished, "pretrain")


# What is not finite.


@pytest.fixture
def spoilt(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A workdir in which one tree's reference is no number, and that tree's question."""
    monkeypatch.setattr(training, "refuse_unscored", lambda trees: None)
    unfinish(workdir, lambda stage: stage.endswith("/pretrainrl"))
    path = workdir / "mined" / "trees.array_record"
    trees = read_trees(path)
    at = next(i for i, tree in enumerate(trees) if i > 20 and len(tree.branches) > 1)
    gold = replace(trees[at].branches[0], reference_logp=math.nan)
    trees[at] = replace(trees[at], branches=(gold, *trees[at].branches[1:]))
    write_trees(path, trees)
    facts = {fact.id: fact.question for fact in read_facts(read_workdir(workdir)).facts}
    return workdir, facts[trees[at].id]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(spoilt: tuple[Path, str]) -> None:
    workdir, question = spoilt
    said = failure(call("train", "--workdir", workdir, "--checkpoint.every_steps=1"))
    assert said.startswith("failed: train/pretrainrl: the loss is nan and the gradient's norm nan at step ")
    assert said.endswith("with --optimizer.nonfinite=skip")
    assert "Lower objectives.pretrainrl.learning_rate" in said
    noted = json.loads((workdir / "nonfinite.json").read_text())
    assert question in noted["questions"]
    assert noted["questions"][0] in said
    assert checkpoints.latest_step(workdir / "checkpoints" / "train/pretrainrl") == (
        noted["update"] - 1 or None
    )


def test_such_updates_are_skipped_and_counted_where_that_is_asked_for(spoilt: tuple[Path, str]) -> None:
    workdir, _ = spoilt
    ran = call("train", "--workdir", workdir, "--optimizer.nonfinite=skip")
    assert ran.code == 0, ran.err
    notes = json.loads((workdir / "finished.json").read_text())["train/pretrainrl"]
    lines = metrics(workdir, "train/pretrainrl")
    bad = [line["step"] for line in lines if line["loss"] is None]
    assert notes["skipped"] == lines[-1]["skipped"] == len(bad) > 0
    assert f"train/pretrainrl: {len(bad)} of {len(lines)} steps skipped: they were not finite" in ran.out
    assert notes["updates"] == len(lines)
    assert all(np.isfinite(x).all() for x in command_line.parameters(workdir, "train/pretrainrl").values())
    assert "NaN" not in ran.err


def test_outside_the_main_thread_signals_are_left_as_they_are() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interrupts.stop_requested() as stop:
            seen.append((stop(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [(False, before)]


def test_an_interruption_that_python_ignores_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(interrupts, "AGAIN_SECONDS", 0.05)

    class Ignoring:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)  # what it raises is ignored, as in any callback

    def work() -> None:
        with interrupts.termination_interrupts():
            ignoring = Ignoring()
            del ignoring
            threading.Event().wait(300)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - began < 200
    assert capfd.readouterr().err == ""  # nor does Python complain
