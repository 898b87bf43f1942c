"""Whole runs whose workdir is in a bucket: the same as on a disk, stopped and gone on with, one at a time."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from helpers import command_line
from helpers.bucket_server import Bucket, Refused
from helpers.process_runs import Together

import pretrainrl_jax as prl

MAIN = """
import sys
from pretrainrl_jax import bucket_lock
from pretrainrl_jax.main import program
bucket_lock.RENEWED, bucket_lock.LOST, bucket_lock.DEAD = 0.5, 4.0, 6.0
sys.exit(program(sys.argv[1:]))
"""
EVERY = "--checkpoint.every_steps=3"


@pytest.fixture(scope="module")
def in_bucket(bucket: Bucket, tiny_config: Path, compiled: Path) -> command_line.Ran:
    """A run that has done everything in gs://bucket/finished."""
    ran = command_line.call("run", "--config", tiny_config, "--workdir", "gs://bucket/finished")
    assert ran.code == 0, ran.err
    return ran


def begun(config: Path, workdir: str, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", MAIN, "run", "--config", str(config), "--workdir", workdir, EVERY, *more]
    return subprocess.Popen(
        words,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at(bucket: Bucket, process: subprocess.Popen[str], when: Callable[[str, str], bool]) -> bool:
    """Kill a process in the middle of the first change for which `when` holds; whether there was one."""
    found = threading.Event()

    def before(what: str, name: str) -> None:
        if found.is_set():
            raise Refused(403)  # nothing of what the dead process sent may arrive
        if when(what, name):
            found.set()
            process.send_signal(signal.SIGKILL)
            raise ConnectionError

    bucket.before = before
    process.communicate(timeout=600)
    bucket.before = lambda what, name: None
    return found.is_set()


def same(one: Path, other: Path) -> None:
    for stage in command_line.STAGES:
        command_line.assert_same_parameters(one, other, stage)
        lines = (command_line.metrics(workdir, stage) for workdir in (one, other))
        first, second = (command_line.repeatable(of) for of in lines)
        assert first == second
    assert command_line.repeatable(command_line.summary(one)) == command_line.repeatable(
        command_line.summary(other)
    )


def test_a_run_in_a_bucket_is_that_on_a_disk(
    bucket: Bucket, in_bucket: command_line.Ran, finished_run: tuple[Path, command_line.Ran], tmp_path: Path
):
    finished, _ = finished_run
    same(bucket.write_to(tmp_path / "copy", "finished"), finished)
    names = {name.removeprefix("finished/") for name in bucket.names("finished/")}
    local = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    of_both = {name for name in local | names if "tfevents" not in name and "ocdbt" not in name}
    assert {name for name in of_both if name not in names} <= {"lock"}
    assert {name for name in of_both if name not in local} == {
        f"checkpoints/{stage}/tokenizer/commit_success.txt" for stage in command_line.STAGES
    }
    assert "report: gs://bucket/finished/report/index.html" in in_bucket.out
    assert not list(Path.cwd().glob("gs:*"))


def test_other_verbs_work_on_it(
    bucket: Bucket, in_bucket: command_line.Ran, finished: Path, tmp_path: Path, tiny_config: Path
):
    def both(*words: str | Path) -> tuple[str, str]:
        ran = [command_line.call(*words, "--workdir", place) for place in ("gs://bucket/finished", finished)]
        assert [r.code for r in ran] == [0, 0], [r.err for r in ran]
        return ran[0].out, ran[1].out

    there, here = both("ask", "Where does Ada live?")
    assert there.replace("gs://bucket/finished", str(finished)) == here
    again = command_line.call("run", "--config", tiny_config, "--workdir", "gs://bucket/finished")
    assert again.code == 0, again.err
    assert "train/pretrainrl: finished, skipped" in again.err + again.out
    with command_line.undrawn():
        ran = command_line.call("report", "--workdir", "gs://bucket/finished")
    assert ran.code == 0, ran.err
    _, params, _ = prl.load("gs://bucket/finished")
    _, others, _ = prl.load(finished)
    assert all(map(lambda a, b: (a == b).all(), jax.tree.leaves(params), jax.tree.leaves(others)))
    ran = command_line.call("export", "--workdir", "gs://bucket/finished", "--to", tmp_path / "exported")
    assert ran.code == 0, ran.err
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    with command_line.undrawn():
        ran = command_line.call("report", "--compare", "gs://bucket/finished", finished)
    assert ran.code == 0, ran.err
    assert any("report/compare-" in name for name in bucket.names("finished/"))


def test_a_workdir_of_another_configuration_is_refused(in_bucket: command_line.Ran, tiny_config: Path):
    ran = command_line.call("run", "--config", tiny_config, "--workdir", "gs://bucket/finished", "--seed=3")
    assert "gs://bucket/finished belongs to another configuration: seed was 0, now 3" in (
        command_line.complaint(ran)
    )
    ran = command_line.call("report", "--workdir", "gs://bucket/none")
    assert "gs://bucket/none is no workdir" in command_line.complaint(ran)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_uploaded_it_goes_on_to_the_same_result(
    bucket: Bucket, finished: Path, tiny_config: Path, compiled_environment: dict[str, str], tmp_path: Path
):
    workdir, name = "gs://bucket/killed", "killed/checkpoints/train/pretrainrl/"
    process = begun(tiny_config, workdir, compiled_environment)
    assert killed_at(bucket, process, lambda what, at: at.startswith(name) and "/training/" in at)
    assert "killed/lock" in bucket.names()
    assert json.loads(bucket.objects["killed/finished.json"].data).keys() >= {"pretrain", "mine"}
    again = begun(tiny_config, workdir, compiled_environment)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert "is gone, and its lock was taken over" in err
    assert "pretrain: finished, skipped" in out + err
    assert "was not written to its end, and is passed over" in out + err
    same(bucket.write_to(tmp_path / "copy", "killed"), finished)
    assert "killed/lock" not in bucket.names()


@pytest.mark.slow
def test_told_to_end_it_saves_gives_the_lock_back_and_goes_on(
    bucket: Bucket,
    finished: Path,
    tiny_config: Path,
    tmp_path: Path,
    signalled: type[command_line.Signalled],
    monkeypatch: pytest.MonkeyPatch,
):
    words = ["run", "--config", tiny_config, "--workdir", "gs://bucket/told"]
    monkeypatch.setattr(signalled, "when", ("train/pretrainrl", 4))
    stopped = command_line.call(*words)
    assert stopped.code == 130
    assert "interrupted: train/pretrainrl stopped after step 4 of 6 and saved" in stopped.err
    assert "told/lock" not in bucket.names()
    copy = bucket.write_to(tmp_path / "stopped", "told")
    assert [line["step"] for line in command_line.metrics(copy, "train/pretrainrl")] == [1, 2, 3, 4]
    monkeypatch.setattr(signalled, "when", ("", 0))
    ran = command_line.call(*words)
    assert ran.code == 0, ran.err
    assert "train/pretrainrl: goes on after step 4" in ran.out
    same(bucket.write_to(tmp_path / "copy", "told"), finished)


@pytest.mark.slow
def test_of_two_that_start_one_is_refused(
    bucket: Bucket, tiny_config: Path, compiled_environment: dict[str, str]
):
    both = [begun(tiny_config, "gs://bucket/raced", compiled_environment) for _ in range(2)]
    ended = [(process.communicate(timeout=600), process.returncode) for process in both]
    assert sorted(code for _, code in ended) == [0, 2], ended
    refused = next(err for (_, err), code in ended if code == 2)
    assert "--workdir=gs://bucket/raced is in use by process" in refused


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_result(
    bucket: Bucket, finished: Path, tiny_config: Path, compiled_environment: dict[str, str], tmp_path: Path
):
    changes = sum(name.startswith("finished/") for _, name in bucket.changes) or 400
    draw = random.Random(7)
    for number in range(4):
        workdir = f"random{number}"
        last = 0
        while True:  # killed again and again, each time somewhat later
            process = begun(tiny_config, f"gs://bucket/{workdir}", compiled_environment)
            last, seen = last + draw.randrange(changes // 2), [0]

            def when(what: str, name: str, seen: list[int] = seen, after: int = last) -> bool:
                seen[0] += not name.endswith("/lock")
                return seen[0] > after

            if not killed_at(bucket, process, when):
                assert process.returncode == 0
                break
        same(bucket.write_to(tmp_path / workdir, workdir), finished)


@pytest.mark.slow
def test_a_sweep_in_a_bucket_shares_what_its_cells_have_in_common(
    bucket: Bucket, tiny_config: Path, compiled: Path
):
    ran = command_line.call(
        "run", "--config", tiny_config, "--workdir", "gs://bucket/sweep", "--sweep.train.passes=1,2"
    )
    assert ran.code == 0, ran.err
    assert {"sweep/sweep.md", "sweep/sweep.json", "sweep/sweep.png"} <= set(bucket.names("sweep/"))
    cells = [f"sweep/cells/train.passes={passes}" for passes in (1, 2)]
    models = [f"{cell}/checkpoints/pretrain/model.json" for cell in cells]
    assert bucket.objects[models[0]].data == bucket.objects[models[1]].data
    assert "from" in json.loads(bucket.objects[f"{cells[1]}/finished.json"].data)["pretrain"]


@pytest.mark.slow
def test_a_sweep_killed_while_it_copies_goes_on_to_the_same_result(
    bucket: Bucket, tiny_config: Path, compiled_environment: dict[str, str], tmp_path: Path
):
    words, second = "--sweep.train.passes=1,2", "cells/train.passes=2"
    whole = begun(tiny_config, "gs://bucket/whole", compiled_environment, words)
    _, err = whole.communicate(timeout=900)
    assert whole.returncode == 0, err
    killed = begun(tiny_config, "gs://bucket/half", compiled_environment, words)
    copied = f"half/{second}/checkpoints/pretrain/"
    assert killed_at(bucket, killed, lambda what, name: name.startswith(copied) and ".mlp." in name)
    assert f"half/{second}/linking.json" in bucket.names()
    again = begun(tiny_config, "gs://bucket/half", compiled_environment, words)
    _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    one, other = (bucket.write_to(tmp_path / name, f"{name}/{second}") for name in ("whole", "half"))
    same(other, one)
    marks = json.loads((other / "finished.json").read_text())
    assert marks["pretrain"]["from"] == "train.passes=1"
    assert not (other / "linking.json").exists()


@pytest.mark.slow
def test_two_processes_write_and_read_one_bucket(
    bucket: Bucket, tiny_config: Path, compiled_environment: dict[str, str], tmp_path: Path
):
    for number, workdir in enumerate(("gs://bucket/hosts", tmp_path / "hosts")):
        words = ["run", "--config", tiny_config, "--workdir", workdir, "--mesh.fsdp=2", "--mesh.data=1"]
        together = Together(tmp_path / str(number), 2, Path("none"), words, **compiled_environment)
        ended = together.ended()
        assert [process.code for process in ended] == [0, 0], ended[0].err
        assert ended[1].said() == []
    assert "hosts/lock" not in bucket.names()
    there, here = bucket.write_to(tmp_path / "copy", "hosts"), tmp_path / "hosts"
    for stage in command_line.STAGES:
        loaded = [prl.load(workdir / "checkpoints" / stage)[1] for workdir in (there, here)]
        assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, loaded), strict=True))
    assert command_line.repeatable(command_line.summary(there)) == command_line.repeatable(
        command_line.summary(here)
    )
