"""Checkpoints: every bit comes back, on whatever devices, and what is not there is said in one line."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_model, small_tokenizer
from tiny import python

from pretrainrl_jax.config import Mesh, Optimizer
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.partitioning import make_mesh, parameter_shardings
from pretrainrl_jax.training.checkpoints import (
    describe,
    find,
    latest_step,
    load,
    restore_state,
    save,
)
from pretrainrl_jax.training.optimizer import adamw
from pretrainrl_jax.training.step import TrainState, init_state
from pretrainrl_jax.trees.templates import Template

FEW_SHOT = Template("few_shot", (("What is the capital of Arno?", "Florence"), ("Who is Ü?", "“Ü”")))


@pytest.fixture(scope="module", autouse=True)
def _sooner(compiled_fast):
    """Everything here."""


def state_at(step: int, seed: int = 0) -> TrainState:
    """A state with values everywhere, also where a fresh one has zeros."""
    _, params = small_model(seed)
    state = init_state(params, adamw(Optimizer()))
    rng = np.random.default_rng(seed + step)

    def filled(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.full_like(x, step)
        return jnp.asarray(rng.standard_normal(x.shape) * 10.0 ** rng.integers(-30, 30, x.shape), x.dtype)

    return TrainState(jnp.int32(step), *jax.tree.map(filled, (state.params, state.moments)))


def bits(tree) -> dict[str, tuple[str, bytes]]:
    return {
        jax.tree_util.keystr(path): (str(x.dtype), np.asarray(x).tobytes())
        for path, x in jax.tree.leaves_with_path(tree)
    }


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
    save(stage, state, finished=False, seconds=12.5)
    like = init_state(small_model(1)[1], adamw(Optimizer()))
    found = restore_state(stage, like)
    assert found is not None
    restored, seconds = found
    assert seconds == 12.5
    assert int(restored.step) == 3
    assert bits(restored) == before
    assert jax.tree.structure(restored) == jax.tree.structure(like)
    assert len(before) > 20


def test_a_later_save_replaces_an_earlier_one(stage: Path) -> None:
    for step in (2, 5):
        save(stage, state_at(step), finished=False, seconds=step)
    assert latest_step(stage) == 5
    assert [p.name for p in stage.iterdir() if p.name.isdigit()] == ["5"]
    restored, seconds = restore_state(stage, state_at(0)) or (None, None)
    assert bits(restored) == bits(state_at(5))
    assert seconds == 5


def test_a_finished_stage_has_nothing_to_go_on_from(stage: Path) -> None:
    save(stage, state_at(2), finished=False)
    save(stage, state_at(2), finished=True)
    assert latest_step(stage) == 2
    assert restore_state(stage, state_at(0)) is None
    assert bits(load(stage).params) == bits(state_at(2).params)


def test_what_a_longer_run_left_gives_way(stage: Path) -> None:
    save(stage, state_at(9), finished=True)
    save(stage, state_at(4), finished=False)
    assert [p.name for p in stage.iterdir() if p.name.isdigit()] == ["4"]
    restored, _ = restore_state(stage, state_at(0)) or (None, None)
    assert bits(restored) == bits(state_at(4))


def test_a_stage_never_saved_has_nothing_to_go_on_from(stage: Path, tmp_path: Path) -> None:
    assert latest_step(tmp_path / "none") is None
    assert restore_state(tmp_path / "none", state_at(0)) is None
    assert restore_state(stage, state_at(0)) is None
    assert not (tmp_path / "none").exists()


def test_a_save_that_was_cut_short_is_not_there(stage: Path) -> None:
    save(stage, state_at(2), finished=False)
    (stage / "5.orbax-checkpoint-tmp-0").mkdir()
    assert latest_step(stage) == 2
    assert find(stage) == (stage, 2)
    assert restore_state(stage, state_at(0)) is not None


# The model.


def test_a_model_is_loaded_with_all_that_belongs_to_it(stage: Path) -> None:
    model, params = small_model()
    save(stage, init_state(params, adamw(Optimizer())), finished=True)
    for path in (stage, stage / "0", stage.parent.parent, str(stage)):
        loaded = load(path)
        assert loaded.model == model
        assert bits(loaded.params) == bits(params)
        assert loaded.template == FEW_SHOT
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("Arno Ü")) == "Arno Ü"
        assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(loaded.params))


def test_parameters_alone_are_read(stage: Path) -> None:
    save(stage, state_at(2), finished=False)
    for file in (stage / "2" / "training").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    assert bits(load(stage).params) == bits(state_at(2).params)


def test_the_compute_dtype_may_be_another(stage: Path) -> None:
    model, params = small_model()
    save(stage, init_state(params, adamw(Optimizer())), finished=True)
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
from pretrainrl_jax.config import Mesh, Optimizer
from pretrainrl_jax.model.partitioning import make_mesh, parameter_shardings
from pretrainrl_jax.training.checkpoints import load, restore_state, save, describe
from pretrainrl_jax.training.optimizer import adamw
from pretrainrl_jax.training.step import TrainState, init_state, state_shardings

one, eight = map(Path, sys.argv[1:])
mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
loaded = load(one, mesh)
assert jax.tree.map(lambda x: x.sharding, loaded.params) == parameter_shardings(loaded.model, mesh)
query = loaded.params["layers"]["attention"]["query"]
assert len({s.device for s in query.addressable_shards}) == 8
assert query.addressable_shards[0].data.size == query.size / 4

places = state_shardings(loaded.model, Optimizer(), mesh)
fresh = jax.jit(lambda p: init_state(p, adamw(Optimizer())), out_shardings=places)(loaded.params)
state, seconds = restore_state(one, fresh)
assert seconds == 2.5
assert jax.tree.map(lambda x: x.sharding, state) == places

describe(eight, loaded.model, loaded.tokenizer, loaded.template)
save(eight, state, finished=False, seconds=7)
print(json.dumps({jax.tree_util.keystr(k): np.asarray(x).tobytes().hex()
                  for k, x in jax.tree.leaves_with_path(loaded.params)}))
"""


def test_a_checkpoint_opens_on_another_mesh_than_saved_it(stage: Path, tmp_path: Path) -> None:
    state = state_at(4)
    params = small_model()[1]
    state = state._replace(params=params)
    save(stage, state, finished=False, seconds=2.5)
    ran = python("-c", ON_EIGHT, stage, tmp_path / "eight", JAX_DISABLE_MOST_OPTIMIZATIONS="true")
    assert ran.code == 0, ran.err

    # What eight devices read is what one saved …
    assert json.loads(ran.out) == {name: value.hex() for name, (_, value) in bits(params).items()}
    # … and what eight saved is what one reads.
    found = restore_state(tmp_path / "eight", state_at(0))
    assert found is not None
    assert bits(found[0]) == bits(state)
    assert found[1] == 7
    loaded = load(tmp_path / "eight")
    assert bits(loaded.params) == bits(params)
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(loaded.params))


def test_parameters_are_placed_on_the_mesh_given(stage: Path) -> None:
    save(stage, state_at(1), finished=True)
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    loaded = load(stage, mesh)
    assert jax.tree.map(lambda x: x.sharding, loaded.params) == parameter_shardings(loaded.model, mesh)
