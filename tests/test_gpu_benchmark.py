import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"
NEEDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
# Python loads it at its start: modules of this list are as good as not installed, in every process.
WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    return gpu


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_requirements(names):
    """Distributions, and all that these need."""
    needed, waiting = set(), list(names)
    while waiting:
        name = plain(waiting.pop())
        if name not in needed:
            needed.add(name)
            needs = map(Requirement, distribution(name).requires or ())
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return needed


@pytest.mark.slow  # minutes: every part is a process that compiles
def test_it_runs_with_few_packages_and_writes_all_it_found(tmp_path, compiled_environment):
    allowed = with_requirements(NEEDED)
    of_names = packages_distributions().items()
    refused = {name for name, by in of_names if not allowed & set(map(plain, by))} - {"pretrainrl_jax"}
    assert {"grain", "tensorboardX", "torch", "datasets"} <= refused
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(names=refused))
    environ = os.environ | compiled_environment
    environ |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    tried = subprocess.run(
        [sys.executable, "-c", "import grain"], env=environ, capture_output=True, text=True
    )
    assert "No module named 'grain'" in tried.stderr

    options = ["--out", str(tmp_path / "out"), "--shape", "tiny", "--quick", "--minutes", "30"]
    command = [sys.executable, str(SCRIPT), *options]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = json.loads((tmp_path / "out" / "gpu.json").read_text())
    kinds = {k: [r for r in records if r["kind"] == k] for k in ("about", "check", "measure", "part")}
    assert kinds["about"][0]["versions"].keys() >= {"python", "jax", "flax"}
    assert [r["name"] for r in kinds["part"]] == [
        "checks",
        "training",
        "mining",
        "sampling",
        "pretraining",
        "head",
    ]
    assert not any("failed" in r for r in records)
    assert all(r["passed"] for r in kinds["check"])
    names = {r["name"].partition(",")[0] for r in kinds["check"]}
    assert names >= {"token_logps", "attention", "logits", "loss and gradient", "beam search"}
    # bfloat16 is another computation than what it is compared with: an error of 0 would be no comparison.
    assert all(r["error"] > 0 for r in kinds["check"] if r["precision"] == "bfloat16")

    trained = next(r for r in kinds["measure"] if r["name"] == "training, PretrainRL, xla")
    assert trained["rate"] == pytest.approx(trained["questions"] / trained["median"])
    assert trained["flops_per_second"] == pytest.approx(trained["flops"] / trained["median"])
    assert trained["loss"][1] < trained["loss"][0]
    mined = [r for r in kinds["measure"] if r["name"] == "mining, float32 parameters"]
    assert [r["best"] for r in mined].count(True) == 1
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "no measure of a GPU" in page
    for record in kinds["check"] + kinds["measure"]:
        assert any(record["name"] in line for line in page.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("computed", "passed"), [([1.0, 4.0004], True), ([1.0, 4.004], False), ([np.nan, 4.0], False)]
)
def test_an_error_is_relative_to_the_largest_entry_and_no_number_is_one(gpu, computed, passed):
    from gpu_checks import compare

    both = ({"a": np.ones(2), "b": np.array(b)} for b in (computed, [1.0, 4.0]))
    check = compare("x", "float32", *both, 5e-4)
    assert check["passed"] is passed
    assert check["note"] == "['b']"
    assert gpu.failed(check) is not passed


def test_beams_whose_scores_are_near_are_not_compared(gpu):
    from gpu_checks import apart, differing

    logps = np.array([[-1.0, -2.0, -2.00001, -4.0], [-1.0, -2.0, -3.0, -np.inf]])
    sure = apart(logps)
    assert sure.tolist() == [[True, False, False, True], [True, True, True, False]]
    different = np.zeros((2, 4), bool)
    different[0, 1] = True
    assert differing("beams", different, sure)["passed"]
    different[1, 2] = True
    assert differing("beams", different, sure)["error"] == pytest.approx(1 / 5)
    assert not differing("beams", different & False, sure & False)["passed"]  # nothing was compared


def test_out_of_memory_is_a_result_and_ends_the_ladder_and_another_error_is_a_failure(gpu, monkeypatch):
    import gpu_measures
    import jax
    from gpu_measures import attempt, ladder

    # A test's process has made more objects than a benchmark's: each collection would take two seconds.
    monkeypatch.setattr(gpu_measures, "gc", SimpleNamespace(collect=lambda: None))
    tried = []

    def measure(size):
        def run():
            tried.append(size)
            if size == 8:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            return {"rate": float(size)}

        return attempt("mining", f"{size}", jax.devices("cpu")[0], run)

    def all_of(sizes):
        best = yield from ladder(sizes, measure)
        tried.append(f"best {best}")

    records = list(all_of((2, 4, 8, 16)))
    assert tried == [2, 4, 8, "best 4"]
    assert records[-1]["failed"] == "out of memory"
    assert not any(map(gpu.failed, records))
    wrong = attempt("mining", "2", jax.devices("cpu")[0], lambda: {}["x"])
    assert wrong["failed"].startswith("KeyError")
    assert gpu.failed(wrong)


def test_a_part_that_dies_loses_nothing_that_was_recorded(gpu, tmp_path, monkeypatch):
    measured = {"kind": "measure", "name": "mining", "size": "2", "rate": 3.0, "unit": "questions/s"}

    def dies(command, timeout):
        Path(command[command.index("--records") + 1]).write_text(json.dumps(measured) + '\n{"kind": "mea')
        return subprocess.CompletedProcess(command, -11)

    monkeypatch.setattr(gpu.subprocess, "run", dies)
    assert gpu.main(["--out", str(tmp_path), "--parts", "mining", "sampling"]) == 1
    records = json.loads((tmp_path / "gpu.json").read_text())
    assert [r["part"] for r in records if r["kind"] == "measure"] == ["mining", "sampling"]
    assert all("code -11" in r["failed"] for r in records if r["kind"] == "part")
    assert "| mining | **2** |" in (tmp_path / "gpu.md").read_text()
