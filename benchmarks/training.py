"""A training step here and by TRL's `DPOTrainer`, in turn, on the same questions and weights.

    python benchmarks/training.py --facts popQA.tsv --tokenizer QWEN_FOLDER --negatives 5
    python benchmarks/training.py --facts popQA.tsv --model SMOLLM2_FOLDER --negatives 4
    taskset -c 0 python benchmarks/training.py …            # one core

DPO and next-token prediction on the answer in one loss, AdamW, float32. Theirs has its references
precomputed, no checkpointing of activations, and all pairs of its questions in one batch of
`loss_type=["sigmoid", "sft"]`; ours reads each question once. First both losses must be equal to 1e-4 on the
same pairs; then they take turns, ours with `--ours` questions an update: as many as it takes to fill rows.
"""

import copy
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import torch
from twins import Twins, arguments, twins

from pretrainrl_jax.config import MeshConfig, OptimizerConfig
from pretrainrl_jax.facts.record import Fact
from pretrainrl_jax.model.mesh import make_mesh
from pretrainrl_jax.objectives.loss import Coefficients
from pretrainrl_jax.objectives.scoring import score_trees
from pretrainrl_jax.training.optimizer import Schedule
from pretrainrl_jax.training.step import compile_step, init_sharded_state
from pretrainrl_jax.trees.batch import PackedBatch
from pretrainrl_jax.trees.layouts import size
from pretrainrl_jax.trees.packing import capacity, pack, plan
from pretrainrl_jax.trees.templates import Template, encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

BETA = 0.1
BOTH: Coefficients = {"ntp": {"answer": 1.0}, "dpo": {"weight": 1.0, "beta": BETA}}
SCHEDULE = Schedule(1e-5, 100, 0.03, 0.1)


def texts_of(both: Twins, negatives: int) -> list[list[str]]:
    """Of each question its answer and so many others of its relation."""
    known = defaultdict(list)
    for fact in both.every:
        known[fact.category].append(fact.answer)
    drawn = random.Random(0)

    def others(fact: Fact) -> list[str]:
        every = [answer for answer in dict.fromkeys(known[fact.category]) if answer != fact.answer]
        if len(every) < negatives:
            sys.exit(f"{fact.category} has {len(every)} other answers: give fewer --negatives")
        return drawn.sample(every, negatives)

    return [[fact.answer, *others(fact)] for fact in both.facts]


def trees_of(both: Twins, texts: list[list[str]]) -> list[AnswerTree]:
    """The questions, bare, with the model's own log-probabilities as references."""
    questions = [fact.question for fact in both.facts]
    encoded = encode_branches(both.tokenizer, Template("bare"), questions, texts)
    trees = [
        AnswerTree(
            str(number), prefix, tuple(Branch(t, "rejected" if i else "chosen") for i, t in enumerate(own))
        )
        for number, (prefix, own) in enumerate(zip(encoded.prefixes, encoded.branches, strict=True))
    ]
    scores = score_trees(both.model, both.params, trees, row_length=512, rows=4)
    return [
        replace(
            tree,
            branches=tuple(replace(b, reference_logp=s) for b, s in zip(tree.branches, own, strict=True)),
        )
        for tree, own in zip(trees, scores, strict=True)
    ]


class Theirs:
    """TRL's trainer, and its update on all pairs of some questions."""

    def __init__(self, both: Twins, texts: list[list[str]], folder: str, recompute: bool = False) -> None:
        import datasets
        from trl import DPOConfig, DPOTrainer

        pairs = [
            {"prompt": fact.question, "chosen": f" {gold}", "rejected": f" {other}"}
            for fact, (gold, *others) in zip(both.facts, texts, strict=True)
            for other in others
        ]
        settings = DPOConfig(
            output_dir=folder, loss_type=["sigmoid", "sft"], beta=BETA, precompute_ref_log_probs=True,
            per_device_train_batch_size=len(pairs), gradient_checkpointing=recompute, bf16=False,
            use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-5,
        )  # fmt: skip
        datasets.disable_progress_bars()
        self.trainer = DPOTrainer(
            model=copy.deepcopy(both.theirs), args=settings, processing_class=both.words,
            train_dataset=datasets.Dataset.from_list(pairs),
        )  # fmt: skip
        self.pairs = next(iter(self.trainer.get_train_dataloader()))
        if recompute:
            self.trainer.model.gradient_checkpointing_enable()  # as its loop does, which is not run
        self.optimizer = self.trainer.create_optimizer()

    def loss(self) -> torch.Tensor:
        """On all pairs."""
        self.trainer.model.train()
        return self.trainer.compute_loss(self.trainer.model, dict(self.pairs))

    def update(self) -> None:
        """One."""
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours:
    """Our step on some trees."""

    def __init__(self, both: Twins, scale: Any) -> None:
        mesh, settings = make_mesh(MeshConfig()), OptimizerConfig()
        self.state = init_sharded_state(both.model, both.params, settings, mesh)
        self.step = compile_step(both.model, settings, scale, mesh)

    def update(self, batch: PackedBatch, coefficients: Coefficients = BOTH) -> float:
        """One; its loss before."""
        self.state, metrics = self.step(self.state, batch, coefficients, SCHEDULE)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


def rows_of(trees: list[AnswerTree], row_length: int) -> tuple[PackedBatch, float]:
    """All trees in as few rows as hold them, and how full those are."""
    sizes = [size(tree, question=False) for tree in trees]
    planned = plan([own.time for own in sizes], row_length)
    batch = pack(
        [[trees[i] for i in row] for row in planned], capacity(sizes, planned, row_length), question=False
    )
    batch = jax.tree.map(lambda field: field[None], batch)  # one microstep
    return batch, sum(own.time for own in sizes) / (row_length * len(planned))


def seconds(work: Callable[[], Any]) -> float:
    """Of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def tell(rates: dict[str, list[float]]) -> None:
    """Median and range of each."""
    for name, own in rates.items():
        print(f"{name}: {statistics.median(own):.3g} ({min(own):.3g} to {max(own):.3g})")


def main() -> None:
    """Compare, then alternate."""
    parser = arguments(__doc__, questions=16)
    parser.add_argument("--negatives", type=int, default=5)
    parser.add_argument("--ours", type=int, default=70, help="questions of our update")
    parser.add_argument("--row-length", type=int, default=512)
    options = parser.parse_args()
    both = twins(options, max(options.questions, options.ours))
    texts = texts_of(both, options.negatives)
    trees = trees_of(both, texts)
    few = both._replace(facts=both.facts[: options.questions])
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(few, texts[: options.questions], folder)
        wanted = theirs.loss().item()
        found = Ours(both, "token").update(rows_of(trees[: options.questions], options.row_length)[0])
        assert abs(found - wanted) < 1e-4 * abs(wanted), f"our loss is {found}, theirs {wanted}"
        ours = Ours(both, "sequence")
        batch, full = rows_of(trees[: options.ours], options.row_length)
        ours.update(batch)  # compiled
        theirs.update()
        costs: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.turns):
            costs[0].append(seconds(lambda: ours.update(batch)) / options.ours)
            costs[1].append(seconds(theirs.update) / options.questions)
    print(f"both losses are {wanted:.5f}, {abs(found - wanted):.0e} apart; our rows are {full:.1%} full")
    ours_rates, their_rates = ([1 / cost for cost in own] for own in costs)
    factors = [a / b for a, b in zip(ours_rates, their_rates, strict=True)]
    tell({"ours, questions a second": ours_rates, "TRL": their_rates, "ours is faster by": factors})


if __name__ == "__main__":
    main()
