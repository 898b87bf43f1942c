"""`export`: any model of ours as a Hugging Face folder, which transformers and vLLM load; or its adapters."""

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import ExportConfig
from pretrainrl_jax.errors import InputError
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.model.hugging_face.adapters import write_adapter
from pretrainrl_jax.model.hugging_face.config import ending, stored_dtype, write_config
from pretrainrl_jax.model.hugging_face.files import is_hugging_face
from pretrainrl_jax.model.hugging_face.writing import tensors_of, write_weights
from pretrainrl_jax.progress import Screen
from pretrainrl_jax.stages.context import say
from pretrainrl_jax.stages.import_model import gigabytes, require_room
from pretrainrl_jax.training.loading import DTYPES, load


def export_model(
    source: str | Path, target: Path, settings: ExportConfig, mesh: Mesh, screen: Screen
) -> None:
    """Weights, configuration and tokenizer in a new folder, which appears once it is complete.

    Raises:
        InputError: if there is no model, or the disk has no room.
        OSError: if it cannot be written.
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
        config = write_config(loaded.model.shape, before, dtype)
        write_json(partial / "config.json", config | ends)

    with _appearing(target) as partial:
        with screen.track("export", len(tensors), "tensors") as bar:
            write_weights(partial, tensors, settings.shard_size, bar.advance)
        run_on_process_0(lambda: describe(partial), "finishing the export")
    kinds = ", ".join(sorted({tensor.dtype.name for tensor in tensors.values()}))
    seconds = time.perf_counter() - began
    say(f"{target}: {loaded.model.shape.traits.architecture}, {gigabytes(size)} of {kinds}, {seconds:.1f} s")


def export_adapters(source: str | Path, target: Path, base: str, mesh: Mesh, screen: Screen) -> None:
    """A model's adapters alone, as peft loads them beside `base`, or beside the model they were taken from.

    Raises:
        InputError: if there is no model, it has no adapters, or that model is of no Hugging Face folder.
        OSError: if it cannot be written.
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
    say(f"{target}: adapters {of}, {gigabytes(size)} of float32, {seconds:.1f} s")


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
        run_on_process_0(lambda: partial.rename(target), "finishing the export")
    except BaseException:
        if is_process_0():
            shutil.rmtree(partial, ignore_errors=True)
        raise
