"""What the anchor's bucket does not see, and what the walk over the vocabulary costs and holds.

    python benchmarks/anchor.py --workdir runs/anchor --systems ntp_answer anchored

Of each system of a finished run that has anchor text: the mean KL(base || system) a token on that text, full
and with all but the k most probable tokens in one bucket, in float64 from the logits of both. Then, at the
run's own sizes, `bucket_logps` forward and backward beside a log-softmax that holds logits, timed in turn.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax, logsumexp

import pretrainrl_jax as prl
from pretrainrl_jax.objectives.bucketed import bucket_logps
from pretrainrl_jax.trees.anchors import read_anchors

TOPS = (8, 32, 128)


def divergences(base: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Sums over tokens of the full KL and of the bucketed ones, of log-probabilities [tokens, vocabulary]."""
    sums = {"full": float((np.exp(base) * (base - after)).sum())}
    order = np.argsort(-base, axis=-1)
    for top in TOPS:
        parts = []
        for logps in (base, after):
            ranked = np.take_along_axis(logps, order, axis=-1)
            parts.append((ranked[:, :top], logsumexp(ranked[:, top:], axis=-1, keepdims=True)))
        p, q = (np.concatenate(both, axis=-1) for both in parts)
        sums[f"top {top}"] = float((np.exp(p) * (p - q)).sum())
    return sums


def seconds(function, *inputs) -> float:
    """What one call takes."""
    began = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - began


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rows", type=int, default=2, help="of the timing, 128 tokens each")
    args = parser.parse_args()

    texts = [text for text in read_anchors(args.workdir / "mined" / "anchor.npz") if len(text.reads) > 1]
    texts = texts[: args.texts]
    longest = max(len(text.reads) for text in texts)
    tokens = [np.pad(text.reads, (0, longest - len(text.reads))) for text in texts]

    def logps(folder: Path) -> list[np.ndarray]:
        model, params, _ = prl.load(folder)
        every = (model.logits(params, jnp.asarray(one)[None])[0] for one in tokens)
        cut = (np.asarray(x, np.float64)[: len(text.reads)] for x, text in zip(every, texts, strict=True))
        return [log_softmax(x, axis=-1) for x in cut]

    base = logps(args.workdir / "checkpoints" / "pretrain")
    count = sum(map(len, base))
    for system in args.systems:
        after = logps(args.workdir / "checkpoints" / "train" / system)
        each = [divergences(*both) for both in zip(base, after, strict=True)]
        means = {name: sum(one[name] for one in each) / count for name in each[0]}
        shares = {f"share of top {top}": means[f"top {top}"] / means["full"] for top in TOPS}
        print(json.dumps({"system": system, "tokens": count, **means, **shares}))

    model, params, _ = prl.load(args.workdir / "checkpoints" / "pretrain")
    head = model.head(params)
    keys = jax.random.split(jax.random.key(0), 2)
    hidden = jax.random.normal(keys[0], (args.rows, 128, head.shape[1]), head.dtype)
    kept = jax.random.randint(keys[1], (args.rows, 128, 1), 0, head.shape[0] - 32) + jnp.arange(32)

    def bucketed(hidden, head):
        tokens, rest = bucket_logps(hidden, head, kept)
        return tokens.sum() + rest.sum()

    def plain(hidden, head):
        every = jax.nn.log_softmax(jnp.einsum("rtd,vd->rtv", hidden, head))
        return jnp.take_along_axis(every, kept, -1).sum()

    programs = {
        name: jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head).compile()
        for name, loss in (("bucketed", bucketed), ("plain", plain))
    }
    for program in programs.values():
        jax.block_until_ready(program(hidden, head))
    taken = [{name: seconds(program, hidden, head) for name, program in programs.items()} for _ in range(5)]
    ratio = statistics.median(one["bucketed"] / one["plain"] for one in taken)
    held = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    print(
        json.dumps({"bucketed over plain, time": ratio, **{f"{n}, MiB": b / 2**20 for n, b in held.items()}})
    )


if __name__ == "__main__":
    main()
