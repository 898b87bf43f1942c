"""How fast documents become batches, alone and beside the steps that they are for.

    python benchmarks/pipeline.py --documents FILES --tokenizer QWEN_FOLDER [--row-length 512]
    taskset -c 0 python benchmarks/pipeline.py …            # one core

First all documents are read, tokenised and packed, and nothing is trained: tokens a second. Then updates of a
decoder of 42M parameters with Qwen's 151,936-row vocabulary take turns, a block of batches each: as the
stream gives them, and all with one batch that stays on the device. Medians, range and ratio are printed.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from core import SCHEDULE, SHAPE, shown

from pretrainrl_jax.config import DocumentsConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.documents.packing import BLOCK, Blocks
from pretrainrl_jax.documents.stream import Stream
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.training.feed import StreamFeed
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.tokenization import load_tokenizer

NTP: Coefficients = {"ntp": {"answer": 1.0}}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", required=True, nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=4, help="of an update")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


class Source:
    """The stream of the options, from its beginning."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._tokenizer = options, load_tokenizer(Path(options.tokenizer))
        self.mesh = make_mesh(MeshConfig())

    def feed(self, epochs: int) -> StreamFeed:
        """Its batches; without end where epochs is 0."""
        documents = DocumentsConfig(path=tuple(self._options.documents), epochs=epochs)
        rows = self._options.rows
        blocks = Blocks(Stream(documents, 0), self._tokenizer, self._options.row_length, rows, 0)
        return StreamFeed(blocks, rows, self.mesh, 10**9)


class Steps:
    """Updates, and their seconds."""

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        optimizer, model = OptimizerConfig(), Model(SHAPE)
        self._state = init_sharded_state(model, model.init(jax.random.key(0)), optimizer, mesh)
        self._step = compile_step(model, optimizer, "token", mesh)

    def seconds(self, batches: Iterator[PackedBatch], count: int) -> float:
        """Of so many, sent off as `pretrain` does: nothing waits for one of them."""
        began = time.perf_counter()
        for _ in range(count):
            self._state, _ = self._step(self._state, next(batches), NTP, SCHEDULE)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began


def main() -> None:
    """The pipeline alone, then both ways in turn."""
    options = arguments()
    source = Source(options)
    rates = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        tokens = sum(int((batch.tree_id > 0).sum()) for batch in source.feed(epochs=1))
        rates.append(tokens / (time.perf_counter() - began))
    print(f"{tokens:,} tokens; thousands of them a second: {shown([rate / 1e3 for rate in rates])}")

    feed, steps = source.feed(epochs=0), Steps(source.mesh)
    held = next(feed)
    of_block = BLOCK // options.rows
    steps.seconds(iter([held]), 1)  # compiled
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.repeats):
        costs[0].append(steps.seconds(feed, of_block) / of_block)
        costs[1].append(steps.seconds(iter([held] * of_block), of_block) / of_block)
    streamed, of_held = map(statistics.median, costs)
    print(f"an update from the stream {streamed:.2f} s, of a held batch {of_held:.2f} s")
    print(f"as the stream gives them / held {shown([a / b for a, b in zip(*costs, strict=True)])}")


if __name__ == "__main__":
    main()
