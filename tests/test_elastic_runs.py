"""A run goes on with other devices and another mesh; what eight devices saved opens on one."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import command_line
from helpers.command_line import metrics, parameters
from helpers.process_runs import Ended, Together

import pretrainrl_jax as prl
from pretrainrl_jax.training.checkpoints import steps_of

# Shapes that divide over eight devices, and enough steps.
CONFIG = command_line.CONFIG.replace(
    "heads=2, kv_heads=1, head_dim=16", "heads=4, kv_heads=2, head_dim=8"
).replace("epochs=2", "epochs=8")
ROWS = 8
# Devices, and data, fsdp and tensor, one after another. Each but the last is stopped after eight steps.
CHAIN = ((1, (1, 1, 1)), (8, (2, 2, 2)), (4, (2, 1, 2)), (2, (1, 2, 1)), (1, (1, 1, 1)))


def mesh(sizes: tuple[int, int, int]) -> list[str]:
    return [f"--mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True)]


def begun(folder: Path, devices: int, workdir: Path, words: list, environment: dict[str, str]) -> Together:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return Together(folder, 1, workdir, words, **environment, **flags)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return ["pretrain", "--config", path]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory: pytest.TempPathFactory, compiled_environment: dict[str, str]) -> Path:
    """The workdir of a run on one device that nothing stopped."""
    folder = tmp_path_factory.mktemp("alone")
    one = [*words, "--workdir", folder / "run"]
    (ended,) = begun(folder, 1, folder / "run", one, compiled_environment).ended()
    assert ended.code == 0, ended.err
    return folder / "run"


@pytest.fixture(scope="module")
def chain(
    words, tmp_path_factory: pytest.TempPathFactory, compiled_environment: dict[str, str]
) -> tuple[Path, list[tuple[int, Ended]], dict[str, np.ndarray]]:
    """A workdir that went through all meshes, each run with the step it began after, and what 8 saved."""
    folder = tmp_path_factory.mktemp("chain")
    workdir = folder / "run"
    saved = workdir / "checkpoints" / "pretrain"
    runs, of_eight = [], {}
    for number, (devices, sizes) in enumerate(CHAIN):
        last = number == len(CHAIN) - 1
        start = max(steps_of(saved), default=0)
        all_words = [*words, "--workdir", workdir, *mesh(sizes)]
        stopping = compiled_environment | ({} if last else {"STOPS": f"pretrain@{start + 8}"})
        (ended,) = begun(folder / str(number), devices, workdir, all_words, stopping).ended()
        assert ended.code == (0 if last else 130), ended.err
        runs.append((start, ended))
        if devices == 8:
            # Orbax by itself would want the eight devices.
            of_eight = {"step": max(steps_of(saved)), "params": jax.device_get(prl.load(workdir)[1])}
    return workdir, runs, of_eight


@pytest.mark.slow
def test_no_row_is_skipped_or_repeated(chain, alone: Path):
    _, runs, _ = chain
    starts = [start for start, _ in runs] + [metrics(alone, "pretrain")[-1]["step"]]
    assert all(after - before >= 8 for before, after in itertools.pairwise(starts))
    for (start, ended), stop in zip(runs, starts[1:], strict=True):
        rows = [note[2] for note in ended.notes if note[0] == "row"]
        assert len(rows) == len(set(rows))  # rows are read ahead: some after `stop`, too
        assert {*range(start * ROWS, stop * ROWS)} <= set(rows)
        assert min(rows) == start * ROWS
        assert start == 0 or f"goes on after step {start}" in ended.out


@pytest.mark.slow
def test_losses_are_those_of_the_run_that_nothing_stopped(chain, alone: Path):
    lines, wanted = metrics(chain[0], "pretrain"), metrics(alone, "pretrain")
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    assert len(wanted) > 50
    assert lines[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=1e-5)
    for one, other in zip(lines[:50], wanted[:50], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)
    theirs = parameters(alone, "pretrain")
    assert all(abs(x - theirs[name]).max() < 1e-2 for name, x in parameters(chain[0], "pretrain").items())


@pytest.mark.slow
def test_what_eight_devices_saved_opens_on_one(chain):
    """Bit for bit: else it would be refused, since its checksums were taken on eight devices."""
    workdir, runs, of_eight = chain
    assert of_eight["step"] == runs[2][0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(of_eight["params"]))
    model, params, tokenizer = prl.load(workdir)
    assert all(len(x.devices()) == 1 for x in jax.tree.leaves(params))
    ((answer,),) = prl.beam_search(model, params, tokenizer, ["What is"], beams=1, max_new_tokens=3)
    assert answer.tokens


@pytest.mark.slow
def test_ask_export_and_import_on_eight_devices_are_those_on_one(
    alone: Path, tmp_path: Path, compiled_environment: dict[str, str]
):
    said = {}
    for devices, sizes in ((1, (1, 1, 1)), (8, (2, 2, 2))):
        into = tmp_path / str(devices)
        every = {
            "ask": ["ask", "What is the capital?", "--model.path", alone, "--quiet"],
            "export": ["export", "--model", alone, "--to", into / "hf"],
            "import": ["import", "--model", into / "hf", "--workdir", into / "imported"],
        }
        for verb, one in every.items():
            (ended,) = begun(into / verb, devices, into, [*one, *mesh(sizes)], compiled_environment).ended()
            assert ended.code == 0, ended.err
            said[devices, verb] = ended.out
    assert said[1, "ask"] == said[8, "ask"]
    assert said[1, "ask"].count("%") > 3
    one, eight = tmp_path / "1", tmp_path / "8"
    files = {path.name: path.read_bytes() for path in (one / "hf").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (eight / "hf").iterdir()}
    assert json.loads(files["config.json"])["num_attention_heads"] == 4
    for a, b in zip(*(jax.tree.leaves(prl.load(into / "imported")[1]) for into in (one, eight)), strict=True):
        assert a.tobytes() == b.tobytes()
