"""The whole training step against the machine's matrix-product rate, in one run.

    python benchmarks/core.py --facts popQA.tsv --tokenizer TOKENIZER_FOLDER [--questions 64]
    taskset -c 0 python benchmarks/core.py …            # one core

A 42M-parameter decoder with Qwen's 151,936-row vocabulary, PopQA trees of one gold answer and five others of
the same relation, PretrainRL's loss, AdamW. Counted are the model's FLOPs on tokens that are not padding: 6 a
parameter and token in layers and head, and attention over visible tokens; recomputation is not counted.
Step and matrix product alternate; medians and their ratio are printed.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from dataclasses import replace

import jax
import numpy as np
from pretrainrl_jax.objectives.losses import Weights
from pretrainrl_jax.trees.rows import GOLD, NEGATIVE, Rows

from pretrainrl_jax.config import Config, Facts, Mesh, Optimizer
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.model.cost import flops
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.training.optimizer import Schedule, adamw
from pretrainrl_jax.training.step import compile_step, init_state
from pretrainrl_jax.trees.dataset import PackedRows, batches
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch

SHAPE = ModelShape("qwen3", 151936, 256, 4, 4, 2, 64, 768, 1e6, 1e-6, tied=True)


def popqa_trees(facts_path: str, tokenizer_path: str, negatives: int = 5) -> list[AnswerTree]:
    """PopQA questions, each with its answer and five other answers of its relation."""
    facts = read_facts(Config(facts=Facts(path=facts_path, duplicates="keep"))).facts
    answers = defaultdict(list)
    for fact in facts:
        answers[fact.category].append(fact.answer)
    rng = random.Random(0)
    texts = [[f.answer, *rng.sample(answers[f.category], negatives)] for f in facts]
    encoded = encode_branches(
        load_tokenizer(tokenizer_path), Template("bare"), [f.question for f in facts], texts
    )
    return [
        AnswerTree(
            f.id,
            prefix,
            tuple(Branch(b, NEGATIVE if i else GOLD, reference_logp=-9.0) for i, b in enumerate(of)),
        )
        for f, prefix, of in zip(facts, encoded.prefixes, encoded.branches, strict=True)
    ]


def counted_flops(rows: Rows) -> float:
    """Forward and backward FLOPs of the model on these rows, without padding and recomputation."""
    tokens = int((rows.tree_id > 0).sum())
    visible = int(tree_mask(rows.tree_id, rows.branch_id).sum())
    return tokens * flops(SHAPE, visible / tokens).training


def arguments(description: str) -> argparse.Namespace:
    """The command line of this benchmark, and of layouts.py."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--questions", type=int, default=64, help="questions an update, about")
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Alternate the step and a matrix product."""
    options = arguments(__doc__.splitlines()[0])
    trees = popqa_trees(options.facts, options.tokenizer)
    source = PackedRows(trees, options.row_length, seed=0, passes=1, rows=1)
    per_row = len(trees) / len(source.plan)
    source = replace(source, rows=max(1, round(options.questions / per_row)))
    model, mesh, optimizer = Model(SHAPE), make_mesh(Mesh()), Optimizer()
    params = model.init(jax.random.key(0))
    print(
        f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f}M parameters, rows {source.fill:.1%} full"
    )

    state = init_state(params, adamw(optimizer))
    step = compile_step(model, optimizer, "sequence", mesh)
    weights, schedule = Weights(1.0, 1.0, 1.0, 0.1), Schedule(3e-5, 100, 0.03, 0.1)
    size = 2048
    a = jax.random.normal(jax.random.key(1), (size, size))
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()

    step_rates, product_rates, questions = [], [], []
    for number, batch in zip(range(options.repeats + 1), batches(source), strict=False):
        rows = Rows(*(np.asarray(x)[None] for x in batch))
        began = time.perf_counter()
        state, figures = step(state, rows, weights, schedule)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(10):
            b = multiply(a)
        b.block_until_ready()
        product = 10 * 2 * size**3 / (time.perf_counter() - began)
        if number == 0:  # compilation
            continue
        step_rates.append(counted_flops(batch) / seconds)
        product_rates.append(product)
        questions.append(float(figures["questions"]) / seconds)
    ratios = [s / p for s, p in zip(step_rates, product_rates, strict=True)]
    print(f"matrix product  {statistics.median(product_rates) / 1e9:7.1f} GFLOP/s")
    print(f"training step   {statistics.median(step_rates) / 1e9:7.1f} GFLOP/s counted")
    print(f"ratio           {statistics.median(ratios):7.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"questions       {statistics.median(questions):7.1f} a second")


if __name__ == "__main__":
    main()
