"""launch/tpu.py, with a stand-in for gcloud whose two workers are folders of this machine."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "tpu.py"
STAND_IN = Path(__file__).parent / "helpers" / "gcloud.py"
WHERE = ("--project=a project", "--zone=us z1", "--name=a-run")
SLICE = ("--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e")
DELETE = "python launch/tpu.py delete '--project=a project' '--zone=us z1' --name=a-run"

# What a worker has: a python3 with pip, which makes an environment whose Python writes down what it is given.
PYTHON3 = """#!{python}
import os, stat, sys
from pathlib import Path
words = sys.argv[1:]
with open(os.path.expanduser("~/python3"), "a") as file:
    file.write(repr(words) + "\\n")
if words[:3] == ["-m", "uv", "venv"]:
    path = Path(words[-1], "bin", "python")
    path.parent.mkdir(parents=True)
    path.write_text({venv!r})
    path.chmod(0o755)
"""
VENV = """#!{python}
import json, os, sys, time
words = sys.argv[1:]
if words[0] == "-m":
    print(json.dumps([words[2:], os.environ.get("A_TOKEN")]), flush=True)
    while os.path.exists("hold"):
        time.sleep(0.05)
    code = open("code").read() if os.path.exists("code") else "0"
    sys.exit(int(code) if os.environ["WORKER"] == "1" else 0)
"""


class Ran:
    """What one command did."""

    def __init__(self, done: subprocess.CompletedProcess[str], calls: list[list[str]]) -> None:
        self.code, self.out, self.err, self.calls = done.returncode, done.stdout, done.stderr, calls

    @property
    def verbs(self) -> list[str]:
        return [" ".join(words[2:4]) for words in self.calls]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    venv = VENV.format(python=sys.executable)
    scripts = {"gcloud": f"#!{sys.executable}\nexec(open({str(STAND_IN)!r}).read())\n"}
    scripts["python3"] = PYTHON3.format(python=sys.executable, venv=venv)
    for name, text in scripts.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Callable[..., Ran]:
    def run(verb: str, *words: str, **environment: str) -> Ran:
        (folder / "calls").write_text("")
        given = {"PATH": f"{folder}/bin:/usr/bin:/bin", "STAND_IN": str(folder), "HOME": str(folder)}
        # Tests that run in the background of a shell ignore Ctrl-C, and what they start would, too.
        script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        script += "sys.path.insert(0, sys.argv.pop(1)); import tpu; tpu.SECONDS = 0.05; sys.exit(tpu.main())"
        done = subprocess.run(
            [sys.executable, "-c", script, str(SCRIPT.parent), verb, *WHERE, *words],
            env=given | environment, capture_output=True, text=True, timeout=60, cwd=ROOT,
        )  # fmt: skip
        calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
        assert "a-secret" not in done.stdout + done.stderr + json.dumps(calls)
        return Ran(done, calls)

    return run


@pytest.fixture
def active(folder: Path) -> Path:
    (folder / "states").write_text("ACTIVE")
    return folder


@pytest.fixture
def installed(active: Path, run: Callable[..., Ran]) -> Path:
    assert run("install", "--package=pretrainrl_jax==1.2").code == 0
    return active


def ended(folder: Path, number: int = 1) -> None:
    path = folder / f"worker{number}" / "pretrainrl" / "exit"
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_slice_is_asked_for_and_waited_for(run: Callable[..., Ran]):
    made = run("create", *SLICE, "--spot", "--service-account=me@a-project")
    assert made.code == 0, made.err
    assert made.calls[-1] == [
        "compute", "tpus", "queued-resources", "create", "a-run", "--node-id=a-run", *SLICE, "--spot",
        "--service-account=me@a-project", "--project=a project", "--zone=us z1",
    ]  # fmt: skip
    assert made.err.splitlines()[-1].endswith(DELETE)
    again = run("create", *SLICE)
    assert (again.code, again.verbs) == (2, ["queued-resources list"])
    assert "a-run is there already" in again.err
    assert again.err.splitlines()[-1].endswith(DELETE)
    waited = run("wait")
    assert waited.code == 0
    assert waited.out.splitlines() == ["a-run: PROVISIONING", "a-run: ACTIVE"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
def test_what_will_never_be_there_is_not_waited_for(run: Callable[..., Ran], folder: Path, state: str):
    if state:
        (folder / "states").write_text(state)
    ran = run("wait")
    assert ran.code == 1
    assert (state or "no such resource") in ran.err
    assert ran.err.splitlines()[-1].endswith(DELETE)


def test_one_waits_no_longer_than_said(run: Callable[..., Ran], folder: Path):
    (folder / "states").write_text("WAITING_FOR_RESOURCES")
    ran = run("wait", "--hours=0.00001")
    assert (ran.code, "not there after 1e-05 hours" in ran.err) == (1, True)


def test_it_is_installed_from_an_index(run: Callable[..., Ran], installed: Path):
    for number in range(2):
        ran = (installed / f"worker{number}" / "python3").read_text()
        assert "'pretrainrl_jax[tpu,gcs,data]==1.2'" in ran
        assert "'-m', 'uv', 'venv', '-q', '--python', '3.12', 'venv'" in ran
    assert run("install", "--package=pretrainrl_jax>=1,<3").code == 0  # once more, into the same environment
    assert "'pretrainrl_jax[tpu,gcs,data]>=1,<3'" in (installed / "worker0" / "python3").read_text()
    assert (installed / "worker0" / "python3").read_text().count("'venv', '-q'") == 1


def test_it_is_installed_from_a_wheel(run: Callable[..., Ran], active: Path, tmp_path: Path):
    wheel = tmp_path / "of mine" / "pretrainrl_jax-1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"wheel")
    ran = run("install", f"--package={wheel}")
    assert ran.code == 0, ran.err
    for number in range(2):
        home = active / f"worker{number}"
        assert (home / "pretrainrl" / wheel.name).read_bytes() == b"wheel"
        assert f"'./{wheel.name}[tpu,gcs,data]'" in (home / "python3").read_text()
    missing = run("install", "--package=dist/none.whl")
    assert (missing.code, missing.calls) == (2, [])


def test_it_is_installed_from_a_checkout(run: Callable[..., Ran], active: Path):
    ran = run("install", "--package=.", PIP_NO_BUILD_ISOLATION="0")
    assert ran.code == 0, ran.err
    (wheel,) = (active / "worker1" / "pretrainrl").glob("*.whl")
    assert wheel.stat().st_size > 100_000


def test_the_same_command_runs_on_all_workers_as_it_is(
    run: Callable[..., Ran], installed: Path, tmp_path: Path
):
    words = ["--config", "my config.py", '--facts.path=it\'s "here" $HOME *', "--workdir=gs://b/r", ""]
    config = tmp_path / "my config.py"
    config.write_text("config = 1")
    ran = run("run", f"--send={config}", "--env=A_TOKEN", "--", *words, A_TOKEN="a-secret 'x' $Y")
    assert ran.code == 0, ran.err
    assert ran.err.splitlines()[-1].endswith(DELETE)
    for number in range(2):
        ended(installed, number)
        home = installed / f"worker{number}" / "pretrainrl"
        assert json.loads((home / "log").read_text()) == [words, "a-secret 'x' $Y"]
        assert (home / "my config.py").read_text() == "config = 1"
        assert (home / "environment").stat().st_mode & 0o777 == 0o600


def test_the_end_of_ssh_is_not_the_end_of_the_run(run: Callable[..., Ran], installed: Path):
    for number in range(2):
        (installed / f"worker{number}" / "pretrainrl" / "hold").touch()
    assert run("run", "--", "--workdir=gs://b/r").code == 0
    time.sleep(0.5)
    ran = run("status")
    assert (ran.code, ran.out.count("at work: [[")) == (0, 2), ran.out
    second = run("run", "--", "--workdir=gs://b/r")
    assert (second.code, second.err.count("a run is at work")) == (3, 2)
    for number in range(2):
        (installed / f"worker{number}" / "pretrainrl" / "hold").unlink()
        ended(installed, number)
    ran = run("status")
    assert (ran.code, ran.out.count("ended with 0")) == (0, 2)


def test_the_exit_code_of_a_worker_that_failed_is_seen(run: Callable[..., Ran], installed: Path):
    (installed / "worker1" / "pretrainrl" / "code").write_text("7")
    assert run("run", "--", "--workdir=gs://b/r").code == 0
    ended(installed)
    ran = run("status")
    assert ran.code == 7
    assert "ended with 7" in ran.out
    assert ran.err.splitlines()[-1].endswith(DELETE)
    assert run("logs", "--worker=0", "--follow").code == 0
    assert run("logs", "--worker=1", "--follow").code == 7
    assert run("logs", "--worker=1").code == 0


def test_a_worker_that_was_started_anew_is_told(run: Callable[..., Ran], installed: Path):
    home = installed / "worker1" / "pretrainrl"
    (home / "pid").write_text("4194399")  # none has that number
    ran = run("status")
    assert ran.code == 1
    assert "gone, without a word" in ran.out
    assert "nothing was run" in ran.out


def test_what_is_missing_is_refused_before_anything_is_done(run: Callable[..., Ran]):
    for words, told in (
        (["--env=NOT_SET", "--", "--workdir=gs://b/r"], "--env=NOT_SET: it is not set here"),
        (["--send=none.py", "--", "--workdir=gs://b/r"], "--send=none.py: no such file"),
        ([], "what is to be run stands behind --"),
    ):
        ran = run("run", *words)
        assert (ran.code, ran.calls) == (2, [])
        assert told in ran.err


def test_a_workdir_that_will_be_lost_is_warned_of(run: Callable[..., Ran], installed: Path):
    ran = run("run", "--", "--config", "a.py")
    assert "warning: without --workdir gs://" in ran.err
    assert "warning" not in run("run", "--", "--workdir", "gs://b/r").err


def test_a_preempted_slice_is_made_anew_and_goes_on(run: Callable[..., Ran], installed: Path):
    (installed / "states").write_text("SUSPENDED")
    words = [*SLICE, "--spot", "--package=pretrainrl_jax", "--", "--workdir=gs://b/r"]
    ran = run("resume", *words)
    assert ran.code == 0, ran.err
    made = ["queued-resources delete", "queued-resources list", "queued-resources create"]
    assert ran.verbs[1:4] == made
    assert ran.verbs[-2:] == ["tpu-vm ssh", "tpu-vm ssh"]  # installed, and run
    ended(installed)
    assert json.loads((installed / "worker1" / "pretrainrl" / "log").read_text())[0] == ["--workdir=gs://b/r"]


def test_resume_is_refused_before_a_slice_is_made(run: Callable[..., Ran]):
    for words in (["--package=./typo"], ["--package=.", "--env=NOT_SET"], ["--package=.", "--send=none.py"]):
        ran = run("resume", *SLICE, *words, "--", "--workdir=gs://b/r")
        assert (ran.code, ran.calls) == (2, [])


def test_resume_changes_nothing_under_a_run(run: Callable[..., Ran], installed: Path):
    for number in range(2):
        (installed / f"worker{number}" / "pretrainrl" / "hold").touch()
    assert run("run", "--", "--workdir=gs://b/r").code == 0
    before = (installed / "worker0" / "python3").read_text()
    ran = run("resume", *SLICE, "--package=pretrainrl_jax", "--", "--workdir=gs://b/r")
    assert (ran.code, ran.err.count("a run is at work")) == (3, 2)
    assert (installed / "worker0" / "python3").read_text() == before
    for number in range(2):
        (installed / f"worker{number}" / "pretrainrl" / "hold").unlink()
        ended(installed, number)


def test_what_an_earlier_run_was_given_is_not_the_next_ones(run: Callable[..., Ran], installed: Path):
    assert run("run", "--env=A_TOKEN", "--", "--workdir=gs://b/r", A_TOKEN="a-secret").code == 0
    ended(installed)
    assert run("run", "--", "--workdir=gs://b/r").code == 0
    ended(installed)
    lines = (installed / "worker1" / "pretrainrl" / "log").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == ["a-secret", None]


def test_one_look_that_fails_ends_no_waiting(run: Callable[..., Ran], folder: Path):
    (folder / "states").write_text("PROVISIONING ACTIVE")
    (folder / "fails").write_text("3")
    ran = run("wait")
    assert (ran.code, ran.err.count("quota")) == (0, 3)


def test_resume_where_the_slice_is_there_makes_no_other(run: Callable[..., Ran], installed: Path):
    ran = run("resume", *SLICE, "--package=pretrainrl_jax", "--", "--workdir=gs://b/r")
    assert ran.code == 0, ran.err
    assert set(ran.verbs) == {"queued-resources list", "tpu-vm ssh"}


def test_what_is_deleted_costs_nothing(run: Callable[..., Ran], installed: Path):
    ran = run("delete")
    assert (ran.code, ran.err) == (0, "")
    assert ran.calls[0][4:7] == ["a-run", "--force", "--quiet"]
    ran = run("status")
    assert (ran.code, ran.err) == (0, "")
    assert "nothing runs, and nothing costs" in ran.out
    assert run("delete").code == 1


ALL = {
    "create": SLICE, "wait": (), "install": ("--package=pretrainrl_jax",), "run": ("--", "--workdir=gs://b/r"),
    "logs": (), "status": (), "delete": (), "resume": (*SLICE, "--package=.", "--", "--workdir=gs://b/r"),
}  # fmt: skip


@pytest.mark.parametrize("verb", ALL)
def test_dry_run_prints_what_would_be_run_and_runs_nothing(run: Callable[..., Ran], verb: str):
    ran = run(verb, "--dry-run", *ALL[verb])
    assert (ran.code, ran.calls, ran.err) == (0, [], "")
    assert ran.out.startswith(("gcloud compute tpus ", "#"))
    assert "--project=a project" in ran.out


@pytest.mark.parametrize(
    ("verb", "at"),
    [
        ("create", "queued-resources-list"),
        ("create", "queued-resources-create"),
        ("wait", "queued-resources-list"),
        ("install", "tpu-vm-ssh"),
        ("run", "tpu-vm-ssh"),
        ("logs", "tpu-vm-ssh"),
        ("status", "tpu-vm-ssh"),
        ("resume", "tpu-vm-scp"),
        ("delete", "queued-resources-delete"),
    ],
)
@pytest.mark.parametrize("how", ["interrupt", "fail"])
def test_whatever_stops_the_last_line_says_how_to_delete_it(
    run: Callable[..., Ran], folder: Path, verb: str, at: str, how: str
):
    if verb != "create":
        (folder / "states").write_text("ACTIVE")
    (folder / how).write_text(at)
    ran = run(verb, *ALL[verb])
    assert ran.code == {"interrupt": 130, "fail": 1}[how], ran.err
    assert ran.err.splitlines()[-1] == f"a-run may be running and costing money; delete it with: {DELETE}"
    assert "Traceback" not in ran.err


def test_without_gcloud_it_is_said_where_to_get_it(run: Callable[..., Ran], folder: Path):
    (folder / "bin" / "gcloud").unlink()
    ran = run("create", *SLICE, PATH=str(folder / "bin"))
    assert (ran.code, "gcloud is not installed" in ran.err) == (2, True)


def test_nobodys_account_is_a_default():
    done = subprocess.run([sys.executable, str(SCRIPT), "create", *SLICE], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--project, --zone, --name" in done.stderr


@pytest.mark.skipif(not os.path.exists("/usr/bin/gcloud"), reason="gcloud is not installed")
def test_the_stand_in_knows_what_gcloud_knows(monkeypatch: pytest.MonkeyPatch):
    """Against `--help` of the gcloud of this machine: a flag that it does not have is none of ours."""
    monkeypatch.setenv("STAND_IN", "")
    text = STAND_IN.read_text().replace("sys.exit(main())", "")
    spec = importlib.util.spec_from_loader("stand_in", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    exec(text, module.__dict__)
    used = {
        ("queued-resources", "create"),
        ("queued-resources", "delete"),
        ("tpu-vm", "ssh"),
        ("tpu-vm", "scp"),
    }
    for verb in used:
        told = subprocess.run(
            ["/usr/bin/gcloud", "compute", "tpus", *verb, "--help"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if told.returncode:
            pytest.skip(told.stderr.splitlines()[-1])
        assert not [flag for flag in module.KNOWN[verb] if flag not in told.stdout], verb
