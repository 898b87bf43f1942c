"""Checkpoints: every bit comes back, on whatever devices, and what is not there is said in one line."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import fill, items
from helpers.forked import python
from helpers.models_and_trees import small_model, small_tokenizer
from safetensors.numpy import save_file

from pretrainrl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.training.checkpoints import (
    Progress,
    describe,
    latest_step,
    restore_state,
    saving,
    steps_of,
    strip,
)
from pretrainrl_jax.training.loading import find, load, tokenizer_of
from pretrainrl_jax.training.optimizer import adamw
from pretrainrl_jax.training.step import TrainState, init_state
from pretrainrl_jax.trees.templates import Template

FEW_SHOT = Template("few_shot", (("What is the capital of Arno?", "Florence"), ("Who is Ü?", "“Ü”")))


def state_at(step: int, seed: int = 0) -> TrainState:
    """A state with values everywhere, also where a fresh one has zeros."""
    _, params = small_model(seed)
    state = init_state(params, adamw(OptimizerConfig()))
    rng = np.random.default_rng(seed + step)

    def filled(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.full_like(x, step)
        return jnp.asarray(rng.standard_normal(x.shape) * 10.0 ** rng.integers(-30, 30, x.shape), x.dtype)

    return TrainState(jnp.int32(step), *jax.tree.map(filled, (state.params, state.opt_state)))


def bits(tree) -> dict[str, tuple[str, bytes]]:
    return {
        jax.tree_util.keystr(path): (str(x.dtype), np.asarray(x).tobytes())
        for path, x in jax.tree.leaves_with_path(tree)
    }


def save(
    folder: Path,
    *states: TrainState,
    finished: bool = False,
    keep: int = 2,
    keep_best: int = 0,
    about: dict | None = None,
    **progress,
) -> None:
    """Write checkpoints one after another, and wait for them."""
    with saving(folder, CheckpointConfig(keep=keep, keep_best=keep_best), about) as saver:
        for state in states:
            (saver.finish if finished else saver.save)(state, Progress(**progress))


def restored(folder: Path, **options) -> tuple[TrainState, Progress]:
    restored_state = restore_state(folder, init_state(small_model(1)[1], adamw(OptimizerConfig())), **options)
    assert restored_state is not None
    return restored_state


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage's folder with the model described and no step saved."""
    folder = tmp_path / "run" / "checkpoints" / "pretrain"
    describe(folder, small_model()[0], small_tokenizer(tmp_path / "tokenizer"), FEW_SHOT)
    return folder


# The state of training.


def test_a_state_comes_back_bit_for_bit(stage: Path) -> None:
    state = state_at(3)
    before = bits(state)
    stream = {"sources": [{"at": 7}], "dropped": {"blank": 2}}
    save(stage, state, row=24, seconds=12.5, skipped=2, loss=0.75, stream=stream)
    opened, progress = restored(stage)
    assert progress == Progress(row=24, seconds=12.5, skipped=2, loss=0.75, stream=stream)
    assert int(opened.step) == 3
    assert bits(opened) == before
    assert jax.tree.structure(opened) == jax.tree.structure(state)
    assert len(before) > 20


def test_what_is_written_beside_training_is_the_state_at_the_time_of_saving(stage: Path) -> None:
    """Training gives its buffers away and overwrites them while the checkpoint is being written."""
    change = jax.jit(
        lambda state: jax.tree.map(lambda x: x * 2 + 1, state._replace(step=state.step + 1)), donate_argnums=0
    )
    state = jax.tree.map(jnp.copy, state_at(1))
    of_each = {}
    with saving(stage, CheckpointConfig(keep=9, keep_best=0)) as saver:
        for _ in range(3):
            step = int(state.step)
            of_each[step] = bits(jax.tree.map(jnp.copy, state.params))  # a view would keep the buffers
            saver.save(state, Progress(row=step))
            for _ in range(3):
                before, state = state, change(state)
            assert all(x.is_deleted() for x in jax.tree.leaves(before))
    assert steps_of(stage) == sorted(of_each, reverse=True)
    for step, expected in of_each.items():
        assert bits(load(stage / str(step)).params) == expected


def test_the_last_ones_and_the_best_are_kept(stage: Path) -> None:
    """The best of an earlier process too, and with their optimizer states."""
    for step, loss in enumerate([5.0, 1.0, 4.0, 3.0, 2.0, 6.0], start=1):
        save(stage, state_at(step), keep=2, keep_best=1, loss=loss)
    assert steps_of(stage) == [6, 5, 2]
    with saving(stage, CheckpointConfig(keep=1, keep_best=2)) as saver:
        for step in (7, 8, 9):
            saver.save(state_at(step), Progress(loss=7.0))
    assert steps_of(stage) == [9, 5, 2]
    assert all(items(stage / str(step)) == {"params", "training", "about"} for step in steps_of(stage))
    save(stage, state_at(10), keep=1, keep_best=0)
    assert steps_of(stage) == [10]


def test_a_step_that_is_saved_already_is_not_written_again(stage: Path) -> None:
    """Or a process that is killed meanwhile would have lost it."""
    save(stage, state_at(5))
    written = {p: p.stat().st_mtime_ns for p in (stage / "5").rglob("*")}
    save(stage, state_at(5), seconds=3.0)
    save(stage, state_at(5), finished=True)
    assert {p: p.stat().st_mtime_ns for p in (stage / "5").rglob("*")} == written


def test_a_step_that_is_still_being_written_may_be_saved_with_its_score(stage: Path) -> None:
    """As where falsehoods are mined again after a step that was looked at: what is written last stays."""
    with saving(stage, CheckpointConfig(keep=2), best="score") as saver:
        for step in range(1, 6):
            for score in (0.5, 0.25):
                saver.save(state_at(step), Progress(score=score * step))
    assert steps_of(stage) == [5, 4, 1]
    state, progress = restore_state(stage, state_at(1)) or (None, None)
    assert progress is not None
    assert progress.score == 1.25
    assert bits(state) == bits(state_at(5))


def test_a_finished_stage_is_known_as_such(stage: Path) -> None:
    save(stage, state_at(2))
    save(stage, state_at(4), finished=True, row=8, seconds=3.0)
    assert items(stage / "4") == {"params", "about"}
    assert items(stage / "2") == {"params", "training", "about"}  # until the stage is marked as finished
    opened, progress = restored(stage)
    assert (int(opened.step), progress) == (4, Progress(row=8, seconds=3.0))
    assert bits(opened.params) == bits(state_at(4).params)
    strip(stage)
    assert items(stage / "2") == {"params", "about"}
    assert [bits(load(stage / step).params) for step in ("2", "4")] == [
        bits(state_at(2).params),
        bits(state_at(4).params),
    ]


def test_what_a_longer_run_left_gives_way(stage: Path) -> None:
    save(stage, state_at(9), finished=True)
    save(stage, state_at(4))
    assert steps_of(stage) == [4]
    assert bits(restored(stage)[0]) == bits(state_at(4))


def test_a_stage_never_saved_has_nothing_to_go_on_from(stage: Path, tmp_path: Path) -> None:
    assert latest_step(tmp_path / "none") is None
    assert restore_state(tmp_path / "none", state_at(0)) is None
    assert restore_state(stage, state_at(0)) is None
    assert not (tmp_path / "none").exists()


def test_a_save_that_was_cut_short_is_not_there(stage: Path) -> None:
    save(stage, state_at(2))
    shutil.copytree(stage / "2", stage / "5.orbax-checkpoint-tmp")
    assert latest_step(stage) == 2
    assert find(stage) == (stage, 2)
    said: list[str] = []
    assert int(restored(stage, say=said.append)[0].step) == 2
    assert said == ["the checkpoint of step 5 was not written to its end, and is passed over"]
    save(stage, state_at(3))
    assert not list(stage.glob("*tmp*"))


# Damage.

DAMAGES = {
    "params, one bit": ("params", "largest", "flip"),
    "params, cut": ("params", "largest", "cut"),
    "params, empty": ("params", "", "remove"),
    "training, cut": ("training", "largest", "cut"),
    "training, empty": ("training", "", "remove"),
    "training, no folder": ("training", "", "folder"),
    "about, cut": ("about", "metadata", "cut"),
    "about, no folder": ("about", "", "folder"),
    "everything": (".", "", "remove"),
}


def damage(step: Path, item: str, which: str, how: str) -> None:
    """Spoil files of one item of a checkpoint."""
    if how == "folder":
        shutil.rmtree(step / item)
        return
    files = sorted((p for p in (step / item).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    for path in files[-1:] if which == "largest" else [p for p in files if which in p.name]:
        content = path.read_bytes()
        if how == "flip":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
        elif how == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()


@pytest.mark.parametrize("name", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(name: str, stage: Path) -> None:
    save(stage, state_at(2), state_at(4), row=7)
    damage(stage / "4", *DAMAGES[name])
    said: list[str] = []
    opened, progress = restored(stage, say=said.append)
    assert bits(opened) == bits(state_at(2))
    assert progress == Progress(row=7)
    (line,) = said
    assert line.startswith("the checkpoint of step 4 is damaged, and is passed over (")
    assert "\n" not in line
    save(stage, state_at(4), row=9)  # it can be made again …
    opened, progress = restored(stage)
    assert (bits(opened), progress) == (bits(state_at(4)), Progress(row=9))
    strip(stage)
    assert not list(stage.glob("*.damaged"))  # … and is kept aside until the stage is finished


def test_where_every_checkpoint_is_damaged_training_begins_anew(stage: Path) -> None:
    save(stage, state_at(2), state_at(4))
    for step in ("2", "4"):
        damage(stage / step, *DAMAGES["params, cut"])
    said: list[str] = []
    assert restore_state(stage, state_at(0), say=said.append) is None
    assert len(said) == 2


@pytest.mark.parametrize("name", ["params, one bit", "params, cut", "about, cut"])
def test_a_damaged_model_is_not_loaded(name: str, stage: Path) -> None:
    save(stage, state_at(2), state_at(4), finished=True)
    damage(stage / "4", *DAMAGES[name])
    with pytest.raises(InputError, match=r"4 is damaged \(.*there are others of steps 2; remove .*pretrain"):
        load(stage)
    assert bits(load(stage / "2").params) == bits(state_at(2).params)


def test_a_model_without_what_is_said_of_it_is_loaded_unchecked(stage: Path) -> None:
    """As older versions left it."""
    save(stage, state_at(2), finished=True)
    shutil.rmtree(stage / "2" / "about")
    assert bits(load(stage).params) == bits(state_at(2).params)


# Of another run.


def test_a_checkpoint_of_other_settings_or_data_is_refused(stage: Path) -> None:
    about = {"pretrain.rows": 8, "seed": 0, "data": "ab12"}
    save(stage, state_at(2), about=about)
    assert int(restored(stage, about=about)[0].step) == 2
    with pytest.raises(
        InputError, match=r"/2 is of another run: seed was 0, now 5; data was 'ab12', now 'cd'"
    ):
        restored(stage, about=about | {"seed": 5, "data": "cd"})
    assert steps_of(stage) == [2]  # nothing is taken for damage, and nothing is lost


def test_a_checkpoint_of_other_shapes_is_of_another_run_not_damaged(stage: Path) -> None:
    save(stage, state_at(2), about={"model.d_model": 16})
    wider = init_state(small_model(d_model=32)[1], adamw(OptimizerConfig()))
    with pytest.raises(InputError, match=r"model\.d_model was 16, now 32"):
        restore_state(stage, wider, {"model.d_model": 32})


def test_a_checkpoint_says_what_it_is_of(stage: Path) -> None:
    """All it takes to use it lies in its folder."""
    save(stage, state_at(2), about={"seed": 3, "data": "ab12"}, row=16)
    about = json.loads((stage / "2" / "about" / "metadata").read_text())
    assert (about["step"], about["progress"]["row"], about["seed"], about["data"]) == (2, 16, 3, "ab12")
    assert len(about["checksums"]) == len(jax.tree.leaves(small_model()[1]))
    description = json.loads((stage / "model.json").read_text())
    assert description["template"]["kind"] == "few_shot"
    assert json.loads((stage / "tokenizer" / "special_ids.json").read_text())["eos"]


# The disk.


def test_a_disk_that_is_full_is_an_error_of_the_system(small_disk: Path, tmp_path: Path) -> None:
    stage = small_disk / "pretrain"
    save(stage, state_at(1))
    room = small_disk / "room"
    fill(room, leave=8192)
    with pytest.raises(OSError, match="No space left on device") as raised:
        save(stage, state_at(2))
    assert raised.value.errno == errno.ENOSPC
    room.unlink()
    assert bits(restored(stage)[0]) == bits(state_at(1))
    save(stage, state_at(2))
    assert bits(restored(stage)[0]) == bits(state_at(2))
    assert not list(stage.glob("*tmp*"))


# The model.


def test_a_model_is_loaded_with_all_that_belongs_to_it(stage: Path) -> None:
    model, params = small_model()
    save(stage, init_state(params, adamw(OptimizerConfig())), finished=True)
    for path in (stage, stage / "0", stage.parent.parent, str(stage)):
        loaded = load(path)
        assert loaded.model == model
        assert bits(loaded.params) == bits(params)
        assert loaded.template == FEW_SHOT
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("Arno Ü")) == "Arno Ü"
        assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(loaded.params))


def test_the_tokenizer_alone_is_that_of_the_model(stage: Path, tmp_path: Path) -> None:
    """Of a stage, of a Hugging Face folder, and of adapters to one."""
    save(stage, state_at(1), finished=True)
    folder, adapter = tmp_path / "tokenizer", tmp_path / "adapter"
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    adapter.mkdir()
    save_file(
        {"a.b.q_proj.lora_A.weight": np.zeros((2, 16), np.float32)}, adapter / "adapter_model.safetensors"
    )
    described = {"r": 2, "lora_alpha": 4, "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    tokenizer = load(stage).tokenizer
    for path in (stage.parent.parent, stage / "1", folder, adapter):
        own = tokenizer_of(path)
        assert own.encode("What is Ü?\n") == tokenizer.encode("What is Ü?\n")
        assert (own.bos, own.eos) == (tokenizer.bos, tokenizer.eos)


def test_parameters_alone_are_read(stage: Path) -> None:
    save(stage, state_at(2))
    for file in (stage / "2" / "training").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert bits(load(stage).params) == bits(state_at(2).params)


def test_the_compute_dtype_may_be_another(stage: Path) -> None:
    model, params = small_model()
    save(stage, init_state(params, adamw(OptimizerConfig())), finished=True)
    tokens = np.arange(1, 9)[None]
    exact = model.logits(params, tokens)
    loaded = load(stage, dtype="bfloat16")
    assert loaded.model.shape.dtype == "bfloat16"
    assert load(stage).model.shape.dtype == "float32"
    assert bits(loaded.params) == bits(params)  # masters stay float32
    coarse = loaded.model.logits(loaded.params, tokens)
    assert coarse.dtype == jnp.float32
    error = np.abs(np.asarray(coarse - exact)).max()
    assert 1e-4 < error < 0.2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "no checkpoint or Hugging Face model at .*none"),
        ("run", "no checkpoint in .*run: run `pretrain` first"),
        ("run/checkpoints/pretrain", "no checkpoint or Hugging Face model at .*pretrain"),
        ("run/checkpoints/pretrain/7", "no checkpoint or Hugging Face model at .*7"),
        ("run/checkpoints/pretrain/model.json", "no checkpoint or Hugging Face model at .*model.json"),
    ],
)
def test_a_missing_checkpoint_is_named(path: str, said: str, stage: Path, tmp_path: Path) -> None:
    assert stage.is_dir()
    with pytest.raises(InputError, match=said):
        load(tmp_path / path)


@pytest.mark.parametrize("damage", [lambda text: text[:40], lambda _: "[]", lambda _: "{}"])
def test_a_damaged_description_is_named(damage: Callable[[str], str], stage: Path) -> None:
    save(stage, state_at(2), finished=True)
    (stage / "model.json").write_text(damage((stage / "model.json").read_text()))
    with pytest.raises(InputError, match=r"model.json is damaged \(.*\): remove .*pretrain, and `run` or"):
        load(stage)


@pytest.mark.parametrize("left", ["", "{", "[]", '{"bos": 1}', '{"bos": 1, "eos": 2}'])
def test_damaged_ids_of_a_tokenizer_are_named(left: str, stage: Path) -> None:
    save(stage, state_at(2))
    (stage / "tokenizer" / "special_ids.json").write_text(left)
    with pytest.raises(InputError, match=r"special_ids\.json is damaged"):
        load(stage)


def test_a_missing_step_is_named(stage: Path) -> None:
    save(stage, state_at(2), finished=True)
    with pytest.raises(InputError, match=r"no checkpoint or Hugging Face model at .*/3"):
        load(stage / "3")


def test_of_a_workdir_the_newest_system_is_loaded(stage: Path, tmp_path: Path) -> None:
    """A system comes before the base model, even one that was pretrained again later."""
    import os

    workdir = stage.parent.parent
    save(stage, state_at(1), finished=True)
    model, tokenizer = small_model()[0], small_tokenizer(tmp_path / "tokenizer")
    for number, system in enumerate(["ntp", "dpo", "unsaved"]):
        folder = workdir / "checkpoints" / "train" / system
        describe(folder, model, tokenizer, FEW_SHOT)
        if system != "unsaved":
            save(folder, state_at(2 + number), finished=True)
        os.utime(folder / "model.json", (number, number))
    assert find(workdir) == (workdir / "checkpoints" / "train" / "dpo", 3)


# Other meshes. A device is simulated, so this needs a process that has not started JAX.

ON_EIGHT = """
import json, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from pretrainrl_jax.config import CheckpointConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.training.checkpoints import restore_state, saving, describe, Progress
from pretrainrl_jax.training.loading import load
from pretrainrl_jax.training.loading import find, load
from pretrainrl_jax.training.optimizer import adamw
from pretrainrl_jax.training.step import TrainState, init_state, state_shardings

one, eight = map(Path, sys.argv[1:])
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
loaded = load(one, mesh)
assert jax.tree.map(lambda x: x.sharding, loaded.params) == parameter_shardings(loaded.model, mesh)
query = loaded.params["layers"]["attention"]["query"]
assert len({s.device for s in query.addressable_shards}) == 8
assert query.addressable_shards[0].data.size == query.size / 4

places = state_shardings(loaded.model, OptimizerConfig(), mesh)
fresh = jax.jit(lambda p: init_state(p, adamw(OptimizerConfig())), out_shardings=places)(loaded.params)
state, progress = restore_state(one, fresh)
assert progress.seconds == 2.5
assert jax.tree.map(lambda x: x.sharding, state) == places

describe(eight, loaded.model, loaded.tokenizer, loaded.template)
with saving(eight, CheckpointConfig()) as saver:
    saver.save(state, Progress(seconds=7))
print(json.dumps({jax.tree_util.keystr(k): np.asarray(x).tobytes().hex()
                  for k, x in jax.tree.leaves_with_path(loaded.params)}))
"""


def test_a_checkpoint_opens_on_another_mesh_than_saved_it(stage: Path, tmp_path: Path) -> None:
    state = state_at(4)
    params = small_model()[1]
    state = state._replace(params=params)
    save(stage, state, seconds=2.5)
    ran = python(ON_EIGHT, stage, tmp_path / "eight", JAX_DISABLE_MOST_OPTIMIZATIONS="true")
    assert ran.code == 0, ran.err

    # What eight devices read is what one saved …
    assert json.loads(ran.out) == {name: value.hex() for name, (_, value) in bits(params).items()}
    # … and what eight saved is what one reads.
    opened = restore_state(tmp_path / "eight", state_at(0))
    assert opened is not None
    assert bits(opened[0]) == bits(state)
    assert opened[1].seconds == 7
    loaded = load(tmp_path / "eight")
    assert bits(loaded.params) == bits(params)
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(loaded.params))


def test_parameters_are_placed_on_the_mesh_given(stage: Path) -> None:
    save(stage, state_at(1), finished=True)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    loaded = load(stage, mesh)
    assert jax.tree.map(lambda x: x.sharding, loaded.params) == parameter_shardings(loaded.model, mesh)
