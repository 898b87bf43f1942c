"""What a compiler leaves in a folder, and one that fails."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pretrainrl_jax.planning import compiled
from pretrainrl_jax.planning.compiled import BUFFERS, LAST, OPTIMISED, Compiled, OutOfMemory, read_dump

ALLOCATIONS = """\
BufferAssignment OUTPUT:
allocation 0: size 4, color 8, page 0, thread-local:
 value: <1 a @0> (size=4,offset=0): s32[]
allocation 5: size 1000, page 0, parameter 30, shape |f32[250]| at ShapeIndex {}, maybe-live-out:
allocation 6: size 200, page 0, parameter 2, shape |f32[50]| at ShapeIndex {}:
allocation 7: size 40, page 0, maybe-live-out:
allocation 8: size 512, page 0, constant:
allocation 9: size 3000, page 0, preallocated-temp:
allocation 10: size 9999, color 1, page 0, preallocated-temp:
allocation 11: size 77, page 0, thread-local:
"""


def test_memory_is_that_of_main_memory_alone(tmp_path: Path) -> None:
    """A donated argument is counted once; what a fusion holds within itself, and fast memory, not at all."""
    name = "module_0000.jit_step.cl_1"
    (tmp_path / f"{name}{BUFFERS}").write_text(ALLOCATIONS)
    (tmp_path / f"{name}{OPTIMISED}").write_text("HloModule jit_step")
    (tmp_path / f"module_0001.extracted{BUFFERS}").write_text(
        "allocation 0: size 5, page 0, parameter 0:" * 99
    )
    read = read_dump(tmp_path, 2.0)
    assert read == Compiled("HloModule jit_step", 1200, 40, 3000, 2.0)
    assert read.peak == 4240


def test_a_failure_says_how_much_memory_it_would_take() -> None:
    told = (
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory. Used 35.25G of 31.25G hbm. Exceeded by 4G."
    )
    failure = compiled._failure(told)
    assert isinstance(failure, OutOfMemory)
    assert failure.used == 35.25 * 2**30
    told = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (16.69G) exceeds available HBM"
    failure = compiled._failure(told)
    assert isinstance(failure, OutOfMemory)
    assert failure.used == 16.69 * 2**30
    assert str(compiled._failure("a\nb\n\n")) == "the compiler ended: b"


def test_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = Compiled("text", 1, 2, 3, 4.0)
    assert compiled.kept("key") is None
    compiled.keep("key", made)
    assert compiled.kept("key") == made
    compiled.keep("large", OutOfMemory(5.0))
    kept = compiled.kept("large")
    assert isinstance(kept, OutOfMemory)
    assert kept.used == 5.0


def test_a_cache_that_cannot_be_written_ends_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compiled.keep("key", Compiled("text", 1, 2, 3, 4.0))
    assert compiled.kept("key") is None


TWO_LAYERS = """\
from pretrainrl_jax.config import Config, FactsConfig, MeshConfig, ModelConfig, PretrainConfig, TrainConfig

config = Config(
    name="two layers",
    facts=FactsConfig(path="popQA.tsv"),
    mesh=MeshConfig(data=1, fsdp=-1),
    model=ModelConfig(
        family="qwen3", d_model=256, layers=2, heads=2, kv_heads=1, head_dim=128, d_ff=512,
        dtype="bfloat16",
    ),
    pretrain=PretrainConfig(text="documents", steps=200, rows=8, row_length=512),
    train=TrainConfig(systems=(), row_length=128),
)
"""


@pytest.mark.skipif(find_spec("libtpu") is None, reason="the extra `plan` is not installed")
def test_a_program_of_two_layers_is_planned_for_a_tpu_slice(tmp_path: Path) -> None:
    """Ahead of time, on a machine without one: memory, FLOPs and collectives of the program itself."""
    (tmp_path / "two.py").write_text(TWO_LAYERS)
    command = [sys.executable, "-m", "pretrainrl_jax.main", "plan", "--config", str(tmp_path / "two.py")]
    command += ["--topology", "v5e:2x2", "--json", "--quiet"]
    # Few programs, as each takes a process.
    command += ["--evaluate.beams=1", "--evaluate.samples=0", "--mine.sources=popularity"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    step = next(program for program in told["programs"] if program["name"] == "pretraining step")
    layers, vocabulary = 2 * 256 * (2 * 3 * 128 + 3 * 512), 2048 * 256
    attention = 3 * 2 * 4 * 512 * 256  # every place of the row, forward and backward
    each = 3 * 2 * layers + 4 * 2 * vocabulary + attention  # the head's logits are computed twice
    assert step["flops"] == pytest.approx(each * 8 * 512 / 4, rel=0.02)
    assert step["counted"] < 4 * step["flops"] * 1.01
    memory = step["memory"]
    cut, whole = layers + vocabulary + 2 * 2 * 256 + 256, 2 * 2 * 128  # a head's norms are on every chip
    assert memory["parameters"] == 4 * (cut / 4 + whole)
    assert memory["optimizer"] == 2 * memory["parameters"]
    assert memory["parameters"] + memory["optimizer"] < memory["peak"] < memory["hbm"]
    gathered = [sent for sent in step["collectives"] if sent["kind"] in ("all-gather", "all-reduce")]
    assert gathered
    assert {sent["group"] for sent in gathered} == {4}
    assert step["unknown_loops"] == []
    seconds = step["seconds"]
    assert 0 < seconds["shortest"] <= seconds["middle"] <= seconds["longest"]
    assert told["fits"] is True
    assert step["updates"] == 200
    assert list((tmp_path / "pretrainrl_jax" / "plan").glob("*.json"))
    assert LAST.endswith(".txt")
