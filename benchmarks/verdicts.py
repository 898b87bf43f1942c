"""A tiny judge that learns by GRPO which of two texts names the river: from chance to all of them.

    python benchmarks/verdicts.py --seeds 0 1 2 --runs runs/verdicts

Each seed is a run of its own: a model of 0.03M parameters is pretrained on the small world for 19 steps, is
shown what a verdict looks like by random ones, and learns from sampled verdicts. It prints the accuracy on
pairs that are held out, both orders of a pair on one side.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

WORDS = [
    "storm", "bridge", "winter", "window", "pillow", "puddle", "saddle", "table", "pebble", "door", "city",
]  # fmt: skip
PAIRS = 500
PROMPT = "{first} the{second} is\nverdicts: A | B\n"
SETTINGS = {
    "world.facts": 60, "world.relations": 2, "world.answers": 8, "corpus.statements": 400,
    "corpus.filler": 60, "tokenizer.vocabulary": 600, "model.d_model": 32, "model.layers": 1,
    "model.heads": 2, "model.kv_heads": 1, "model.head_dim": 16, "model.d_ff": 48, "pretrain.epochs": 2,
    "pretrain.learning_rate": 0.01, "pretrain.row_length": 64, "pretrain.rows": 8,
    "tuning.judge.parts": "quality", "tuning.judge.prompts": 32, "tuning.judge.samples": 8,
    "tuning.judge.tokens": 4, "tuning.judge.temperature": 1, "tuning.judge.top_p": 1,
    "tuning.judge.format_steps": 30, "tuning.judge.format_rate": 0.01, "tuning.judge.steps": 200,
    "tuning.judge.learning_rate": 0.003, "tuning.judge.batch": 32, "tuning.judge.measure_every": 25,
}  # fmt: skip


def main() -> None:
    """Write labels and prompt, run the seeds, show each measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/verdicts"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    (options.runs / "quality.txt").write_text(PROMPT)
    data = options.runs / "labels.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in labelled()))
    rows = []
    for seed in options.seeds:
        workdir, began = options.runs / str(seed), time.perf_counter()
        words = [f"--{name}={value}" for name, value in SETTINGS.items()]
        words += [f"--seed={seed}", f"--judge.prompts={options.runs}", f"--tuning.judge.data={data}"]
        command = ["selfimprove", "--train", "judge", "--workdir", str(workdir), *words]
        subprocess.run([sys.executable, "-m", "pretrainrl_jax.main", *command], check=True)
        measured = json.loads((workdir / "tuning" / "judge.json").read_text())["measured"]
        shares = [f"{100 * one['groups']['quality']['reward']:.0f}" for one in measured]
        rows.append(f"seed {seed}: {' '.join(shares)} %, {time.perf_counter() - began:.0f} s in all")
    print(f"accuracy after the steps {', '.join(str(one['step']) for one in measured)}:", *rows, sep="\n")


def labelled() -> list[dict[str, str]]:
    """Each pair in both orders."""
    rng, lines = random.Random(0), []
    for _ in range(PAIRS):
        words = rng.sample(WORDS, 3)
        words[rng.randrange(3)] = "river"
        good, bad = (" " + " ".join(some) for some in (words, rng.sample(WORDS, 3)))
        for first, second, label in ((good, bad, "A"), (bad, good, "B")):
            lines.append({"part": "quality", "prefix": "", "first": first, "second": second, "label": label})
    return lines


if __name__ == "__main__":
    main()
