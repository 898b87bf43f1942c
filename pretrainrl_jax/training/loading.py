"""Any model, ready to use: a workdir, a stage's checkpoint, a step, or a Hugging Face folder."""

import errno
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.decoder import PLAIN, Chosen, Model, Params
from pretrainrl_jax.model.hugging_face.config import read_config, read_shape
from pretrainrl_jax.model.hugging_face.files import is_hugging_face
from pretrainrl_jax.model.hugging_face.reading import own_dtypes, read_params
from pretrainrl_jax.model.partitioning import one_device, parameter_shardings
from pretrainrl_jax.model.shape import from_json
from pretrainrl_jax.progress import SILENT, Screen
from pretrainrl_jax.storage import BUCKET, fetched, place
from pretrainrl_jax.training.checkpoints import (
    latest_step,
    open_manager,
    reason,
    refuse_damaged,
    restoring,
    steps_of,
    why_unread,
)
from pretrainrl_jax.training.remote import downloaded, rank
from pretrainrl_jax.trees.templates import Template, check_fits
from pretrainrl_jax.trees.tokenization import Tokenizer, load_tokenizer
from pretrainrl_jax.version import check_format

Json = dict[str, Any]
ORIGIN = ("config", "generation_config")  # files of a Hugging Face folder that are kept for its export
DTYPES = "dtypes"  # beside them, while parameters are as they were stored: `reading.own_dtypes`


@dataclass(frozen=True)
class Loaded:
    """A model ready to use."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    template: Template  # how the model was taught to be asked
    # Files of the Hugging Face model it comes from, by name, and DTYPES.
    origin: Json = field(default_factory=dict)


def find(path: str | Path) -> tuple[Path, int]:
    """The stage folder and the step that a workdir, a stage's folder or a step's folder means.

    Of a workdir it is the last stage trained: the newest system's, else the base model's. Raises InputError
    if there is no checkpoint.
    """
    path = place(path, "--model.path")
    if (path / "checkpoints").is_dir():
        stages = [f.parent for f in (path / "checkpoints").rglob("model.json")]
        stages = [s for s in stages if latest_step(s) is not None]
        if not stages:
            raise InputError(f"no checkpoint in {path}: run `pretrain` first")
        path = max(stages, key=lambda s: rank(s.name, (s / "model.json").stat().st_mtime))
    if path.name.isdigit() and path.is_dir() and (path.parent / "model.json").is_file():
        return path.parent, int(path.name)
    step = latest_step(path)
    if not (path / "model.json").is_file() or step is None:
        raise InputError(f"no checkpoint or Hugging Face model at {path}: give a workdir, a stage or a step")
    return path, step


def load(
    path: str | Path,
    mesh: Mesh | None = None,
    dtype: str = "",
    params_dtype: str = "",
    screen: Screen = SILENT,
    chosen: Chosen = PLAIN,
) -> Loaded:
    """Read a model from an Orbax checkpoint or a Hugging Face folder, parameters only.

    Args:
        path: a workdir, a stage's folder, a step's folder, or a Hugging Face folder; local or gs://.
        mesh: where to put the parameters; one device if None.
        dtype: compute dtype; empty takes the checkpoint's, or of a Hugging Face folder bfloat16 where it is
            stored so, else float32.
        params_dtype: of the parameters; empty keeps them as they are stored.
        chosen: for the devices.

    Raises:
        InputError: if there is nothing to load, it is damaged, or of an unknown kind.
    """
    there = place(path, "--model.path") if str(path).startswith(BUCKET) else None
    if there and not is_hugging_face(there):  # Orbax reads it where it is, each process its own part
        loaded = _load_checkpoint(there, mesh, dtype, params_dtype)
    else:
        with downloaded(path) as local:
            if is_hugging_face(local):
                loaded = _load_hugging_face(local, mesh, dtype, params_dtype, screen)
            else:
                loaded = _load_checkpoint(local, mesh, dtype, params_dtype)
    origin = {name: value for name, value in loaded.origin.items() if name != DTYPES or not params_dtype}
    return replace(loaded, model=replace(loaded.model, **chosen._asdict()), origin=origin)


def _load_hugging_face(
    folder: Path, mesh: Mesh | None, dtype: str, params_dtype: str, screen: Screen
) -> Loaded:
    model = Model(read_shape(folder, dtype), mesh)
    tokenizer = load_tokenizer(folder)
    check_fits(tokenizer, model.shape.vocabulary, folder)
    params = read_params(folder, model, _places(model), screen)
    files = {name: f"{name}.json" for name in ORIGIN}
    origin = {name: read_config(folder, file) for name, file in files.items() if (folder / file).is_file()}
    origin[DTYPES] = own_dtypes(folder, model)
    return Loaded(model, _cast(params, params_dtype), tokenizer, Template("bare"), origin)


def _load_checkpoint(path: Path, mesh: Mesh | None, dtype: str, params_dtype: str) -> Loaded:
    folder, step = find(path)
    description = json.loads((folder / "model.json").read_text())
    check_format(folder / "model.json", description)
    shape = from_json(description["shape"])
    model = Model(replace(shape, dtype=dtype or shape.dtype), mesh)
    params = _restore_params(folder, step, model, _places(model), params_dtype)
    template = Template.from_json(description["template"])
    return Loaded(model, params, _tokenizer_beside(folder), template, description.get("origin", {}))


def tokenizer_of(path: str | Path) -> Tokenizer:
    """The tokenizer of a model that `load` reads, without its parameters. Raises as `load`."""
    there = place(path, "--model.path") if str(path).startswith(BUCKET) else None
    if there and not is_hugging_face(there):
        return _tokenizer_beside(find(there)[0])
    with downloaded(path) as local:
        return load_tokenizer(local) if is_hugging_face(local) else _tokenizer_beside(find(local)[0])


def _tokenizer_beside(folder: Path) -> Tokenizer:
    with fetched(folder / "tokenizer") as files:
        return load_tokenizer(files)


def _restore_params(folder: Path, step: int, model: Model, places: Any, dtype: str) -> Params:
    """The parameters of a step, checked, each placed as `places` says."""
    items: Json = {}
    if (folder / str(step) / "about").is_dir():
        items["about"] = ocp.args.JsonRestore()
    try:
        with open_manager(folder) as manager:
            saved = epath.Path(folder.absolute()) / str(step) / "params"
            about_params = ocp.PyTreeCheckpointHandler().metadata(saved)
            target = jax.tree.map(
                lambda a, stored, place: jax.ShapeDtypeStruct(a.shape, stored.dtype, sharding=place),
                nn.unbox(model.abstract()),
                about_params.tree,
                places,
            )
            items["params"] = restoring(target)
            restored = manager.restore(step, args=ocp.args.Composite(**items))
        if "about" in items:
            refuse_damaged(restored["about"], restored["params"])
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if unread := why_unread(folder / str(step), error):
            raise OSError(errno.EIO, f"{folder / str(step)} cannot be read: {unread}") from None
        others = ", ".join(str(other) for other in steps_of(folder) if other != step)
        raise InputError(
            f"the checkpoint {folder / str(step)} is damaged ({reason(error)}): "
            + (f"there are others of steps {others}; " if others else "")
            + f"remove {folder}, and `run` or `train` makes it again"
        ) from None
    return _cast(restored["params"], dtype)


def _cast(params: Params, dtype: str) -> Params:
    """Parameters in that dtype, one after another; what each was is freed at once."""

    def cast(x: jax.Array) -> jax.Array:
        if dtype in ("", x.dtype.name):
            return x
        made = jax.jit(lambda x: x.astype(dtype), out_shardings=x.sharding)(x).block_until_ready()
        x.delete()
        return made

    return jax.tree.map(cast, params)


def _places(model: Model) -> Any:
    return one_device(model) if model.mesh is None else parameter_shardings(model, model.mesh)
