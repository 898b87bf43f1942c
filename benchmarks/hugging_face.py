"""Import and export of a large model against copying its files: speed as a ratio, and peak memory.

    python benchmarks/hugging_face.py --workdir DIR [--layers 14]

The model is random: Qwen3 with 14 layers of width 2048 and a vocabulary of 151,936, 2.03 GB of bfloat16 in
shards of 500 MB, with a tokenizer of a few tokens. Each measurement is a process of its own, on a page cache
that holds the files; memory is by what the peak (ru_maxrss) exceeds the one before reading, as a share of the
parameters. Copies are fsynced, and so is what import and export write, by `sync` within the timed part.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

MEASURE = """
import json, os, resource, sys, time
from pathlib import Path
import jax
from pretrainrl_jax.config import ExportConfig, MeshConfig
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.progress import SILENT
from pretrainrl_jax.stages.hugging_face import export_model, import_model
from pretrainrl_jax.training.loading import load

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

what, source, target = sys.argv[1:]
from transformers import AutoTokenizer  # starting takes seconds, of which nothing is measured

mesh = make_mesh(MeshConfig())
jax.numpy.ones(3).block_until_ready()
before, began = peak(), time.perf_counter()
if what == "import":
    import_model(source, Path(target), mesh, SILENT)
elif what == "export":
    export_model(source, Path(target), ExportConfig(shard_size="500MB"), mesh, SILENT)
else:
    jax.block_until_ready(load(source, mesh).params)
os.sync()
print(json.dumps([time.perf_counter() - began, peak() - before]))
"""


def make(folder: Path, layers: int) -> None:
    """The model, its shards and its tokenizer."""
    import flax.linen as nn
    import jax
    import ml_dtypes
    import numpy as np

    from pretrainrl_jax.atomic import write_json
    from pretrainrl_jax.facts.vocabulary import save_tokenizer, train_tokenizer
    from pretrainrl_jax.model.decoder import Model
    from pretrainrl_jax.model.hugging_face.config import write_config
    from pretrainrl_jax.model.hugging_face.writing import tensors_of, write_weights
    from pretrainrl_jax.model.shape import ModelShape

    sizes = (151_936, 2048, layers, 16, 8, 128, 6144)
    shape = ModelShape("qwen3", *sizes, 1e6, 1e-6, tied=True, dtype="bfloat16")
    model, rng = Model(shape), np.random.default_rng(0)

    def random(like: jax.ShapeDtypeStruct) -> jax.Array:
        bits = rng.integers(0, 1 << 14, like.shape, np.uint16)  # any number below 2
        return jax.numpy.asarray(bits.view(ml_dtypes.bfloat16))

    params = jax.tree.map(random, nn.unbox(model.abstract()))
    folder.mkdir(parents=True)
    save_tokenizer(train_tokenizer(["a few words"], 300), folder)
    write_weights(folder, tensors_of(model, params), "500MB")
    write_json(folder / "config.json", write_config(shape, {}, "bfloat16"))


def measured(what: str, source: Path, target: Path) -> tuple[float, float]:
    """Seconds and bytes of memory of one process."""
    command = [sys.executable, "-c", MEASURE, what, str(source), str(target)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(ran.stdout.splitlines()[-1])
    return seconds, memory


def copied(source: Path, target: Path) -> float:
    """Seconds of copying a folder, all of it on the disk at the end."""
    began = time.perf_counter()
    shutil.copytree(source, target)
    os.sync()
    return time.perf_counter() - began


def main() -> None:
    """Measure all three in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="folder for 7 GB of files")
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = options.workdir / "model"
    if not model.is_dir():  # in a process of its own: others inherit the peak of this one
        with ProcessPoolExecutor(1) as apart:
            apart.submit(make, model, options.layers).result()
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    print(f"{size / 1e9:.2f} GB")
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for what in ("copy", "import", "load", "export"):
            target = options.workdir / what
            if what != "export":
                shutil.rmtree(target, ignore_errors=True)
            if what == "copy":
                seconds, peak = copied(model, target), 0.0
            elif what == "export":
                shutil.rmtree(target, ignore_errors=True)
                seconds, peak = measured(what, options.workdir / "import", target)
            else:
                seconds, peak = measured(what, model, target)
            times.setdefault(what, []).append(seconds)
            memory.setdefault(what, []).append(peak)
    for what, taken in times.items():
        seconds = statistics.median(taken)
        each = ", ".join(f"{s:.2f}" for s in taken)
        print(
            f"{what}: {seconds:.2f} s ({each}), {size / seconds / 1e9:.2f} GB/s, "
            f"{statistics.median(times['copy']) / seconds:.2f} of the speed of copying, "
            f"peak {max(memory[what]) / size:.2f} of the parameters"
        )


if __name__ == "__main__":
    main()
