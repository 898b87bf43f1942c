"""What a training step takes of memory: the loss by its compiled program, the whole step beside the peers.

    python benchmarks/memory.py --facts popQA.tsv --tokenizer QWEN_FOLDER --python tunix/bin/python

First the temporary memory of `token_logps` and its gradient for 16,384 tokens and Qwen's vocabulary, as XLA
planned it, beside the logits that are never made. Then the resident memory at the peak of an update, beyond
what the process had before it made its model: parameters, gradients, AdamW's state and all that a step makes,
on the same questions, in float32, each system in a process of its own. The first update is not counted: it
compiles. Without --python Tunix is left out.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from beside_tunix import Theirs as Tunix
from beside_tunix import with_other_reference
from peers import resident
from training import Ours, Theirs, rows_of, texts_of, trees_of
from twins import arguments, twins

from pretrainrl_jax.objectives.token_logps import token_logps

ROWS, TIME, VOCABULARY = 32, 512, 151936
TRL = {"TRL": True, "TRL, nothing recomputed": False}  # whether activations are, as its default has it


def temporary(model: int) -> float:
    """MiB of the loss and its gradient."""

    def loss(hidden: jax.Array, head: jax.Array, sources: jax.Array, targets: jax.Array) -> jax.Array:
        return token_logps(hidden, head, sources, targets).sum()

    sizes = (ROWS, TIME, model), (VOCABULARY, model)
    of_targets = jax.ShapeDtypeStruct((ROWS, TIME), jnp.int32)
    arrays = (*(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes), of_targets, of_targets)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def of_update(system: str, options: argparse.Namespace) -> float:
    """MiB at the peak of the updates after the first, beyond what there was before the model."""
    before = resident.now()
    both = twins(options, options.questions)
    texts = texts_of(both, options.negatives)
    with tempfile.TemporaryDirectory() as folder:
        if system == "Tunix":
            trees = with_other_reference(both, texts)
            theirs = Tunix(options.python, both, trees, Path(folder))
            theirs.update()
            return max(theirs.update()["peak"] for _ in range(options.turns))
        update: Callable[[], Any]
        if system in TRL:
            update = Theirs(both, texts, folder, TRL[system]).update
        else:
            batch, _ = rows_of(trees_of(both, texts), options.row_length)
            update = partial(Ours(both, "token").update, batch)
        del both
        update()
        return max(resident.peak(update) for _ in range(options.turns)) - before


def main() -> None:
    """Both tables."""
    parser = arguments(__doc__, questions=16)
    parser.add_argument("--python", help="of an environment with Tunix")
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--only", help="one system, in this process")
    options = parser.parse_args()
    if options.only:
        print(of_update(options.only, options))
        return
    logits = ROWS * TIME * VOCABULARY * 4 / 2**20
    for model in (256, 1024, 2048):
        took = temporary(model)
        print(f"width {model}: {took:.0f} MiB, {took / logits:.1%} of the logits' {logits:.0f}", flush=True)
    for system in ("ours", *TRL, *(["Tunix"] if options.python else [])):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", system]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(f"{system}: {float(ended.stdout.splitlines()[-1]):.0f} MiB", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
