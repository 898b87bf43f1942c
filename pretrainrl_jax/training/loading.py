"""Any model, ready to use: a workdir, a stage's checkpoint, a step, or a Hugging Face folder."""

import errno
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from pretrainrl_jax.decoding.decode import sample_batch
from pretrainrl_jax.decoding.decoded import Decoded, Rollout
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.model.checksums import digest
from pretrainrl_jax.model.decoder import PLAIN, Chosen, Model, Params
from pretrainrl_jax.model.hugging_face.adapters import is_adapter, read_adapter
from pretrainrl_jax.model.hugging_face.adapters import read_config as read_adapter_config
from pretrainrl_jax.model.hugging_face.config import read_config, read_shape
from pretrainrl_jax.model.hugging_face.files import ADAPTER, FILES, download, is_hugging_face, left_out
from pretrainrl_jax.model.hugging_face.reading import own_dtypes, read_params
from pretrainrl_jax.model.lora import Lora, join, merged, split
from pretrainrl_jax.model.partitioning import parameter_shardings
from pretrainrl_jax.model.shape import from_json
from pretrainrl_jax.progress import SILENT, Screen
from pretrainrl_jax.storage import fetched, in_bucket, place
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.trees.templates import Template, check_fits
from pretrainrl_jax.trees.tokenization import TEMPLATES, Tokenizer, load_tokenizer
from pretrainrl_jax.version import check_format

Json = dict[str, Any]
ORIGIN = ("config", "generation_config")  # files of a Hugging Face folder that are kept for its export
DTYPES = "dtypes"  # beside them, while parameters are as they were stored: `reading.own_dtypes`


@dataclass(frozen=True)
class Loaded:
    model: Model
    params: Params
    tokenizer: Tokenizer
    template: Template  # how the model was taught to be asked
    # Files of the Hugging Face model it comes from, by name, and DTYPES.
    origin: Json = field(default_factory=dict)
    adapts: Json = field(default_factory=dict)  # of adapters, which model they are for, as `describe` has it
    # Of a model with adapters merged into it what these were, and of which model: how the sums are rounded
    # depends on the mesh. Empty of any other.
    identity: str = ""

    @property
    def digest(self) -> str:
        """A short name of the parameters, the same on any mesh and in any dtype that holds them."""
        return self.identity or digest(self.params)

    @property
    def frozen(self) -> Params:
        """What does not learn of the parameters: nothing, or with adapters all the others."""
        return split(self.model.shape.lora, self.params)[0]

    @property
    def plain(self) -> "Loaded":
        """The model without its adapters: what it was before they learned. It shares the parameters."""
        lora = self.model.shape.lora
        return replace(self, model=self.model.plain, params=self.frozen) if lora else self

    def rollouts(
        self, prefixes: Sequence[Sequence[int]], ends: Sequence[int] = (), **drawing: Any
    ) -> list[list[Rollout]]:
        """What the model writes after each prefix, which is computed once for all of its own.

        There is no terminator of ours: an EOS id, or one of other `ends`, is drawn as any other token, stands
        in the rollout and ends it. `drawing` is what else `sample_batch` takes, but for top_k, which is off;
        `max_new_tokens` counts an EOS.
        """
        # No terminators: which EOS it was is kept only of what does not end there.
        terminators, eos = np.zeros(self.model.shape.vocabulary, bool), frozenset(ends or self.tokenizer.eos)

        def until_eos(sample: Decoded) -> Rollout:
            places = (place for place, token in enumerate(sample.tokens, 1) if token in eos)
            length = next(places, len(sample.tokens))
            return Rollout(sample.tokens[:length], sample.token_logps[:length])

        drawn = sample_batch(self.model, self.params, prefixes, terminators, top_k=0, **drawing)
        return [[until_eos(sample) for sample in of_prefix] for of_prefix in drawn]

    def release(self) -> None:
        """Free the parameters that nothing reads any more, once a training has its own copy of what learns.

        With adapters none are: those that do not learn are the policy's for as long as it trains.
        """
        if self.model.shape.lora is None:
            jax.tree.map(lambda x: x.delete(), self.params)


def find(path: str | Path) -> tuple[Path, int]:
    """The stage folder and the step that a workdir, a stage's folder or a step's folder means.

    Of a workdir it is the last stage trained: the newest system's, else the base model's. Raises InputError
    if there is no checkpoint.
    """
    path = place(path, "--model.path")
    if (path / "checkpoints").is_dir():
        stages = [f.parent for f in (path / "checkpoints").rglob("model.json")]
        stages = [s for s in stages if checkpoints.latest_step(s) is not None]
        if not stages:
            raise InputError(f"no checkpoint in {path}: run `pretrain` first")
        path = max(stages, key=lambda s: (s.name != "pretrain", (s / "model.json").stat().st_mtime))
    if path.name.isdigit() and path.is_dir() and (path.parent / "model.json").is_file():
        return path.parent, int(path.name)
    step = checkpoints.latest_step(path)
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
    merge: bool = True,
) -> Loaded:
    """Read a model from an Orbax checkpoint or a Hugging Face folder, parameters only.

    Args:
        path: a workdir, a stage's folder, a step's folder, a Hugging Face folder, or one of peft with
            adapters, whose model is looked for where it says, or on the hub; local or gs://.
        mesh: where to put the parameters; one device if None.
        dtype: compute dtype; empty takes the checkpoint's, or of a Hugging Face folder bfloat16 where it is
            stored so, else float32.
        params_dtype: of the parameters; empty keeps them as they are stored.
        chosen: for the devices.
        merge: adapters become part of the matrices they are for, all parameters float32 if no dtype is
            asked for; else they stay beside them.

    Raises InputError if there is nothing to load, it is damaged, or of an unknown kind, or the model that
    adapters were trained for is not where it was, or is another one.
    """
    with downloaded(path) as local:
        if is_hugging_face(local):
            loaded = _load_hugging_face(local, mesh, dtype, params_dtype, screen)
        elif is_adapter(local):
            loaded = _load_peft(local, mesh, dtype, params_dtype, screen, merge)
        else:
            loaded = _load_checkpoint(local, mesh, dtype, params_dtype, merge)
    origin = {name: value for name, value in loaded.origin.items() if name != DTYPES or not params_dtype}
    return replace(loaded, model=replace(loaded.model, **chosen._asdict()), origin=origin)


def _load_hugging_face(
    folder: Path, mesh: Mesh | None, dtype: str, params_dtype: str, screen: Screen
) -> Loaded:
    model = Model(read_shape(folder, dtype), mesh)
    tokenizer = load_tokenizer(folder)
    check_fits(tokenizer, model.shape.vocabulary, folder)
    params = read_params(folder, model, parameter_shardings(model, model.mesh), screen)
    if count := left_out(folder):
        screen.say(
            f"{folder}: a model of text and images, of which its text is taken; {count} tensors are not"
        )
    there = [name for name in ORIGIN if (folder / f"{name}.json").is_file()]
    origin = {name: read_config(folder, f"{name}.json") for name in there}
    origin[DTYPES] = own_dtypes(folder, model)
    return Loaded(model, _cast(params, params_dtype), tokenizer, Template("bare"), origin)


def _load_checkpoint(path: Path, mesh: Mesh | None, dtype: str, params_dtype: str, merge: bool) -> Loaded:
    folder, step = find(path)
    try:
        description = json.loads((folder / "model.json").read_text())
        check_format(folder / "model.json", description)
        shape = from_json(description["shape"])
        about = Template.from_json(description["template"]), description.get("origin", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / 'model.json'} is damaged ({type(error).__name__}: {error}): remove {folder}, and "
            "`run` or `train` makes it again"
        ) from None
    model = Model(replace(shape, dtype=dtype or shape.dtype), mesh)
    if adapter := description.get("adapter"):
        base = _base(folder, adapter["base"], model)
        lora = Lora(adapter["rank"], adapter["alpha"], tuple(adapter["targets"]), adapter["rank_stabilised"])
        model = replace(model, shape=replace(model.shape, lora=lora))
        learned = _restore_params(folder, step, model, "float32")
        tokenizer, params = _tokenizer_beside(folder), join(base.params, learned)
        made_of = digest(learned, adapter["base"]["digest"], asdict(lora))
        loaded = Loaded(model, params, tokenizer, *about, adapter["base"], made_of)
        return _merged(loaded, params_dtype) if merge else loaded
    params = _restore_params(folder, step, model, params_dtype)
    return Loaded(model, params, _tokenizer_beside(folder), *about)


def _base(folder: Path, described: Json, model: Model) -> Loaded:
    """The model that a stage's adapters were trained for, as they had it."""
    above = next((parent for parent in folder.parents if parent.name == "checkpoints"), folder.parent)
    path = above / described["stage"] if described.get("stage") else described["path"]
    try:
        base = load(path, model.mesh, model.shape.dtype, described["dtype"])
    except InputError as error:
        told = f"{folder} holds adapters of the model at {path}, which cannot be read: {error}"
        raise InputError(told) from None
    if base.digest != described["digest"]:
        raise InputError(
            f"{folder} holds adapters of another model than the one at {path} is now: put that back there"
        )
    return base


def _load_peft(
    folder: Path, mesh: Mesh | None, dtype: str, params_dtype: str, screen: Screen, merge: bool
) -> Loaded:
    lora, named = read_adapter_config(folder)
    base = load(_named(named, screen), mesh, dtype, "", screen)
    model = replace(base.model, shape=replace(base.model.shape, lora=lora))
    adapters = read_adapter(folder, model, parameter_shardings(model, model.mesh))
    made_of = digest(adapters, base.digest, asdict(lora))
    params = join(base.params, adapters)
    loaded = replace(base, model=model, params=params, adapts={"path": named}, identity=made_of)
    if merge:
        return _merged(loaded, params_dtype)
    return replace(loaded, params=join(_cast(loaded.frozen, params_dtype), adapters))


def _named(name: str, screen: Screen) -> str | Path:
    """Where the model lies that a folder of peft names: a folder, a URL, or one of the hub."""
    if "://" in name or Path(name).is_dir():
        return name
    return download(name, f"base_model_name_or_path of {ADAPTER}", screen)


def _merged(loaded: Loaded, dtype: str) -> Loaded:
    """The plain model that computes the same; the parameters given are used up.

    Without `dtype` it is float32, which no adapter's part is lost in.
    """
    model, lora = loaded.model, loaded.model.shape.lora
    assert lora is not None
    frozen, adapters = split(lora, loaded.params)
    taken = all(x.dtype == "float32" for x in jax.tree.leaves(frozen))  # else what is made does not fit in it
    made = jax.jit(
        lambda frozen, adapters: merged(lora, join(frozen, adapters)),
        donate_argnums=(0,) if taken else (),
        out_shardings=parameter_shardings(model.plain, model.mesh),
    )
    params = _cast(made(frozen, adapters), dtype or "float32")
    origin = {name: value for name, value in loaded.origin.items() if name != DTYPES}
    return replace(loaded, model=model.plain, params=params, origin=origin, adapts={})


def with_adapters(base: Loaded, lora: Lora, dtype: str, seed: int) -> Loaded:
    """A model with fresh adapters, which change nothing yet.

    Its parameters, in that dtype from here on, take those of `base` over: use `Loaded.plain` for it.
    """
    model = replace(base.model, shape=replace(base.model.shape, lora=lora))
    fresh = jax.jit(
        lambda key: split(lora, model.init(key))[1],
        out_shardings=split(lora, parameter_shardings(model, model.mesh))[1],
    )
    params = join(_cast(base.params, dtype), fresh(jax.random.key(seed)))
    return replace(base, model=model, params=params)


def tokenizer_of(path: str | Path) -> Tokenizer:
    """The tokenizer of a model that `load` reads, without its parameters. Raises as `load`."""
    with downloaded(path) as local:
        if is_adapter(local):
            return tokenizer_of(_named(read_adapter_config(local)[1], SILENT))
        return load_tokenizer(local) if is_hugging_face(local) else _tokenizer_beside(find(local)[0])


def _tokenizer_beside(folder: Path) -> Tokenizer:
    with fetched(folder / "tokenizer") as files:
        return load_tokenizer(files)


def _restore_params(folder: Path, step: int, model: Model, dtype: str) -> Params:
    """The parameters of a step that learned, checked, each where it belongs."""
    _, shapes = split(model.shape.lora, nn.unbox(model.abstract()))
    _, places = split(model.shape.lora, parameter_shardings(model, model.mesh))
    items: Json = {"about": ocp.args.JsonRestore()} if (folder / str(step) / "about").is_dir() else {}
    try:
        with checkpoints.open_manager(folder) as manager:
            saved = epath.Path(folder.absolute()) / str(step) / "params"
            stored = ocp.PyTreeCheckpointHandler().metadata(saved).tree

            def target(a: Any, stored: Any, place: Any) -> jax.ShapeDtypeStruct:
                return jax.ShapeDtypeStruct(a.shape, stored.dtype, sharding=place)

            items["params"] = checkpoints.restoring(jax.tree.map(target, shapes, stored, places))
            restored = manager.restore(step, args=ocp.args.Composite(**items))
        if "about" in items:
            checkpoints.refuse_damaged(restored["about"], restored["params"])
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        if unread := checkpoints.why_unread(folder / str(step), error):
            raise OSError(errno.EIO, f"{folder / str(step)} cannot be read: {unread}") from None
        others = ", ".join(str(other) for other in checkpoints.steps_of(folder) if other != step)
        raise InputError(
            f"the checkpoint {folder / str(step)} is damaged ({checkpoints.reason(error)}): "
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


@contextmanager
def downloaded(path: str | Path) -> Generator[Path]:
    """`path` itself, and of a Hugging Face folder in a bucket a temporary copy of what is read of it.

    Checkpoints in a bucket Orbax reads where they are, each process its own part. Raises InputError for an
    address of another kind.
    """
    there = place(path, "--model.path")
    if not in_bucket(there) or not (is_hugging_face(there) or is_adapter(there)):
        yield there
        return
    with fetched(there, _is_read) as local:
        yield local


def _is_read(name: str) -> bool:
    """Whether a file of that name, in a Hugging Face folder, is read."""
    folder, _, file = name.rpartition("/")
    return folder in ("", TEMPLATES) and any(fnmatch(file, pattern) for pattern in FILES)
