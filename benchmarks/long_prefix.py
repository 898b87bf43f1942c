"""Long prefixes with two branches: what a step costs, and what attention takes on a TPU.

    python benchmarks/long_prefix.py [--prefix 1920] [--branch 128] [--topology v5e:2x2]
    taskset -c 0 python benchmarks/long_prefix.py …            # one core

First updates of the model of core.py take turns, next-token prediction on both branches: in one tree whose
prefix is read once, and in two rows which both have it. Then libtpu, which needs no TPU, compiles attention
and its gradient for rows of that and of longer prefixes, of Qwen3-1.7B's heads in bfloat16, by splash
attention and by XLA: temporary memory and traffic of a device with two rows.
"""

import argparse
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from core import NTP_ANSWER, Steps, packed, shown

from pretrainrl_jax.config import MeshConfig
from pretrainrl_jax.model import splash
from pretrainrl_jax.model.attention import attend, tree_mask
from pretrainrl_jax.model.mesh import Layout, make_mesh
from pretrainrl_jax.planning.chips import topology
from pretrainrl_jax.planning.target import devices_of, prepare_target
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.trees.tree import AnswerTree, Branch

HEADS, KV_HEADS, WIDTH = 16, 8, 128
ROWS = 2  # of a device


def steps(options: argparse.Namespace) -> None:
    """Trees beside sequences."""
    drawn = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(drawn.integers(1, 151000, count).tolist())

    trees = [
        AnswerTree(
            str(number),
            tokens(options.prefix),
            tuple(Branch(tokens(options.branch), role, -9.0) for role in ("chosen", "rejected")),
        )
        for number in range(8)
    ]
    apart = [replace(tree, branches=(branch,)) for tree in trees for branch in tree.branches]
    made = Steps()

    def feed(trees: list[AnswerTree], row_length: int) -> Any:
        options.questions, options.row_length = len(trees) // 8, row_length  # a document an update
        return Feed(packed(trees, options, question=False), made.mesh), NTP_ANSWER

    once = options.prefix + 2 * options.branch
    feeds = {"once": feed(trees, once), "twice": feed(apart, options.prefix + options.branch)}
    costs = made.per_question(feeds, options.repeats)
    costs["twice"] = [2 * seconds for seconds in costs["twice"]]
    for name, own in costs.items():
        print(f"prefix read {name}: {np.median(own):.2f} s a document")
    print(f"twice / once {shown([b / a for a, b in zip(*costs.values(), strict=True)])}")


def compiled(options: argparse.Namespace) -> None:
    """Attention and its gradient, of trees."""
    devices = devices_of(topology(options.topology))
    layout = Layout(make_mesh(MeshConfig(), devices))
    spec = jax.NamedSharding(layout.mesh, layout.spec("rows"))  # type: ignore[arg-type]
    for times in (1, 2, 4):
        row = times * (options.prefix + 2 * options.branch)
        row += -row % splash.BLOCKS[0]
        rows = ROWS * len(devices)

        def array(*axes: int, dtype: Any = jnp.bfloat16, rows: int = rows, row: int = row) -> Any:
            return jax.ShapeDtypeStruct((rows, row, *axes), dtype, sharding=spec)

        arrays = [array(heads, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        ids = [array(dtype=jnp.int32) for _ in range(2)]

        def by_splash(q: Any, k: Any, v: Any, trees: Any, branches: Any) -> jax.Array:
            out = splash.attend(q, k, v, trees, branches, 2 * options.branch, WIDTH**-0.5, layout)
            return out.astype(jnp.float32).sum()

        def by_xla(q: Any, k: Any, v: Any, trees: Any, branches: Any) -> jax.Array:
            out = attend(q, [(k, v, tree_mask(trees, branches))], WIDTH**-0.5, layout=layout)
            return out.astype(jnp.float32).sum()

        for name, function in (("splash", by_splash), ("XLA", by_xla)):
            try:
                program = jax.jit(jax.grad(function, (0, 1, 2))).lower(*arrays, *ids).compile()
            except jax.errors.JaxRuntimeError as error:
                print(f"{row} tokens, {name}: {str(error).splitlines()[0][:80]}")
                continue
            temporary = program.memory_analysis().temp_size_in_bytes / 2**20
            traffic: Any = program.cost_analysis()
            print(
                f"{row} tokens, {name}: {temporary:.0f} MiB, {traffic['bytes accessed'] / 1e9:.2f} GB moved"
            )


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", type=int, default=1920)
    parser.add_argument("--branch", type=int, default=128)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    prepare_target(topology(options.topology))
    steps(options)
    compiled(options)


if __name__ == "__main__":
    main()
