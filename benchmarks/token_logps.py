"""The fused log-probabilities, forward and backward, beside the matrix-product rate of the same core.

    taskset -c 0 python benchmarks/token_logps.py

The two are timed in turn, so that noise on a shared machine meets both. Efficiency is the rate of the fused
function over the rate of a square matrix product: by the operations it executes (four products of
2·tokens·vocabulary·model: logits forward, logits again, and two gradients) and by those of the model (three).
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp

from pretrainrl_jax.model.vocabulary import block_size
from pretrainrl_jax.objectives.token_logps import token_logps


def seconds(function, *inputs):
    start = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--time", type=int, default=512, help="tokens a row")
    parser.add_argument("--targets", type=int, default=640, help="targets a row")
    parser.add_argument("--model", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--block", type=int, help="vocabulary rows at a time; by default block_size(model)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--side", type=int, default=2048, help="side of the square matrices")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (args.rows, args.time, args.model), args.dtype)
    head = 0.05 * jax.random.normal(keys[1], (args.vocabulary, args.model), args.dtype)
    predictor = jax.random.randint(keys[2], (args.rows, args.targets), 0, args.time)
    targets = jax.random.randint(keys[3], (args.rows, args.targets), 0, args.vocabulary)
    square = jax.random.normal(keys[0], (args.side, args.side), jnp.float32)

    def loss(hidden, head):
        return token_logps(hidden, head, predictor, targets, block=args.block).sum()

    fused = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(hidden, head).compile()
    product = jax.jit(jnp.matmul)
    jax.block_until_ready((fused(hidden, head), product(square, square)))

    once = 2 * args.rows * args.time * args.vocabulary * args.model
    rates, times, efficiencies = [], [], []
    for _ in range(args.repeats):
        products = [seconds(product, square, square) for _ in range(8)]
        taken = seconds(fused, hidden, head)
        products += [seconds(product, square, square) for _ in range(8)]
        rates.append(2 * args.side**3 / statistics.median(products))
        times.append(taken)
        efficiencies.append(4 * once / taken / rates[-1])

    memory = fused.memory_analysis()
    print(f"cores                  {len(os.sched_getaffinity(0))}")
    print(f"block                  {args.block or block_size(args.model)} of {args.vocabulary}")
    print(f"matrix product         {statistics.median(rates) / 1e9:.1f} GFLOP/s (float32)")
    print(f"forward and backward   {statistics.median(times):.3f} s, {args.dtype}")
    print(f"executed operations    {statistics.median(efficiencies):.1%} of the matrix-product rate")
    print(f"model's operations     {statistics.median(efficiencies) * 3 / 4:.1%}")
    print(f"temporary memory       {memory.temp_size_in_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
