"""The whole training step against the machine's matrix-product rate, in one run.

    python benchmarks/core.py --facts popQA.tsv --tokenizer TOKENIZER_FOLDER [--questions 64]
    taskset -c 0 python benchmarks/core.py …            # one core

A 42M-parameter decoder with Qwen's 151,936-row vocabulary, PopQA trees of one gold answer and five others of
the same relation, PretrainRL's loss, AdamW. Counted are the model's FLOPs on tokens that are not padding: 6 a
parameter and token in layers and head, and attention over visible tokens; recomputation is not counted.
Step and matrix product alternate; medians and their ratio are printed.

Then what a question costs without negatives, as `train` packs it for such objectives: NTP on answers alone
beside NTP on question and answer, in turn. Hidden states of question tokens then never meet the vocabulary.
"""

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from pretrainrl_jax.config import Config, FactsConfig, MeshConfig, OptimizerConfig
from pretrainrl_jax.facts.reading import read_facts
from pretrainrl_jax.model.attention import tree_mask
from pretrainrl_jax.model.cost import flops, parameters
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.model.shape import ModelShape
from pretrainrl_jax.objectives.loss import Coefficients, asks
from pretrainrl_jax.training.feed import Feed
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.dataset import PackedRows
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tokenization import load_tokenizer
from pretrainrl_jax.trees.tree import AnswerTree, Branch, chosen_only

PRETRAINRL: Coefficients = {"ntp": {"question": 1.0, "answer": 1.0}, "dpo": {"weight": 1.0, "beta": 0.1}}
NTP: Coefficients = {"ntp": {"question": 1.0, "answer": 1.0}}
NTP_ANSWER: Coefficients = {"ntp": {"answer": 1.0}}
SCHEDULE = Schedule(3e-5, 100, 0.03, 0.1)
SHAPE = ModelShape("qwen3", 151936, 256, 4, 4, 2, 64, 768, 1e6, 1e-6, tied=True)


def popqa_trees(facts_path: str, tokenizer_path: str, negatives: int = 5) -> list[AnswerTree]:
    """PopQA questions, each with its answer and five other answers of its relation."""
    facts = read_facts(Config(facts=FactsConfig(path=facts_path, duplicates="keep"))).facts
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
            tuple(
                Branch(b, "rejected" if i else "chosen", reference_logp=-9.0) for i, b in enumerate(branches)
            ),
        )
        for f, prefix, branches in zip(facts, encoded.prefixes, encoded.branches, strict=True)
    ]


def counted_flops(batch: PackedBatch) -> float:
    """Forward and backward FLOPs of the model on these rows, without padding and recomputation."""
    tokens = int((batch.tree_id > 0).sum())
    visible = int(tree_mask(batch.tree_id[0], batch.branch_id[0]).sum())
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


def packed(
    trees: list[AnswerTree], options: argparse.Namespace, question: bool, **changes: Any
) -> PackedRows:
    """Rows with about so many questions an update."""
    source = PackedRows(trees, options.row_length, seed=0, passes=1, rows=1, question=question, **changes)
    return replace(source, rows=max(1, round(options.questions * len(source.plan) / len(trees))))


class Steps:
    """Updates of one model by one compiled step for each objective, timed."""

    def __init__(self) -> None:
        self.mesh, optimizer = make_mesh(MeshConfig()), OptimizerConfig()
        model = Model(SHAPE)
        self._state = init_sharded_state(model, model.init(jax.random.key(0)), optimizer, self.mesh)
        self._step = compile_step(model, optimizer, "sequence", self.mesh)

    def timed(self, batch: PackedBatch, coefficients: Coefficients) -> tuple[float, float]:
        """Seconds of an update, and its questions."""
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, batch, coefficients, SCHEDULE)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began, float(metrics["questions"])

    def per_question(self, feeds: dict[str, tuple[Iterator[PackedBatch], Coefficients]], repeats: int) -> Any:
        """By name the seconds a question of `repeats` updates, in turn; the first ones compile."""
        costs: dict[str, list[float]] = {name: [] for name in feeds}
        for number in range(repeats + 1):
            for name, (feed, coefficients) in feeds.items():
                seconds, questions = self.timed(next(feed), coefficients)
                if number:
                    costs[name].append(seconds / questions)
        return costs


def shown(ratios: list[float]) -> str:
    """Median and extremes."""
    return f"{statistics.median(ratios):.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Alternate the step and a matrix product; then two objectives."""
    options = arguments(__doc__.splitlines()[0])
    trees = popqa_trees(options.facts, options.tokenizer)
    source, steps = packed(trees, options, question=True), Steps()
    print(f"{parameters(SHAPE).total / 1e6:.1f}M parameters, rows {source.fill:.1%} full")
    size = 2048
    a = jax.random.normal(jax.random.key(1), (size, size))
    multiply = jax.jit(lambda x: x @ x)
    multiply(a).block_until_ready()

    step_rates, product_rates, questions = [], [], []
    for number, batch in zip(range(options.repeats + 1), Feed(source, steps.mesh), strict=False):
        seconds, asked = steps.timed(batch, PRETRAINRL)
        began = time.perf_counter()
        for _ in range(10):
            b = multiply(a)
        b.block_until_ready()
        product = 10 * 2 * size**3 / (time.perf_counter() - began)
        if number == 0:  # compilation
            continue
        step_rates.append(counted_flops(batch) / seconds)
        product_rates.append(product)
        questions.append(asked / seconds)
    print(f"matrix product  {statistics.median(product_rates) / 1e9:7.1f} GFLOP/s")
    print(f"training step   {statistics.median(step_rates) / 1e9:7.1f} GFLOP/s counted")
    print(f"ratio           {shown([s / p for s, p in zip(step_rates, product_rates, strict=True)]):>7}")
    print(f"questions       {statistics.median(questions):7.1f} a second")

    alone = [chosen_only(tree) for tree in trees]
    objectives = {"ntp": NTP, "ntp_answer": NTP_ANSWER}
    rows = {name: packed(alone, options, asks(objective)) for name, objective in objectives.items()}
    for name, laid in rows.items():
        print(f"{name:14}  {laid.capacity.sources:4} of {laid.row_length} hidden states meet the vocabulary")
    costs = steps.per_question(
        {name: (Feed(laid, steps.mesh), objectives[name]) for name, laid in rows.items()}, options.repeats
    )
    ratios = [a / b for a, b in zip(costs["ntp_answer"], costs["ntp"], strict=True)]
    print(f"a question of ntp_answer / ntp  {shown(ratios)}")


if __name__ == "__main__":
    main()
