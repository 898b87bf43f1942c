"""A training goes on with another number of devices than it was stopped with, from the very next row."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import elastic_commands
import jax
import numpy as np
import pytest
import tiny
from elastic_commands import Done, done

import pretrainrl_jax as prl

CONFIG = tiny.CONFIG.replace("kv_heads=1", "kv_heads=2")  # so that tensor divides them
STOP = 4  # updates
Meshed = tuple[int, tuple[int, int, int]]
EIGHT, TWO, ONE = (8, (2, 2, 2)), (2, (1, 2, 1)), (1, (1, 1, 1))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module", autouse=True)
def _sooner(compiled_fast):
    """Everything here."""


def command(config: Path, workdir: Path, mesh: Meshed, stop_after: int = 0) -> tuple[list[str], int]:
    """`pretrain` on a mesh, as `elastic_commands.done` takes it."""
    sizes = [f"--mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), mesh[1], strict=True)]
    return ["pretrain", "--config", str(config), "--workdir", str(workdir), *sizes], stop_after


def elsewhere(
    devices: int, folder: Path, environment: dict[str, str], commands: Sequence[tuple[list[str], int]]
) -> list[Done]:
    """What commands do in a process with so many devices."""
    script, file = elastic_commands.__file__, folder / f"of{devices}"
    ran = tiny.python(script, str(devices), file, text=json.dumps(commands), **environment)
    assert ran.code == 0, ran.err
    return [Done(tiny.Ran(*of[0]), *of[1:]) for of in pickle.loads(file.read_bytes())]


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A workdir that one device trained, and nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    found = done(*command(config, workdir, ONE))
    assert found.ran.code == 0, found.ran.err
    return workdir, found


@pytest.fixture(scope="module")
def trained(
    config: Path, tmp_path_factory: pytest.TempPathFactory, compiled_environment: dict[str, str]
) -> dict[str, tuple[Path, Done, Done]]:
    """Of each change of devices its workdir, and what was done before and after."""
    folder = tmp_path_factory.mktemp("elastic")
    by_one, by_eight = folder / "1 to 8", folder / "8"
    stopped_one = done(*command(config, by_one, ONE, STOP))
    commands = [command(config, by_one, EIGHT), command(config, by_eight, EIGHT, STOP)]
    to_eight, stopped_eight = elsewhere(8, folder, compiled_environment, commands)
    to_two, to_one = (Path(shutil.copytree(by_eight, folder / name)) for name in ("8 to 2", "8 to 1"))
    (ended_two,) = elsewhere(2, folder, compiled_environment, [command(config, to_two, TWO)])
    return {
        "1 to 8": (by_one, stopped_one, to_eight),
        "8 to 2": (to_two, stopped_eight, ended_two),
        "8 to 1": (to_one, stopped_eight, done(*command(config, to_one, ONE))),
    }


changes = pytest.mark.parametrize("change", ["1 to 8", "8 to 2", "8 to 1"])


@changes
def test_it_goes_on_with_the_next_row(
    change: str, trained: dict[str, tuple[Path, Done, Done]], whole: tuple[Path, Done]
) -> None:
    """Its updates are given what those of a training without an end are: nothing twice, nothing left out."""
    _, before, after = trained[change]
    first, last = map(int, change.split(" to "))
    assert f"backend cpu, {first} x " in before.ran.out
    assert f"backend cpu, {last} x " in after.ran.out
    assert (before.ran.code, after.ran.code) == (130, 0), after.ran.err
    assert f"goes on after update {STOP}" in after.ran.out
    assert len(before.rows) == STOP
    assert len(set(whole[1].rows)) == len(whole[1].rows) > 2 * STOP
    assert before.rows + after.rows == whole[1].rows


@changes
def test_it_comes_to_the_same_end(
    change: str, trained: dict[str, tuple[Path, Done, Done]], whole: tuple[Path, Done]
) -> None:
    workdir, _, after = trained[change]
    lines, expected = tiny.metrics(workdir, "pretrain"), tiny.metrics(whole[0], "pretrain")
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    losses, wanted = (np.array([line["loss"] for line in of]) for of in (lines, expected))
    assert wanted[-1] < wanted[0] - 1
    np.testing.assert_allclose(losses[:STOP], wanted[:STOP], rtol=1e-5)
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-3)
    assert after.params.keys() == whole[1].params.keys()
    for name, value in whole[1].params.items():
        np.testing.assert_allclose(after.params[name], value, rtol=0, atol=1e-3, err_msg=name)


@changes
def test_one_device_opens_what_any_saved(change: str, trained: dict[str, tuple[Path, Done, Done]]) -> None:
    """Bit for bit what lay on the devices."""
    workdir, _, after = trained[change]
    _, params, _ = prl.load(workdir)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    assert leaves.keys() == after.params.keys()
    for name, leaf in leaves.items():
        assert leaf.devices() == {jax.devices()[0]}
        assert np.asarray(leaf).tobytes() == after.params[name].tobytes(), name
