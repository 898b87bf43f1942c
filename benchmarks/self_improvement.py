"""Self-improvement with several seeds: the measures of each system, mean and spread over runs.

    python benchmarks/self_improvement.py configs/selfimprove_small.py --seeds 0 1 2 --runs runs/seeds

Each seed is a run of its own (`selfimprove` with `--seed`) under `--runs`; what is finished is skipped. It
prints a table of report/summary.json: mean ± standard deviation over seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich import print as show
from rich.table import Table

MEASURES = {  # as docs/self-improving.md names them, in short
    "named_true": "named",
    "free_true": "free",
    "facts": "facts",
    "distinct_facts": "in all",
    "head": "head",
    "repeated": "repeat",
    "text_nll": "NLL",
    "distinct_ngrams": "n-gr.",
}


def main() -> None:
    """Run the seeds, then show the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    options = parser.parse_args()
    summaries = []
    for seed in options.seeds:
        workdir = options.runs / f"{options.config.stem}-{seed}"
        words = ["--config", str(options.config), "--workdir", str(workdir), f"--seed={seed}"]
        subprocess.run([sys.executable, "-m", "pretrainrl_jax.main", "selfimprove", *words], check=True)
        summary = json.loads((workdir / "report" / "summary.json").read_text())
        summaries.append(summary["selfimprove"]["systems"])

    table = Table("system", *MEASURES.values(), title=f"{options.config.stem}, seeds {options.seeds}")
    for system, first in summaries[0].items():
        row = [first.get("label", system)]
        for measure in MEASURES:
            values = [one[system][measure] for one in summaries if one[system].get(measure) is not None]
            spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
            row.append(f"{statistics.mean(values):.3g}{spread}" if values else "–")
        table.add_row(*row)
    show(table)


if __name__ == "__main__":
    main()
