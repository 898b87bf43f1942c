"""Beam search here and by `generate` of transformers, in turn, on the same questions and weights.

    python benchmarks/mining.py --facts popQA.tsv --tokenizer QWEN_FOLDER --beams 20
    python benchmarks/mining.py --facts popQA.tsv --model SMOLLM2_FOLDER --beams 8
    taskset -c 0 python benchmarks/mining.py …            # one core
    python benchmarks/mining.py … --tokenizer QWEN_FOLDER --learn 48     # its answers end

First both must find the same beams, with the same scores up to 1e-3; then they take turns. Theirs is given
what it needs for that: no length penalty, no early end, and our rule that a beam ends with its most probable
terminator. Ours decodes more batches a turn, in one call as `mine` does, and is divided by them: what they
have in common is read once, and the last batch of a length is not always full.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from twins import Twins, arguments, twins

from pretrainrl_jax.decoding.decode import decode

LONGEST = 8  # tokens of an answer, its end included


class OneEnd(LogitsProcessor):
    """A beam ends with its most probable terminator alone."""

    def __init__(self, ends: list[int]) -> None:
        self.ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores[:, self.ends].argmax(-1, keepdim=True)
        kept = scores[:, self.ends].gather(-1, best)
        scores[:, self.ends] = torch.full_like(scores[:, self.ends], -torch.inf).scatter(-1, best, kept)
        return scores


def searches(
    both: Twins, beams: int, batch: int
) -> tuple[Callable[[list[Any]], Any], Callable[[list[Any]], Any]]:
    """Ours and theirs: of prompts the tokens of each beam with its score."""
    mask = both.template.terminators(both.tokenizer, both.model.shape.vocabulary)
    ends = np.flatnonzero(mask).tolist()

    def ours(prompts: list[Any]) -> list[dict[tuple[int, ...], float]]:
        found = decode(
            both.model, both.params, prompts, mask, beams=beams, max_new_tokens=LONGEST, batch=batch
        )
        return [{beam.tokens: beam.logp for beam in of_one} for of_one in found]

    def theirs(prompts: list[Any], scored: bool = False) -> list[dict[tuple[int, ...], float]]:
        longest = max(map(len, prompts))
        with torch.no_grad():
            out = both.theirs.generate(
                torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts]),
                attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
                num_beams=beams, num_return_sequences=beams, max_new_tokens=LONGEST, do_sample=False,
                eos_token_id=ends, pad_token_id=0, length_penalty=0.0, early_stopping="never",
                logits_processor=LogitsProcessorList([OneEnd(ends)] if len(ends) > 1 else []),
                return_dict_in_generate=True, output_scores=scored,
            )  # fmt: skip
        if not scored:
            return []
        rows = out.sequences[:, longest:].tolist()
        until = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
        every = [tuple(row[:end]) for row, end in zip(rows, until, strict=True)]
        pairs = list(zip(every, out.sequences_scores.tolist(), strict=True))
        return [dict(pairs[i : i + beams]) for i in range(0, len(pairs), beams)]

    return ours, theirs


def main() -> None:
    """Compare, then alternate."""
    parser = arguments(__doc__, questions=16)
    parser.add_argument("--beams", type=int, nargs="+", default=[20], help="two or more")
    parser.add_argument("--batches", type=int, default=8, help="of ours a turn")
    options = parser.parse_args()
    both = twins(options, options.batches * options.questions)
    encoded = [both.tokenizer.start + ids for ids in both.tokenizer.encode_all(both.prompts)]
    middle = (len(encoded) - options.questions) // 2
    few = sorted(encoded, key=len)[middle : middle + options.questions]  # of like length: little padding
    print("| beams | ours, questions a second | theirs | ours is faster by | the same beams, scores apart |")
    print("|" + "---|" * 5)
    for beams in options.beams:
        ours, theirs = searches(both, beams, options.questions)
        same, apart = _compared(ours(few), theirs(few, scored=True))
        ours(encoded)  # compiled
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.turns):
            began = time.perf_counter()
            ours(encoded)
            between = time.perf_counter()
            theirs(few)
            rates[0].append(len(encoded) / (between - began))
            rates[1].append(len(few) / (time.perf_counter() - between))
        ratios = [a / b for a, b in zip(*rates, strict=True)]
        mine, peers, ratio = map(statistics.median, (*rates, ratios))
        told = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {beams} | {mine:.2f} | {peers:.2f} | {told} | {same:.1%}, {apart:.0e} |", flush=True)


def _compared(ours: list[Any], theirs: list[Any]) -> tuple[float, float]:
    """The share of beams that both have, and how far their scores are apart. All others must be ties."""
    shared, apart = [], 0.0
    for own, other in zip(ours, theirs, strict=True):
        both = own.keys() & other.keys()
        shared.append(len(both) / len(own))
        apart = max([apart, *(abs(own[beam] - other[beam]) for beam in both)])
        for one, last in ((own, min(other.values())), (other, min(own.values()))):
            assert all(abs(one[beam] - last) < 1e-3 for beam in one.keys() - both), "other beams"
    assert apart < 1e-3, f"scores differ by {apart}"
    return float(np.mean(shared)), apart


if __name__ == "__main__":
    main()
