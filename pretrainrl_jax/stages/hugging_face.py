"""`import`: a Hugging Face model as a checkpoint of ours; `export`: any of ours as a Hugging Face folder.

Transformers and vLLM load such a folder, or peft one with adapters alone.
"""

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import ExportConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.model.hugging_face.adapters import is_adapter, write_adapter
from pretrainrl_jax.model.hugging_face.config import ending, stored_dtype, write_config
from pretrainrl_jax.model.hugging_face.files import download, is_hugging_face, stored
from pretrainrl_jax.model.hugging_face.writing import tensors_of, write_weights
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.context import say
from pretrainrl_jax.storage import in_bucket, remove_tree
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loading import DTYPES, load
from pretrainrl_jax.training.step import TrainState


def import_model(source: str, workdir: Path, mesh: Mesh, screen: Screen) -> None:
    """Weights, tokenizer and description of a model, written as the checkpoint `import` of a workdir.

    `source` is a Hugging Face folder, or the name of a model on the hub (HF_TOKEN may hold a token for it).

    Raises InputError if there is no such model, it is damaged or of an unknown kind, or the workdir has one
    already or is that of a run; OSError if the checkpoint cannot be written.
    """
    began = time.perf_counter()
    target = workdir / "checkpoints" / "import"
    if (target / "model.json").is_file():
        raise InputError(f"{target} holds an imported model: choose another --workdir, or remove it")
    if (workdir / "config.json").is_file():  # whose newest model would no longer be one it trained
        raise InputError(f"{workdir} is the workdir of a run: choose another --workdir for the model")
    folder = Path(source) if Path(source).is_dir() else download(source, "--model", screen)
    if not is_hugging_face(folder) and not is_adapter(folder):
        raise InputError(f"{folder} is no Hugging Face model: it needs config.json and model.safetensors")
    if is_hugging_face(folder):
        require_room(workdir, sum(tensor.bytes for tensor in stored(folder).values()), "the checkpoint")
    loaded = load(folder, mesh, screen=screen)
    # What an interrupted import left.
    run_on_process_0(lambda: remove_tree(target), "beginning the import")
    checkpoints.save(target, TrainState(jnp.int32(0), loaded.params, ()))
    checkpoints.describe(target, loaded.model, loaded.tokenizer, loaded.template, loaded.origin)
    arrays = jax.tree.leaves(loaded.params)
    count, size = (sum(getattr(x, of) for x in arrays) for of in ("size", "nbytes"))
    kinds = ", ".join(sorted({x.dtype.name for x in arrays}))
    what = f"{loaded.model.shape.traits.architecture}, {count / 1e6:,.2f}M parameters"
    say(f"{target}: {what}, {size / 1e6:,.1f} MB of {kinds}, {time.perf_counter() - began:.1f} s")
    screen.say(f"use it with --model.path={workdir}, or pretrainrl_jax.load({str(workdir)!r})")


def require_room(folder: Path, size: int, what: str) -> None:
    """Raise InputError, with both sizes, if the disk has no room for what is to be written."""
    if in_bucket(folder):
        return
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise InputError(
            f"{existing} has {free / 1e6:,.2f} MB free, and {what} takes {size / 1e6:,.2f} MB: make room, "
            "or choose another folder"
        )


def export_model(
    source: str | Path, target: Path, settings: ExportConfig, mesh: Mesh, screen: Screen
) -> None:
    """Weights, configuration and tokenizer in a new folder, which appears once it is complete.

    Raises InputError if there is no model, or the disk has no room; OSError if it cannot be written.
    """
    if settings.adapters == "peft":
        return export_adapters(source, target, settings.base, mesh, screen)
    began = time.perf_counter()
    loaded = load(source, mesh, screen=screen)
    asked = "" if settings.dtype == "stored" else settings.dtype
    tensors = tensors_of(loaded.model, loaded.params, asked, loaded.origin.get(DTYPES, {}))
    size = sum(tensor.bytes for tensor in tensors.values())
    require_room(target.parent, size, "the model")

    def describe(partial: Path) -> None:
        tokenizer, origin = loaded.tokenizer, loaded.origin
        tokenizer.save_files(partial)
        ends = ending(tokenizer.bos, tokenizer.eos)
        write_json(partial / "generation_config.json", origin.get("generation_config", {}) | ends)
        before = origin.get("config", {})
        # What is as it was stored is described as it was.
        stated = stored_dtype(before) if DTYPES in origin and not asked else ""
        dtype = stated or tensors["model.embed_tokens.weight"].dtype.name
        write_json(partial / "config.json", write_config(loaded.model.shape, before, dtype) | ends)

    with _appearing(target) as partial:
        with screen.track("export", len(tensors), "tensors") as bar:
            write_weights(partial, tensors, settings.shard_size, bar.advance)
        run_on_process_0(lambda: describe(partial), "finishing the export")
    what = f"{loaded.model.shape.traits.architecture}, {size / 1e6:,.1f} MB"
    kinds = ", ".join(sorted({tensor.dtype.name for tensor in tensors.values()}))
    say(f"{target}: {what} of {kinds}, {time.perf_counter() - began:.1f} s")


def export_adapters(source: str | Path, target: Path, base: str, mesh: Mesh, screen: Screen) -> None:
    """A model's adapters alone, as peft loads them beside `base`, or beside the model they were taken from.

    Raises InputError if there is no model, it has no adapters, or that model is of no Hugging Face folder;
    OSError if it cannot be written.
    """
    began = time.perf_counter()
    loaded = load(source, mesh, screen=screen, merge=False)
    lora = loaded.model.shape.lora
    if lora is None:
        raise InputError(f"{source} has no adapters: leave --export.adapters out")
    named = base or loaded.adapts.get("path", "")
    if not named or (Path(named).is_dir() and not is_hugging_face(Path(named))):
        raise InputError(
            f"the model that these adapters are for ({named or 'made here'}) is no Hugging Face folder, as "
            "peft reads them: export that too, and give its folder as --export.base"
        )
    with _appearing(target) as partial:
        size = write_adapter(partial, loaded.model, loaded.params, named)
        run_on_process_0(lambda: loaded.tokenizer.save_files(partial), "writing the tokenizer")
    seconds = time.perf_counter() - began
    of = f"of rank {lora.rank} for {named}"
    say(f"{target}: adapters {of}, {size / 1e6:,.1f} MB of float32, {seconds:.1f} s")


@contextmanager
def _appearing(target: Path) -> Generator[Path]:
    """A folder to write into, which becomes the target at the end, or is removed."""
    partial = target.with_name(f".{target.name}.partial")  # beside it: the last step is a renaming

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    try:
        run_on_process_0(begin, "beginning the export")
        yield partial
        run_on_process_0(lambda: str(partial.rename(target)), "finishing the export")
    except BaseException:
        if is_process_0():
            shutil.rmtree(partial, ignore_errors=True)
        raise
