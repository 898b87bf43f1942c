"""The paper's literal template beside the shared-prefix layout: what the same questions cost in each.

    python benchmarks/layouts.py --facts popQA.tsv --tokenizer TOKENIZER_FOLDER

The model, trees and loss of core.py. The two layouts take turns on about the same questions; the medians of
their seconds a question and the ratio are printed, and the inputs a question takes of a row.
"""

import statistics
import time
from dataclasses import replace

import jax
import numpy as np
from core import SHAPE, arguments, popqa_trees

from pretrainrl_jax.config import Mesh, Optimizer
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state
from pretrainrl_jax.trees.dataset import PackedRows, batches
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.rows import Rows

LAYOUTS = ("shared", "literal")


def main() -> None:
    """Alternate the two layouts."""
    options = arguments(__doc__.splitlines()[0])
    trees = popqa_trees(options.facts, options.tokenizer)
    model, mesh, optimizer = Model(SHAPE), make_mesh(Mesh()), Optimizer()
    state = init_state(model.init(jax.random.key(0)), adamw(optimizer))
    step = compile_step(model, optimizer, "sequence", mesh)
    weights, schedule = Weights(1.0, 1.0, 1.0, 0.1), Schedule(3e-5, 100, 0.03, 0.1)

    streams, inputs = {}, {}
    for layout in LAYOUTS:
        source = PackedRows(trees, options.row_length, seed=0, passes=1, rows=1, layout=layout)
        rows = max(1, round(options.questions * len(source.plan) / len(trees)))
        streams[layout] = batches(replace(source, rows=rows))
        inputs[layout] = statistics.mean(size(tree, layout).inputs for tree in trees)
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for number in range(options.repeats + 1):
        for layout in LAYOUTS:
            rows = Rows(*(np.asarray(x)[None] for x in next(streams[layout])))
            began = time.perf_counter()
            state, figures = step(state, rows, weights, schedule)
            jax.block_until_ready(state)
            if number:  # the first one compiles
                seconds[layout].append((time.perf_counter() - began) / float(figures["questions"]))
    for layout in LAYOUTS:
        print(
            f"{layout:8}  {inputs[layout]:6.1f} inputs a question  "
            f"{1000 * statistics.median(seconds[layout]):7.1f} ms a question"
        )
    ratios = [b / a for a, b in zip(seconds["shared"], seconds["literal"], strict=True)]
    print(f"literal / shared  {statistics.median(ratios):.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
