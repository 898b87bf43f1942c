"""The quickstart's table over several seeds: means and standard deviations, as Markdown.

python benchmarks/seeds.py --workdir runs/seeds [--config FILE.py] [--seeds 0,1,2] [--section.key=value …]
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

COLUMNS = (
    "ACC",
    "HR",
    "MRR",
    "Prob",
    "unseen",
    "paraphrase",
    "held out",
    "held-out head",
    "text NLL",
    "device s",
)


def figures(system: dict) -> list[float]:
    """One system's row: percentages, then nats and seconds."""
    groups = system["groups"]
    rates = [system["acc"], system["hr"], system["mrr"], system["prob"] or 0.0]
    rates += [
        groups.get(name, {}).get("acc", 0.0) for name in ("unseen", "paraphrase", "held_out", "held_out_head")
    ]
    return [100 * rate for rate in rates] + [system["text_nll"], system["device_seconds"]]


def main() -> None:
    """Run every seed, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--seeds", default="0,1,2")
    options, rest = parser.parse_known_args()
    found: dict[str, list[list[float]]] = {}
    for seed in options.seeds.split(","):
        work = options.workdir / f"seed{seed}"
        command = [sys.executable, "-m", "pretrainrl_jax.main", "run", f"--workdir={work}"]
        subprocess.run([*command, f"--config={options.config}", f"--seed={seed}", *rest], check=True)
        summary = json.loads((work / "report" / "summary.json").read_text())
        for name, system in summary["systems"].items():
            found.setdefault(name, []).append(figures(system))
    print(f"| {len(options.seeds.split(','))} seeds | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, rows in found.items():
        cells = []
        for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
            places = 2 if column == "text NLL" else 1
            spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{places}f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
