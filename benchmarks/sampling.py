"""Many samples of one prompt against one: what sharing the prompt's cache and drawing well are worth.

    taskset -c 0 python benchmarks/sampling.py

A 42M-parameter decoder with Qwen's 151,936-row vocabulary, a prefix of 1,920 tokens, 128 new ones, and no
terminators, so that all steps run. The two take turns, prefill included, so that noise on a shared machine
meets both; the median of the pairs' ratios is printed.
"""

import argparse
import os
import statistics
import time

import jax
import numpy as np

from pretrainrl_jax.decoding.sampling import prompt_keys, sample
from pretrainrl_jax.model.decoder import Model
from pretrainrl_jax.model.shape import ModelShape

SHAPE = ModelShape("qwen3", 151936, 256, 4, 4, 2, 64, 768, 1e6, 1e-6, tied=True)


def main() -> None:
    """Alternate one sample and many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=1920)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    options = parser.parse_args()

    model = Model(SHAPE)
    params = model.init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (1, options.prefix))
    inputs = jax.device_put((prompts.astype(np.int32), np.full(1, options.prefix, np.int32)))
    ends, keys = jax.device_put(np.zeros(SHAPE.vocabulary, bool)), prompt_keys(np.uint32(0), np.zeros(1, int))

    def seconds(samples: int, tokens: int) -> float:
        start = time.perf_counter()
        drawn = sample(
            model,
            params,
            *inputs,
            ends,
            keys,
            samples=samples,
            max_new_tokens=tokens,
            temperature=np.float32(options.temperature),
            top_p=np.float32(options.top_p),
            top_k=np.int32(options.top_k),
        )
        jax.block_until_ready(drawn)
        return time.perf_counter() - start

    runs = {"one": (1, options.tokens), "many": (options.samples, options.tokens), "prefill": (1, 1)}
    for run in runs.values():
        seconds(*run)
    taken = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            taken[name].append(seconds(*run))
    middle = {name: statistics.median(times) for name, times in taken.items()}
    ratios = [many / one for many, one in zip(taken["many"], taken["one"], strict=True)]
    print(f"cores                  {len(os.sched_getaffinity(0))}")
    print(f"prefill and one token  {middle['prefill']:.2f} s")
    print(f"1 sample               {middle['one']:.2f} s")
    print(f"{options.samples} samples".ljust(23) + f"{middle['many']:.2f} s")
    print(
        f"ratio                  {statistics.median(ratios):.2f} (pairs {min(ratios):.2f}-{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
