"""A fair learning rate for every objective: the same grid for each, on seeds the reported tables do not use.

    python benchmarks/learning_rates.py --workdir runs/learning_rates [--config FILE.py] [--seeds 100,101]

Prints accuracy on trained facts and loss on held-out text for each objective, rate and seed, and the rate
with the highest mean accuracy. Nothing is chosen by hand, and no objective gets a finer grid than another.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

SYSTEMS = "dpo,ntp,ntp_answer,ntp_weighted,pretrainrl"


def verb(name: str, workdir: Path, options: list[str]) -> None:
    """Run one verb of the command line quietly."""
    command = [sys.executable, "-m", "pretrainrl_jax.main", name, f"--workdir={workdir}", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """The grid, one base model a seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--seeds", default="100")
    parser.add_argument("--systems", default=SYSTEMS)
    parser.add_argument("--rates", default="3e-5,1e-4,3e-4,1e-3,2e-3,4e-3,8e-3")
    options, rest = parser.parse_known_args()
    systems = options.systems.split(",")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in options.seeds.split(","):
        common = [f"--config={options.config}", f"--seed={seed}", "--evaluate.beams=1", *rest]
        common.append(f"--train.systems={options.systems}")
        base = options.workdir / f"seed{seed}"
        for name in ("pretrain", "mine"):
            verb(name, base, common)
        for rate in options.rates.split(","):
            work = options.workdir / f"seed{seed}-{rate}"
            if not work.exists():
                shutil.copytree(base, work)
                (work / "config.json").unlink()
            rates = [f"--objectives.{s}.learning_rate={rate}" for s in systems]
            claim(work, common + rates)
            for name in ("train", "evaluate"):
                verb(name, work, common + rates)
            for system in systems:
                result = json.loads((work / "evaluations" / f"{system}.json").read_text())
                figures = (result["groups"]["trained"]["acc"], result["text_nll"])
                found.setdefault((system, rate), []).append(figures)
                print(f"seed {seed}  {system:13} {rate:>6}  ACC {figures[0]:6.1%}  text NLL {figures[1]:.2f}")
    for system in systems:
        means = {
            rate: statistics.mean(acc for acc, _ in found[system, rate]) for rate in options.rates.split(",")
        }
        best = max(means, key=lambda rate: means[rate])
        print(f"{system:13} best {best}  ACC {means[best]:.1%}")


def claim(workdir: Path, options: list[str]) -> None:
    """Give a copied workdir the configuration it is used with from now on."""
    from pretrainrl_jax.main import parse, prepare_workdir

    _, config = parse("run", [f"--workdir={workdir}", *options])
    prepare_workdir(workdir, config, create=True)


if __name__ == "__main__":
    main()
