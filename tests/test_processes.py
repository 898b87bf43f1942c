"""Real processes (jax.distributed over gloo) against one process: the same numbers, and the same ends."""

import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import pytest
from helpers import command_line
from helpers.command_line import items, metrics, parameters, summary
from helpers.process_runs import Ended, Together, lines_of, own_lines

import pretrainrl_jax as prl
from pretrainrl_jax.trees.records import read_trees

# Pools, and enough steps; else the programs are those of other tests' runs.
CONFIG = (
    command_line.CONFIG.replace("epochs=2", "epochs=6")
    .replace("passes=2", "passes=3")
    .replace("mine=MineConfig(", 'mine=MineConfig(sources=("beam", "pool"), pool=6, ')
)
PASSES = 3
DIVIDED = ("--model.kv_heads=2",)  # heads that divide over four processes
SYSTEMS = ("ntp_answer", "pretrainrl")
STAGES = ("pretrain", *(f"train/{system}" for system in SYSTEMS))
MESHES = {
    1: (),
    2: (),  # 2 x 1 x 1
    4: ("--mesh.fsdp=2", "--mesh.tensor=2", "--mesh.data=1"),  # parameters and vocabulary over processes
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def runs(
    config: Path, tmp_path_factory: pytest.TempPathFactory, compiled_environment: dict[str, str]
) -> Callable[..., tuple[Path, list[Ended]]]:
    """Of one (this), two or four processes: the workdir of a whole run, and how these ended.

    Of one `like` four: with the heads of those.
    """

    @cache
    def made(count: int, heads: tuple[str, ...]) -> tuple[Path, list[Ended]]:
        folder = tmp_path_factory.mktemp(f"of{count}")
        words = ["run", "--config", config, "--workdir", folder / "run", *MESHES[count]]
        words += heads
        if count == 1:
            ran = command_line.call(*words)
            assert ran.code == 0, ran.err
            return folder / "run", []
        ended = Together(folder, count, folder / "run", words, **compiled_environment).ended()
        assert [process.code for process in ended] == [0] * count, ended[0].err
        return folder / "run", ended

    return lambda count, like=1: made(count, DIVIDED if 4 in (count, like) else ())


# As jaxlib 0.10 wrote it when process 0 had gone, shortened.
ABORTED = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
E1126 16:55:25.384897   11715 coordination_service_agent.cc:289] Polled an error from coordination service.
F1126 16:55:25.384963   11715 client.h:80] Terminating process because the JAX distributed service detected
Additional GRPC error information from remote target while calling /xla.coordination.CoordinationService:
:UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"Socket closed"}
"""
STACK = """\
*** Check failure stack trace: ***
    @     0x7f5743e40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
    @     0x7f574b2a71f5  (unknown)
"""
WARNED = "/x/jax/_src/a.py:12: UserWarning: a peer is gone\n  warn(text)\n"


@pytest.mark.parametrize(
    ("err", "ours"),
    [
        ("", []),
        (ABORTED, []),
        (ABORTED + STACK, []),
        ("[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1\n", []),
        (WARNED, []),
        (f"{ABORTED}failed: host h is gone\n{ABORTED}{STACK}", ["failed: host h is gone"]),
        (f"pretrain  3/8 steps\n{WARNED}error: a", ["pretrain  3/8 steps", "error: a"]),
        (f"{ABORTED}train/dpo  1/2\ninterrupted; b\n", ["train/dpo  1/2", "interrupted; b"]),
        (
            f'{ABORTED}Traceback (most recent call last):\n  File "x"\n',
            ["Traceback (most recent call last):", '  File "x"'],
        ),
        (
            "/x/pretrainrl_jax/main.py:1: UserWarning: mine\n",
            ["/x/pretrainrl_jax/main.py:1: UserWarning: mine"],
        ),
        ("what is not known\n", ["what is not known"]),
    ],
)
def test_what_libraries_write_is_told_from_what_a_process_says(err: str, ours: list[str]):
    assert own_lines(err) == ours


several = pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])


@several
def test_losses_are_those_of_one_process(runs, count: int):
    for stage in STAGES:
        alone, together = metrics(runs(1, count)[0], stage), metrics(runs(count)[0], stage)
        assert [line["step"] for line in together] == [line["step"] for line in alone]
        assert alone[0]["step"] == 1
        assert len(alone) > (50 if stage == "pretrain" else 5)
        assert together[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
        for one, other in zip(alone[:50], together[:50], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], abs=1e-3)
            assert other["questions_per_second"] > 0 or stage == "pretrain"


@several
def test_what_is_mined_and_measured_is_that_of_one_process(runs, count: int):
    (alone, _), (together, _) = runs(1, count), runs(count)
    mined = [read_trees(workdir / "mined" / "trees.array_record") for workdir in (alone, together)]
    assert [tree.id for tree in mined[0]] == [tree.id for tree in mined[1]]
    assert len(mined[0]) > 40
    for one, other in zip(*mined, strict=True):
        assert [(b.text, b.source) for b in one.branches] == [(b.text, b.source) for b in other.branches]
        for a, b in zip(one.branches, other.branches, strict=True):
            assert b.reference_logp == pytest.approx(a.reference_logp, abs=1e-4, rel=1e-5)
    counted = [
        json.loads((workdir / "mined" / "statistics.json").read_text()) for workdir in (alone, together)
    ]
    for name in ("questions", "negatives", "by_source", "dropped"):
        assert counted[0][name] == counted[1][name]
    measured = [summary(workdir)["systems"] for workdir in (alone, together)]
    for system, values in measured[0].items():
        for name in ("acc", "hr", "mrr", "text_nll"):
            assert measured[1][system][name] == pytest.approx(values[name], abs=1e-3), (system, name)


def test_every_fact_is_read_as_often_as_asked_over_all_processes(runs):
    facts = {tree.id for tree in read_trees(runs(2)[0] / "mined" / "trees.array_record")}
    read = Counter()
    rows: dict[int, Counter] = {}
    for number, process in enumerate(runs(2)[1]):
        for _, passes, _, ids in (note for note in process.notes if note[0] == "row"):
            if passes == PASSES and facts & set(ids):
                read.update(ids)
                rows.setdefault(number, Counter()).update(ids)
    assert read == dict.fromkeys(facts, PASSES * len(SYSTEMS))
    shares = [visits.total() / read.total() for visits in rows.values()]
    assert len(shares) == 2
    assert all(0.3 < share < 0.7 for share in shares)  # none reads what is the other's


@several
def test_process_0_alone_prints_and_writes(runs, count: int):
    _, (chief, *others) = runs(count)
    assert f"{count} x cpu, {count} processes" in chief.out
    assert "report:" in chief.out
    assert {"metrics.jsonl", "config.json.partial", "finished.json.partial"} <= chief.written()
    for other in others:
        assert other.out == ""
        assert other.said() == []
        assert not other.written() & chief.written()
        assert not any(Path(path).parts[0] != "checkpoints" for path in other.written())
    for one in range(1, count):
        for two in range(one + 1, count):
            both = runs(count)[1][one].written() & runs(count)[1][two].written()
            assert not both


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_stopped(
    runs, config: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    """SIGTERM on one host: both save the same step and end with 130; no row is skipped or repeated."""
    workdir = tmp_path / "run"
    words = ["pretrain", "--config", config, "--workdir", workdir]
    stopping = compiled_environment | {"STOPS": "--hosts.index=1@10"}
    chief, other = Together(tmp_path, 2, workdir, words, **stopping).ended()
    assert (chief.code, other.code) == (130, 130), chief.err
    (step,) = [
        int(path.name) for path in (workdir / "checkpoints" / "pretrain").iterdir() if path.name.isdigit()
    ]
    assert 10 <= step < metrics(runs(1)[0], "pretrain")[-1]["step"]
    assert items(workdir / "checkpoints" / "pretrain" / str(step)) == {"params", "training", "about"}
    assert f"interrupted: pretrain stopped after step {step} of" in chief.err
    assert other.said() == []

    (ended,) = Together(tmp_path / "on", 1, workdir, words, **compiled_environment).ended()
    assert ended.code == 0, ended.err
    assert f"goes on after step {step}" in ended.out
    alone, resumed = metrics(runs(1)[0], "pretrain"), metrics(workdir, "pretrain")
    assert [line["step"] for line in resumed] == [line["step"] for line in alone]
    for one, two in zip(alone[:50], resumed[:50], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-3)
    first_read = min(note[2] for note in ended.notes if note[0] == "row")
    assert first_read == 8 * step
    theirs = parameters(runs(1)[0], "pretrain")
    for name, value in parameters(workdir, "pretrain").items():
        assert abs(value - theirs[name]).max() < 1e-2, name


@pytest.mark.slow
def test_a_signal_while_mining_ends_all_with_130_and_what_is_done_is_kept(
    runs, config: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    workdir = tmp_path / "run"
    words = ["run", "--config", config, "--workdir", workdir, "--checkpoint.shard_questions=8"]
    words += ["--pretrain.epochs=1"]
    together = Together(tmp_path, 2, workdir, words, **compiled_environment)
    parts = workdir / "mined" / "mine.parts" / "beams"
    together.wait_for(lambda: (parts / "000001.json").is_file())
    together.send(1, signal.SIGTERM)
    chief, other = together.ended()
    assert (chief.code, other.code) == (130, 130), chief.err
    assert "(process 1)" in chief.err
    assert "Go on with: python" in chief.err
    ended = Together(tmp_path / "on", 2, workdir, words, **compiled_environment).ended()
    assert [process.code for process in ended] == [0, 0], ended[0].err
    assert "pretrain: finished, skipped" in ended[0].out
    assert not parts.exists()


@pytest.mark.parametrize(
    ("index", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_dead_or_a_stalled_process_ends_the_run_and_is_named(
    index: int, number: signal.Signals, config: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    workdir = tmp_path / "run"
    words = ["pretrain", "--config", config, "--workdir", workdir, "--pretrain.epochs=200"]
    words += ["--hosts.dead_seconds=6"]
    together = Together(tmp_path, 2, workdir, words, **compiled_environment)
    together.wait_for(lambda: lines_of(workdir) >= 3)
    together.send(index, number)
    together.started[1 - index].wait(300)
    if number == signal.SIGSTOP:
        together.send(index, signal.SIGKILL)
    ended = together.ended()[1 - index]
    assert ended.code == 1
    line = ended.said()[-1]
    assert line.startswith("failed: host ")
    assert f"(process {index})" in line
    assert "Go on with: python" in line
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_process_that_does_not_come_to_an_update_ends_the_run_and_is_named(
    config: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    """The second process lives, and waits for its data for ever."""
    workdir = tmp_path / "run"
    words = ["pretrain", "--config", config, "--workdir", workdir, "--hosts.stall_seconds=10"]
    environment = compiled_environment | {"STALLS": "--hosts.index=1"}
    chief, other = Together(tmp_path, 2, workdir, words, **environment).ended()
    assert (chief.code, other.code) == (1, 1)
    line = chief.said()[-1]
    waited = r"failed: step \d+ of pretrain has waited 10 s \(hosts.stall_seconds\): "
    assert re.match(rf"{waited}host \S+ \(process 1\) is at: ", line)
    assert other.said() == []


def test_a_mistake_is_said_once(config: Path, tmp_path: Path, compiled_environment: dict[str, str]):
    words = ["pretrain", "--config", config, "--workdir", tmp_path / "run", "--pretrain.rows=7"]
    ended = Together(tmp_path, 2, tmp_path / "run", words, **compiled_environment).ended()
    assert [process.code for process in ended] == [2, 2]
    (line,) = ended[0].said()
    assert line.startswith("error: pretrain.rows is 7")
    assert "make it a multiple of 2" in line
    assert ended[1].said() == []


@pytest.mark.slow
def test_exports_of_two_processes_are_those_of_one(
    runs, tmp_path: Path, compiled_environment: dict[str, str]
):
    """And an import of two processes holds every bit of it."""
    workdir = runs(1, 4)[0]
    for count in (1, 2):
        target = tmp_path / f"hf{count}"
        words = ["export", "--model", workdir, "--to", target, "--mesh.tensor=-1", "--mesh.data=1"]
        ended = Together(tmp_path / f"of{count}", count, tmp_path, words, **compiled_environment).ended()
        assert [process.code for process in ended] == [0] * count, ended[0].err
    files = {path.name: path.read_bytes() for path in (tmp_path / "hf1").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "hf2").iterdir()}
    words = ["import", "--model", tmp_path / "hf1", "--workdir", tmp_path / "imported", "--mesh.fsdp=2"]
    ended = Together(tmp_path / "import", 2, tmp_path / "imported", words, **compiled_environment).ended()
    assert [process.code for process in ended] == [0, 0], ended[0].err
    loaded = [
        prl.load(path)[1]
        for path in (workdir / "checkpoints" / "train" / "pretrainrl", tmp_path / "imported")
    ]
    for one, other in zip(*map(jax.tree.leaves, loaded), strict=True):
        assert one.tobytes() == other.tobytes()


def test_two_processes_answer_as_one_does(runs, compiled_environment: dict[str, str], tmp_path: Path):
    question = read_trees(runs(1)[0] / "mined" / "trees.array_record")[0].id
    words = ["ask", f"Where is {question}?", "--model.path", runs(1)[0], "--quiet"]
    alone = command_line.call(*words)
    together = Together(tmp_path, 2, tmp_path, words, **compiled_environment).ended()
    assert [alone.code, *(process.code for process in together)] == [0, 0, 0], together[0].err
    assert together[0].out == alone.out
    assert together[1].out == ""
