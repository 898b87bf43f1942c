"""The package as it is installed: a wheel, in a folder of its own, run from an empty one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = (".txt", ".j2", ".css", ".html", ".csv", ".json", ".typed")


def run(*command: str | Path, at: Path, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ran = subprocess.run(command, cwd=at, capture_output=True, text=True, env=inherited | environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, at=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder, wheel)
    run(sys.executable, *pip, at=folder)
    return folder


def test_everything_that_the_package_reads_is_in_it(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "pretrainrl_jax"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.suffix in (".py", *TEXTS) and "__pycache__" not in path.parts
    }
    wanted |= {f"pretrainrl_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert "pretrainrl_jax/py.typed" in wanted
    assert any(name.endswith(".txt") for name in wanted)
    assert wanted <= held
    assert not {name for name in held if name.startswith(("tests/", "docs/"))}


@pytest.mark.parametrize("command", ["module", "script"])
def test_it_runs_from_an_empty_folder(command: str, installed: Path, tmp_path: Path):
    begin = {
        "module": [sys.executable, "-m", "pretrainrl_jax.main"],
        "script": [installed / "bin" / "pretrainrl"],
    }
    path = {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    assert "--workdir" in run(*begin[command], "--help", at=tmp_path, **path)
    # The default configuration is the package's own: there is no other here.
    told = run(*begin[command], "facts", "--world.facts=40", "--world.relations=2", at=tmp_path, **path)
    assert "40" in told
    where = "import pretrainrl_jax; print(pretrainrl_jax.__file__)"
    assert Path(run(sys.executable, "-c", where, at=tmp_path, **path).strip()).is_relative_to(installed)


def test_the_command_quiets_xla_as_the_module_does(installed: Path, tmp_path: Path):
    program = (
        "import importlib.metadata as m, os; "
        "(script,) = [e for e in m.entry_points(group='console_scripts') if e.name == 'pretrainrl']; "
        "print(script.load()(['trian']), os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    told = run(sys.executable, "-c", program, at=tmp_path, PYTHONPATH=str(installed))
    assert told.split() == ["2", "2"]
