"""The table of docs/plan.md: every configuration shipped for accelerators, on the slices it is made for.

    python benchmarks/plan_table.py [--json FOLDER]

Each line is one `plan`; what was compiled before is not compiled again. It takes some minutes a line.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pretrainrl_jax.report.columns import markdown

CONFIGS = Path(__file__).parent.parent / "configs"
GIB = 2**30
FEW = ("--pretrain.rows=32", "--mesh.fsdp=16", "--model.remat=up")
# Continued pretraining on documents in rows of 4,096 tokens, so many rows an update, beside the recipes.
LONG = ("--pretrain.text=documents", "--pretrain.epochs=1", "--pretrain.steps=1000", "--train.systems=",
        "--pretrain.row_length=4096")  # fmt: skip
CUT = ("--pretrain.rows=256", "--mesh.fsdp=32", "--model.remat=attention", "--pretrain.grad_accum_steps=2")
WHOLE = ("--pretrain.rows=256", "--mesh.fsdp=16", "--mesh.expert=1", "--pretrain.grad_accum_steps=2")
SHIPPED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("popqa_qwen3_4b", "v5e:4x4", ()),
    ("popqa_qwen3_8b", "v6e:4x4", ("--mesh.fsdp=16",)),
    ("popqa_qwen3_8b", "v5e:8x8", ("--mesh.fsdp=32",)),
    ("popqa_llama3_8b", "v6e:4x4", ("--mesh.fsdp=16",)),
    ("popqa_llama3_8b", "v5e:8x8", ("--mesh.fsdp=32",)),
    ("popqa_qwen3_14b", "v5p:4x4x4", ()),
    ("popqa_qwen3_14b", "v6e:8x8", ("--mesh.fsdp=16",)),
    ("popqa_qwen3_32b", "v5p:8x8x4", ()),
    ("popqa_qwen3_30b_a3b", "v5p:4x4x4", ()),
    ("popqa_qwen3_30b_a3b", "v6e:8x8", ()),
    ("selfimprove_quality_1b", "v5e:8x8", ()),
    ("popqa_qwen3_4b", "v5e:4x4", (*LONG, "--pretrain.rows=48", "--mesh.fsdp=16")),
    ("popqa_qwen3_8b", "v6e:4x4", (*LONG, *FEW)),
    ("popqa_qwen3_8b", "v5e:8x8", (*LONG, "--pretrain.rows=128", "--mesh.fsdp=32")),
    ("popqa_llama3_8b", "v6e:4x4", (*LONG, *FEW)),
    ("popqa_qwen3_14b", "v5p:4x4x4", (*LONG, "--pretrain.rows=256")),
    ("popqa_qwen3_14b", "v6e:8x8", (*LONG, *CUT)),
    ("popqa_qwen3_32b", "v5p:8x8x4", (*LONG, "--pretrain.rows=512")),
    ("popqa_qwen3_30b_a3b", "v5p:4x4x4", (*LONG, *WHOLE)),
)


def planned(config: str, topology: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What `plan --json` says."""
    command = [sys.executable, "-m", "pretrainrl_jax.main", "plan", "--config", f"{CONFIGS / config}.py"]
    command += ["--topology", topology, "--json", *overrides]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if not ran.stdout:
        sys.exit(f"{config} on {topology}: {ran.stderr.splitlines()[-1]}")
    return json.loads(ran.stdout)


def row(config: str, topology: str, long: bool, told: dict[str, Any]) -> list[str]:
    """Of one plan: the program that needs the most memory, the largest step, the whole run."""
    programs = told["programs"]
    fullest = max(programs, key=lambda program: program["memory"]["peak"])
    step = max((p for p in programs if p["trains"]), key=lambda program: program["counted"])
    memory, seconds = fullest["memory"], step["seconds"]
    hours = [
        sum((p["executions"] or 0) * p["seconds"][end] for p in programs) / 3600
        for end in ("shortest", "longest")
    ]
    mesh = told["mesh"]
    experts = f", expert {mesh['expert']}" if mesh["expert"] > 1 else ""
    return [
        config + (", rows of 4,096" if long else ""),
        topology,
        f"{mesh['data']} × {mesh['fsdp']} × {mesh['tensor']}{experts}",
        f"{memory['peak'] / GIB:.1f} of {memory['hbm'] / GIB:.0f} ({fullest['name']})",
        f"{memory['free']:.0%}",
        step["name"],
        f"{step['rows'] / told['chips']:.3g} × {step['time']:,}",
        f"{seconds['middle']:.2f}, {seconds['shortest']:.2f} to {seconds['longest']:.2f}",
        f"{step['mfu']['middle']:.0%}, {step['mfu']['longest']:.0%} to {step['mfu']['shortest']:.0%}",
        "" if long else f"{hours[0]:,.1f} to {hours[1]:,.1f}",
    ]


HEADS = ["configuration", "slice", "data × fsdp × tensor", "peak, GiB a chip", "free", "largest step",
         "rows a chip", "s", "MFU", "hours of the run"]  # fmt: skip


def main() -> None:
    """Plan each, and print the table."""
    parser = argparse.ArgumentParser(description="the table of docs/plan.md")
    parser.add_argument("--json", type=Path, help="folder to keep what each plan says in")
    options = parser.parse_args()
    rows = []
    for number, (config, topology, overrides) in enumerate(SHIPPED):
        told = planned(config, topology, overrides)
        print(f"{config} on {topology}: {'fits' if told['fits'] else 'does not fit'}", file=sys.stderr)
        if options.json:
            options.json.mkdir(parents=True, exist_ok=True)
            (options.json / f"{number:02}.json").write_text(json.dumps(told))
        rows.append(row(config, topology, set(LONG) <= set(overrides), told))
    print(markdown(HEADS, rows), end="")


if __name__ == "__main__":
    main()
