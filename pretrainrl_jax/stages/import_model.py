"""`import`: a Hugging Face model as a checkpoint of ours."""

import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import run_on_process_0
from pretrainrl_jax.model.hugging_face.adapters import is_adapter
from pretrainrl_jax.model.hugging_face.files import download, is_hugging_face, stored
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.context import say
from pretrainrl_jax.storage import in_bucket, remove_tree
from pretrainrl_jax.training import checkpoints
from pretrainrl_jax.training.loading import load
from pretrainrl_jax.training.step import TrainState


def import_model(source: str, workdir: Path, mesh: Mesh, screen: Screen) -> None:
    """Weights, tokenizer and description of a model, written as the checkpoint `import` of a workdir.

    `source` is a Hugging Face folder, or the name of a model on the hub (HF_TOKEN may hold a token for it).

    Raises:
        InputError: if there is no such model, it is damaged or of an unknown kind, or the workdir has one
            already or is that of a run.
        OSError: if the checkpoint cannot be written.
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
    size = sum(x.nbytes for x in jax.tree.leaves(loaded.params))
    # What an interrupted import left.
    run_on_process_0(lambda: remove_tree(target), "beginning the import")
    checkpoints.save(target, TrainState(jnp.int32(0), loaded.params, ()))
    checkpoints.describe(target, loaded.model, loaded.tokenizer, loaded.template, loaded.origin)
    count = sum(x.size for x in jax.tree.leaves(loaded.params))
    kinds = ", ".join(sorted({x.dtype.name for x in jax.tree.leaves(loaded.params)}))
    seconds = time.perf_counter() - began
    architecture = f"{loaded.model.shape.traits.architecture}, {count / 1e6:,.2f}M parameters"
    say(f"{target}: {architecture}, {gigabytes(size)} of {kinds}, {seconds:.1f} s")
    screen.say(f"use it with --model.path={workdir}, or pretrainrl_jax.load({str(workdir)!r})")


def require_room(folder: Path, size: int, what: str) -> None:
    """Raise InputError, with both sizes, if the disk has no room for what is to be written."""
    if in_bucket(folder):
        return
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise InputError(
            f"{existing} has {gigabytes(free)} free, and {what} takes {gigabytes(size)}: make room, or "
            "choose another folder"
        )


def gigabytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
