"""Self-contained Orbax checkpoints: parameters as an item of their own, and all it takes to use them.

<stage>/model.json            shape of the model, how questions are put to it
<stage>/tokenizer/            tokenizer files, BOS and EOS ids
<stage>/<step>/params         parameters, float32
<stage>/<step>/training       optimizer state and progress, absent from a finished stage
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import Model, Params
from pretrainrl_jax.model.hugging_face import read_params, read_shape
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import from_json, to_json
from pretrainrl_jax.training.remote import fetched
from pretrainrl_jax.training.step import TrainState
from pretrainrl_jax.trees.templates import Template
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model ready to use."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    template: Template  # how the model was taught to be asked


def describe(folder: Path, model: Model, tokenizer: Tokenizer, template: Template) -> None:
    """Write what stands beside a stage's parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    description = {"shape": to_json(model.shape), "template": asdict(template)}
    (folder / "model.json").write_text(json.dumps(description, indent=1))


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("params", "training"))


def save(folder: Path, state: TrainState, *, finished: bool, seconds: float = 0.0) -> None:
    """Save parameters and, where training may go on, the optimizer's state; returns when all is written.

    Steps that an earlier run left at or after this one give way.

    Args:
        folder: the stage's.
        state: what to save.
        finished: nothing is left to train, so parameters alone are saved.
        seconds: spent on updates so far, for `restore_state`.
    """
    step = int(state.step)
    items = {"params": ocp.args.StandardSave(state.params)}
    if not finished:
        training = {"step": state.step, "moments": state.moments, "seconds": np.array(seconds, np.float32)}
        items["training"] = ocp.args.StandardSave(training)
    with _manager(folder) as manager:
        for old in manager.all_steps():
            if old >= step:
                manager.delete(old)
        manager.save(step, args=ocp.args.Composite(**items), force=True)
        manager.wait_until_finished()


def latest_step(folder: Path) -> int | None:
    """The last step saved in a stage's folder, or None."""
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)


def restore_state(folder: Path, like: TrainState) -> tuple[TrainState, float] | None:
    """The interrupted training state in a stage's folder, placed as `like` is, and the seconds spent on it.

    None where there is none.
    """
    step = latest_step(folder)
    if step is None or not (folder / str(step) / "training").is_dir():
        return None

    def abstract(tree: Any) -> Any:
        return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)

    with _manager(folder) as manager:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract(like.params)),
                training=ocp.args.StandardRestore(
                    abstract(
                        {"step": like.step, "moments": like.moments, "seconds": np.zeros((), np.float32)}
                    )
                ),
            ),
        )
    training = restored["training"]
    state = TrainState(training["step"], restored["params"], training["moments"])
    return state, float(training["seconds"])


def find(path: str | Path) -> tuple[Path, int]:
    """The stage folder and the step that a workdir, a stage's folder or a step's folder means.

    Of a workdir it is the last stage trained: the newest system's, else the base model's.

    Raises:
        InputError: if there is no checkpoint.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        stages = [f.parent for f in (path / "checkpoints").rglob("model.json")]
        stages = [s for s in stages if latest_step(s) is not None]
        if not stages:
            raise InputError(f"no checkpoint in {path}: run `pretrain` first")
        path = max(stages, key=lambda s: (s.name != "pretrain", (s / "model.json").stat().st_mtime))
    if path.name.isdigit() and path.is_dir() and (path.parent / "model.json").is_file():
        return path.parent, int(path.name)
    step = latest_step(path)
    if not (path / "model.json").is_file() or step is None:
        raise InputError(f"no checkpoint or Hugging Face model at {path}: give a workdir, a stage or a step")
    return path, step


def load(path: str | Path, mesh: Mesh | None = None, dtype: str | None = None) -> Loaded:
    """Read a model from an Orbax checkpoint or a Hugging Face folder, parameters only.

    Args:
        path: a workdir, a stage's folder, a step's folder, or a Hugging Face folder; local or gs://.
        mesh: where to put the parameters; one device if None.
        dtype: compute dtype, overriding the checkpoint's.

    Raises:
        InputError: if there is nothing to load, or it is of an unknown kind.
    """
    with fetched(path) as local:
        return _load(local, mesh, dtype)


def _load(path: Path, mesh: Mesh | None, dtype: str | None) -> Loaded:
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        model = Model(read_shape(path, dtype or "float32"))
        params = read_params(path, model.shape)
        where = _places(model, mesh)
        return Loaded(model, jax.device_put(params, where), load_tokenizer(path), Template("bare"))
    folder, step = find(path)
    description = json.loads((folder / "model.json").read_text())
    shape = from_json(description["shape"])
    model = Model(replace(shape, dtype=dtype or shape.dtype))
    where = _places(model, mesh)
    target = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), nn.unbox(model.abstract()), where
    )
    with _manager(folder) as manager:
        args = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        params = manager.restore(step, args=args)["params"]
    examples = tuple((q, a) for q, a in description["template"]["examples"])
    template = Template(description["template"]["kind"], examples)
    return Loaded(model, params, load_tokenizer(folder / "tokenizer"), template)


def _places(model: Model, mesh: Mesh | None) -> Any:
    if mesh is not None:
        return parameter_shardings(model, mesh)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: one, nn.unbox(model.abstract()))
