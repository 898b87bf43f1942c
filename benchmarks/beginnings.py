"""Few-shot questions with their examples read once, beside the same with every prompt read whole.

    python benchmarks/beginnings.py MODEL FACTS --questions 128

Greedy answers, beams, and probabilities of the truths, of questions that are drawn by hash. The two take
turns, compiled before; medians of their seconds are printed, and by how much the probabilities differ.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
from few_shot import few_shot

import pretrainrl_jax as prl
from pretrainrl_jax.decoding.answers import answer_questions
from pretrainrl_jax.model import beginnings
from pretrainrl_jax.model.beginnings import Shared
from pretrainrl_jax.objectives import scoring
from pretrainrl_jax.trees.templates import encode_branches
from pretrainrl_jax.trees.tree import AnswerTree, Branch

ROWS, ROW_LENGTH = 16, 128


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model")
    parser.add_argument("facts")
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()

    _, asked, template, prompts = few_shot(options.facts, options.questions)
    made = model, params, tokenizer = prl.load(options.model)
    ends = template.terminators(tokenizer, model.shape.vocabulary)
    encoded = encode_branches(tokenizer, template, prompts, [list(fact.answers) for fact in asked])
    trees = [
        AnswerTree(fact.id, prefix, tuple(map(Branch, branches)))
        for fact, prefix, branches in zip(asked, encoded.prefixes, encoded.branches, strict=True)
    ]
    works: dict[str, Callable[[], Any]] = {
        name: lambda width=width: answer_questions(
            *made, template, prompts, beams=width, max_new_tokens=8, batch=16
        )
        for name, width in (("greedy", 1), (f"{options.beams} beams", options.beams))
    }
    packing = {"row_length": ROW_LENGTH, "rows": ROWS}
    works["truths"] = lambda: scoring.score_answers(model, params, trees, ends, **packing)
    print(f"{len(asked)} questions, prompts of {np.mean([len(p) for p in encoded.prefixes]):.0f} tokens")
    for name, work in works.items():
        (whole, before), (once, after) = in_turn(work, options.turns)
        print(f"{name}: whole {whole:.1f} s, once {once:.1f} s, {whole / once:.2f} times as fast")
        if name == "truths":
            pairs = zip(np.concatenate(before), np.concatenate(after), strict=True)
            print(f"largest difference of a log-probability {max(abs(a - b).max() for a, b in pairs):.1e}")


def in_turn(work: Callable[[], Any], turns: int) -> list[tuple[float, Any]]:
    """Median seconds, and what was found, of every prompt read whole, and of beginnings read once."""
    seconds: list[list[float]] = [[], []]
    found: list[Any] = [None, None]
    for turn in range(turns + 1):
        for way in range(2):
            began = time.perf_counter()
            found[way] = work() if way else unshared(work)
            if turn:  # the first compiles
                seconds[way].append(time.perf_counter() - began)
    return [(statistics.median(s), f) for s, f in zip(seconds, found, strict=True)]


def unshared(work: Callable[[], Any]) -> Any:
    """The work where nothing is found to be shared."""

    def none(sequences: Sequence[Any]) -> Shared:
        return Shared([], [-1] * len(sequences))

    with mock.patch.object(beginnings, "find_shared", none):
        return work()


if __name__ == "__main__":
    main()
