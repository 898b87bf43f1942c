"""`export`: any model of ours as a Hugging Face folder, which transformers and vLLM load."""

import shutil
import time
from pathlib import Path

from jax.sharding import Mesh

from pretrainrl_jax.atomic import write_json
from pretrainrl_jax.config import ExportConfig
from pretrainrl_jax.hosts.agree import is_process_0, run_on_process_0
from pretrainrl_jax.model.hugging_face.config import ending, stored_dtype, write_config
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
    began = time.perf_counter()
    loaded = load(source, mesh, screen=screen)
    asked = "" if settings.dtype == "stored" else settings.dtype
    tensors = tensors_of(loaded.model, loaded.params, asked, loaded.origin.get(DTYPES, {}))
    size = sum(tensor.bytes for tensor in tensors.values())
    require_room(target.parent, size, "the model")
    # Beside the target, so that the last step is a renaming.
    partial = target.with_name(f".{target.name}.partial")

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def finish() -> None:
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
        partial.rename(target)

    try:
        run_on_process_0(begin, "beginning the export")
        with screen.track("export", len(tensors), "tensors") as bar:
            write_weights(partial, tensors, settings.shard_size, bar.advance)
        run_on_process_0(finish, "finishing the export")
    except BaseException:
        if is_process_0():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    kinds = ", ".join(sorted({tensor.dtype.name for tensor in tensors.values()}))
    seconds = time.perf_counter() - began
    say(f"{target}: {loaded.model.shape.traits.architecture}, {gigabytes(size)} of {kinds}, {seconds:.1f} s")
